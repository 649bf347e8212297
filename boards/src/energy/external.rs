//! A meter that somebody else reads and tells us of: a smart plug at a broker.
//!
//! [`feed`] gives two ends. Whoever hears the plug [`tell`](Feed::tell)s its figures; [`External`] is a meter like
//! any other. What is heard is power, a counter of energy, or both:
//!
//! ```text
//! power     trapezoids from message to message
//! counter   the difference, as soon as it is ten of the counter's steps; it replaces what power came to meanwhile
//! ```
//! A silence longer than is allowed breaks the power curve: nothing is added for it, it is counted as a gap, and until
//! the next message every reading is an error, so that joules are unknown and not made up. A counter that goes on
//! after a silence has counted through it, and that is added.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};

/// A counter's difference of fewer of its own steps is mostly rounding.
const RESOLVED_STEPS: f64 = 10.0;

/// Plugs show tenths of a watt.
const POWER_STEP_W: f64 = 0.1;

/// Plugs measure about once a second however fast their messages follow each other.
const LEAST_PERIOD: Duration = Duration::from_secs(1);

/// What is known of a meter before it says anything.
#[derive(Debug, Clone, PartialEq)]
pub struct Outside {
    /// Where its figures come from, for example `plug tasmota tele/desk/SENSOR`.
    pub source: String,
    /// Half-width of its 95 % interval, as a fraction.
    pub relative_uncertainty: f64,
    /// The longest silence between two messages.
    pub silence: Duration,
    /// No reading above this can be true, watts.
    pub most_watts: f64,
}

/// What one message says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Told {
    /// Power now, watts.
    pub watts: Option<f64>,
    /// Energy counted so far.
    pub counter: Option<Counter>,
}

/// The reading of a counter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counter {
    /// Joules.
    pub joules: f64,
    /// Its smallest step, joules.
    pub step_joules: f64,
}

/// A feed for whoever hears the meter, and the meter.
pub fn feed(outside: Outside) -> (Feed, External) {
    let shared = Arc::new(Shared {
        began: Instant::now(),
        book: Mutex::new(Book::new(outside.silence, outside.most_watts)),
    });
    (Feed { shared: Arc::clone(&shared) }, External { shared, outside })
}

/// The end that is told.
#[derive(Debug, Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

impl Feed {
    /// Takes what a message says, now.
    pub fn tell(&self, told: Told) {
        let at = self.shared.began.elapsed();
        self.shared.book().take(at, told);
    }

    /// Counts a message that could not be understood.
    pub fn tell_garbage(&self) {
        self.shared.book().faults.failed += 1;
    }
}

/// The end that is read.
#[derive(Debug)]
pub struct External {
    shared: Arc<Shared>,
    outside: Outside,
}

#[derive(Debug)]
struct Shared {
    began: Instant,
    book: Mutex<Book>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Every method leaves the book whole.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meter for External {
    fn source(&self) -> &str {
        &self.outside.source
    }

    fn method(&self) -> Method {
        Method::ExternalMeter
    }

    fn scope(&self) -> Scope {
        Scope::Wall
    }

    fn relative_uncertainty(&self) -> f64 {
        self.outside.relative_uncertainty
    }

    fn resolution(&self) -> Resolution {
        self.shared.book().resolution()
    }

    fn faults(&self) -> Faults {
        self.shared.book().faults
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let heard_now = self.shared.began.elapsed();
        let book = self.shared.book();
        let silent = |seconds| MeterError::Silent {
            source: self.outside.source.clone(),
            seconds,
            expected_s: self.outside.silence.as_secs(),
        };
        let Some(last) = book.last_at else { return Err(silent(None)) };
        let silence = heard_now.saturating_sub(last);
        if silence > self.outside.silence {
            return Err(silent(Some(silence.as_secs())));
        }
        Ok(Sample { at: now, energy_uj: book.total_uj(), readings: book.readings })
    }
}

/// What was told so far, added up.
#[derive(Debug)]
struct Book {
    silence: Duration,
    most_watts: f64,
    last_at: Option<Duration>,
    last_watts: Option<f64>,
    /// Where the counter stood when the total was last made equal to it.
    anchor: Option<(Duration, f64)>,
    /// What power came to since then, joules.
    since_anchor: f64,
    /// Joules. It never falls: what the counter says was too much is held back from what comes next.
    total: f64,
    too_much: f64,
    step: Option<f64>,
    interval: Option<Duration>,
    readings: u64,
    faults: Faults,
}

impl Book {
    fn new(silence: Duration, most_watts: f64) -> Book {
        Book {
            silence,
            most_watts,
            last_at: None,
            last_watts: None,
            anchor: None,
            since_anchor: 0.0,
            total: 0.0,
            too_much: 0.0,
            step: None,
            interval: None,
            readings: 0,
            faults: Faults::default(),
        }
    }

