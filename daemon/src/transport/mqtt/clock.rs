//! Time that can be written to disk: milliseconds since 1970 that no change of the system's clock moves while the
//! daemon runs. Only what an earlier process wrote is judged by the system's clock, as it was at the start of this one.

use std::time::{Duration, Instant, SystemTime};

/// Milliseconds since 1970.
pub type Millis = u64;

/// A clock that never jumps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
    began_ms: Millis,
}

impl Clock {
    /// A clock set by the system's.
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock { began: Instant::now(), began_ms: since.as_millis() as Millis }
    }

    /// The time.
    pub fn now(&self) -> Millis {
        self.began_ms + self.began.elapsed().as_millis() as Millis
    }

    /// The moment `at`, which must not be before this clock's start by more than the machine has run.
    pub fn instant(&self, at: Millis) -> Instant {
        self.began + Duration::from_millis(at.saturating_sub(self.began_ms))
    }
}
