//! Reads a meter at a steady rate in a thread of its own, and never waits for it for long.
//!
//! A counter is exact however seldom it is read; power that is integrated is not, so a meter whose method
//! [`is_of_power`](super::Method::is_of_power) belongs in a [`Sampler`]. The sampler is a meter itself: its
//! [`sample`](Meter::sample) has one more reading taken at the moment asked for, so that a window ends where it should.
//!
//! The thread alone touches the sensor, because a read may hang in the kernel: an I2C bus that is stuck, a pipe nobody
//! writes to. Whoever asks waits for [`PATIENCE`] and gets an error; while the reading is still missing he is told so
//! at once. When it comes after all, everything goes on. A sampler that is dropped meanwhile leaves its thread to the
//! kernel.

use core::time::Duration;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use super::model::Traffic;

/// Ten readings a second: below one per cent of one core, above any change that a heat sink lets through.
pub const PERIOD: Duration = Duration::from_millis(100);

/// A reading that takes longer does not come. The slowest chip converts in a few milliseconds, and the engine waits.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// A meter with a thread that reads it.
pub struct Sampler {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    source: String,
    method: Method,
    scope: Scope,
    relative_uncertainty: f64,
    resolution: Resolution,
    idle_watts: Option<f64>,
    calibrated_at: Option<String>,
    traffic: Option<Traffic>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the thread: a reading is wanted, or it is to stop.
    wanted: Condvar,
    /// Wakes whoever waits for a reading.
    taken: Condvar,
}

#[derive(Default)]
struct State {
    /// Readings asked for, and the last of these that was answered.
    asked: u64,
    answered: u64,
    /// The last of these that was waited for in vain.
    given_up: u64,
    /// The latest time anybody asked for: no reading may lie before it.
    asked_at: Duration,
    answer: Option<Result<Sample, MeterError>>,
    faults: Faults,
    warnings: Vec<String>,
    /// Since when the thread has been in a read.
    reading_since: Option<Instant>,
    /// Readings that were waited for in vain.
    late: u64,
    stop: bool,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that the thread has ended, also when the meter panicked under it.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.taken.notify_all();
    }
}

impl Sampler {
    /// Reads `meter` every `period` from now on; times are counted from `origin`, which must be the zero of the
    /// durations later given to [`sample`](Meter::sample).
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn(meter: Box<dyn Meter>, period: Duration, origin: Instant) -> io::Result<Sampler> {
        let (source, calibrated_at) = (meter.source().to_owned(), meter.calibrated_at().map(str::to_owned));
        let (method, scope, idle_watts) = (meter.method(), meter.scope(), meter.idle_watts());
        let traffic = meter.traffic();
        let (relative_uncertainty, mut resolution) = (meter.relative_uncertainty(), meter.resolution());
        // However fast the chip converts, energy is known no finer than it is read. A counter counts between readings.
        if method.is_of_power() {
            resolution.quantum_uj = scaled(resolution, period);
            resolution.period = resolution.period.max(period);
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            wanted: Condvar::new(),
            taken: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("tern-meter".into())
            .spawn(move || read_until_stopped(meter, &theirs, period, origin))?;
        Ok(Sampler {
            shared,
            thread: Some(thread),
            source,
            method,
            scope,
            relative_uncertainty,
            resolution,
            idle_watts,
            calibrated_at,
            traffic,
        })
    }

    fn blocked(&self, since: Option<Instant>) -> MeterError {
        let ms = since.map_or(PATIENCE, |since| since.elapsed()).as_millis() as u64;
        MeterError::Blocked { source: self.source.clone(), ms }
    }
}

/// The energy step when a power step of `resolution` holds for a whole `period`.
fn scaled(resolution: Resolution, period: Duration) -> u64 {
    let (own_us, period_us) = (resolution.period.as_micros().max(1), period.as_micros());
    let scaled = u128::from(resolution.quantum_uj) * period_us.max(own_us) / own_us;
    u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
}

fn read_until_stopped(mut meter: Box<dyn Meter>, shared: &Arc<Shared>, period: Duration, origin: Instant) {
    let _ending = Ending(Arc::clone(shared));
    let mut latest = Duration::ZERO;
    let mut state = shared.state();
    while !state.stop {
        let asked = state.asked;
        latest = latest.max(state.asked_at).max(origin.elapsed());
        state.reading_since = Some(Instant::now());
        drop(state);
        // A failed reading is counted by the meter; the next one may succeed.
        let answer = meter.sample(latest);
        let (faults, warnings) = (meter.faults(), meter.warnings());
        state = shared.state();
        state.reading_since = None;
        (state.answer, state.answered) = (Some(answer), asked);
        (state.faults, state.warnings) = (faults, warnings);
        shared.taken.notify_all();
        if state.asked == state.answered && !state.stop {
            state = shared.wanted.wait_timeout(state, period).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What `read` answers, if it does so within [`PATIENCE`]: a sensor that hangs must not keep a program from starting.
///
/// # Errors
/// As `read`, and [`MeterError::Blocked`]; its thread is left to the kernel then.
pub(super) fn within<T: Send + 'static>(
    source: &str,
    read: impl FnOnce() -> Result<T, MeterError> + Send + 'static,
) -> Result<T, MeterError> {
    let (tell, told) = std::sync::mpsc::channel();
    let spawned = std::thread::Builder::new().name("tern-meter-open".into()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = tell.send(read());
    });
    if spawned.is_err() {
        return Err(MeterError::Stopped);
    }
    told.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        Err(MeterError::Blocked { source: source.to_owned(), ms: PATIENCE.as_millis() as u64 })
    })
}

