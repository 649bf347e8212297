//! The fitted model as a meter: joules of what the machine did, by this board's own calibration.

use core::fmt;
use core::time::Duration;

use super::super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use super::Calibration;
use super::traffic::Traffic;
use super::watch::ActivityWatch;
use crate::profile::Profile;
use crate::root::Root;

/// Looks shorter than this hold too few ticks of the kernel's clock; longer ones do not tell at which clock work ran.
const PERIOD: Duration = Duration::from_millis(100);

/// A calibrated model that counts.
#[derive(Debug)]
pub struct ModelMeter {
    calibration: Calibration,
    watch: ActivityWatch,
    source: String,
    joules: f64,
    latest: Duration,
    readings: u64,
}

/// A calibration that is there and is not used.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelError {
    /// What is wrong with it.
    Calibration(String),
    /// What the machine does cannot be read.
    Meter(MeterError),
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelError::Calibration(problem) => f.write_str(problem),
            ModelError::Meter(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ModelError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            ModelError::Calibration(_) => None,
            ModelError::Meter(error) => error.source(),
        }
    }
}

impl ModelMeter {
    /// A meter on the calibration of `profile`; `Ok(None)` where it has none.
    ///
    /// # Errors
    /// [`ModelError`] when the calibration cannot be of this machine, or busy time cannot be read.
    pub fn detect(root: &Root, profile: &Profile) -> Result<Option<ModelMeter>, ModelError> {
        let Some(calibration) = profile.calibration.clone() else { return Ok(None) };
        if let Some(problem) = calibration.problem() {
            return Err(ModelError::Calibration(problem));
        }
        let watch = ActivityWatch::open(root, Traffic::default()).map_err(ModelError::Meter)?;
        let known = watch.clusters();
        if let Some(core) = calibration.cores.iter().find(|core| core.cluster >= known) {
            let found = core.cluster;
            return Err(ModelError::Calibration(format!(
                "calibration.core names cluster {found}, and this machine has {known}: it is not of this machine"
            )));
        }
        let against = calibration.against.as_deref().unwrap_or("a meter that is not named");
        let date = calibration.date.as_deref().map_or(String::new(), |date| format!(" on {date}"));
        let source = format!(
            "model of this board, calibrated{date} against {against}, median error {:.1} %",
            calibration.median_error * 100.0
        );
        let (joules, latest, readings) = (0.0, Duration::ZERO, 0);
        Ok(Some(ModelMeter { calibration, watch, source, joules, latest, readings }))
    }
}

impl Meter for ModelMeter {
    fn source(&self) -> &str {
        &self.source
    }

    fn method(&self) -> Method {
        Method::CalibratedModel
    }

    fn scope(&self) -> Scope {
        self.calibration.scope
    }

    fn relative_uncertainty(&self) -> f64 {
        self.calibration.relative_uncertainty
    }

    fn resolution(&self) -> Resolution {
        // One tick of one core, at the clock where that is most.
        let most_w = self.calibration.cores.iter().map(|core| core.watts).fold(0.0, f64::max);
        Resolution { period: PERIOD, quantum_uj: ((most_w * 10_000.0) as u64).max(1) }
    }

    fn idle_watts(&self) -> Option<f64> {
        Some(self.calibration.idle_w)
    }

    fn calibrated_at(&self) -> Option<&str> {
        self.calibration.date.as_deref()
    }

    fn traffic(&self) -> Option<Traffic> {
        Some(self.watch.traffic().clone())
    }

    fn faults(&self) -> Faults {
        self.watch.faults()
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let activity = self.watch.look(now)?;
        self.joules += self.calibration.joules(&activity);
        self.readings += 1;
        self.latest = self.latest.max(now);
        Ok(Sample { at: self.latest, energy_uj: (self.joules * 1e6).round() as u64, readings: self.readings })
    }
}

#[cfg(test)]
mod tests {
    use super::super::calibration::CorePower;
    use super::*;
    use crate::energy::{Outcome, detect};

    const BOARD: &str = "name = \"here\"\ntitle = \"Here\"\ncompatible = [\"x,here\"]\n\
        [calibration]\nscope = \"wall\"\nidle_w = 2.0\nbyte_nj = 0.25\nmedian_error = 0.02\n\
        relative_uncertainty = 0.08\nloads = 20\ndate = \"2026-01-20\"\nagainst = \"a plug\"\n\
        [[calibration.core]]\ncluster = 0\nmhz = 1000\nwatts = 0.5\n";

    /// A machine of one CPU without a clock, busy for `ticks` so far.
    fn write(dir: &tempfile::TempDir, ticks: u64) {
        for folder in ["proc", "sys/devices/system/cpu"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("sys/devices/system/cpu/online"), "0").unwrap();
        std::fs::write(dir.path().join("proc/stat"), format!("cpu0 {ticks} 0 0 9 0 0 0\n")).unwrap();
    }

    #[test]
    fn joules_are_those_of_the_calibration_for_what_was_done() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, 0);
        let root = Root::new(dir.path());
        let profile = Profile::parse("here.toml", BOARD).unwrap();
        let (meter, findings) = detect(&root, &profile);
        let mut meter = meter.unwrap();
        assert_eq!((meter.method(), meter.scope()), (Method::CalibratedModel, Scope::Wall));
        assert_eq!((meter.relative_uncertainty(), meter.idle_watts()), (0.08, Some(2.0)));
        assert_eq!(meter.calibrated_at(), Some("2026-01-20"));
        assert!(findings.iter().any(|f| f.outcome == Outcome::Used && f.why.contains("against a plug")));
        assert_eq!(meter.sample(Duration::from_secs(5)).unwrap().energy_uj, 0);
        write(&dir, 100);
        meter.traffic().unwrap().add(2_000_000_000);
        // 2 s x 2 W + 1 s x 0.5 W + 2e9 x 0.25 nJ
        assert_eq!(meter.sample(Duration::from_secs(7)).unwrap().energy_uj, 5_000_000);
        // The clock steps back, then the time is made up for.
        assert_eq!(meter.sample(Duration::from_secs(6)).unwrap().energy_uj, 5_000_000);
        assert_eq!(meter.sample(Duration::from_secs(8)).unwrap().energy_uj, 7_000_000);
        assert_eq!(meter.faults().backwards, 1);
    }

    #[test]
    fn a_calibration_that_cannot_be_is_refused_and_the_reason_is_found() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir, 0);
        let root = Root::new(dir.path());
        let mut profile = Profile::parse("here.toml", BOARD).unwrap();
        let refused = |profile: &Profile| {
            let (meter, findings) = detect(&root, profile);
            assert!(meter.is_none(), "nothing else is there");
            let looked = findings.into_iter().find(|found| found.looked_at.contains("calibrated model"));
            let found = looked.expect("a finding");
            assert_eq!(found.outcome, Outcome::Failed);
            found.why
        };
        let calibration = profile.calibration.as_mut().unwrap();
        calibration.cores.push(CorePower { cluster: 1, mhz: 600, watts: 0.1 });
        assert!(refused(&profile).contains("this machine has 1"), "{}", refused(&profile));
        profile.calibration.as_mut().unwrap().idle_w = -1.0;
        assert!(refused(&profile).contains("idle_w is -1"), "{}", refused(&profile));
        std::fs::remove_file(dir.path().join("proc/stat")).unwrap();
        profile.calibration = Profile::parse("here.toml", BOARD).unwrap().calibration;
        assert!(refused(&profile).contains("/proc/stat does not exist"), "{}", refused(&profile));
    }
}
