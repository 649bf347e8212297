//! What `tern energy calibrate` does, on any bench: the board, the plan, the loads, the file.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tern_boards::profile::{Profile, compatible};
use tern_boards::{Board, Cpu};

use super::bench::Bench;
use super::gauge::Gauge;
use super::plan::{Extent, Trial, plan};
use super::run::{CalibrateError, Calibrated, calibrate};
use super::{gauge::GaugeError, report};
use crate::clocks::Clocks;
use crate::error::{CommandError, Exit};
use crate::figures;
use crate::replace::Replacement;

/// What is asked of a calibration.
#[derive(Clone, Debug)]
pub struct Job {
    /// Time that each load is measured.
    pub time: Duration,
    /// How many loads.
    pub extent: Extent,
    /// The file to write; `None` for the board's own among the overrides.
    pub output: Option<PathBuf>,
    /// Whether a file that is there is replaced.
    pub force: bool,
    /// The day it is.
    pub date: String,
}

/// The loads that a job would run, and why clocks are left alone where they are.
pub fn loads_of(bench: &dyn Bench, extent: Extent) -> (Vec<Trial>, Clocks, Option<String>) {
    let cpu = Cpu::detect(bench.root());
    let clocks = Clocks::detect(bench.root());
    let held = clocks.may_hold();
    let trials = plan(&cpu, held.is_ok().then_some(&clocks), extent);
    (trials, clocks, held.err())
}

/// What would be run, in words.
pub fn announcement(trials: &[Trial], not_held: Option<&str>, time: Duration) -> String {
    let each_ms = (time + super::run::WARM_UP).as_secs_f64() * 1e3;
    let mut text = format!(
        "{} of {} s each, about {}",
        figures::counted(trials.len(), "load"),
        time.as_secs(),
        figures::duration_ms(each_ms * trials.len() as f64)
    );
    if let Some(why) = not_held {
        text += &format!("\nclocks are left to the governor: {why}");
    }
    text
}

impl Job {
    /// Runs the job with `gauge` on `bench`, calling `say` with lines for people; returns the calibration and where it is.
    ///
    /// # Errors
    /// If nothing could be written, or the loads make no model; nothing is written then.
    pub fn run(
        &self,
        bench: &mut dyn Bench,
        gauge: &mut Gauge<'_>,
        say: &mut dyn FnMut(&str),
    ) -> Result<(Calibrated, PathBuf), CommandError> {
        let root = bench.root().clone();
        let cpu = Cpu::detect(&root);
        let (board, errors) = Board::detect(&root, cpu.arch);
        for error in errors {
            log::warn!("{error}");
        }
        let (trials, clocks, not_held) = loads_of(bench, self.extent);
        let names = compatible(&root);
        // Its name is known before there is a calibration.
        let place = report::usual_place(&report::named(&board, &names));
        let path = self.output.clone().unwrap_or_else(|| root.resolve(&place));
        // Minutes of loads must not end with a file that cannot be written.
        let mut file = self.begin(&path)?;
        say(&format!("{}, read by {}", board.profile.title, gauge.name()));
        say(&announcement(&trials, not_held.as_deref(), self.time));
        let mut calibrated =
            calibrate(bench, clocks, gauge, &trials, self.time, say).map_err(|error| failure(&error))?;
        calibrated.calibration.date = Some(self.date.clone());
        calibrated.calibration.against = Some(gauge.name().to_owned());
        let mut profile = report::named(&board, &names);
        profile.calibration = Some(calibrated.calibration.clone());
        let text = report::file(&profile, &calibrated);
        let text = text.map_err(|error| CommandError::from_error(Exit::Internal, &error))?;
        // What cannot be read again would only be found out at the next start.
        Profile::parse(&path.display().to_string(), &text)
            .map_err(|error| CommandError::from_error(Exit::Internal, &error))?;
        file.write_all(text.as_bytes()).map_err(|error| crate::replace::cannot_write(&path, &error))?;
        file.keep()?;
        say(report::page(&calibrated).trim_end());
        say(&format!("written to {}", path.display()));
        if self.output.is_none() {
            let (now, _) = Board::detect(&root, cpu.arch);
            if now.profile.calibration.as_ref() != Some(&calibrated.calibration) {
                say(
                    "another file in that folder describes this board and comes first by its name; remove one of them",
                );
            }
        }
        Ok((calibrated, path))
    }

    fn begin(&self, path: &Path) -> Result<Replacement, CommandError> {
        if path.exists() && !self.force {
            let message =
                format!("'{}' is there already; --force replaces it, --output names another", path.display());
            return Err(CommandError::new(Exit::CannotCreate, message));
        }
        if self.output.is_none()
            && let Some(folder) = path.parent()
        {
            // What is wrong with it is said when the file is made.
            let _ = std::fs::create_dir_all(folder);
        }
        Replacement::create(path)
    }
}

/// A calibration that was not made, with the exit code that says why.
fn failure(error: &CalibrateError) -> CommandError {
    let exit = match error {
        CalibrateError::Gauge(GaugeError::None) => Exit::Unavailable,
        CalibrateError::Gauge(
            GaugeError::Line { .. } | GaugeError::Other { .. } | GaugeError::Ended | GaugeError::Slow { .. },
        ) => Exit::BadInput,
        _ => Exit::Failed,
    };
    CommandError::from_error(exit, error)
}
