//! Two power meters of this machine, read beside each other for a while.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use tern_boards::Root;
use tern_boards::energy::Meter;
use tern_boards::energy::sampler::{PERIOD, Sampler};
use tern_boards::energy::witness::{Statement, compare};

use crate::config::Config;
use crate::error::{CommandError, Exit};
use crate::progress::Progress;
use crate::serve::meters::{self, Meters};

/// Where the configuration of the system's daemon is.
const SYSTEM_CONFIG: &str = "/etc/tern/tern.toml";

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// What each meter said, the one that is used first; watts are null where it said nothing.
    meters: Vec<Said>,
    seconds: f64,
    /// Why they cannot both be right; null where they can, or where there are not two.
    pub disagreement: Option<String>,
}

#[derive(Debug, Serialize)]
struct Said {
    source: String,
    watts: Option<f64>,
    /// Readings in that time.
    readings: u64,
    /// Why there are no watts.
    problem: Option<String>,
}

/// The meters of this machine, with what the configuration says.
///
/// # Errors
/// If the configuration makes no sense, or a meter's secret cannot be read.
pub fn find(config: Option<&Path>) -> Result<Meters, CommandError> {
    let system = Path::new(SYSTEM_CONFIG);
    let config = match config {
        Some(path) => Config::read(path)?,
        // One that may not be read by this user says nothing of the machine.
        None if system.exists() => Config::read(system).unwrap_or_default(),
        None => Config::default(),
    };
    Ok(meters::find(&Root::new("/"), &config)?)
}

impl Comparison {
    /// Reads the meters of `found` for `seconds`.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn run(found: Meters, seconds: u32) -> Result<Comparison, CommandError> {
        let origin = Instant::now();
        let failed = |error: std::io::Error| CommandError::from_error(Exit::Internal, &error);
        let mut meters: Vec<Reading> = Vec::new();
        for meter in found.meter.into_iter().chain(found.witness) {
            let meter: Box<dyn Meter> = match meter.may_block() {
                true => Box::new(Sampler::spawn(meter, PERIOD, origin).map_err(failed)?),
                false => meter,
            };
            meters.push(Reading { meter, first: None, last: None, problem: None });
        }
        let progress = Progress::items("reading the power meters", u64::from(seconds));
        for second in 0..=u64::from(seconds) {
            let due = Duration::from_secs(second);
            std::thread::sleep(due.saturating_sub(origin.elapsed()));
            for reading in &mut meters {
                reading.take(origin.elapsed());
            }
            progress.add(u64::from(second > 0));
        }
        let both: Vec<Option<Statement>> = meters.iter().map(Reading::statement).collect();
        let disagreement = match both.as_slice() {
            [Some(trusted), Some(other)] => compare(trusted, other, f64::from(seconds)),
            _ => None,
        };
        Ok(Comparison {
            meters: meters.iter().map(Reading::said).collect(),
            seconds: f64::from(seconds),
            disagreement: disagreement.map(|disagreement| disagreement.to_string()),
        })
    }

    /// The same in words.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .meters
            .iter()
            .map(|said| match (said.watts, &said.problem) {
                (Some(watts), _) => {
                    format!(
                        "{}: {watts:.2} W over {} s, {} readings",
                        said.source, self.seconds, said.readings
                    )
                }
                (None, Some(problem)) => format!("{}: {problem}", said.source),
                (None, None) => format!("{}: one reading is none over time", said.source),
            })
            .collect();
        lines.push(match (self.meters.len(), &self.disagreement) {
            (0 | 1, _) => "there are no two meters to compare".into(),
            (_, Some(_)) => "they disagree".into(),
            (_, None) if self.meters.iter().any(|said| said.watts.is_none()) => {
                "they could not be compared".into()
            }
            (_, None) => "they agree, as far as both are to be trusted".into(),
        });
        lines
    }
}

/// A meter that is being read.
struct Reading {
    meter: Box<dyn Meter>,
    first: Option<(Duration, u64)>,
    last: Option<(Duration, u64, u64)>,
    problem: Option<String>,
}

impl Reading {
    fn take(&mut self, now: Duration) {
        match self.meter.sample(now) {
            Ok(sample) => {
                self.first.get_or_insert((now, sample.energy_uj));
                self.last = Some((now, sample.energy_uj, sample.readings));
            }
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    fn watts(&self) -> Option<f64> {
        let ((began, first_uj), (ended, last_uj, _)) = (self.first?, self.last?);
        let seconds = ended.saturating_sub(began).as_secs_f64();
        (seconds > 0.0).then(|| last_uj.saturating_sub(first_uj) as f64 * 1e-6 / seconds)
    }

    /// Nothing, if a reading failed: what it missed nobody knows.
    fn statement(&self) -> Option<Statement> {
        let watts = self.watts().filter(|_| self.problem.is_none())?;
        let ((began, _), (ended, ..)) = (self.first?, self.last?);
        Some(Statement {
            source: self.meter.source().to_owned(),
            scope: self.meter.scope(),
            relative_uncertainty: self.meter.relative_uncertainty(),
            slack_joules: self.meter.resolution().quantum_uj as f64 * 1e-5,
            joules: watts * ended.saturating_sub(began).as_secs_f64(),
        })
    }

    fn said(&self) -> Said {
        Said {
            source: self.meter.source().to_owned(),
            watts: self.watts(),
            readings: self.last.map_or(0, |(.., readings)| readings),
            problem: self.problem.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_said_with_its_verdict() {
        let said = |source: &str, watts| Said { source: source.into(), watts, readings: 9, problem: None };
        let mut comparison = Comparison {
            meters: vec![said("hwmon ina226", Some(7.5)), said("plug at tele/desk/SENSOR", Some(9.25))],
            seconds: 61.0,
            disagreement: None,
        };
        let lines = comparison.lines();
        assert_eq!(lines[0], "hwmon ina226: 7.50 W over 61 s, 9 readings");
        assert!(lines[1].contains("9.25 W") && lines[2].starts_with("they agree"), "{lines:?}");
        comparison.disagreement = Some("two meters disagree".into());
        assert_eq!(comparison.lines()[2], "they disagree");
        comparison.meters[1].watts = None;
        comparison.meters[1].problem = Some("it has said nothing yet".into());
        comparison.disagreement = None;
        assert_eq!(
            comparison.lines()[1..],
            ["plug at tele/desk/SENSOR: it has said nothing yet", "they could not be compared"]
        );
    }
}
