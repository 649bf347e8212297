//! Reading the kernel's text files under a root that can be replaced.
//!
//! Everything this crate learns about a machine comes from small text files in `/proc` and `/sys`.
//! A [`Root`] says where those trees hang: `/` on a live machine, a folder with a recorded tree in
//! tests. Each read is bounded and ends in a value or in a [`ReadError`] with the path in it.

use core::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// No file this crate reads is larger (`/proc/stat` of a 256-core machine is about 60 KB).
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The place where `/proc`, `/sys` and `/etc` are found.
#[derive(Debug, Clone)]
pub struct Root {
    base: PathBuf,
    live: bool,
    denied: Vec<String>,
}

impl Root {
    /// A root at `base`; `Root::new("/")` is the machine this program runs on.
    pub fn new(base: impl Into<PathBuf>) -> Root {
        let base = base.into();
        let live = base == Path::new("/");
        Root { base, live, denied: Vec::new() }
    }

    /// Answers "permission denied" for reads of `path`, as the kernel does to an unprivileged user.
    ///
    /// Tests need it because the superuser may read a file whatever its mode says.
    #[must_use]
    pub fn denying(mut self, path: &str) -> Root {
        self.denied.push(path.to_owned());
        self
    }

    /// Whether this is the running machine rather than a recording of one.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Text of the file at `path` (absolute inside this root), trailing white space removed.
    ///
    /// # Errors
    /// [`ReadError`] when the file is missing, not readable, not UTF-8 or longer than 1 MiB.
    pub fn read(&self, path: &str) -> Result<String, ReadError> {
        let fail = |cause| ReadError { path: path.to_owned(), cause };
        if self.denied.iter().any(|denied| denied == path) {
            return Err(fail(ReadCause::Denied));
        }
        let mut bytes = Vec::new();
        let file = File::open(self.resolve(path)).map_err(|e| fail(ReadCause::from_io(&e)))?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| fail(ReadCause::from_io(&e)))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(fail(ReadCause::TooLong));
        }
        let mut text = String::from_utf8(bytes).map_err(|_| fail(ReadCause::NotText))?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// The file at `path` as one unsigned decimal number.
    ///
    /// # Errors
    /// As [`Root::read`], and [`ReadCause::NotNumber`] with the text found.
    pub fn read_u64(&self, path: &str) -> Result<u64, ReadError> {
        self.read_number(path)
    }

    /// The file at `path` as one signed decimal number (currents and temperatures go below zero).
    ///
    /// # Errors
    /// As [`Root::read_u64`].
    pub fn read_i64(&self, path: &str) -> Result<i64, ReadError> {
        self.read_number(path)
    }

    fn read_number<T: core::str::FromStr>(&self, path: &str) -> Result<T, ReadError> {
        let text = self.read(path)?;
        text.trim().parse().map_err(|_| ReadError {
            path: path.to_owned(),
            cause: ReadCause::NotNumber { found: text.chars().take(40).collect() },
        })
    }

    /// When the file at `path` was last written, by the clock on the wall.
    ///
    /// # Errors
    /// [`ReadError`] when it is missing, or may not be looked at.
    pub fn modified(&self, path: &str) -> Result<SystemTime, ReadError> {
        let modified = std::fs::metadata(self.resolve(path)).and_then(|metadata| metadata.modified());
        modified.map_err(|error| ReadError { path: path.to_owned(), cause: ReadCause::from_io(&error) })
    }

    /// Names in the folder at `path` in natural order (`cpu2` before `cpu10`); empty when there is none.
    pub fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.resolve(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_by(|a, b| natural_key(a).cmp(&natural_key(b)));
        names
    }

    /// Whether something is at `path`.
    pub fn exists(&self, path: &str) -> bool {
        self.resolve(path).exists()
    }

    /// Where the file at `path` of this root is, for callers that may write it.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path.trim_start_matches('/'))
    }
}

/// Sort key that puts `hwmon2` before `hwmon10`: the text before the last digits, then their value.
fn natural_key(name: &str) -> (&str, u64, &str) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name[stem.len()..].parse().unwrap_or(0), name)
}

/// A file of the system could not be read or understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    /// Path inside the root, as asked for.
    pub path: String,
    /// What went wrong.
    pub cause: ReadCause,
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReadCause {
    /// There is no such file.
    Missing,
    /// The file is there and this user may not read it.
    Denied,
    /// The kernel answered with another error (a sensor that does not respond gives one).
    Io(io::ErrorKind),
    /// The file is not UTF-8 text.
    NotText,
    /// The file is longer than 1 MiB.
    TooLong,
    /// A number was expected.
    NotNumber {
        /// The first 40 characters of what was there.
        found: String,
    },
}

impl ReadCause {
    pub(crate) fn from_io(error: &io::Error) -> ReadCause {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReadCause::Missing,
            io::ErrorKind::PermissionDenied => ReadCause::Denied,
            kind => ReadCause::Io(kind),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.cause {
            ReadCause::Missing => write!(f, "{path} does not exist"),
            ReadCause::Denied => write!(f, "{path} may not be read by this user"),
            ReadCause::Io(kind) => write!(f, "reading {path} failed: {kind}"),
            ReadCause::NotText => write!(f, "{path} is not UTF-8 text"),
            ReadCause::TooLong => write!(f, "{path} is longer than {MAX_FILE_BYTES} bytes"),
            ReadCause::NotNumber { found } => {
                write!(f, "{path} holds {found:?} where a decimal number was expected")
            }
        }
    }
}

impl core::error::Error for ReadError {}

/// CPU numbers in the kernel's list format (`0-3,6,8-9`).
///
/// Answers `None` for text that is not such a list, for ranges that run backwards and for CPU numbers
/// of 4096 and above, which no kernel has.
pub(crate) fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for item in text.trim().split(',').filter(|item| !item.is_empty()) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= 4096 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_parse_and_nonsense_does_not() {
        assert_eq!(parse_cpu_list("0-3,6\n"), Some(vec![0, 1, 2, 3, 6]));
        assert_eq!(parse_cpu_list(""), Some(vec![]));
        assert_eq!(parse_cpu_list("3-1"), None);
        assert_eq!(parse_cpu_list("0-99999999"), None);
        assert_eq!(parse_cpu_list("all"), None);
    }

    #[test]
    fn reads_are_bounded_and_name_the_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("n"), "12\n").unwrap();
        std::fs::write(dir.path().join("bad"), "twelve").unwrap();
        std::fs::write(dir.path().join("raw"), [0xff, 0xfe]).unwrap();
        std::fs::write(dir.path().join("long"), vec![b'a'; MAX_FILE_BYTES as usize + 1]).unwrap();
        let root = Root::new(dir.path()).denying("/secret");
        assert_eq!(root.read_u64("/n"), Ok(12));
        assert_eq!(
            root.read_u64("/bad").unwrap_err().to_string(),
            "/bad holds \"twelve\" where a decimal number was expected"
        );
        assert_eq!(root.read("/raw").unwrap_err().cause, ReadCause::NotText);
        assert_eq!(root.read("/long").unwrap_err().cause, ReadCause::TooLong);
        assert_eq!(root.read("/none").unwrap_err().cause, ReadCause::Missing);
        assert_eq!(root.read("/secret").unwrap_err().cause, ReadCause::Denied);
    }

    #[test]
    fn folders_list_in_natural_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cpu10", "cpu2", "cpu0", "cpufreq"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(Root::new(dir.path()).list("/"), ["cpu0", "cpu2", "cpu10", "cpufreq"]);
        assert!(Root::new(dir.path()).list("/none").is_empty());
    }
}
