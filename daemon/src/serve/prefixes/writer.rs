//! The thread that writes: a memory card may take seconds for what the engine must not wait for.
//!
//! Pages come through a queue of [`QUEUED`] pieces, so that no more than that many are in memory twice. A file stands under its
//! name only once all of it is synced; one that cannot be written whole is forgotten.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use super::file::{BASIS, checksum};
use crate::replace::{Replacement, is_left};

/// Pieces that may wait for the disk.
const QUEUED: usize = 4;

/// What the thread is told.
#[derive(Debug)]
pub enum Piece {
    /// A file begins: its place, its first line, and the bytes of its pages.
    Begin {
        /// Where it is to stand.
        path: PathBuf,
        /// Its first line with its end.
        line: Vec<u8>,
        /// Bytes of all pages together.
        bytes: u64,
    },
    /// The next page of it.
    Page(Box<[u8]>),
    /// It has all its pages.
    End,
    /// There is no more of it; what was written is removed.
    Abandon,
    /// A file was of use.
    Used(PathBuf),
}

/// The other end of the queue.
#[derive(Debug)]
pub struct Writer {
    pieces: SyncSender<Piece>,
    /// What found no room in the queue.
    unsent: Option<Piece>,
    #[cfg_attr(not(test), allow(dead_code, reason = "only a test waits for it"))]
    thread: JoinHandle<()>,
}

impl Writer {
    /// A thread that keeps files of at most `max_bytes` together.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(max_bytes: u64) -> io::Result<Self> {
        let (pieces, told) = mpsc::sync_channel(QUEUED);
        let thread = std::thread::Builder::new()
            .name("tern-prefixes".into())
            .spawn(move || Files { max_bytes, is_failing: false, open: None }.write(&told))?;
        Ok(Writer { pieces, unsent: None, thread })
    }

    /// Whether another piece can be taken now.
    pub fn has_room(&mut self) -> bool {
        match self.unsent.take() {
            None => true,
            Some(piece) => self.send(piece),
        }
    }

    /// Hands over a piece, at once or as soon as there is room; says whether another one can be taken.
    pub fn send(&mut self, piece: Piece) -> bool {
        debug_assert!(self.unsent.is_none(), "who has no room is not asked");
        match self.pieces.try_send(piece) {
            Ok(()) => true,
            Err(TrySendError::Full(piece)) => {
                self.unsent = Some(piece);
                false
            }
            // It ends only when this does; a panic is told elsewhere.
            Err(TrySendError::Disconnected(_)) => true,
        }
    }

    /// Waits until all that was handed over is written.
    #[cfg(test)]
    pub fn finish(self) {
        if let Some(piece) = self.unsent {
            self.pieces.send(piece).expect("the thread is there");
        }
        drop(self.pieces);
        self.thread.join().expect("the thread ends well");
    }
}

/// A file that is being written.
struct Open {
    path: PathBuf,
    file: Replacement,
    sum: u64,
}

struct Files {
    max_bytes: u64,
    /// The last file could not be written, and it was said.
    is_failing: bool,
    open: Option<Open>,
}

impl Files {
    fn write(mut self, told: &Receiver<Piece>) {
        while let Ok(piece) = told.recv() {
            if let Err(why) = self.take(piece) {
                self.open = None;
                let level = if self.is_failing { log::Level::Debug } else { log::Level::Warn };
                self.is_failing = true;
                log::log!(
                    level,
                    "what tasks begin with is not kept on disk and computed at the next start: {why}"
                );
            }
        }
    }

    fn take(&mut self, piece: Piece) -> Result<(), String> {
        let words = |error: io::Error| error.to_string();
        match piece {
            Piece::Begin { path, line, bytes } => {
                let folder = path.parent().unwrap_or(&path);
                fs::create_dir_all(folder).map_err(|error| format!("'{}': {error}", folder.display()))?;
                make_room(folder, self.max_bytes.saturating_sub(bytes)).map_err(words)?;
                let mut file = Replacement::create(&path).map_err(|error| error.to_string())?;
                file.write_all(&line).map_err(words)?;
                self.open = Some(Open { path, file, sum: checksum(BASIS, &line) });
            }
            Piece::Page(page) => {
                if let Some(open) = &mut self.open {
                    open.sum = checksum(open.sum, &page);
                    let path = &open.path;
                    open.file.write_all(&page).map_err(|error| format!("'{}': {error}", path.display()))?;
                }
            }
            Piece::End => {
                if let Some(Open { path, mut file, sum }) = self.open.take() {
                    file.write_all(&sum.to_le_bytes()).map_err(words)?;
                    file.keep().map_err(|error| error.to_string())?;
                    self.is_failing = false;
                    log::debug!("what a task begins with is kept in '{}'", path.display());
                }
            }
            Piece::Abandon => self.open = None,
            Piece::Used(path) => {
                // Who may not write there keeps nothing there either.
                let file = fs::File::options().write(true).open(path);
                let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
            }
        }
        Ok(())
    }
}

