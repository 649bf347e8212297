//! The last resort: published power of this board, weighted by how busy the CPU is.
//!
//! `P = idle_w + u * (load_w - idle_w)`, with `u` the busy share of all CPU time between two readings of
//! `/proc/stat`. Since those are running totals, `u` is the true mean over any interval; nothing needs to be sampled
//! in between. What the method cannot see: which instructions run, at which frequency and voltage, and what memory
//! draws. Published meters disagree by about 30 % at idle and 15 % under load, hence the wide bound.

use core::time::Duration;

use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use crate::profile::{Power, Profile};
use crate::root::{ReadCause, ReadError, Root};

const STAT: &str = "/proc/stat";

/// How an operator lets the daemon read the file.
pub const GRANT: &str = "set ProcSubset=all in the service's unit";

/// Both figures measured on this kind of board.
const UNCERTAINTY_MEASURED: f64 = 0.35;

/// A figure from a sister board or a data sheet.
const UNCERTAINTY_ESTIMATE: f64 = 0.60;

/// `/proc/stat` counts in hundredths of a second. Ten ticks of each CPU make a utilisation worth the name.
const PERIOD: Duration = Duration::from_millis(100);

/// A board's table row as a meter.
pub struct UtilisationTable {
    root: Root,
    power: Power,
    source: String,
    last: Option<(Duration, Ticks)>,
    utilisation: f64,
    total_uj: u64,
    readings: u64,
    faults: Faults,
}

/// Running totals of the first line of `/proc/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    /// The busy share of all CPU time from here to `later`; `None` where no time has passed or the totals fell.
    pub(super) fn busy_until(self, later: Ticks) -> Option<f64> {
        let all = later.all.checked_sub(self.all).filter(|&all| all > 0)?;
        Some((later.busy.checked_sub(self.busy)? as f64 / all as f64).min(1.0))
    }
}

impl UtilisationTable {
    /// A meter on `profile`'s figures; `Ok(None)` where the profile has none.
    ///
    /// # Errors
    /// [`MeterError`] when CPU utilisation cannot be read.
    pub fn detect(root: &Root, profile: &Profile) -> Result<Option<UtilisationTable>, MeterError> {
        let Some(power) = profile.power.clone() else { return Ok(None) };
        read_ticks(root)?;
        let estimate = if power.is_estimate() { ", estimate" } else { "" };
        let source = format!(
            "board table: {}, {} W idle ({}) to {} W busy ({}){estimate}",
            profile.title, power.idle_w.value, power.idle_w.date, power.load_w.value, power.load_w.date
        );
        let (root, last, faults) = (root.clone(), None, Faults::default());
        Ok(Some(UtilisationTable {
            root,
            power,
            source,
            last,
            utilisation: 0.0,
            total_uj: 0,
            readings: 0,
            faults,
        }))
    }
}

impl Meter for UtilisationTable {
    fn source(&self) -> &str {
        &self.source
    }

    fn method(&self) -> Method {
        Method::UtilisationTable
    }

    fn scope(&self) -> Scope {
        self.power.scope
    }

    fn relative_uncertainty(&self) -> f64 {
        if self.power.is_estimate() { UNCERTAINTY_ESTIMATE } else { UNCERTAINTY_MEASURED }
    }

    fn resolution(&self) -> Resolution {
        // The energy of one tick at the difference between idle and load.
        let step = (self.power.load_w.value - self.power.idle_w.value) * 10_000.0;
        Resolution { period: PERIOD, quantum_uj: (step as u64).max(1) }
    }

    fn idle_watts(&self) -> Option<f64> {
        Some(self.power.idle_w.value)
    }

    fn calibrated_at(&self) -> Option<&str> {
        Some(&self.power.load_w.date)
    }

    fn faults(&self) -> Faults {
        self.faults
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let ticks = read_ticks(&self.root).inspect_err(|_| self.faults.failed += 1)?;
        self.readings += 1;
        if let Some((then, last)) = self.last {
            let elapsed = now.checked_sub(then);
            let (busy, all) = (ticks.busy.checked_sub(last.busy), ticks.all.checked_sub(last.all));
            match (elapsed, busy, all) {
                (Some(elapsed), Some(busy), Some(all)) => {
                    // Within one tick nothing is known yet: what went before goes on.
                    if all > 0 {
                        self.utilisation = (busy as f64 / all as f64).min(1.0);
                    }
                    let Power { idle_w, load_w, .. } = &self.power;
                    let watts = idle_w.value + self.utilisation * (load_w.value - idle_w.value);
                    self.total_uj =
                        self.total_uj.saturating_add((watts * elapsed.as_secs_f64() * 1e6).round() as u64);
                }
                _ => self.faults.backwards += 1,
            }
        }
        // A clock that ran backwards keeps its latest time, so that no interval is counted twice.
        let at = self.last.map_or(now, |(then, _)| then.max(now));
        self.last = Some((at, ticks));
        Ok(Sample { at: now, energy_uj: self.total_uj, readings: self.readings })
    }
}

