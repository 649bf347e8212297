//! A limit of degrees: which share of the time the engine may work.
//!
//! Firmware that throttles falls from full speed to a fraction and back. A little less work a little earlier keeps the
//! temperature steady instead. The share follows a proportional and integral rule in its incremental form, so it cannot wind
//! up while there is nothing to hold back:
//!
//! ```text
//! error  = limit - BELOW - temperature
//! share += GAIN x (error - error before) + GAIN / SETTLE x error x time       kept within 1/20 and 1
//! ```

use std::time::Duration;

/// The share steers towards so many degrees below the limit.
const BELOW: f64 = 2.0;
/// Share by degree.
const GAIN: f64 = 0.08;
/// Seconds in which a lasting error moves the share as far as its coming did.
const SETTLE_S: f64 = 15.0;
/// The least share.
const LEAST: f64 = 0.05;

/// Keeps a temperature under a limit.
#[derive(Debug)]
pub struct HeatPace {
    limit_c: f64,
    share: f64,
    last: Option<(Duration, f64)>,
    celsius: f64,
}

impl HeatPace {
    /// Keeps under `limit_c`.
    pub fn new(limit_c: f64) -> Self {
        HeatPace { limit_c, share: 1.0, last: None, celsius: f64::NAN }
    }

    /// The limit.
    pub fn limit_c(&self) -> f64 {
        self.limit_c
    }

    /// Share of the time that is left to work, up to 1.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// The temperature was `celsius` at `now`.
    pub fn temperature(&mut self, now: Duration, celsius: f64) {
        let error = self.limit_c - BELOW - celsius;
        if let Some((before, last_error)) = self.last {
            // After a long rest the past says little.
            let seconds = now.saturating_sub(before).as_secs_f64().min(SETTLE_S);
            let change = GAIN * (error - last_error) + GAIN / SETTLE_S * error * seconds;
            self.share = (self.share + change).clamp(LEAST, 1.0);
        } else if error < 0.0 {
            self.share = (1.0 + GAIN * error).max(LEAST);
        }
        (self.last, self.celsius) = (Some((now, error)), celsius);
    }

    /// How long to hold still after a step that took so long.
    pub fn pause_after(&self, took: Duration) -> Duration {
        took.mul_f64(1.0 / self.share - 1.0)
    }
}