    fn total_uj(&self) -> u64 {
        (self.total * 1e6).round() as u64
    }

    fn take(&mut self, at: Duration, told: Told) {
        let possible = |watts: &f64| (0.0..=self.most_watts).contains(watts);
        let sound = told.counter.is_none_or(|counter| counter.joules >= 0.0 && counter.joules.is_finite());
        if !told.watts.iter().all(possible) || !sound {
            self.faults.rejected += 1;
            return;
        }
        if told.watts.is_none() && told.counter.is_none() {
            return;
        }
        let since = self.last_at.map(|last| at.saturating_sub(last));
        self.last_at = Some(at);
        self.readings += 1;
        if let Some(since) = since {
            if since > self.silence {
                self.faults.gaps += 1;
                self.last_watts = None;
            } else {
                self.interval = Some(since);
            }
        }
        if let Some(watts) = told.watts {
            if let (Some(since), Some(before)) = (since, self.last_watts) {
                let joules = (before + watts) / 2.0 * since.as_secs_f64();
                self.since_anchor += joules;
                self.add(joules);
            }
            self.last_watts = Some(watts);
        }
        if let Some(counter) = told.counter {
            self.take_counter(at, counter, told.watts.is_some());
        }
    }

    fn take_counter(&mut self, at: Duration, counter: Counter, with_power: bool) {
        self.step = Some(counter.step_joules);
        let Some((anchored_at, anchored)) = self.anchor else {
            return self.moor(at, counter.joules);
        };
        let counted = counter.joules - anchored;
        // One step more than is possible, because the first reading may have been just before a step.
        let most = self.most_watts * at.saturating_sub(anchored_at).as_secs_f64() + counter.step_joules;
        if counted < 0.0 {
            // It was set back, or is another meter: what power came to holds.
            self.faults.backwards += 1;
            return self.moor(at, counter.joules);
        }
        if counted > most {
            self.faults.rejected += 1;
            return self.moor(at, counter.joules);
        }
        if counted >= RESOLVED_STEPS * counter.step_joules || !with_power {
            self.add(counted - self.since_anchor);
            self.moor(at, counter.joules);
        }
    }

    fn moor(&mut self, at: Duration, joules: f64) {
        self.anchor = Some((at, joules));
        self.since_anchor = 0.0;
    }

    /// Adds joules; fewer than none are held back from the next.
    fn add(&mut self, joules: f64) {
        let joules = joules - self.too_much;
        self.total += joules.max(0.0);
        self.too_much = (-joules).max(0.0);
    }

