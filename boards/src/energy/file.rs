//! A file that another program writes: the watts of now, or the joules so far.
//!
//! The file says nothing of when it was written, but the system does. A file that has not been written again for
//! longer than is allowed is an error, whatever it holds: its program may be gone. Over such a time no power is assumed.
//!
//! A program that writes in place empties the file first. Who looks at that moment sees nothing in it, and goes by what it
//! held before.

use core::time::Duration;
use std::time::SystemTime;

use super::counter::{CounterTotal, PowerTotal};
use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use crate::root::{ReadCause, ReadError, Root};

/// How an operator lets the daemon read it.
pub const GRANT: &str = "let the program that writes it make it readable for the service's user";

/// How often a file that is empty at the start is looked at, and the pause between two looks.
const LOOKS: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Power now.
    Watts,
    /// Energy since some time.
    Joules,
}

/// Where a file is and what it means.
#[derive(Debug, Clone, PartialEq)]
pub struct FileSource {
    /// Its path under the root.
    pub path: String,
    /// What it holds.
    pub unit: Unit,
    /// The longest time between two writes.
    pub stale: Duration,
    /// Half-width of the 95 % interval, as a fraction.
    pub relative_uncertainty: f64,
    /// No power above this can be true, watts.
    pub most_watts: f64,
}

/// A file as a meter.
#[derive(Debug)]
pub struct FileMeter {
    root: Root,
    from: FileSource,
    source: String,
    total: Total,
    /// What it last held.
    last: f64,
    /// When the file says that it was written, and when that was first seen.
    written: Option<(SystemTime, Duration)>,
    stale: bool,
}

#[derive(Debug)]
enum Total {
    Power(PowerTotal),
    Counter(CounterTotal),
}

