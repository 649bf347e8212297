//! A scripted meter, for tests of everything that reads one.

use core::time::Duration;
use std::collections::VecDeque;

use super::counter::CounterTotal;
use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use crate::root::{ReadCause, ReadError};

/// What one reading of a [`FakeMeter`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The raw counter shows this many microjoules. A lower value than before is a wrap or a step backwards,
    /// whichever a real counter would make of it.
    Raw(u64),
    /// The raw counter shows what it showed before.
    Stall,
    /// The sensor does not answer.
    Fail,
}

/// A counter that follows a script, or draws steady power.
#[derive(Debug, Clone)]
pub struct FakeMeter {
    script: VecDeque<Reading>,
    steady_uw: Option<u64>,
    raw_uj: u64,
    counter: CounterTotal,
    method: Method,
    resolution: Resolution,
}

impl FakeMeter {
    /// Plays `script`, one entry a reading, then stalls. The counter wraps at `range_uj` if given.
    pub fn scripted(range_uj: Option<u64>, script: impl IntoIterator<Item = Reading>) -> FakeMeter {
        FakeMeter {
            script: script.into_iter().collect(),
            steady_uw: None,
            raw_uj: 0,
            counter: CounterTotal::new(range_uj),
            method: Method::EnergyCounter,
            resolution: Resolution { period: Duration::from_millis(1), quantum_uj: 1 },
        }
    }

    /// Draws `power_uw` microwatts for ever.
    pub fn steady(power_uw: u64) -> FakeMeter {
        FakeMeter { steady_uw: Some(power_uw), ..FakeMeter::scripted(None, []) }
    }

    /// The same meter with another resolution.
    #[must_use]
    pub fn with_resolution(mut self, resolution: Resolution) -> FakeMeter {
        self.resolution = resolution;
        self
    }

    /// The same meter claiming another method.
    #[must_use]
    pub fn with_method(mut self, method: Method) -> FakeMeter {
        self.method = method;
        self
    }
}

impl Meter for FakeMeter {
    fn source(&self) -> &str {
        "fake"
    }

    fn method(&self) -> Method {
        self.method
    }

    fn scope(&self) -> Scope {
        Scope::BoardDc
    }

    fn relative_uncertainty(&self) -> f64 {
        0.02
    }

    fn resolution(&self) -> Resolution {
        self.resolution
    }

    fn faults(&self) -> Faults {
        self.counter.faults()
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        if let Some(power_uw) = self.steady_uw {
            self.raw_uj =
                u64::try_from(u128::from(power_uw) * now.as_micros() / 1_000_000).unwrap_or(u64::MAX);
        } else {
            match self.script.pop_front() {
                Some(Reading::Raw(raw_uj)) => self.raw_uj = raw_uj,
                Some(Reading::Stall) | None => {}
                Some(Reading::Fail) => {
                    self.counter.fail();
                    let cause = ReadCause::Io(std::io::ErrorKind::TimedOut);
                    return Err(MeterError::Unreadable(ReadError { path: "/fake".into(), cause }));
                }
            }
        }
        let energy_uj = self.counter.add(now, self.raw_uj);
        Ok(Sample { at: now, energy_uj, readings: self.counter.readings() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_played_and_then_stalls() {
        use Reading::{Fail, Raw, Stall};
        let mut meter = FakeMeter::scripted(Some(1000), [Raw(900), Raw(990), Stall, Fail, Raw(10)]);
        let totals: Vec<Option<u64>> = (0..6)
            .map(|second| meter.sample(Duration::from_secs(second)).ok().map(|sample| sample.energy_uj))
            .collect();
        assert_eq!(totals, [Some(0), Some(90), Some(90), None, Some(110), Some(110)]);
        assert_eq!(meter.faults().failed, 1);
    }

    #[test]
    fn steady_power_times_time_is_energy() {
        let mut meter = FakeMeter::steady(2_500_000);
        meter.sample(Duration::from_secs(4)).unwrap();
        assert_eq!(meter.sample(Duration::from_secs(6)).unwrap().energy_uj, 5_000_000);
    }
}
