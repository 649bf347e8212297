//! The rounds of a sweep, on any machine.

use std::fmt;
use std::io;
use std::time::Duration;

use tern_boards::Root;
use tern_boards::energy::model::Traffic;
use tern_boards::energy::{Faults, Meter, MeterError, Method};

use super::compare::Worth;
use super::{Measured, Round, Setting};
use crate::calibration::gauge::{in_words, is_real};
use crate::clocks::Clocks;
use crate::error::CommandError;

/// A machine that runs a model.
pub trait Runner {
    /// Where its files are.
    fn root(&self) -> &Root;

    /// The time on its clock.
    fn now(&self) -> Duration;

    /// Rests for `time`, calling `look` as [`work`](Runner::work) does.
    ///
    /// # Errors
    /// If the user ends it.
    fn rest(&mut self, time: Duration, look: &mut dyn FnMut(Duration)) -> Result<(), SweepError>;

    /// Answers requests on `threads` threads, whole ones, until `time` is over, after one that is not counted; counts in
    /// `traffic` what is streamed, and calls `look` as often as it can: first when counting begins, last when it ends.
    /// Returns the tokens of prompts and answers.
    ///
    /// # Errors
    /// If the model cannot be run so, or the user ends it.
    fn work(
        &mut self,
        threads: usize,
        time: Duration,
        traffic: &Traffic,
        look: &mut dyn FnMut(Duration),
    ) -> Result<u64, SweepError>;
}

/// A sweep that was not ended.
#[derive(Debug)]
pub enum SweepError {
    /// There is no meter, or one that cannot tell settings apart.
    Unsuited {
        /// The method of what there is.
        method: Method,
    },
    /// The meter cannot be read.
    Meter(MeterError),
    /// It failed within every try of a round.
    Faulty {
        /// The setting.
        setting: Setting,
        /// What was counted in the last try.
        faults: Faults,
    },
    /// It counted nothing in a round.
    Nothing {
        /// The setting.
        setting: Setting,
    },
    /// A clock cannot be held.
    Clock(io::Error),
    /// The model cannot be run.
    Model(CommandError),
    /// The user ended it.
    Interrupted,
}

impl fmt::Display for SweepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SweepError::Unsuited { method: Method::UtilisationTable } => f.write_str(
                "the only meter here is the board table, which gives every busy core the same watts and cannot rank \
                 settings; run `tern energy calibrate`, or connect a meter",
            ),
            SweepError::Unsuited { .. } => f.write_str(
                "no meter can be read here (`tern doctor` says why); run `tern energy calibrate --display` with a plug, or \
                 connect a meter",
            ),
            SweepError::Meter(_) => f.write_str("the meter cannot be read"),
            SweepError::Faulty { setting, faults } => write!(
                f,
                "with {} threads the meter failed within a round, again and again ({}); mend it first",
                setting.threads,
                in_words(*faults)
            ),
            SweepError::Nothing { setting } => write!(
                f,
                "the meter counted nothing while {} threads worked; it stands still, or rounds are too short for it: give \
                 more --seconds",
                setting.threads
            ),
            SweepError::Clock(_) => f.write_str("the processor's clock cannot be set"),
            SweepError::Model(error) => error.fmt(f),
            SweepError::Interrupted => f.write_str("interrupted; nothing was kept, and the clocks are as before"),
        }
    }
}

impl std::error::Error for SweepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SweepError::Meter(error) => Some(error),
            SweepError::Clock(error) => Some(error),
            _ => None,
        }
    }
}

/// What a sweep found.
#[derive(Clone, Debug)]
pub struct Swept {
    /// Every setting.
    pub all: Vec<Measured>,
    /// Watts of the machine at rest, just before.
    pub idle_w: f64,
    /// What the figures are worth beside each other.
    pub worth: Worth,
}

/// Tries of a round in which the meter may fail.
const TRIES: usize = 3;

/// Runs `settings` in turns for `rounds` rounds of `time` each, reading `meter`; `told` is called after each round of all.
/// Clocks are held through `clocks` and put back at the end, however it ends.
///
/// # Errors
/// [`SweepError`] with the reason why nothing can be said.
pub fn sweep(
    runner: &mut dyn Runner,
    mut clocks: Clocks,
    meter: &mut dyn Meter,
    settings: &[Setting],
    rounds: usize,
    time: Duration,
    told: &mut dyn FnMut(),
) -> Result<Swept, SweepError> {
    let worth = can_rank(meter)?;
    let traffic = meter.traffic().unwrap_or_default();
    let every_cpu: Vec<usize> = (0..1024).collect();
    let rest = counted(runner, meter, None, &mut |runner, look| runner.rest(time, look).map(|()| 0))?;
    let mut all: Vec<Measured> =
        settings.iter().map(|setting| Measured { setting: *setting, rounds: Vec::new() }).collect();
    for _ in 0..rounds {
        for measured in &mut all {
            let setting = measured.setting;
            if let Some(mhz) = setting.mhz {
                clocks.hold(&every_cpu, mhz).map_err(SweepError::Clock)?;
            }
            let round = counted(runner, meter, Some(setting), &mut |runner, look| {
                runner.work(setting.threads, time, &traffic, look)
            })?;
            measured.rounds.push(round);
        }
        told();
    }
    if let Err(error) = clocks.restore() {
        log::warn!("the processor's clocks could not be put back, which a reboot does: {error}");
    }
    Ok(Swept { all, idle_w: rest.joules / rest.seconds, worth })
}

/// What the figures of `meter` are worth when settings are compared.
///
/// # Errors
/// [`SweepError::Unsuited`] where they are worth nothing.
pub fn can_rank(meter: &dyn Meter) -> Result<Worth, SweepError> {
    let method = meter.method();
    let step_j = meter.resolution().quantum_uj as f64 * 1e-6;
    match method {
        Method::CalibratedModel => Ok(Worth { step_j, differing: meter.relative_uncertainty() }),
        method if is_real(method) => Ok(Worth { step_j, differing: 0.0 }),
        method => Err(SweepError::Unsuited { method }),
    }
}

/// Work that looks at the meter meanwhile and says how many tokens it made.
type Work<'w> = dyn FnMut(&mut dyn Runner, &mut dyn FnMut(Duration)) -> Result<u64, SweepError> + 'w;

/// Does `work` with the meter read at both ends and between; again where it failed meanwhile.
fn counted(
    runner: &mut dyn Runner,
    meter: &mut dyn Meter,
    setting: Option<Setting>,
    work: &mut Work<'_>,
) -> Result<Round, SweepError> {
    let setting = setting.unwrap_or(Setting { threads: 0, mhz: None });
    let mut faults = Faults::default();
    for _ in 0..TRIES {
        let before = meter.faults();
        let (mut first, mut last, mut failed) = (None, None, None);
        let tokens = work(runner, &mut |at| match meter.sample(at) {
            Ok(sample) => {
                first.get_or_insert(sample);
                last = Some(sample);
            }
            Err(error) => failed = Some(error),
        })?;
        faults = meter.faults().since(before);
        let Some((first, last)) = first.zip(last) else {
            return Err(failed.map_or(SweepError::Nothing { setting }, SweepError::Meter));
        };
        if faults != Faults::default() {
            continue;
        }
        let joules = last.energy_uj.saturating_sub(first.energy_uj) as f64 * 1e-6;
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        if joules <= 0.0 || seconds <= 0.0 || (setting.threads > 0 && tokens == 0) {
            return Err(SweepError::Nothing { setting });
        }
        return Ok(Round { tokens, seconds, joules });
    }
    Err(SweepError::Faulty { setting, faults })
}
