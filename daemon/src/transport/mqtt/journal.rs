//! An append-only file of checked lines: what a daemon must know again after it was killed.
//!
//! ```text
//! line = checksum, 16 hex digits | space | JSON without line breaks | \n
//! ```
//! A line that was cut off or spoilt fails its checksum; it and whatever follows it are dropped, which loses only what
//! had not been synced. When most of the file is out of date it is written anew beside itself, synced, and renamed.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A journal that cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// Another daemon writes it.
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The system refused something.
    Io {
        /// What was done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::InUse { path } => write!(
                f,
                "another daemon uses the outbox '{}'; give each its own mqtt.state_folder",
                path.display()
            ),
            JournalError::Io { doing, path, .. } => write!(
                f,
                "cannot {doing} '{}'; name a folder that this user may write with mqtt.state_folder",
                path.display()
            ),
        }
    }
}

impl Error for JournalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            JournalError::Io { error, .. } => Some(error),
            JournalError::InUse { .. } => None,
        }
    }
}

/// The 64-bit FNV-1a hash: the same on every machine and in every version.
pub fn fnv1a(parts: &[&[u8]]) -> u64 {
    parts
        .iter()
        .copied()
        .flatten()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Locked while the journal is open; it stays when the journal itself is replaced.
    _lock: File,
    bytes: u64,
    unsynced: bool,
    /// The end of the file may hold half a line.
    torn: bool,
}

impl Journal {
    /// Opens the journal at `path`, or begins it, and returns what is in it.
    ///
    /// # Errors
    /// If it cannot be read and written, or another process has it.
    pub fn open(path: &Path) -> Result<(Self, Vec<String>), JournalError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |error| JournalError::Io { doing, path, error }
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io("create the folder", folder))?;
        }
        let lock_path = path.with_extension("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io("create the lock", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(io("lock", &lock_path)(error)),
        }
        let mut options = File::options();
        let opened = options.create(true).truncate(false).read(true).append(true).open(path);
        let mut file = opened.map_err(io("open", path))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(io("read", path))?;
        let (lines, sound) = parse(&content);
        if sound < content.len() {
            let lost = content.len() - sound;
            log::warn!(
                "the outbox ends with {lost} bytes that were not completely written; they are dropped"
            );
            file.set_len(sound as u64).map_err(io("shorten", path))?;
        }
        let journal = Journal {
            path: path.to_owned(),
            file,
            _lock: lock,
            bytes: sound as u64,
            unsynced: false,
            torn: false,
        };
        Ok((journal, lines))
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a record. It survives the end of this process at once, and that of the machine after
    /// [`sync`](Self::sync).
    ///
    /// # Errors
    /// If it cannot be written; it is not in the file then.
    pub fn append(&mut self, json: &str) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.bytes)?;
            self.torn = false;
        }
        let line = line(json);
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.torn = self.file.set_len(self.bytes).is_err();
            return Err(error);
        }
        self.bytes += line.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Waits until everything appended is on the disk.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.file.sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Replaces everything by `records`, or changes nothing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn rewrite<'r>(&mut self, records: impl Iterator<Item = &'r str>) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let written = write_all(&beside, records);
        let (file, bytes) = written.inspect_err(|_| {
            // It is only in the way, most of all if the disk is full.
            let _ = fs::remove_file(&beside);
        })?;
        fs::rename(&beside, &self.path)?;
        // The name is as much in need of the disk as the content.
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.file = file;
        self.bytes = bytes;
        self.unsynced = false;
        self.torn = false;
        Ok(())
    }
}

fn write_all<'r>(path: &Path, records: impl Iterator<Item = &'r str>) -> io::Result<(File, u64)> {
    // What a killed process left behind.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().create(true).append(true).open(path)?;
    let mut bytes = 0;
    let mut chunk = String::new();
    for record in records {
        chunk += &line(record);
        if chunk.len() > 64 << 10 {
            file.write_all(chunk.as_bytes())?;
            bytes += chunk.len() as u64;
            chunk.clear();
        }
    }
    file.write_all(chunk.as_bytes())?;
    file.sync_all()?;
    Ok((file, bytes + chunk.len() as u64))
}

fn line(json: &str) -> String {
    format!("{:016x} {json}\n", fnv1a(&[json.as_bytes()]))
}

/// The sound lines at the beginning of `content`, and how many bytes they are.
fn parse(content: &[u8]) -> (Vec<String>, usize) {
    let (mut lines, mut sound) = (Vec::new(), 0);
    while let Some(length) = content[sound..].iter().position(|byte| *byte == b'\n') {
        let text = std::str::from_utf8(&content[sound..sound + length]).unwrap_or("");
        let json = text.split_once(' ').map(|(_, json)| json).unwrap_or_default();
        if json.is_empty() || line(json).trim_end() != text {
            break;
        }
        lines.push(json.to_owned());
        sound += length + 1;
    }
    (lines, sound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state/mqtt.outbox");
        (folder, path)
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // Test vectors of the FNV specification.
        assert_eq!(fnv1a(&[b""]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(&[b"foo", b"bar"]), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_every_whole_line() {
        let (_folder, path) = folder();
        let (mut journal, lines) = Journal::open(&path).expect("the folder can be written");
        assert!(lines.is_empty());
        let records = ["{\"a\":1}", "{\"b\":\"two\"}", "{\"c\":[]}"];
        for record in records {
            journal.append(record).expect("there is room");
        }
        journal.sync().expect("there is a disk");
        drop(journal);
        let content = fs::read(&path).expect("it is there");
        let ends: Vec<_> = (0..content.len()).filter(|at| content[*at] == b'\n').collect();
        for cut in 0..=content.len() {
            fs::write(&path, &content[..cut]).expect("it can be written");
            let (mut journal, lines) = Journal::open(&path).expect("it is sound up to there");
            let whole = ends.iter().filter(|end| **end < cut).count();
            assert_eq!(lines, records[..whole], "cut at {cut}");
            journal.append("{\"d\":4}").expect("there is room");
            drop(journal);
            let (_, lines) = Journal::open(&path).expect("it is whole");
            assert_eq!((lines.len(), lines.last().map(String::as_str)), (whole + 1, Some("{\"d\":4}")));
        }
        let mut spoilt = content.clone();
        spoilt[ends[0] + 20] ^= 1;
        fs::write(&path, &spoilt).expect("it can be written");
        assert_eq!(Journal::open(&path).expect("the first line is sound").1, records[..1]);
    }

    #[test]
    fn one_process_at_a_time_and_a_rewrite_replaces_all() {
        let (_folder, path) = folder();
        let (mut journal, _) = Journal::open(&path).expect("the folder can be written");
        assert!(matches!(Journal::open(&path), Err(JournalError::InUse { .. })));
        for _ in 0..100 {
            journal.append("{\"old\":true}").expect("there is room");
        }
        let before = journal.bytes();
        journal.rewrite(["{\"new\":1}", "{\"new\":2}"].into_iter()).expect("there is room");
        assert!(journal.bytes() < before / 10);
        journal.append("{\"new\":3}").expect("there is room");
        assert_eq!(journal.bytes(), fs::metadata(&path).expect("it is there").len());
        drop(journal);
        assert_eq!(
            Journal::open(&path).expect("it is sound").1,
            ["{\"new\":1}", "{\"new\":2}", "{\"new\":3}"]
        );
    }
}
