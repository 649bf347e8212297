//! What a running daemon is told by signals.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// What the process was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// To end (SIGTERM, SIGINT).
    Stop,
    /// To read its configuration and its tasks again (SIGHUP).
    Reload,
}

/// The signals of this process from now on.
///
/// Told to stop before [`started`](Signals::started), the process ends at once: nobody has asked it anything yet. Told to
/// stop a second time, it ends at once too, with the code of the signal.
#[derive(Debug)]
pub struct Signals {
    /// Gives a byte or more when there is something to look at.
    wakes: UnixStream,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    starting: Arc<AtomicBool>,
}

impl Signals {
    /// Takes over the signals.
    ///
    /// # Errors
    /// If the system refuses the pipe or a signal.
    pub fn register() -> io::Result<Self> {
        let (wakes, wake) = UnixStream::pair()?;
        let flag = |value| Arc::new(AtomicBool::new(value));
        let signals = Signals { wakes, stop: flag(false), reload: flag(false), starting: flag(true) };
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(signal, 0, Arc::clone(&signals.starting))?;
            // Order matters: the first signal finds the flag down and raises it afterwards.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&signals.stop))?;
            flag::register(signal, Arc::clone(&signals.stop))?;
            low_level::pipe::register(signal, wake.try_clone()?)?;
        }
        flag::register(SIGHUP, Arc::clone(&signals.reload))?;
        low_level::pipe::register(SIGHUP, wake)?;
        Ok(signals)
    }

    /// From now on somebody may be waiting for an answer.
    pub fn started(&self) {
        self.starting.store(false, Ordering::Release);
    }

    /// Waits for a signal, for `within` at most.
    ///
    /// # Errors
    /// If the process's own pipe is broken.
    pub fn wait(&mut self, within: Duration) -> io::Result<Option<Told>> {
        self.wakes.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
        match self.wakes.read(&mut [0; 64]) {
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                _ => return Err(error),
            },
        }
        if self.stop.load(Ordering::Acquire) {
            return Ok(Some(Told::Stop));
        }
        Ok(self.reload.swap(false, Ordering::AcqRel).then_some(Told::Reload))
    }
}
