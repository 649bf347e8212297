//! A serial line between a test and a daemon, and what the protocol's client needs to speak over it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use embedded_io::ErrorKind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A line of two ends: a pseudoterminal. Its far end goes to a daemon by its path.
#[derive(Debug)]
pub struct SerialLine {
    near: File,
    /// Held open, so that a daemon that goes away does not end the line.
    _far: File,
    far_path: PathBuf,
}

impl SerialLine {
    /// A new line.
    ///
    /// # Panics
    /// If the system has none.
    pub fn new() -> Self {
        let near =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&near).and_then(|()| unlockpt(&near)).expect("it can be used");
        let name = ptsname(&near, Vec::new()).expect("it has a name");
        let far_path = PathBuf::from(name.to_str().expect("it is ASCII"));
        let far = File::options().read(true).write(true).open(&far_path).expect("it opens");
        SerialLine { near: near.into(), _far: far, far_path }
    }

    /// The device of the far end.
    pub fn far(&self) -> &Path {
        &self.far_path
    }

    /// The near end, whose reads give up after `patience`.
    ///
    /// # Panics
    /// If the system has no more.
    pub fn port(&self, patience: Duration) -> Port {
        Port::new(self.near.try_clone().expect("another handle"), patience)
    }
}

impl Default for SerialLine {
    fn default() -> Self {
        SerialLine::new()
    }
}

/// A stream as a microcontroller sees one.
#[derive(Debug)]
pub struct Port {
    file: File,
    patience: Duration,
}

impl Port {
    /// A port on any stream; reads give up after `patience`.
    pub fn new(stream: impl Into<OwnedFd>, patience: Duration) -> Self {
        Port { file: File::from(stream.into()), patience }
    }
}

impl embedded_io::ErrorType for Port {
    type Error = ErrorKind;
}

impl embedded_io::Read for Port {
    fn read(&mut self, to: &mut [u8]) -> Result<usize, ErrorKind> {
        let patience = Timespec::try_from(self.patience).expect("it is short");
        match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&patience)) {
            Ok(0) => Err(ErrorKind::TimedOut),
            Ok(_) => self.file.read(to).map_err(|_| ErrorKind::BrokenPipe),
            Err(_) => Err(ErrorKind::Interrupted),
        }
    }
}

impl embedded_io::Write for Port {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.file.write(bytes).map_err(|_| ErrorKind::BrokenPipe)
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// A port on a bad line: of every `rarity` bytes one is changed, lost, doubled or joined by another, both ways.
#[derive(Debug)]
pub struct Noisy {
    port: Port,
    rarity: u64,
    state: u64,
    /// A byte that noise put in front of the next one read.
    extra: Option<u8>,
    /// Bytes that noise hit so far.
    pub hits: u64,
}

/// What becomes of a byte.
enum Fate {
    Whole,
    Changed(u8),
    Lost,
    Doubled,
    Joined(u8),
}

impl Noisy {
    /// Noise from this seed on.
    pub fn new(port: Port, rarity: u64, seed: u64) -> Self {
        Noisy { port, rarity, state: seed | 1, extra: None, hits: 0 }
    }

    /// Xorshift; its quality is that of noise on a wire.
    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 16
    }

    fn fate(&mut self, byte: u8) -> Fate {
        if !self.next().is_multiple_of(self.rarity) {
            return Fate::Whole;
        }
        self.hits += 1;
        let other = self.next() as u8;
        match self.next() % 4 {
            0 => Fate::Changed(byte ^ (1 << (other % 8))),
            1 => Fate::Lost,
            2 => Fate::Doubled,
            _ => Fate::Joined(other),
        }
    }
}

impl embedded_io::ErrorType for Noisy {
    type Error = ErrorKind;
}

impl embedded_io::Read for Noisy {
    fn read(&mut self, to: &mut [u8]) -> Result<usize, ErrorKind> {
        if let (Some(extra), Some(first)) = (self.extra.take(), to.first_mut()) {
            *first = extra;
            return Ok(1);
        }
        loop {
            let mut byte = [0];
            if self.port.read(&mut byte)? == 0 {
                return Ok(0);
            }
            let heard = match self.fate(byte[0]) {
                Fate::Whole => byte[0],
                Fate::Changed(other) => other,
                Fate::Lost => continue,
                Fate::Doubled => *self.extra.insert(byte[0]),
                Fate::Joined(other) => {
                    self.extra = Some(byte[0]);
                    other
                }
            };
            to[0] = heard;
            return Ok(1);
        }
    }
}

impl embedded_io::Write for Noisy {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let mut sent = Vec::with_capacity(bytes.len() + 8);
        for &byte in bytes {
            match self.fate(byte) {
                Fate::Whole => sent.push(byte),
                Fate::Changed(other) => sent.push(other),
                Fate::Lost => {}
                Fate::Doubled => sent.extend([byte, byte]),
                Fate::Joined(other) => sent.extend([other, byte]),
            }
        }
        self.port.write_all(&sent)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}