impl Meter for Sampler {
    fn source(&self) -> &str {
        &self.source
    }

    fn method(&self) -> Method {
        self.method
    }

    fn scope(&self) -> Scope {
        self.scope
    }

    fn relative_uncertainty(&self) -> f64 {
        self.relative_uncertainty
    }

    fn resolution(&self) -> Resolution {
        self.resolution
    }

    fn idle_watts(&self) -> Option<f64> {
        self.idle_watts
    }

    fn calibrated_at(&self) -> Option<&str> {
        self.calibrated_at.as_deref()
    }

    fn traffic(&self) -> Option<Traffic> {
        self.traffic.clone()
    }

    fn faults(&self) -> Faults {
        let state = self.shared.state();
        state.faults + Faults { failed: state.late, ..Faults::default() }
    }

    fn warnings(&self) -> Vec<String> {
        self.shared.state().warnings.clone()
    }

    fn may_block(&self) -> bool {
        false
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        let mut state = self.shared.state();
        let is_missing = state.answered < state.given_up && !state.ended;
        if is_missing || state.reading_since.is_some_and(|since| since.elapsed() > PATIENCE) {
            state.late += 1;
            return Err(self.blocked(state.reading_since));
        }
        state.asked += 1;
        state.asked_at = state.asked_at.max(now);
        let mine = state.asked;
        self.shared.wanted.notify_one();
        let waiting = |state: &mut State| state.answered < mine && !state.ended;
        let (mut state, _) = (self.shared.taken)
            .wait_timeout_while(state, PATIENCE, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        if state.answered < mine {
            if state.ended {
                return Err(MeterError::Stopped);
            }
            state.given_up = mine;
            state.late += 1;
            return Err(self.blocked(state.reading_since));
        }
        state.answer.clone().unwrap_or(Err(MeterError::Stopped))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.stop = true;
        self.shared.wanted.notify_all();
        let running = |state: &mut State| !state.ended;
        state = (self.shared.taken)
            .wait_timeout_while(state, PATIENCE, running)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        let ended = state.ended;
        drop(state);
        match self.thread.take() {
            // A panic in the meter was answered with `Stopped` already.
            Some(thread) if ended => drop(thread.join()),
            // It hangs in the kernel, and holds nothing that anybody else needs.
            _ => log::warn!("{} still does not answer; its thread is left behind", self.source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeMeter;
    use super::*;

    #[test]
    fn the_thread_reads_between_two_calls_and_ends_with_the_sampler() {
        let origin = Instant::now();
        let meter = Box::new(FakeMeter::steady(1_000_000).with_method(Method::HwmonPower));
        let mut sampler = Sampler::spawn(meter, Duration::from_millis(1), origin).unwrap();
        let first = sampler.sample(origin.elapsed()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        // readings come from the thread: faults() takes none, and only every tenth pass asks for one
        let mut last = first;
        while last.readings < first.readings + 20 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            last = sampler.sample(origin.elapsed()).unwrap();
        }
        assert!(last.readings >= first.readings + 20);
        assert!(last.energy_uj > first.energy_uj);
        assert_eq!(sampler.faults(), Faults::default());
        assert_eq!(sampler.method(), Method::HwmonPower);
        drop(sampler);
    }

    #[test]
    fn a_caller_that_read_its_clock_before_the_thread_did_is_no_step_backwards() {
        let origin = Instant::now();
        let meter = Box::new(FakeMeter::steady(1_000_000));
        let mut sampler = Sampler::spawn(meter, Duration::from_secs(60), origin).unwrap();
        sampler.sample(Duration::from_secs(100)).unwrap();
        let earlier = sampler.sample(Duration::from_secs(99)).unwrap();
        assert_eq!(earlier.at, Duration::from_secs(100));
        assert_eq!(sampler.faults().backwards, 0);
    }

    #[test]
    fn resolution_is_that_of_the_slower_of_chip_and_thread() {
        let chip = Resolution { period: Duration::from_millis(2), quantum_uj: 40 };
        assert_eq!(scaled(chip, Duration::from_millis(100)), 2000);
        assert_eq!(scaled(chip, Duration::from_millis(1)), 40);
    }

    /// Hangs in its second reading until it is let go.
    struct Hanging {
        inner: FakeMeter,
        readings: u32,
        go: std::sync::mpsc::Receiver<()>,
    }

    impl Meter for Hanging {
        fn source(&self) -> &str {
            "hanging"
        }
        fn method(&self) -> Method {
            Method::HwmonPower
        }
        fn scope(&self) -> Scope {
            Scope::BoardDc
        }
        fn relative_uncertainty(&self) -> f64 {
            0.1
        }
        fn resolution(&self) -> Resolution {
            self.inner.resolution()
        }
        fn faults(&self) -> Faults {
            self.inner.faults()
        }
        fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
            self.readings += 1;
            if self.readings == 2 {
                // Let go by a word, or by the test's end.
                let _ = self.go.recv();
            }
            self.inner.sample(now)
        }
    }

    #[test]
    fn a_reading_that_hangs_holds_nobody_up_and_is_recovered_from() {
        let (let_go, go) = std::sync::mpsc::channel();
        let inner = FakeMeter::steady(1_000_000).with_method(Method::HwmonPower);
        let origin = Instant::now();
        let meter = Box::new(Hanging { inner, readings: 0, go });
        let mut sampler = Sampler::spawn(meter, Duration::from_secs(60), origin).unwrap();
        let blocked = loop {
            // The first may be the thread's own reading, which does not hang.
            if let Err(error) = sampler.sample(origin.elapsed()) {
                break error;
            }
        };
        assert!(matches!(&blocked, MeterError::Blocked { ms, .. } if *ms >= 200), "{blocked}");
        // From now on it says so at once: a hundred more cost less than one patience.
        let began = Instant::now();
        for _ in 0..100 {
            assert!(matches!(sampler.sample(origin.elapsed()), Err(MeterError::Blocked { .. })));
        }
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        assert_eq!(sampler.faults().failed, 101);
        let_go.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while sampler.sample(origin.elapsed()).is_err() {
            assert!(Instant::now() < deadline, "it never comes back");
        }
        // A sampler whose thread hangs for ever can be dropped all the same.
        let (keep, go) = std::sync::mpsc::channel();
        let inner = FakeMeter::steady(1);
        let meter = Box::new(Hanging { inner, readings: 1, go });
        let stuck = Sampler::spawn(meter, Duration::from_secs(60), origin).unwrap();
        let began = Instant::now();
        drop(stuck);
        assert!(began.elapsed() < Duration::from_secs(10));
        drop(keep);
    }

    #[test]
    fn a_meter_that_panics_is_stopped_and_does_not_take_its_reader_along() {
        struct Panicking(FakeMeter);
        impl Meter for Panicking {
            fn source(&self) -> &str {
                "panicking"
            }
            fn method(&self) -> Method {
                Method::HwmonPower
            }
            fn scope(&self) -> Scope {
                Scope::BoardDc
            }
            fn relative_uncertainty(&self) -> f64 {
                0.1
            }
            fn resolution(&self) -> Resolution {
                self.0.resolution()
            }
            fn faults(&self) -> Faults {
                Faults::default()
            }
            fn sample(&mut self, _: Duration) -> Result<Sample, MeterError> {
                // Without the report of a panic, whose backtrace can take a busy machine many seconds.
                std::panic::resume_unwind(Box::new("as this test wants it"))
            }
        }
        let meter = Box::new(Panicking(FakeMeter::steady(1)));
        let mut sampler = Sampler::spawn(meter, Duration::from_secs(60), Instant::now()).unwrap();
        // On a busy machine the end of a thread takes longer than a reading is waited for; then it is told at once.
        let began = Instant::now();
        let mut outcome = sampler.sample(Duration::ZERO);
        while matches!(outcome, Err(MeterError::Blocked { .. })) && began.elapsed() < 40 * PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
            outcome = sampler.sample(Duration::ZERO);
        }
        assert_eq!(outcome, Err(MeterError::Stopped));
    }
}
