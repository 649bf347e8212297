//! A serial line as a file: opened raw at its speed, read and written by two threads that others can wake.

use std::error::Error;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};

use crate::config::socket::SerialSection;
use crate::transport::messages::TimedRead;

/// A serial line that cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum SerialError {
    /// It cannot be opened.
    Open {
        /// The device.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is something else.
    NotALine {
        /// The path.
        path: PathBuf,
    },
    /// Another program has it locked.
    InUse {
        /// The device.
        path: PathBuf,
    },
    /// It does not take its settings.
    Settings {
        /// The device.
        path: PathBuf,
        /// The speed wanted.
        baud: u32,
        /// What the system said.
        error: io::Error,
    },
    /// The system refuses what is needed to serve it.
    Thread {
        /// The device.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl SerialError {
    /// Whether nothing is wrong but that the line is not there, as before its adapter is plugged in.
    pub fn is_missing(&self) -> bool {
        matches!(self, SerialError::Open { error, .. } if error.kind() == ErrorKind::NotFound)
    }
}

impl fmt::Display for SerialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SerialError::Open { path, error } if error.kind() == ErrorKind::PermissionDenied => write!(
                f,
                "may not open the serial line '{}'; give the daemon its group, dialout as a rule",
                path.display()
            ),
            SerialError::Open { path, error } => {
                write!(f, "cannot open the serial line '{}': {error}", path.display())
            }
            SerialError::NotALine { path } => {
                write!(
                    f,
                    "'{}' is no serial line; name one such as /dev/ttyAMA0 (serial.path)",
                    path.display()
                )
            }
            SerialError::InUse { path } => write!(
                f,
                "another program uses the serial line '{}'; stop it, a console or a modem manager perhaps",
                path.display()
            ),
            SerialError::Settings { path, baud, error } => write!(
                f,
                "the serial line '{}' does not take {baud} baud and raw bytes: {error}; choose another serial.baud",
                path.display()
            ),
            SerialError::Thread { path, error } => {
                write!(f, "cannot serve the serial line '{}': {error}", path.display())
            }
        }
    }
}

impl Error for SerialError {}

/// An open line.
#[derive(Debug)]
pub struct Line(File);

impl Line {
    /// Opens the line of `section`.
    ///
    /// # Errors
    /// If it is not there, no serial line, in use, or does not take its settings.
    pub fn open(section: &SerialSection) -> Result<Self, SerialError> {
        let SerialSection { path, baud } = section;
        // Not blocking: an open must not wait for a carrier, nor a write for a line that does not move.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        let opened = opened.map_err(|error| SerialError::Open { path: path.clone(), error: error.into() })?;
        let file = File::from(opened);
        let settings = |error: Errno| match error {
            Errno::NOTTY => SerialError::NotALine { path: path.clone() },
            error => SerialError::Settings { path: path.clone(), baud: *baud, error: error.into() },
        };
        let mut termios = tcgetattr(&file).map_err(settings)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SerialError::InUse { path: path.clone() }),
            Err(TryLockError::Error(error)) => return Err(SerialError::Open { path: path.clone(), error }),
        }
        termios.make_raw();
        termios.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
        // Two wires: no handshake. And closing must not pull the line that resets many boards.
        termios.control_modes -= ControlModes::CRTSCTS | ControlModes::CSTOPB | ControlModes::HUPCL;
        termios.special_codes[SpecialCodeIndex::VMIN] = 1;
        termios.special_codes[SpecialCodeIndex::VTIME] = 0;
        termios.set_speed(*baud).map_err(settings)?;
        tcsetattr(&file, OptionalActions::Now, &termios).map_err(settings)?;
        let taken = tcgetattr(&file).map_err(settings)?.output_speed();
        if taken.abs_diff(*baud) > baud / 50 {
            let message = format!("it would run at {taken}");
            let error = io::Error::other(message);
            return Err(SerialError::Settings { path: path.clone(), baud: *baud, error });
        }
        Ok(Line(file))
    }
}

/// What wakes the threads of a line.
#[derive(Debug)]
pub struct Bells {
    /// Rung once, when the daemon stops: nothing more is read.
    stop: OwnedFd,
    stopping: AtomicBool,
    /// Rung when nothing more is to be written either.
    abort: OwnedFd,
}

impl Bells {
    /// Silent ones.
    ///
    /// # Errors
    /// If the system has no more.
    pub fn new() -> io::Result<Self> {
        let bell = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        Ok(Bells { stop: bell()?, stopping: AtomicBool::new(false), abort: bell()? })
    }

    /// The daemon stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        ring(&self.stop);
    }

    /// Whether the daemon stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Nothing more is to be written.
    pub fn abort(&self) {
        ring(&self.abort);
    }

    /// There is something to be written again.
    pub fn silence(&self) {
        // Nothing to read is silence.
        let _silent_already = rustix::io::read(&self.abort, &mut [0; 8]);
    }

    /// Waits; says whether the daemon stops meanwhile.
    pub fn wait_for_stop(&self, limit: Duration) -> bool {
        let mut watched = [PollFd::new(&self.stop, PollFlags::IN)];
        let _interrupted_is_short = poll(&mut watched, Some(&timespec(limit)));
        self.is_stopping()
    }
}

fn ring(bell: &OwnedFd) {
    // It cannot overflow, since nobody rings so often.
    let _rung = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

fn timespec(limit: Duration) -> Timespec {
    Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
}

/// Waits until the line is ready for `flags` or broken; fails if it takes longer than `limit`, or one of `bells` rings.
fn wait(line: &Line, flags: PollFlags, bells: &[&OwnedFd], limit: Option<Duration>) -> io::Result<()> {
    let began = Instant::now();
    loop {
        let left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
        let mut watched = vec![PollFd::new(&line.0, flags)];
        watched.extend(bells.iter().map(|bell| PollFd::new(*bell, PollFlags::IN)));
        match poll(&mut watched, left.map(timespec).as_ref()) {
            Ok(0) => return Err(ErrorKind::TimedOut.into()),
            Ok(_) if watched[1..].iter().any(|bell| !bell.revents().is_empty()) => {
                return Err(ErrorKind::ConnectionAborted.into());
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The direction to the daemon.
#[derive(Debug)]
pub struct LineReader {
    line: Arc<Line>,
    bells: Arc<Bells>,
    limit: Option<Duration>,
}

impl LineReader {
    /// Reads until either bell rings.
    pub fn new(line: Arc<Line>, bells: Arc<Bells>) -> Self {
        LineReader { line, bells, limit: None }
    }
}

impl Read for LineReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        loop {
            wait(&self.line, PollFlags::IN, &[&self.bells.stop, &self.bells.abort], self.limit)?;
            match (&self.line.0).read(to) {
                // Somebody else read it, which is no reason to say that time is up.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

impl TimedRead for LineReader {
    fn limit_wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.limit = limit;
        Ok(())
    }
}

/// The direction from the daemon.
#[derive(Debug)]
pub struct LineWriter {
    line: Arc<Line>,
    bells: Arc<Bells>,
    limit: Duration,
}

impl LineWriter {
    /// Writes until it is told to abort, or the line takes nothing for `limit`.
    pub fn new(line: Arc<Line>, bells: Arc<Bells>, limit: Duration) -> Self {
        LineWriter { line, bells, limit }
    }
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            wait(&self.line, PollFlags::OUT, &[&self.bells.abort], Some(self.limit))?;
            match (&self.line.0).write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
