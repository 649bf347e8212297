//! How warm the machine is and whether it is being slowed, looked at about once a second.
//!
//! Each time of being slowed is told once in the log when it begins and once when it ends, with how long it was.

use std::time::Duration;

use tern_boards::profile::Profile;
use tern_boards::thermal::{Thermal, Zone, passive_trip_celsius};
use tern_boards::{Board, Cpu, Root};

use crate::config::energy::TemperatureLimit;

/// How long a look serves.
const AGE: Duration = Duration::from_secs(1);

/// A limit that the machine names is kept by so many degrees.
const MARGIN_C: f64 = 2.0;

/// The machine's warmth.
#[derive(Debug)]
pub struct Climate {
    root: Root,
    profile: Profile,
    looked_at: Option<Duration>,
    now: Thermal,
    /// Since when the machine is being slowed.
    slowed_since: Option<Duration>,
    /// How often it was.
    episodes: u64,
}

impl Climate {
    /// The warmth of the machine under `root`.
    pub fn new(root: Root) -> Self {
        // A profile that cannot be used was told at the start.
        let profile = Board::detect(&root, Cpu::detect(&root).arch).0.profile;
        let now = Thermal::detect(&root).on(&profile);
        Climate { root, profile, looked_at: None, now, slowed_since: None, episodes: 0 }
    }

    /// The limit that `wanted` comes to here, in degrees; `None` if there is none.
    pub fn limit_c(&self, wanted: TemperatureLimit) -> Option<f64> {
        // Without a temperature there is nothing to hold against it.
        self.now.hottest_celsius?;
        match wanted {
            TemperatureLimit::Off => None,
            TemperatureLimit::At(limit_c) => Some(limit_c),
            TemperatureLimit::Auto => {
                let slows = self.now.throttle_celsius.or_else(|| passive_trip_celsius(&self.root))?;
                Some(slows - MARGIN_C)
            }
        }
    }

    /// Looks, if the last time is long enough ago; says whether it did.
    pub fn look(&mut self, now: Duration) -> bool {
        if self.looked_at.is_some_and(|at| now.saturating_sub(at) < AGE) {
            return false;
        }
        self.looked_at = Some(now);
        self.now = Thermal::detect(&self.root).on(&self.profile);
        match (self.slowed_since, self.now.throttled == Some(true)) {
            (None, true) => {
                self.slowed_since = Some(now);
                self.episodes += 1;
                let why: Vec<_> =
                    self.now.notes.iter().filter(|note| !note.ends_with("since boot")).cloned().collect();
                log::warn!("the machine is being slowed: {}", why.join("; "));
            }
            (Some(since), false) => {
                self.slowed_since = None;
                log::info!(
                    "the machine is no longer slowed, after {:.0} s",
                    now.saturating_sub(since).as_secs_f64()
                );
            }
            _ => {}
        }
        true
    }

    /// The highest temperature.
    pub fn celsius(&self) -> Option<f64> {
        self.now.hottest_celsius
    }

    /// Every zone.
    pub fn zones(&self) -> &[Zone] {
        &self.now.zones
    }

    /// Whether the machine is being slowed; `None` where it cannot be seen.
    pub fn throttled(&self) -> Option<bool> {
        self.now.throttled
    }

    /// How often it has been since the daemon started.
    pub fn episodes(&self) -> u64 {
        self.episodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &std::path::Path, path: &str, text: &str) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
        std::fs::write(path, text).expect("it can be written");
    }

    #[test]
    fn the_limit_is_what_is_wanted_or_what_the_machine_names() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let climate = || Climate::new(Root::new(folder.path()));
        assert_eq!(climate().limit_c(TemperatureLimit::At(70.0)), None, "nothing can be read");
        write(folder.path(), "sys/class/thermal/thermal_zone0/type", "cpu-thermal");
        write(folder.path(), "sys/class/thermal/thermal_zone0/temp", "50000");
        assert_eq!(climate().limit_c(TemperatureLimit::At(70.0)), Some(70.0));
        assert_eq!(climate().limit_c(TemperatureLimit::Auto), None, "nobody names one");
        write(folder.path(), "sys/class/thermal/thermal_zone0/trip_point_0_type", "passive");
        write(folder.path(), "sys/class/thermal/thermal_zone0/trip_point_0_temp", "85000");
        assert_eq!(climate().limit_c(TemperatureLimit::Auto), Some(83.0));
        assert_eq!(climate().limit_c(TemperatureLimit::Off), None);
    }

    #[test]
    fn each_time_of_being_slowed_is_counted_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let flags = "sys/devices/platform/soc/soc:firmware/get_throttled";
        write(folder.path(), flags, "0");
        let mut climate = Climate::new(Root::new(folder.path()));
        let mut seen = Vec::new();
        for (second, bits) in [(1, "0"), (2, "4"), (3, "4"), (4, "40000"), (5, "50005")] {
            write(folder.path(), flags, bits);
            climate.look(Duration::from_secs(second));
            seen.push((climate.throttled(), climate.episodes()));
        }
        assert_eq!(
            seen,
            [(Some(false), 0), (Some(true), 1), (Some(true), 1), (Some(false), 1), (Some(true), 2)]
        );
        write(folder.path(), flags, "0");
        climate.look(Duration::from_millis(5500));
        assert_eq!(climate.throttled(), Some(true), "a look serves for a second");
    }
}
