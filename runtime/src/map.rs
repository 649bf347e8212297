//! The model file in memory, by mmap, and memory for an engine. Pages of a file come from disk when touched and are shared
//! between processes.
//!
//! The contract, which no program can check for itself: a file that is mapped must not be written in place nor
//! truncated. A page that vanishes is a SIGBUS, and bytes that change under a parsed header make its checks void.
//! To replace a model write a new file beside it and rename it over the old one; a mapping keeps the old file alive.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use memmap2::{Mmap, MmapMut};

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    path: PathBuf,
}

impl MappedFile {
    /// Opens and maps a file.
    ///
    /// # Errors
    /// [`OpenError`] with the path, and what to do about it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let fail = |reason| OpenError { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|e| fail(Reason::Open(e)))?;
        let metadata = file.metadata().map_err(|e| fail(Reason::Open(e)))?;
        if !metadata.is_file() {
            return Err(fail(if metadata.is_dir() { Reason::Directory } else { Reason::NotAFile }));
        }
        if metadata.len() == 0 {
            return Err(fail(Reason::Empty));
        }
        if usize::try_from(metadata.len()).is_err() {
            return Err(fail(Reason::TooLarge(metadata.len())));
        }
        // SAFETY: the mapping is read-only and private; the caller keeps the contract at the top of this file (nobody
        // writes to or truncates the file while it is mapped), which is what Mmap::map asks for.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| fail(Reason::Map(e)))?;
        // The file may have shrunk between the two calls: a mapping beyond its end would be a SIGBUS later.
        let now = file.metadata().map_err(|e| fail(Reason::Open(e)))?.len();
        if now != map.len() as u64 {
            return Err(fail(Reason::Changed { mapped: map.len() as u64, now }));
        }
        Ok(Self { map, path: path.to_owned() })
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Zeroed memory of the process itself, whose pages are taken when they are first touched: an engine that is made for
/// long texts takes no more than its texts need.
#[derive(Debug)]
pub struct Anonymous(MmapMut);

impl Anonymous {
    /// Reserves `bytes`, at least 1.
    ///
    /// # Errors
    /// If the system refuses so much address space, as under a limit of the process.
    pub fn new(bytes: usize) -> io::Result<Self> {
        MmapMut::map_anon(bytes).map(Anonymous)
    }

    /// The memory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Why a model file could not be opened.
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Open(io::Error),
    Directory,
    NotAFile,
    Empty,
    TooLarge(u64),
    Map(io::Error),
    Changed { mapped: u64, now: u64 },
}

impl OpenError {
    /// The path that was asked for.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of the underlying I/O error; `InvalidInput` where the file is there but is no model file.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match &self.reason {
            Reason::Open(e) | Reason::Map(e) => e.kind(),
            Reason::Directory | Reason::NotAFile | Reason::Empty => io::ErrorKind::InvalidInput,
            Reason::TooLarge(_) => io::ErrorKind::OutOfMemory,
            Reason::Changed { .. } => io::ErrorKind::InvalidData,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot use '{}' as a model: ", self.path.display())?;
        match &self.reason {
            Reason::Open(e) if e.kind() == io::ErrorKind::NotFound => {
                f.write_str("no such file; check the path, a relative one starts at the working directory")
            }
            Reason::Open(e) if e.kind() == io::ErrorKind::PermissionDenied => f.write_str(
                "permission denied; the user Tern runs as must be able to read it and enter its directories",
            ),
            Reason::Open(_) => f.write_str("it cannot be opened"),
            Reason::Directory => f.write_str("it is a directory; give the .gguf file in it"),
            Reason::NotAFile => f.write_str("it is not a regular file; a pipe or device cannot be mapped"),
            Reason::Empty => f.write_str("it is empty; the download or copy never finished, fetch it again"),
            Reason::TooLarge(n) => write!(f, "its {n} bytes do not fit the address space of this machine"),
            Reason::Map(_) => f.write_str("it cannot be mapped into memory; copy it to a local file system"),
            Reason::Changed { mapped, now } => write!(
                f,
                "it changed from {mapped} to {now} bytes while being opened; replace models by renaming, never in place"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Open(e) | Reason::Map(e) => Some(e),
            _ => None,
        }
    }
}