    fn resolution(&self) -> Resolution {
        // Until two messages came, the worst that is allowed.
        let period = self.interval.unwrap_or(self.silence).max(LEAST_PERIOD);
        let quantum = match (self.last_watts, self.step) {
            (None, Some(step)) => step,
            _ => POWER_STEP_W * period.as_secs_f64(),
        };
        Resolution { period, quantum_uj: ((quantum * 1e6) as u64).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watts(watts: f64) -> Told {
        Told { watts: Some(watts), counter: None }
    }

    fn both(watts: f64, joules: f64, step_joules: f64) -> Told {
        Told { watts: Some(watts), counter: Some(Counter { joules, step_joules }) }
    }

    fn book() -> Book {
        Book::new(s(30), 60.0)
    }

    #[test]
    fn power_is_added_by_trapezoids_and_a_silence_adds_nothing() {
        let mut book = book();
        book.take(s(0), watts(4.0));
        book.take(s(10), watts(8.0));
        assert_eq!((book.total_uj(), book.faults), (60_000_000, Faults::default()));
        // Ten minutes without a word: the curve begins anew.
        book.take(s(610), watts(8.0));
        assert_eq!((book.total_uj(), book.faults.gaps), (60_000_000, 1));
        book.take(s(620), watts(8.0));
        assert_eq!((book.total_uj(), book.faults.gaps, book.readings), (140_000_000, 1, 4));
    }

    #[test]
    fn a_counter_corrects_power_once_it_has_steps_enough() {
        let mut book = book();
        book.take(s(0), both(10.0, 1000.0, 10.0));
        book.take(s(9), both(10.0, 1080.0, 10.0));
        // Eight steps say little: power holds.
        assert_eq!(book.total_uj(), 90_000_000);
        book.take(s(11), both(10.0, 1130.0, 10.0));
        assert_eq!(book.total_uj(), 130_000_000);
        // The counter says less than power did: the total waits for it and does not fall.
        book.take(s(31), both(10.0, 1280.0, 10.0));
        assert_eq!(book.total_uj(), 330_000_000);
        book.take(s(41), both(10.0, 1380.0, 10.0));
        assert_eq!(book.total_uj(), 380_000_000);
        // Over a silence the counter has gone on, and that is true whatever power was.
        book.take(s(1041), both(10.0, 9380.0, 10.0));
        assert_eq!((book.total_uj(), book.faults.gaps), (8_380_000_000, 1));
    }

    #[test]
    fn a_counter_alone_is_enough() {
        let mut book = book();
        let counter = |joules| Told { watts: None, counter: Some(Counter { joules, step_joules: 3600.0 }) };
        book.take(s(0), counter(7200.0));
        book.take(s(20), counter(7200.0));
        book.take(s(40), counter(10_800.0));
        assert_eq!(book.total_uj(), 3_600_000_000);
        assert_eq!(book.resolution(), Resolution { period: s(20), quantum_uj: 3_600_000_000 });
        book.take(s(60), counter(0.0));
        book.take(s(80), counter(3600.0));
        assert_eq!((book.total_uj(), book.faults.backwards), (7_200_000_000, 1));
    }

    #[test]
    fn what_no_plug_can_mean_is_left_out_and_counted() {
        let mut book = book();
        book.take(s(0), both(5.0, 100.0, 1.0));
        for bad in [watts(-1.0), watts(4000.0), watts(f64::NAN), both(5.0, f64::INFINITY, 1.0)] {
            book.take(s(5), bad);
        }
        assert_eq!((book.faults.rejected, book.readings), (4, 1));
        // The counter of another plug, a thousand kilowatt-hours on.
        book.take(s(10), both(5.0, 3.6e9, 1.0));
        assert_eq!((book.total_uj(), book.faults.rejected), (50_000_000, 5));
        book.take(s(20), both(5.0, 3.6e9 + 40.0, 1.0));
        // Of 50 J by power the counter saw 40: the rest is held back from what comes.
        assert_eq!((book.total_uj(), book.too_much), (100_000_000, 10.0));
    }

    #[test]
    fn a_meter_that_was_never_heard_is_an_error_and_not_zero() {
        let outside = Outside {
            source: "plug tasmota tele/desk/SENSOR".into(),
            relative_uncertainty: 0.05,
            silence: s(300),
            most_watts: 60.0,
        };
        let (feed, mut meter) = feed(outside);
        let error = meter.sample(s(1)).unwrap_err().to_string();
        assert!(error.contains("tele/desk/SENSOR has said nothing yet"), "{error}");
        feed.tell_garbage();
        feed.tell(watts(3.5));
        assert_eq!(meter.sample(s(1)).unwrap().readings, 1);
        assert_eq!(
            (meter.method(), meter.scope(), meter.faults().failed),
            (Method::ExternalMeter, Scope::Wall, 1)
        );
        assert_eq!(meter.resolution().period, s(300));
        assert!(!meter.may_block());
    }
}
