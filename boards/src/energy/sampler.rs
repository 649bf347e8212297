//! Reads a meter at a steady rate in a thread of its own.
//!
//! A counter is exact however seldom it is read; power that is integrated is not, so a meter whose method
//! [`is_of_power`](super::Method::is_of_power) belongs in a [`Sampler`]. The sampler is a meter itself: its
//! [`sample`](Meter::sample) takes one more reading at the moment asked for, so that a window ends where it should.

use core::time::Duration;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::meter::{Faults, Meter, MeterError, Method, Resolution, Sample, Scope};
use super::model::Traffic;

/// Ten readings a second: below one per cent of one core, above any change that a heat sink lets through.
pub const PERIOD: Duration = Duration::from_millis(100);

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
    wake: Condvar,
}

struct State {
    meter: Box<dyn Meter>,
    /// Time of the last reading, by whichever thread: the next must not lie before it.
    latest: Duration,
    stop: bool,
}

impl State {
    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        self.latest = self.latest.max(now);
        self.meter.sample(self.latest)
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
        // However fast the chip converts, energy is known no finer than it is read.
        resolution.quantum_uj = scaled(resolution, period);
        resolution.period = resolution.period.max(period);
        let state = State { meter, latest: Duration::ZERO, stop: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("tern-meter".into())
            .spawn(move || read_until_stopped(&theirs, period, origin))?;
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

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        self.shared.state.lock().ok()
    }
}

/// The energy step when a power step of `resolution` holds for a whole `period`.
fn scaled(resolution: Resolution, period: Duration) -> u64 {
    let (own_us, period_us) = (resolution.period.as_micros().max(1), period.as_micros());
    let scaled = u128::from(resolution.quantum_uj) * period_us.max(own_us) / own_us;
    u64::try_from(scaled).unwrap_or(u64::MAX).max(1)
}

fn read_until_stopped(shared: &Shared, period: Duration, origin: Instant) {
    let Ok(mut state) = shared.state.lock() else { return };
    while !state.stop {
        // A failed reading is counted by the meter; the next one may succeed.
        let _ = state.sample(origin.elapsed());
        match shared.wake.wait_timeout(state, period) {
            Ok((next, _)) => state = next,
            Err(_) => return,
        }
    }
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
        self.state().map_or(Faults::default(), |state| state.meter.faults())
    }

    fn sample(&mut self, now: Duration) -> Result<Sample, MeterError> {
        self.state().ok_or(MeterError::Stopped)?.sample(now)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in the meter was answered with `Stopped` already.
            let _ = thread.join();
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
}