/// Busy and total ticks of all CPUs together: `cpu user nice system idle iowait irq softirq steal guest guest_nice`.
pub(super) fn read_ticks(root: &Root) -> Result<Ticks, MeterError> {
    let text = root.read(STAT).map_err(|error| MeterError::from_read(error, GRANT))?;
    let first = text.lines().next().unwrap_or_default();
    parse_ticks(first).ok_or_else(|| {
        let found = first.chars().take(40).collect();
        MeterError::Unreadable(ReadError { path: STAT.into(), cause: ReadCause::NotNumber { found } })
    })
}

fn parse_ticks(line: &str) -> Option<Ticks> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("cpu") {
        return None;
    }
    // Guest time is part of user time already, so only the first eight columns add up to all time.
    let columns: Vec<u64> = words.take(8).map(|word| word.parse().ok()).collect::<Option<_>>()?;
    if columns.len() < 4 {
        return None;
    }
    let all = columns.iter().try_fold(0u64, |sum, &ticks| sum.checked_add(ticks))?;
    let waiting = columns[3] + columns.get(4).copied().unwrap_or(0);
    Some(Ticks { busy: all - waiting, all })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::built_in;

    fn zero_2_w() -> Profile {
        built_in().find(|profile| profile.name == "raspberry-pi-zero-2-w").unwrap()
    }

    #[test]
    fn ticks_split_into_busy_and_all() {
        let ticks = parse_ticks("cpu  100 5 45 800 50 0 0 0 40 0").unwrap();
        assert_eq!(ticks, Ticks { busy: 150, all: 1000 });
        for bad in ["", "cpu0 1 2 3 4", "cpu 1 2 3", "cpu 1 2 x 4", "cpu 18446744073709551615 1 1 1"] {
            assert_eq!(parse_ticks(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn energy_follows_utilisation_between_idle_and_load() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let stat = |text: &str| std::fs::write(dir.path().join("proc/stat"), text).unwrap();
        stat("cpu 0 0 0 0 0 0 0 0\n");
        let mut meter = UtilisationTable::detect(&Root::new(dir.path()), &zero_2_w()).unwrap().unwrap();
        let at = Duration::from_secs;
        assert_eq!(meter.sample(at(10)).unwrap().energy_uj, 0);
        // a second at rest, then a second with half of all CPU time busy
        stat("cpu 0 0 0 400 0 0 0 0\n");
        assert_eq!(meter.sample(at(11)).unwrap().energy_uj, 1_400_000);
        stat("cpu 150 0 50 600 0 0 0 0\n");
        assert_eq!(meter.sample(at(12)).unwrap().energy_uj, 3_400_000);
        // counters that fall add nothing; neither does a clock that does
        stat("cpu 0 0 0 0 0 0 0 0\n");
        assert_eq!(meter.sample(at(13)).unwrap().energy_uj, 3_400_000);
        assert_eq!(meter.sample(at(9)).unwrap().energy_uj, 3_400_000);
        assert_eq!(meter.faults().backwards, 2);
        stat("nonsense\n");
        assert!(meter.sample(at(14)).is_err());
        assert_eq!(meter.faults().failed, 1);
        assert_eq!(meter.relative_uncertainty(), 0.35);
    }

    #[test]
    fn a_board_without_figures_has_no_table_meter() {
        let dir = tempfile::tempdir().unwrap();
        let beagleplay = built_in().find(|profile| profile.name == "beagleplay").unwrap();
        assert!(UtilisationTable::detect(&Root::new(dir.path()), &beagleplay).unwrap().is_none());
        // a hidden /proc/stat is an error with a way out, not a silent zero
        assert!(UtilisationTable::detect(&Root::new(dir.path()), &zero_2_w()).is_err());
    }
}
