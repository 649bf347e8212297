//! What the service manager is told, where there is one: without `NOTIFY_SOCKET` all of this does nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager cannot be told anything: {error}");
    }
}

/// The daemon answers; `status` is one line for `systemctl status`.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The daemon was told to stop.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing running requests")]);
}

/// Tells the service manager that the engine's thread is alive, if it wants to know (`WatchdogSec=`).
#[derive(Debug)]
pub struct Watchdog {
    /// Half of what the service manager allows.
    every: Option<Duration>,
    last: Option<Instant>,
}

impl Watchdog {
    /// The watchdog of this process's service.
    pub fn of_service() -> Self {
        Watchdog { every: sd_notify::watchdog_enabled().map(|allowed| allowed / 2), last: None }
    }

    /// Says so if it is time to.
    pub fn alive(&mut self) {
        let Some(every) = self.every else { return };
        let now = Instant::now();
        if self.last.is_none_or(|last| now.saturating_duration_since(last) >= every / 2) {
            self.last = Some(now);
            notify(&[NotifyState::Watchdog]);
        }
    }

    /// How long the thread may sleep before it must say so again.
    pub fn longest_sleep(&self) -> Duration {
        self.every.map_or(Duration::MAX, |every| every / 2)
    }
}
