//! Complaints that are not repeated at every message: a log must not drown in them.

use std::time::{Duration, Instant};

/// Least time between two of a kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Complaints of one kind.
#[derive(Debug, Default)]
pub struct Complaints {
    last: Option<Instant>,
    kept_back: u64,
}

impl Complaints {
    /// Warns, unless it was done a moment ago; then it is counted and told with the next.
    pub fn warn(&mut self, message: impl FnOnce() -> String) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            self.kept_back += 1;
            return;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.kept_back) {
            0 => log::warn!("{}", message()),
            more => log::warn!("{} (and {more} more like it)", message()),
        }
    }
}