impl FileMeter {
    /// A meter on `from`; reads it once to see that it holds a number.
    ///
    /// # Errors
    /// [`MeterError`] when it is missing, may not be read, or holds something else. A file that was not written for a
    /// while is none: its program may start after this one.
    pub fn open(root: &Root, from: FileSource) -> Result<FileMeter, MeterError> {
        let source = format!("file {}", from.path);
        let total = match from.unit {
            Unit::Watts => Total::Power(PowerTotal::default()),
            Unit::Joules => Total::Counter(CounterTotal::new(None)),
        };
        let mut meter =
            FileMeter { root: root.clone(), from, source, total, last: 0.0, written: None, stale: false };
        for _ in 0..LOOKS {
            if let Some(value) = meter.read()? {
                meter.last = value;
                return Ok(meter);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Err(meter.no_number(""))
    }

    fn no_number(&self, text: &str) -> MeterError {
        let found = text.chars().take(40).collect();
        MeterError::Unreadable(ReadError {
            path: self.from.path.clone(),
            cause: ReadCause::NotNumber { found },
        })
    }

    /// What the file holds; `None` if that is nothing.
    fn read(&self) -> Result<Option<f64>, MeterError> {
        let text = self.root.read(&self.from.path).map_err(|error| MeterError::from_read(error, GRANT))?;
        if text.is_empty() {
            return Ok(None);
        }
        let value: f64 = text.trim().parse().map_err(|_| self.no_number(&text))?;
        // In a counter's microjoules it must fit 64 bits.
        if !(0.0..=1e13).contains(&value) {
            return Err(MeterError::Implausible {
                source: self.source.clone(),
                found: value as i64,
                expected: "a number of watts or joules, zero or more",
            });
        }
        Ok(Some(value))
    }

    /// For how long the file has been as it is.
    fn age(&mut self, now: Duration) -> Result<Duration, MeterError> {
        let written = self.root.modified(&self.from.path).map_err(|e| MeterError::from_read(e, GRANT))?;
        match self.written {
            Some((known, since)) if known == written => Ok(now.saturating_sub(since)),
            Some(_) => {
                self.written = Some((written, now));
                Ok(Duration::ZERO)
            }
            None => {
                // The first time only the clock on the wall can tell.
                let age = SystemTime::now().duration_since(written).unwrap_or_default();
                self.written = Some((written, now.saturating_sub(age)));
                Ok(age)
            }
        }
    }

    fn take(&mut self, now: Duration) -> Result<u64, MeterError> {
        let age = self.age(now)?;
        if age > self.from.stale {
            if let (Total::Power(total), false) = (&mut self.total, self.stale) {
                total.interrupt();
            }
            self.stale = true;
            return Err(MeterError::Silent {
                source: self.source.clone(),
                seconds: Some(age.as_secs()),
                expected_s: self.from.stale.as_secs(),
            });
        }
        self.stale = false;
        let value = self.read()?.unwrap_or(self.last);
        self.last = value;
        match &mut self.total {
            Total::Counter(total) => Ok(total.add(now, (value * 1e6) as u64)),
            Total::Power(total) if value > self.from.most_watts => {
                total.reject();
                Err(MeterError::Implausible {
                    source: self.source.clone(),
                    found: value as i64,
                    expected: "no more watts than this board can draw",
                })
            }
            Total::Power(total) => Ok(total.add(now, (value * 1e6) as u64)),
        }
    }
}

impl Meter for FileMeter {
    fn source(&self) -> &str {
        &self.source
    }

    fn method(&self) -> Method {
        Method::ExternalMeter
    }

    fn scope(&self) -> Scope {
        Scope::Wall
    }

    fn relative_uncertainty(&self) -> f64 {
        self.from.relative_uncertainty
    }

    fn resolution(&self) -> Resolution {
        // Nothing says how fine the other program's figures are: a tenth of a watt, or a joule.
        match self.total {
            Total::Power(_) => Resolution { period: Duration::from_secs(1), quantum_uj: 100_000 },
            Total::Counter(_) => Resolution { period: Duration::from_secs(1), quantum_uj: 1_000_000 },
        }
    }

    fn faults(&self) -> Faults {
        match &self.total {
            Total::Power(total) => total.faults(),
            Total::Counter(total) => total.faults(),
        }
    }

    fn may_block(&self) -> bool {
        // A pipe without a writer, or a network's file system.
        true
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let taken = self.take(now);
        let readings = match &mut self.total {
            Total::Power(total) => {
                if taken.is_err() {
                    total.fail();
                }
                total.readings()
            }
            Total::Counter(total) => {
                if taken.is_err() {
                    total.fail();
                }
                total.readings()
            }
        };
        taken.map(|energy_uj| Sample { at: now, energy_uj, readings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir, unit: Unit) -> Result<FileMeter, MeterError> {
        let from = FileSource {
            path: "/run/power".into(),
            unit,
            stale: Duration::from_secs(5),
            relative_uncertainty: 0.05,
            most_watts: 60.0,
        };
        FileMeter::open(&Root::new(dir.path()), from)
    }

    fn written(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        write(&dir, text, 0);
        dir
    }

    /// Writes the file so that it looks `later` seconds younger than the last.
    fn write(dir: &tempfile::TempDir, text: &str, later: u64) {
        let path = dir.path().join("run/power");
        std::fs::write(&path, text).unwrap();
        let at = SystemTime::now() + Duration::from_secs(later);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn watts_are_integrated_while_the_file_is_fresh() {
        let dir = written("4.0\n");
        let mut meter = open(&dir, Unit::Watts).unwrap();
        assert_eq!((meter.method(), meter.source()), (Method::ExternalMeter, "file /run/power"));
        meter.sample(s(10)).unwrap();
        assert_eq!(meter.sample(s(11)).unwrap().energy_uj, 4_000_000);
        // Its program stopped: no joules for that time, and none for the time until it is back.
        let error = meter.sample(s(20)).unwrap_err().to_string();
        assert!(error.contains("/run/power has said nothing for 10 s"), "{error}");
        assert!(meter.sample(s(30)).is_err());
        write(&dir, "6.0\n", 1);
        assert_eq!(meter.sample(s(40)).unwrap().energy_uj, 4_000_000);
        write(&dir, "6.0\n", 2);
        assert_eq!(meter.sample(s(41)).unwrap().energy_uj, 10_000_000);
        assert_eq!((meter.faults().gaps, meter.faults().failed), (1, 2));
    }

    #[test]
    fn a_file_that_is_being_written_holds_what_it_held() {
        let dir = written("4.0\n");
        let mut meter = open(&dir, Unit::Watts).unwrap();
        meter.sample(s(0)).unwrap();
        write(&dir, "", 1);
        assert_eq!(meter.sample(s(1)).unwrap().energy_uj, 4_000_000);
        assert_eq!(meter.faults(), Faults::default());
        // Left empty it is as one that is not written any more.
        assert!(matches!(meter.sample(s(7)), Err(MeterError::Silent { .. })));
    }

    #[test]
    fn joules_are_a_counter_and_go_on_after_a_pause() {
        let dir = written("100.5\n");
        let mut meter = open(&dir, Unit::Joules).unwrap();
        meter.sample(s(0)).unwrap();
        assert!(meter.sample(s(6)).is_err());
        write(&dir, "130.5\n", 1);
        assert_eq!(meter.sample(s(10)).unwrap().energy_uj, 30_000_000);
        write(&dir, "2.0\n", 2);
        assert_eq!(meter.sample(s(11)).unwrap().energy_uj, 30_000_000);
        assert_eq!(meter.faults().backwards, 1);
    }

    #[test]
    fn what_is_no_number_of_watts_is_said_with_what_was_there() {
        for (text, words) in [("warm", "warm"), ("", "number"), ("-3", "-3"), ("inf", "zero or more")] {
            let error = open(&written(text), Unit::Watts).unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            assert!(format!("{error}: {cause}").contains(words), "{text:?}: {error}: {cause}");
        }
        let dir = written("4000");
        let mut meter = open(&dir, Unit::Watts).unwrap();
        assert!(meter.sample(s(1)).is_err());
        assert_eq!((meter.faults().rejected, meter.faults().failed), (1, 1));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(open(&empty, Unit::Watts), Err(MeterError::Unreadable(_))));
    }
}
