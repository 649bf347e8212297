//! Requests counted by the way they came and by how they ended, and how long the answered ones took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tern_protocol::answer::Requests;

/// The way a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A socket or a serial line.
    Socket,
    /// A broker.
    Mqtt,
    /// HTTP.
    Http,
    /// The daemon asked itself, as a part of something larger, which is counted too.
    Own,
}

impl Way {
    /// All ways.
    pub const ALL: [Way; 4] = [Way::Socket, Way::Mqtt, Way::Http, Way::Own];

    /// As metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Way::Socket => "socket",
            Way::Mqtt => "mqtt",
            Way::Http => "http",
            Way::Own => "own",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer.
    Answered,
    /// It was not taken.
    Refused,
    /// Its deadline ran out, or its joules did before there was an answer.
    Expired,
    /// Nobody wanted it any more, or the daemon stopped.
    Cancelled,
}

impl Ending {
    /// All endings.
    pub const ALL: [Ending; 4] = [Ending::Answered, Ending::Refused, Ending::Expired, Ending::Cancelled];

    /// As metrics call it.
    pub const fn name(self) -> &'static str {
        match self {
            Ending::Answered => "answered",
            Ending::Refused => "refused",
            Ending::Expired => "expired",
            Ending::Cancelled => "cancelled",
        }
    }
}

/// Upper ends of the duration buckets, in milliseconds: from a label on a fast machine to a long text on a slow one.
pub const BUCKETS_MS: [u64; 15] =
    [2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000];

/// How long requests took.
#[derive(Debug, Default)]
struct Durations {
    /// One a bucket, and one for what is longer.
    counts: [AtomicU64; BUCKETS_MS.len() + 1],
    sum_us: AtomicU64,
}

/// Durations so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Histogram {
    /// Requests that took at most `BUCKETS_MS` at the same place, those of the places before included.
    pub at_most: [u64; BUCKETS_MS.len()],
    /// All requests.
    pub count: u64,
    /// Sum of their durations.
    pub sum_s: f64,
}

/// Counters, written by the engine's thread and by clients' threads.
#[derive(Debug, Default)]
pub struct Counters {
    endings: [[AtomicU64; Ending::ALL.len()]; Way::ALL.len()],
    durations: [Durations; Way::ALL.len()],
}

impl Counters {
    /// Counts a request that ended.
    pub fn count(&self, way: Way, ending: Ending) {
        self.endings[way as usize][ending as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the time of a request from its coming to its answer.
    pub fn count_duration(&self, way: Way, duration: Duration) {
        let durations = &self.durations[way as usize];
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MS.iter().position(|ms| duration_us <= ms * 1000).unwrap_or(BUCKETS_MS.len());
        durations.counts[bucket].fetch_add(1, Ordering::Relaxed);
        durations.sum_us.fetch_add(duration_us, Ordering::Relaxed);
    }

    /// Requests of one way that ended so.
    pub fn ended(&self, way: Way, ending: Ending) -> u64 {
        self.endings[way as usize][ending as usize].load(Ordering::Relaxed)
    }

    /// Requests that came from outside.
    pub fn requests(&self) -> Requests {
        let outside = || Way::ALL.into_iter().filter(|way| *way != Way::Own);
        let all = |ending| outside().map(|way| self.ended(way, ending)).sum();
        Requests {
            answered: all(Ending::Answered),
            refused: all(Ending::Refused),
            expired: all(Ending::Expired),
            cancelled: all(Ending::Cancelled),
        }
    }

    /// How long the answered requests of one way took.
    pub fn durations(&self, way: Way) -> Histogram {
        let durations = &self.durations[way as usize];
        let mut so_far = 0;
        let mut add = |count: &AtomicU64| {
            so_far += count.load(Ordering::Relaxed);
            so_far
        };
        let at_most = std::array::from_fn(|index| add(&durations.counts[index]));
        let count = add(&durations.counts[BUCKETS_MS.len()]);
        Histogram { at_most, count, sum_s: durations.sum_us.load(Ordering::Relaxed) as f64 * 1e-6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_and_ending_has_a_counter_of_its_own() {
        let counters = Counters::default();
        for (times, way) in Way::ALL.into_iter().enumerate() {
            for _ in 0..times {
                counters.count(way, Ending::Answered);
            }
            counters.count(way, Ending::Expired);
        }
        assert_eq!(counters.ended(Way::Http, Ending::Answered), 2);
        let all = Requests { answered: 3, refused: 0, expired: 3, cancelled: 0 };
        assert_eq!(counters.requests(), all);
    }

    #[test]
    fn buckets_hold_what_is_at_most_as_long() {
        let counters = Counters::default();
        for us in [1999, 2000, 2001, 299_000_000, 301_000_000] {
            counters.count_duration(Way::Mqtt, Duration::from_micros(us));
        }
        let found = counters.durations(Way::Mqtt);
        assert_eq!((found.at_most[0], found.at_most[1], found.at_most[13]), (2, 3, 3));
        assert_eq!((found.at_most[14], found.count), (4, 5));
        assert!((found.sum_s - 600.006).abs() < 1e-9, "{found:?}");
        assert_eq!(counters.durations(Way::Http).count, 0);
    }
}
