//! What the service manager is told, where there is one: without `NOTIFY_SOCKET` all of this does nothing.
//!
//! ```text
//! loading   STATUS= with percent, EXTEND_TIMEOUT_USEC= while it goes on    (Loading)
//! running   READY=1, STATUS= when something was counted, WATCHDOG=1 while the engine advances    (Watchdog)
//! reload    RELOADING=1 with MONOTONIC_USEC=, then READY=1
//! stopping  STOPPING=1, EXTEND_TIMEOUT_USEC= for as long as running requests may take
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// How long the manager may wait from one sign of progress to the next before it takes the start for hung.
const LOADING_PATIENCE: Duration = Duration::from_secs(120);

/// Progress is told no more often than this.
const LOADING_EVERY: Duration = Duration::from_millis(500);

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager cannot be told anything: {error}");
    }
}

/// A status is one line; the next would be another message.
fn line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}

/// What a timeout is called in a message, where a number of 32 bits counts microseconds: at most an hour and some.
fn extend(by: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
}

/// Whether somebody listens.
pub fn is_listening() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|place| !place.is_empty())
}

/// The daemon answers; `status` is one line for `systemctl status`.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(&line(status))]);
}

/// The daemon reads its configuration again; [`ready`] ends it. Managers before version 253 pass over the time.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now, NotifyState::Status("reloading")]),
        Err(error) => log::warn!("the service manager cannot be told of the reload: {error}"),
    }
}

/// The daemon was told to stop, and running requests get `patience`.
pub fn stopping(patience: Duration) {
    let status = NotifyState::Status("finishing running requests");
    notify(&[NotifyState::Stopping, extend(patience + Duration::from_secs(15)), status]);
}

/// A part of the start begins whose progress is not known; `status` is one line that says which.
pub fn loading(status: &str) {
    notify(&[NotifyState::Status(&line(status)), extend(LOADING_PATIENCE)]);
}

/// Part of the start whose progress the manager hears.
#[derive(Debug)]
pub struct Loading {
    what: &'static str,
    total: u64,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    done: u64,
    last: Instant,
}

impl Loading {
    /// Tells the manager that the part called `what` begins; `None` if nobody listens.
    pub fn begin(what: &'static str, total: u64) -> Option<Self> {
        is_listening().then(|| {
            let loading = Loading { what, total, told: Mutex::new(Told { done: 0, last: Instant::now() }) };
            loading.tell(0);
            loading
        })
    }

    /// So much more is done.
    pub fn add(&self, amount: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.done = told.done.saturating_add(amount);
        if told.last.elapsed() >= LOADING_EVERY {
            told.last = Instant::now();
            self.tell(told.done);
        }
    }

    fn tell(&self, done: u64) {
        let Loading { what, total, .. } = self;
        let status = match (u128::from(done) * 100).checked_div(u128::from(*total)) {
            Some(percent) => format!("{what}: {} %", percent.min(100)),
            None => (*what).to_owned(),
        };
        loading(&status);
    }
}

/// Tells the manager that the daemon is alive, if it wants to know (`WatchdogSec=`), as long as a count goes up.
///
/// Who feeds a watchdog from a timer hides a hung engine; who feeds it from the engine's loop alone is killed in a step
/// of a large model that takes longer than the watchdog allows. The count goes up within a step too.
#[derive(Debug)]
pub struct Watchdog {
    /// How often to look, a quarter of what the manager allows; `None` if it does not want to know.
    every: Option<Duration>,
    seen: Option<u64>,
}

impl Watchdog {
    /// The watchdog of this process's service.
    pub fn of_service() -> Self {
        Watchdog { every: sd_notify::watchdog_enabled().map(|allowed| allowed / 4), seen: None }
    }

    /// How often to look.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    /// Feeds the watchdog if `count` is another one than at the last look.
    pub fn look(&mut self, count: u64) {
        if self.every.is_some() && self.advanced(count) {
            notify(&[NotifyState::Watchdog]);
        }
    }

    fn advanced(&mut self, count: u64) -> bool {
        self.seen.replace(count) != Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_stands_still_feeds_nothing() {
        let mut watchdog = Watchdog { every: Some(Duration::from_secs(1)), seen: None };
        assert!(watchdog.advanced(5) && !watchdog.advanced(5) && !watchdog.advanced(5));
        assert!(watchdog.advanced(6) && !watchdog.advanced(6));
        assert!(watchdog.advanced(0), "a count that wrapped has advanced");
    }
}