/// Removes the files that were not used for longest until those that are left have at most `most` bytes, and what processes
/// that ended in the middle have left.
pub fn make_room(folder: &Path, most: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_left(&entry.file_name().to_string_lossy()) {
            fs::remove_file(entry.path())?;
            continue;
        }
        let meta = entry.metadata()?;
        if meta.is_file() && entry.path().extension().is_some_and(|ending| ending == "kv") {
            files.push((meta.modified()?, meta.len(), entry.path()));
        }
    }
    files.sort();
    let mut all: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in files {
        if all <= most {
            break;
        }
        fs::remove_file(path)?;
        all -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    #[test]
    fn the_files_not_used_for_longest_make_room() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let old = SystemTime::now() - Duration::from_secs(100);
        let left = format!(".c.kv.part{}", u32::MAX);
        for (age, name) in ["a.kv", "b.kv", "c.kv", "other", &left].into_iter().enumerate() {
            fs::write(folder.path().join(name), [0; 10]).expect("a place for it");
            let file = fs::File::options().write(true).open(folder.path().join(name)).expect("it is there");
            file.set_modified(old + Duration::from_secs(age as u64)).expect("it can be set");
        }
        let mut writer = Writer::start(1).expect("a thread");
        assert!(writer.send(Piece::Used(folder.path().join("a.kv"))));
        writer.finish();
        make_room(folder.path(), 15).expect("it can be read");
        let is_there = |name: &str| folder.path().join(name).exists();
        let found = ["a.kv", "b.kv", "c.kv", "other", &left].map(is_there);
        assert_eq!(found, [true, false, false, true, false]);
    }

    #[test]
    fn what_is_not_whole_never_stands_under_its_name_and_a_bad_place_harms_nobody() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("kept/1.kv");
        let begin = |path: &Path| Piece::Begin { path: path.to_owned(), line: b"{}\n".to_vec(), bytes: 4 };
        let page = || Piece::Page(vec![7; 4].into());
        let written = |pieces: Vec<Piece>| {
            let mut writer = Writer::start(100).expect("a thread");
            for piece in pieces {
                while !writer.has_room() {
                    std::thread::yield_now();
                }
                writer.send(piece);
            }
            writer.finish();
            fs::read_dir(folder.path().join("kept")).map_or(0, Iterator::count)
        };
        // The daemon ends in the middle, or the pages are gone.
        assert_eq!(written(vec![begin(&path), page()]), 0);
        assert_eq!(written(vec![begin(&path), page(), Piece::Abandon, Piece::End]), 0);
        // A file where the folder should be, whatever follows; then a good place.
        fs::write(folder.path().join("file"), b"").expect("a place for it");
        let bad = folder.path().join("file/1.kv");
        let pieces = [
            begin(&bad),
            page(),
            Piece::End,
            begin(&bad),
            page(),
            Piece::End,
            begin(&path),
            page(),
            Piece::End,
        ];
        assert_eq!(written(pieces.into()), 1);
        let sum = checksum(checksum(BASIS, b"{}\n"), &[7; 4]).to_le_bytes();
        assert_eq!(fs::read(&path).expect("it is there"), [b"{}\n".as_slice(), &[7; 4], &sum].concat());
        // A device that is always full.
        if Path::new("/dev/full").exists() {
            std::os::unix::fs::symlink(
                "/dev/full",
                folder.path().join(format!("kept/.2.kv.part{}", std::process::id())),
            )
            .expect("a link");
            assert_eq!(written(vec![begin(&folder.path().join("kept/2.kv")), page(), Piece::End]), 1);
        }
    }
}
