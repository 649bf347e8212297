//! A sensor that shows one value for ever.
//!
//! A chip whose bus hangs, or whose driver keeps its last answer, looks like a very steady load. Nothing about one value
//! tells; but a board whose processor went from rest to full load meanwhile draws more, and no sensor is so coarse as not
//! to see it. So a value is called frozen when it stayed the same, to the last digit, over many readings while the
//! processor's busy share changed by half; where that share cannot be seen, after half an hour. A counter that stands
//! still is frozen after ten seconds: nothing that runs draws nothing.

use core::time::Duration;

use super::meter::MeterError;
use super::table::{Ticks, read_ticks};
use crate::root::Root;

/// Fewer equal readings than this may be chance.
const LEAST_READINGS: u32 = 100;

/// Shorter than this, a changed load may not have reached the sensor.
const LEAST_TIME: Duration = Duration::from_secs(20);

/// The busy share of all CPU time must have changed by this.
const LOAD_CHANGE: f64 = 0.5;

/// Where the load cannot be seen.
const UNSEEN_TIME: Duration = Duration::from_secs(30 * 60);

/// How often the load is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A counter of something that runs.
const COUNTER_TIME: Duration = Duration::from_secs(10);

/// So many readings of a counter are needed.
const COUNTER_READINGS: u32 = 5;

/// What a sensor of power showed, and what the processor did meanwhile.
#[derive(Debug)]
pub struct Frozen {
    root: Root,
    /// The value and when it was first shown.
    shown: Option<(u64, Duration)>,
    readings: u32,
    looked: Option<(Duration, Ticks)>,
    least: f64,
    most: f64,
    is_frozen: bool,
    /// Times that it froze.
    times: u64,
}

impl Frozen {
    /// Nothing was shown yet; the load is that of the machine under `root`.
    pub fn new(root: &Root) -> Frozen {
        Frozen {
            root: root.clone(),
            shown: None,
            readings: 0,
            looked: None,
            least: 1.0,
            most: 0.0,
            is_frozen: false,
            times: 0,
        }
    }

    /// Times that the sensor froze.
    pub fn times(&self) -> u64 {
        self.times
    }

    /// Takes the reading `value` of `source` at `now`.
    ///
    /// # Errors
    /// [`MeterError::Frozen`] as long as the value cannot be believed.
    pub fn look(&mut self, source: &str, now: Duration, value: u64) -> Result<(), MeterError> {
        let since = match self.shown {
            Some((shown, since)) if shown == value => since,
            _ => {
                self.thaw(now, value);
                return Ok(());
            }
        };
        self.readings = self.readings.saturating_add(1);
        self.watch_load(now);
        let time = now.saturating_sub(since);
        let load_changed = self.most - self.least >= LOAD_CHANGE && time >= LEAST_TIME;
        let unseen = self.looked.is_none() && time >= UNSEEN_TIME;
        if self.readings >= LEAST_READINGS && (load_changed || unseen) {
            self.times += u64::from(!core::mem::replace(&mut self.is_frozen, true));
        }
        match self.is_frozen {
            false => Ok(()),
            true => {
                Err(MeterError::Frozen { source: source.to_owned(), found: value, seconds: time.as_secs() })
            }
        }
    }

    fn thaw(&mut self, now: Duration, value: u64) {
        self.shown = Some((value, now));
        (self.readings, self.least, self.most, self.is_frozen) = (1, 1.0, 0.0, false);
        // What was busy before this value says nothing about it.
        self.looked = None;
    }

    fn watch_load(&mut self, now: Duration) {
        if self.looked.is_some_and(|(then, _)| now.saturating_sub(then) < LOOK) {
            return;
        }
        let Ok(ticks) = read_ticks(&self.root) else { return };
        if let Some((_, before)) = self.looked.replace((now, ticks))
            && let Some(busy) = before.busy_until(ticks)
        {
            (self.least, self.most) = (self.least.min(busy), self.most.max(busy));
        }
    }
}

