//! Log storms: what one place in the program says again and again is told a few times, then counted and told in sums.
//!
//! Whoever can make a daemon warn can make it warn without end: a client that is turned away and comes again, a broker
//! that refuses every answer. The disk and the reader of the log are spared that; nothing is dropped without a number.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use log::Level;

/// Lines of one place that are told within a period.
const TOLD: u64 = 10;

/// The period.
const PERIOD: Duration = Duration::from_secs(10);

/// A place in the program: module and line.
pub type Place = (&'static str, u32);

/// Lines of a place since its period began.
#[derive(Debug)]
struct Count {
    began: Instant,
    lines: u64,
    level: Level,
    /// The last line that was kept back.
    last: String,
}

/// Counts of all places that said something of late.
#[derive(Debug, Default)]
pub struct Storms {
    counts: BTreeMap<Place, Count>,
}

impl Storms {
    /// None yet.
    pub const fn new() -> Self {
        Storms { counts: BTreeMap::new() }
    }

    /// Whether a line is told now. What is asked for by a level below info is always told.
    pub fn is_told(&mut self, place: Place, level: Level, now: Instant, line: &str) -> bool {
        if level > Level::Info {
            return true;
        }
        let fresh = || Count { began: now, lines: 0, level, last: String::new() };
        let count = self.counts.entry(place).or_insert_with(fresh);
        count.lines += 1;
        if count.lines <= TOLD {
            return true;
        }
        line.clone_into(&mut count.last);
        count.level = level;
        false
    }

    /// The sums of periods that are over, to be told before anything else; `all` ends those that are not, too.
    pub fn sums(&mut self, now: Instant, all: bool) -> Vec<(Level, String)> {
        let over = |count: &Count| all || now.saturating_duration_since(count.began) >= PERIOD;
        let mut sums = Vec::new();
        self.counts.retain(|_, count| {
            let over = over(count);
            if over && count.lines > TOLD {
                let (more, seconds) =
                    (count.lines - TOLD, now.saturating_duration_since(count.began).as_secs());
                sums.push((
                    count.level,
                    format!("{more} more like it within {seconds} s, the last: {}", count.last),
                ));
            }
            !over
        });
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_told_a_few_times_and_then_in_sums() {
        let (mut storms, began) = (Storms::new(), Instant::now());
        let mut told = 0;
        let mut sums = Vec::new();
        // 50 a second for 25 seconds, and somebody else who says something each second.
        for at in 0..1250_u64 {
            let now = began + Duration::from_millis(20 * at);
            sums.extend(storms.sums(now, false));
            told += u64::from(storms.is_told(("a.rs", 1), Level::Warn, now, &format!("no {at}")));
            if at % 50 == 0 {
                assert!(storms.is_told(("b.rs", 9), Level::Warn, now, "other"));
            }
            assert!(storms.is_told(("a.rs", 2), Level::Debug, now, "asked for"));
        }
        sums.extend(storms.sums(began + Duration::from_secs(25), true));
        assert_eq!(told, 30);
        let of_a: Vec<_> = sums.iter().filter(|(_, sum)| sum.contains("no ")).collect();
        let more =
            |sum: &str| sum.split(' ').next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
        assert_eq!(of_a.iter().map(|(_, sum)| more(sum)).sum::<u64>() + told, 1250, "{sums:?}");
        assert_eq!(*of_a[0], (Level::Warn, "490 more like it within 10 s, the last: no 499".into()));
        assert!(storms.sums(began + Duration::from_secs(99), true).is_empty());
    }

    #[test]
    fn what_does_not_storm_is_told_as_it_is() {
        let (mut storms, began) = (Storms::new(), Instant::now());
        for at in 0..100 {
            let now = began + Duration::from_millis(1100 * at);
            assert!(storms.sums(now, false).is_empty());
            assert!(storms.is_told(("a.rs", 1), Level::Error, now, "x"));
        }
    }
}
