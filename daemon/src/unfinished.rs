//! A large file made over as many attempts as it takes: what a process that was killed has written is kept and gone on
//! from, and the file appears under its name only when it is whole.
//!
//! ```text
//! .NAME.part           the beginning of the file
//! .NAME.part.journal   line 1: what is being made; then a line for every place from which work may go on:
//!                      "TENSORS BYTES", written once those bytes are on the disk
//! ```
//! The journal is locked while somebody works on it. An error (a full disk, say) removes both: nobody looks for a hidden
//! file when room is short. Only a process that ends without a word leaves them behind, for the next one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{CommandError, Exit};
use crate::packing::Output;
use crate::replace::cannot_write;

/// Places to go on from are at least this far apart: each waits for the disk.
const BETWEEN_MARKS: Duration = Duration::from_millis(300);

/// A file under construction.
#[derive(Debug)]
pub struct Unfinished {
    out: Option<BufWriter<File>>,
    journal: File,
    part: PathBuf,
    journal_path: PathBuf,
    target: PathBuf,
    tensors_done: usize,
    at_bytes: u64,
    marked: Instant,
}

impl Unfinished {
    /// Begins a file that will stand at `target`, or goes on with one of the same `identity`, a line that tells what is
    /// being made.
    ///
    /// # Errors
    /// If `target` is no name for a file, its folder cannot be written, or another process is at it.
    pub fn begin(target: &Path, identity: &str) -> Result<Self, CommandError> {
        let name = target.file_name().filter(|_| !target.is_dir()).ok_or_else(|| {
            let message = format!("'{}' is not the name of a file to write", target.display());
            CommandError::new(Exit::CannotCreate, message)
        })?;
        let beside = |ending: &str| {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(ending);
            target.with_file_name(hidden)
        };
        let (part, journal_path) = (beside(".part"), beside(".part.journal"));
        let failed = |error: &io::Error| cannot_write(target, error);
        let open =
            |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut journal = open(&journal_path).map_err(|error| failed(&error))?;
        match journal.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!("another process is writing '{}'; wait for it", target.display());
                return Err(CommandError::new(Exit::CannotCreate, message));
            }
            Err(TryLockError::Error(error)) => return Err(failed(&error)),
        }
        let mut out = open(&part).map_err(|error| failed(&error))?;
        let (tensors_done, at_bytes) =
            prepare(&mut journal, &mut out, identity).map_err(|error| failed(&error))?;
        Ok(Unfinished {
            out: Some(BufWriter::with_capacity(1 << 20, out)),
            journal,
            part,
            journal_path,
            target: target.to_owned(),
            tensors_done,
            at_bytes,
            marked: Instant::now(),
        })
    }

    /// Bytes that an earlier attempt has written; 0 for a file begun anew.
    pub fn resumed_bytes(&self) -> u64 {
        if self.tensors_done == 0 { 0 } else { self.at_bytes }
    }

    /// Syncs the file and puts it in its place, replacing what was there.
    ///
    /// # Errors
    /// If anything of it cannot be written; nothing has changed then.
    pub fn keep(mut self) -> Result<(), CommandError> {
        self.finish().map_err(|error| cannot_write(&self.target, &error))
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Some(out) = self.out.take() {
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        }
        fs::rename(&self.part, &self.target)
    }
}

/// Reads what the journal says and puts `out` where work goes on; empties both if they are of something else.
fn prepare(journal: &mut File, out: &mut File, identity: &str) -> io::Result<(usize, u64)> {
    // A journal has a line a tensor at most; a longer file is none.
    let mut text = String::new();
    let readable = journal.take(1 << 20).read_to_string(&mut text).is_ok();
    let length = out.metadata()?.len();
    let whole_lines = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = whole_lines.lines();
    let is_ours = readable && lines.next() == Some(identity);
    let mark = |line: &str| {
        let (tensors, bytes) = line.split_once(' ')?;
        Some((tensors.parse().ok()?, bytes.parse().ok()?))
    };
    let last = if is_ours { lines.filter_map(mark).rfind(|&(_, bytes)| bytes <= length) } else { None };
    let (tensors, bytes) = last.unwrap_or((0usize, 0u64));
    out.set_len(bytes)?;
    out.seek(SeekFrom::Start(bytes))?;
    journal.set_len(0)?;
    journal.seek(SeekFrom::Start(0))?;
    let mut begun = format!("{identity}\n");
    if tensors > 0 {
        begun += &format!("{tensors} {bytes}\n");
    }
    journal.write_all(begun.as_bytes())?;
    Ok((tensors, bytes))
}

impl Output for Unfinished {
    fn tensors_done(&self) -> usize {
        self.tensors_done
    }

    fn tensor_done(&mut self, tensors: usize) -> io::Result<()> {
        if self.marked.elapsed() < BETWEEN_MARKS {
            return Ok(());
        }
        if let Some(out) = &mut self.out {
            out.flush()?;
            out.get_ref().sync_data()?;
        }
        let line = format!("{tensors} {}\n", self.at_bytes);
        self.journal.write_all(line.as_bytes())?;
        self.marked = Instant::now();
        Ok(())
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(out) = &mut self.out else {
            return Err(io::Error::other("the file is already in its place"));
        };
        let written = out.write(bytes)?;
        self.at_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        drop(self.out.take());
        // The part is gone already if it was kept; otherwise something went wrong, and it is in the way.
        let _ = fs::remove_file(&self.part);
        let _ = fs::remove_file(&self.journal_path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process that is killed after `tensors` leaves behind.
    fn killed(target: &Path, identity: &str, tensors: usize) {
        let mut file = Unfinished::begin(target, identity).expect("a place for it");
        for tensor in file.tensors_done()..tensors {
            file.write_all(&[tensor as u8; 10]).expect("room");
            file.marked = Instant::now() - BETWEEN_MARKS;
            file.tensor_done(tensor + 1).expect("room");
        }
        file.write_all(b"lost").expect("room");
        // The lock goes with the process; nothing else is tidied up.
        file.journal.unlock().expect("it was locked");
        std::mem::forget(file);
    }

    #[test]
    fn work_goes_on_behind_the_last_tensor_that_is_whole() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out.bin");
        killed(&target, "one", 2);
        killed(&target, "one", 3);
        assert!(!target.exists());
        let mut file = Unfinished::begin(&target, "one").expect("a place for it");
        assert_eq!((file.tensors_done(), file.resumed_bytes()), (3, 30));
        assert!(
            Unfinished::begin(&target, "one").expect_err("locked").to_string().contains("another process")
        );
        file.write_all(b"end").expect("room");
        file.keep().expect("a rename");
        let expected = [&[0u8; 10][..], &[1; 10], &[2; 10], b"end"].concat();
        assert_eq!(fs::read(&target).expect("it is there"), expected);
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 1);
    }

    #[test]
    fn what_is_of_something_else_or_cut_is_not_gone_on_from() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out.bin");
        killed(&target, "one", 2);
        let part = folder.path().join(".out.bin.part");
        // A disk that lost its end: the mark before it still holds.
        OpenOptions::new().write(true).open(&part).and_then(|file| file.set_len(15)).expect("a shorter file");
        killed(&target, "one", 1);
        let file = Unfinished::begin(&target, "one").expect("a place for it");
        assert_eq!(file.tensors_done(), 1);
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0, "an error leaves nothing");
        killed(&target, "one", 2);
        let file = Unfinished::begin(&target, "two").expect("a place for it");
        assert_eq!((file.tensors_done(), file.resumed_bytes()), (0, 0));
    }
}