/// What a counter showed.
#[derive(Debug, Default)]
pub struct StoppedCounter {
    shown: Option<(u64, Duration)>,
    readings: u32,
    is_frozen: bool,
    times: u64,
}

impl StoppedCounter {
    /// Times that the counter stopped.
    pub fn times(&self) -> u64 {
        self.times
    }

    /// Takes the reading `value` of `source` at `now`.
    ///
    /// # Errors
    /// [`MeterError::Frozen`] as long as the counter does not move.
    pub fn look(&mut self, source: &str, now: Duration, value: u64) -> Result<(), MeterError> {
        let since = match self.shown {
            Some((shown, since)) if shown == value => since,
            _ => {
                self.shown = Some((value, now));
                (self.readings, self.is_frozen) = (1, false);
                return Ok(());
            }
        };
        self.readings = self.readings.saturating_add(1);
        let time = now.saturating_sub(since);
        if time < COUNTER_TIME || self.readings < COUNTER_READINGS {
            return Ok(());
        }
        self.times += u64::from(!core::mem::replace(&mut self.is_frozen, true));
        Err(MeterError::Frozen { source: source.to_owned(), found: value, seconds: time.as_secs() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose CPU time can be set.
    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        dir
    }

    fn stat(dir: &tempfile::TempDir, busy: u64, idle: u64) {
        std::fs::write(dir.path().join("proc/stat"), format!("cpu {busy} 0 0 {idle} 0 0 0 0\n")).unwrap();
    }

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    /// Reads the same value ten times a second for `seconds`, busy in the odd halves of a minute if `busy`.
    fn steady(dir: &tempfile::TempDir, frozen: &mut Frozen, seconds: u64, busy: bool) -> Option<u64> {
        let (mut worked, mut rested) = (0, 0);
        for tick in 0..seconds * 10 {
            match busy && tick / 150 % 2 == 1 {
                true => worked += 40,
                false => rested += 40,
            }
            // It is looked at once a second.
            if tick % 10 == 0 {
                stat(dir, worked, rested);
            }
            if frozen.look("hwmon ina226", ms(tick * 100), 3_000_000).is_err() {
                return Some(tick / 10);
            }
        }
        None
    }

    #[test]
    fn one_value_while_the_load_changes_is_frozen_and_thaws_with_the_next() {
        let dir = machine();
        let mut frozen = Frozen::new(&Root::new(dir.path()));
        assert_eq!(steady(&dir, &mut frozen, 60, true), Some(20));
        let error = frozen.look("hwmon ina226", ms(60_000), 3_000_000).unwrap_err().to_string();
        assert!(error.contains("hwmon ina226 has shown 3000000 for 60 s"), "{error}");
        assert_eq!(frozen.times(), 1);
        assert_eq!(frozen.look("hwmon ina226", ms(60_100), 3_025_000), Ok(()));
    }

    #[test]
    fn a_steady_load_may_look_steady() {
        let dir = machine();
        let mut frozen = Frozen::new(&Root::new(dir.path()));
        assert_eq!(steady(&dir, &mut frozen, 900, false), None);
        assert_eq!(frozen.times(), 0);
    }

    #[test]
    fn where_the_load_is_hidden_half_an_hour_is_enough() {
        let dir = machine();
        let mut frozen = Frozen::new(&Root::new(dir.path()));
        let froze = (0..4000).find(|&second| frozen.look("x", Duration::from_secs(second), 7).is_err());
        assert_eq!(froze, Some(1800));
    }

    #[test]
    fn a_counter_that_stands_still_is_frozen() {
        let mut stopped = StoppedCounter::default();
        let froze = (0..60).find(|&second| stopped.look("rapl", Duration::from_secs(second), 5).is_err());
        assert_eq!((froze, stopped.times()), (Some(10), 1));
        assert_eq!(stopped.look("rapl", Duration::from_secs(61), 6), Ok(()));
        // Two readings of a quiet hour are too few to tell.
        assert_eq!(stopped.look("rapl", Duration::from_secs(3661), 6), Ok(()));
    }
}
