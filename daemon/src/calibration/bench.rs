//! Where loads run: this machine, or in a test a simulated one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tern_boards::Root;
use tern_boards::energy::model::Traffic;

use super::loads;
use super::plan::Kind;

/// How often a load is looked at while it runs.
pub const LOOK: Duration = Duration::from_millis(100);

/// A machine on which loads run while it is looked at.
pub trait Bench {
    /// Where its files are.
    fn root(&self) -> &Root;

    /// The time on its clock.
    fn now(&self) -> Duration;

    /// Runs a load on `cpus`, one thread each, for `time`; counts in `traffic` what it streams, and calls `look` with the
    /// time about every [`LOOK`] and at the end.
    ///
    /// # Errors
    /// [`Interrupted`] when the user wants no more of it.
    fn run(
        &mut self,
        kind: Kind,
        cpus: &[usize],
        time: Duration,
        traffic: &Traffic,
        look: &mut dyn FnMut(Duration),
    ) -> Result<(), Interrupted>;
}

/// The user has ended it (SIGINT, SIGTERM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; nothing was written")
    }
}

impl std::error::Error for Interrupted {}

/// This machine.
#[derive(Debug)]
pub struct Live {
    root: Root,
    origin: Instant,
    buffer: loads::Buffer,
    stop: Arc<AtomicBool>,
}

impl Live {
    /// This machine, with a buffer of `buffer_bytes` to stream; loads end when `stop` is raised. `None` without memory.
    pub fn new(origin: Instant, buffer_bytes: u64, stop: Arc<AtomicBool>) -> Option<Live> {
        Some(Live { root: Root::new("/"), origin, buffer: loads::Buffer::new(buffer_bytes)?, stop })
    }
}

impl Bench for Live {
    fn root(&self) -> &Root {
        &self.root
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn run(
        &mut self,
        kind: Kind,
        cpus: &[usize],
        time: Duration,
        traffic: &Traffic,
        look: &mut dyn FnMut(Duration),
    ) -> Result<(), Interrupted> {
        let Live { origin, buffer, stop, .. } = self;
        let ends = origin.elapsed() + time;
        loads::beside(kind, cpus, buffer, traffic, || {
            loop {
                let now = origin.elapsed();
                if stop.load(Ordering::Acquire) {
                    return Err(Interrupted);
                }
                if now >= ends {
                    look(now);
                    return Ok(());
                }
                look(now);
                std::thread::sleep(LOOK.min(ends - now));
            }
        })
    }
}
