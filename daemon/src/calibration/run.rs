//! A whole calibration: loads one after another, each measured and watched, then the fit.

use std::fmt;
use std::io;
use std::time::Duration;

use tern_boards::energy::model::{
    ActivityWatch, Calibration, FitError, Load, Reference, Traffic, at_rest_w, fit,
};
use tern_boards::energy::{Faults, MeterError};

use super::bench::{Bench, Interrupted};
use super::gauge::{Gauge, GaugeError};
use super::plan::{Kind, Trial};
use crate::clocks::Clocks;

/// A load runs this long before it is measured: clocks, fans and the meter's own averaging come to rest.
pub const WARM_UP: Duration = Duration::from_secs(2);

/// Loads after which it is known in what steps a display goes.
const COARSE_AFTER: usize = 3;

/// What came of a calibration.
#[derive(Clone, Debug)]
pub struct Calibrated {
    /// The model.
    pub calibration: Calibration,
    /// What it was fitted to, in the order it ran.
    pub loads: Vec<Load>,
    /// What was known of the meter.
    pub reference: Reference,
}

/// There is no calibration.
#[derive(Debug)]
pub enum CalibrateError {
    /// The gauge.
    Gauge(GaugeError),
    /// Busy time cannot be read.
    Watch(MeterError),
    /// A clock cannot be held.
    Clock(io::Error),
    /// The loads make no model.
    Fit(FitError),
    /// The user ended it.
    Interrupted(Interrupted),
}

impl fmt::Display for CalibrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CalibrateError::Gauge(error) => error.fmt(f),
            CalibrateError::Watch(_) => f.write_str("what the machine does cannot be read"),
            CalibrateError::Clock(_) => f.write_str("the processor's clock cannot be set"),
            CalibrateError::Fit(error) => write!(f, "no model was made: {error}"),
            CalibrateError::Interrupted(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CalibrateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CalibrateError::Gauge(error) => error.source(),
            CalibrateError::Watch(error) => Some(error),
            CalibrateError::Clock(error) => Some(error),
            CalibrateError::Fit(_) | CalibrateError::Interrupted(_) => None,
        }
    }
}

/// Runs `trials` on `bench` for `time` each with `gauge`, calling `say` with a line for each, and fits. Clocks are held
/// through `clocks` and put back at the end, however it ends.
///
/// # Errors
/// [`CalibrateError`] with the reason why there is no model.
pub fn calibrate(
    bench: &mut dyn Bench,
    mut clocks: Clocks,
    gauge: &mut Gauge<'_>,
    trials: &[Trial],
    time: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<Calibrated, CalibrateError> {
    gauge.suits(time).map_err(CalibrateError::Gauge)?;
    let traffic = Traffic::default();
    let mut watch = ActivityWatch::open(bench.root(), traffic.clone()).map_err(CalibrateError::Watch)?;
    let mut loads = Vec::with_capacity(trials.len());
    for (index, trial) in trials.iter().enumerate() {
        if let Some(mhz) = trial.mhz {
            clocks.hold(&trial.cpus, mhz).map_err(CalibrateError::Clock)?;
        }
        let place = format!("{:>2} of {}", index + 1, trials.len());
        if let Gauge::Display(display) = gauge
            && display.asks
        {
            let seconds = (WARM_UP + time).as_secs();
            say(&format!(
                "{place}  {}: hold for {seconds} s; note what the display shows, its mean if it moves",
                trial.name
            ));
        }
        let load = measure(bench, &mut watch, &traffic, gauge, trial, time, say)?;
        say(&format!("{place}  {}: {:.2} W", trial.name, load.joules / load.activity.seconds));
        loads.push(load);
        // All loads begin with rest; a machine that has none now would only be told so minutes later.
        if loads.len() == 1 && trial.kind == Kind::Idle {
            at_rest_w(&loads).map_err(CalibrateError::Fit)?;
        }
        // Nobody should hold all loads before a coarse display. A person may have left out a decimal of the first.
        if loads.len() == COARSE_AFTER {
            let watts = loads.iter().map(|load: &Load| load.joules / load.activity.seconds);
            let least_w = watts.fold(f64::INFINITY, f64::min);
            gauge.reference(time).suits(least_w).map_err(CalibrateError::Fit)?;
        }
    }
    if let Err(error) = clocks.restore() {
        log::warn!("the processor's clocks could not be put back, which a reboot does: {error}");
    }
    let reference = gauge.reference(time);
    let calibration = fit(&loads, reference).map_err(CalibrateError::Fit)?;
    Ok(Calibrated { calibration, loads, reference })
}

/// Runs and measures one load; one that the meter failed in is run once more.
fn measure(
    bench: &mut dyn Bench,
    watch: &mut ActivityWatch,
    traffic: &Traffic,
    gauge: &mut Gauge<'_>,
    trial: &Trial,
    time: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<Load, CalibrateError> {
    let watched = |watch: &mut ActivityWatch, at| watch.look(at).map_err(CalibrateError::Watch);
    let mut faults = Faults::default();
    for _ in 0..2 {
        bench
            .run(trial.kind, &trial.cpus, WARM_UP, traffic, &mut |at| {
                if let Gauge::Meter(meter) = gauge {
                    // A reading that fails here is of no load.
                    let _ = meter.sample(at);
                }
            })
            .map_err(CalibrateError::Interrupted)?;
        let began = bench.now();
        let first = match gauge {
            Gauge::Meter(meter) => Some((meter.sample(began).map_err(meter_failed)?, meter.faults())),
            Gauge::Display(_) => None,
        };
        watched(watch, began)?;
        let mut activity = tern_boards::energy::model::Activity::default();
        let mut last = first.map(|(sample, _)| sample);
        let mut lost = None;
        bench
            .run(trial.kind, &trial.cpus, time, traffic, &mut |at| {
                if let Gauge::Meter(meter) = gauge
                    && let Ok(sample) = meter.sample(at)
                {
                    last = Some(sample);
                }
                match watch.look(at) {
                    Ok(more) => activity.extend(&more),
                    Err(error) => lost = Some(error),
                }
            })
            .map_err(CalibrateError::Interrupted)?;
        if let Some(error) = lost {
            return Err(CalibrateError::Watch(error));
        }
        let name = trial.name.clone();
        match gauge {
            Gauge::Display(display) => {
                let watts = ask(display, &trial.name, say).map_err(CalibrateError::Gauge)?;
                let joules = watts * activity.seconds;
                return Ok(Load { name, activity, joules });
            }
            Gauge::Meter(meter) => {
                let Some(((first, before), last)) = first.zip(last) else { continue };
                faults = meter.faults().since(before);
                if faults == Faults::default() && last.at > first.at {
                    let joules = last.energy_uj.saturating_sub(first.energy_uj) as f64 * 1e-6;
                    return Ok(Load { name, activity, joules });
                }
            }
        }
    }
    Err(CalibrateError::Gauge(GaugeError::Faulty { faults }))
}

fn meter_failed(error: MeterError) -> CalibrateError {
    CalibrateError::Gauge(GaugeError::Meter(error))
}

/// Watts of a display; a person who mistypes is asked again.
fn ask(
    display: &mut super::gauge::Display<'_>,
    load: &str,
    say: &mut dyn FnMut(&str),
) -> Result<f64, GaugeError> {
    loop {
        if display.asks {
            say("    watts shown (ctrl-C and Enter end it all):");
        }
        match display.watts(load) {
            Err(error @ (GaugeError::Line { .. } | GaugeError::Other { .. })) if display.asks => {
                say(&format!("    {error}"));
            }
            read => return read,
        }
    }
}
