//! Making a file whole or not at all: written beside its place under another name, then renamed.
//!
//! A file that is mapped must never be written in place, and a half-written result must not look like one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{CommandError, Exit};
use crate::figures;

/// A file under construction; removed again unless [`Replacement::keep`] is called.
#[derive(Debug)]
pub struct Replacement {
    out: Option<BufWriter<File>>,
    temporary: PathBuf,
    target: PathBuf,
}

impl Replacement {
    /// Begins a file that will stand at `target`.
    ///
    /// # Errors
    /// If `target` is no name for a file or its folder cannot be written.
    pub fn create(target: &Path) -> Result<Self, CommandError> {
        let Some(name) = target.file_name() else {
            let message = format!("'{}' is not the name of a file to write", target.display());
            return Err(CommandError::new(Exit::CannotCreate, message));
        };
        if target.is_dir() {
            let message = format!("'{}' is a directory; name a file in it", target.display());
            return Err(CommandError::new(Exit::CannotCreate, message));
        }
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".part{}", std::process::id()));
        let temporary = target.with_file_name(hidden);
        remove_left_parts(target, name);
        let file = File::create(&temporary).map_err(|error| cannot_write(target, &error))?;
        Ok(Replacement {
            out: Some(BufWriter::with_capacity(1 << 20, file)),
            temporary,
            target: target.to_owned(),
        })
    }

    /// Flushes, syncs and puts the file in its place, replacing what was there.
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
        fs::rename(&self.temporary, &self.target)
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.out {
            Some(out) => out.write(bytes),
            None => Err(io::Error::other("the file is already in its place")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // Gone already if it was kept; otherwise the disk may be full, and the part is in the way.
        drop(self.out.take());
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Removes parts of `target`, called `name`, that processes which ended in the middle have left: they may be gigabytes.
fn remove_left_parts(target: &Path, name: &OsStr) {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(folder) = fs::read_dir(folder.unwrap_or(Path::new("."))) else { return };
    let name = name.to_string_lossy();
    for entry in folder.flatten() {
        let found = entry.file_name();
        let found = found.to_string_lossy();
        let part = found.strip_prefix('.').and_then(|rest| rest.strip_prefix(&*name));
        if part.is_some_and(|rest| rest.starts_with(".part")) && is_left(&found) {
            // Whoever may not remove it finds out when the disk is full.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a file called `name` is a part that a process which is gone has left.
pub fn is_left(name: &str) -> bool {
    let process = name.strip_prefix('.').and_then(|name| name.rsplit_once(".part")?.1.parse::<u32>().ok());
    process.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
}

/// A failed write to the file `target`, in words.
pub fn cannot_write(target: &Path, error: &io::Error) -> CommandError {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull => "; free some space or name a file on another disk",
        io::ErrorKind::QuotaExceeded => "; your quota on this disk is used up",
        io::ErrorKind::NotFound => "; its folder does not exist",
        io::ErrorKind::PermissionDenied => "; this user may not write there",
        _ => "",
    };
    CommandError::new(Exit::CannotCreate, format!("cannot write '{}': {error}{hint}", target.display()))
}

/// Refuses to begin a file for which the disk has no room; the disk may still fill up meanwhile.
///
/// # Errors
/// If there is no room, with both sizes.
pub fn check_room(output: &Path, bytes: u64) -> Result<(), CommandError> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A folder that cannot be asked will say more when it is written to.
    let Ok(disk) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    let message = format!(
        "'{}' takes {}, {} are free in {}; free some space or name a file on another disk",
        output.display(),
        figures::bytes(bytes),
        figures::bytes(free),
        folder.display()
    );
    Err(CommandError::new(Exit::CannotCreate, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kept_file_appears_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out.bin");
        let mut file = Replacement::create(&target).expect("the folder is there");
        file.write_all(b"half").expect("a few bytes");
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
        fs::write(&target, b"old").expect("a few bytes");
        let mut file = Replacement::create(&target).expect("the folder is there");
        file.write_all(b"new").expect("a few bytes");
        assert_eq!(fs::read(&target).expect("still there"), b"old");
        file.keep().expect("a rename");
        assert_eq!(fs::read(&target).expect("replaced"), b"new");
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 1);
    }

    #[test]
    fn parts_of_processes_that_are_gone_are_removed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out.bin");
        // No process has a number this high; the others are ours, another file's, and no part at all.
        let ours = format!(".out.bin.part{}", std::process::id());
        for name in [".out.bin.part4294967295", &ours, ".other.bin.part4294967295", "out.bin.part4294967295"]
        {
            fs::write(folder.path().join(name), b"left").expect("a few bytes");
        }
        remove_left_parts(&target, OsStr::new("out.bin"));
        let left = fs::read_dir(folder.path()).expect("it is there").flatten().map(|entry| entry.file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, [".other.bin.part4294967295", &ours, "out.bin.part4294967295"].map(OsStr::new));
    }

    #[test]
    fn places_that_cannot_be_written_are_named() {
        for (target, word) in
            [("/nowhere/at/all/x", "does not exist"), ("/tmp", "directory"), ("/", "not the name")]
        {
            let error = Replacement::create(Path::new(target)).expect_err(target);
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(error.exit(), Exit::CannotCreate);
        }
    }
}
