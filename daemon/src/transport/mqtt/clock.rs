//! Time that can be written to disk: milliseconds since about 1970 that no change of the system's clock moves.
//!
//! Boards often have no clock that outlives a power cut: they begin in 1970 or where they were stopped, and jump by
//! years when the network tells them. So the system's clock is looked at as seldom as can be:
//!
//! - While the machine runs, also over restarts of the daemon and over sleep, time is what has passed since its boot.
//! - Over a restart of the machine it is what the system's clock says has passed, and none if that went back. A
//!   [`Stamp`] is written whenever the system's clock was set, so that what passed is counted between two moments at
//!   which it was right.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Milliseconds since about 1970.
pub type Millis = u64;

/// Difference of the system's clock to ours that is worth a new stamp.
const SET_MS: u64 = 1000;

/// A moment on all clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// Ours.
    pub ms: Millis,
    /// The system's.
    pub wall_ms: Millis,
    /// Since the machine was started, sleep included.
    pub boot_ms: Millis,
    /// Which start of the machine that was.
    pub boot: String,
}

/// A clock that never jumps.
#[derive(Clone, Debug)]
pub struct Clock {
    /// What is added to the time since the machine was started.
    began_ms: Millis,
    boot: String,
}

impl Clock {
    /// A clock that goes on from a `stamp` of an earlier process, and is not before `least`.
    pub fn start(stamp: Option<&Stamp>, least: Millis) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let now = Stamp { ms: 0, wall_ms: wall_ms(), boot_ms: boot_ms(), boot: boot.trim().to_owned() };
        Clock { began_ms: resume(stamp, least, &now).saturating_sub(now.boot_ms), boot: now.boot }
    }

    /// The time.
    pub fn now(&self) -> Millis {
        self.began_ms + boot_ms()
    }

    /// The time, on all clocks.
    pub fn stamp(&self) -> Stamp {
        let boot_ms = boot_ms();
        Stamp { ms: self.began_ms + boot_ms, wall_ms: wall_ms(), boot_ms, boot: self.boot.clone() }
    }

    /// Whether the system's clock was set since `stamp`.
    pub fn was_set_since(&self, stamp: &Stamp) -> bool {
        let now = self.stamp();
        let passed = |then: Millis, now: Millis| now as i64 - then as i64;
        passed(stamp.wall_ms, now.wall_ms).abs_diff(passed(stamp.ms, now.ms)) > SET_MS
    }
}

fn wall_ms() -> Millis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as Millis
}

fn boot_ms() -> Millis {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000
}

/// The time at `now`, whose own `ms` is not known yet.
fn resume(stamp: Option<&Stamp>, least: Millis, now: &Stamp) -> Millis {
    let ms = match stamp {
        None => now.wall_ms,
        Some(then) if then.boot == now.boot && !now.boot.is_empty() && then.boot_ms <= now.boot_ms => {
            then.ms + (now.boot_ms - then.boot_ms)
        }
        Some(then) => then.ms + now.wall_ms.saturating_sub(then.wall_ms),
    };
    ms.max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;

    fn stamp(ms: Millis, wall_ms: Millis, boot_ms: Millis, boot: &str) -> Stamp {
        Stamp { ms, wall_ms, boot_ms, boot: boot.into() }
    }

    #[test]
    fn the_systems_clock_may_jump_while_the_machine_runs() {
        let then = stamp(50 * HOUR, 50 * HOUR, 2 * HOUR, "a");
        for wall in [0, 49 * HOUR, 51 * HOUR, 500_000 * HOUR] {
            assert_eq!(resume(Some(&then), 0, &stamp(0, wall, 3 * HOUR, "a")), 51 * HOUR, "wall {wall}");
        }
    }

    #[test]
    fn over_a_restart_of_the_machine_what_passed_is_counted_and_never_less_than_nothing() {
        let then = stamp(50 * HOUR, 60 * HOUR, 2 * HOUR, "a");
        assert_eq!(resume(Some(&then), 0, &stamp(0, 64 * HOUR, 0, "b")), 54 * HOUR);
        // A board without a clock begins in 1970.
        assert_eq!(resume(Some(&then), 51 * HOUR, &stamp(0, 0, 0, "b")), 51 * HOUR);
        // A system that does not name its boots.
        let nameless = stamp(50 * HOUR, 60 * HOUR, 2 * HOUR, "");
        assert_eq!(resume(Some(&nameless), 0, &stamp(0, 61 * HOUR, 9 * HOUR, "")), 51 * HOUR);
        assert_eq!(resume(None, 7, &stamp(0, 61 * HOUR, 9 * HOUR, "a")), 61 * HOUR);
    }

    #[test]
    fn a_clock_that_was_set_is_noticed() {
        let clock = Clock::start(None, 0);
        let now = clock.stamp();
        assert!(!clock.was_set_since(&now));
        assert!(clock.was_set_since(&Stamp { wall_ms: now.wall_ms - HOUR, ..now.clone() }));
        assert!(clock.was_set_since(&Stamp { wall_ms: now.wall_ms + HOUR, ..now.clone() }));
        let again = Clock::start(Some(&now), 0);
        assert!((now.ms..now.ms + HOUR).contains(&again.now()));
    }
}
