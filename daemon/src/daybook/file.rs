//! The record on disk: two small JSON files, each replaced as a whole.
//!
//! ```text
//! energy.json         sums by meter, and the pages that changed since the other file was written; every minute
//! energy-hours.json   all pages; when an hour ends, and when the daemon ends
//! ```
//!
//! The first is a few kilobytes, so that memory cards last. A crash may leave a page in both: the one with more running
//! time is the later. Every file says its format and version first; one that is damaged or of another version is set
//! aside, never overwritten unread.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::book::{METERS, PAGES, Page, Record, Total, now_s};
use super::sums::MOST_TASKS;
use crate::error::CommandError;
use crate::replace::Replacement;

/// Sums, and what changed lately.
pub const RECENT: &str = "energy.json";

/// All pages.
pub const HOURS_FILE: &str = "energy-hours.json";

const FORMAT: &str = "tern-energy";
const VERSION: u32 = 1;

/// No record is larger: 1024 pages of 64 tasks are 12 MB, and usual ones have three tasks.
const MOST_BYTES: u64 = 32 << 20;

/// Members of the group may read what the daemon's own mask would keep to itself: those who may ask it.
const MODE: u32 = 0o640;

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    version: u32,
    written_s: u64,
    totals: Vec<Total>,
    pages: Vec<Page>,
}

/// A file that is no record of ours.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecordError {
    /// It cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is another program's, or another version's.
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its format and version.
        found: String,
    },
    /// It is damaged.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl RecordError {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            RecordError::Read { path, .. }
            | RecordError::Foreign { path, .. }
            | RecordError::Damaged { path, .. } => path,
        }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path().display();
        match self {
            RecordError::Read { .. } => write!(f, "cannot read the record of energy '{path}'"),
            RecordError::Foreign { found, .. } => write!(
                f,
                "'{path}' is {found}, where {FORMAT} version {VERSION} was expected; use the program that wrote it, or \
                 move it away"
            ),
            RecordError::Damaged { message, .. } => {
                write!(f, "the record of energy '{path}' is damaged: {message}; move it away")
            }
        }
    }
}

impl std::error::Error for RecordError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RecordError::Read { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The record in `folder`; `None` if there is none.
///
/// # Errors
/// The first file that is there and is no record.
pub fn read(folder: &Path) -> Result<Option<Record>, RecordError> {
    let recent = read_file(&folder.join(RECENT))?;
    let hours = read_file(&folder.join(HOURS_FILE))?;
    Ok(match (recent, hours) {
        (None, None) => None,
        (recent, hours) => Some(join(recent, hours)),
    })
}

/// As [`read`], for who writes there: a file that is no record is set aside with a warning, and forgotten.
pub fn take_up(folder: &Path) -> Record {
    let take = |name: &str| match read_file(&folder.join(name)) {
        Ok(stored) => stored,
        Err(error) => {
            let aside = folder.join(format!("{name}.aside"));
            let moved = match fs::rename(folder.join(name), &aside) {
                Ok(()) => format!("it is now '{}', and a new one is begun", aside.display()),
                Err(error) => format!("it cannot be moved away and will be replaced: {error}"),
            };
            log::warn!("{}: {moved}", CommandError::from_error(crate::error::Exit::BadInput, &error));
            None
        }
    };
    let recent = take(RECENT);
    let hours = take(HOURS_FILE);
    join(recent, hours)
}

fn join(recent: Option<Stored>, hours: Option<Stored>) -> Record {
    let mut pages = hours.map(|stored| stored.pages).unwrap_or_default();
    let (totals, recent) = recent.map(|stored| (stored.totals, stored.pages)).unwrap_or_default();
    for page in recent {
        match pages.iter_mut().find(|old| old.hour == page.hour && old.meter == page.meter) {
            Some(old) if old.sums.running_ms > page.sums.running_ms => {}
            Some(old) => *old = page,
            None => pages.push(page),
        }
    }
    pages.sort_by_key(|page| page.hour);
    Record { totals, pages }
}

fn read_file(path: &Path) -> Result<Option<Stored>, RecordError> {
    let unreadable = |error| RecordError::Read { path: path.to_owned(), error };
    let damaged = |message: String| RecordError::Damaged { path: path.to_owned(), message };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(found) if found.len() > MOST_BYTES => {
            return Err(damaged(format!("{} bytes, at most {MOST_BYTES} are written", found.len())));
        }
        Ok(_) => {}
    }
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(damaged("it is not UTF-8".into()));
        }
        text => text.map_err(unreadable)?,
    };
    let head: Head = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    if head.format != FORMAT || head.version != VERSION {
        let found = format!("{:?} version {}", head.format, head.version);
        return Err(RecordError::Foreign { path: path.to_owned(), found });
    }
    let stored: Stored = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let many = |sums: &super::sums::Sums| sums.tasks.len() > MOST_TASKS + 1;
    if stored.pages.len() > PAGES || stored.totals.len() > METERS {
        let found = format!("{} pages of {} meters", stored.pages.len(), stored.totals.len());
        return Err(damaged(format!("{found}; at most {PAGES} of {METERS} are written")));
    }
    if stored
        .pages
        .iter()
        .map(|page| &page.sums)
        .chain(stored.totals.iter().map(|total| &total.sums))
        .any(many)
    {
        return Err(damaged(format!("more than {MOST_TASKS} tasks in a sum")));
    }
    Ok(Some(stored))
}

/// Writes the sums, and the pages that `wanted` says.
///
/// # Errors
/// If it cannot be written; the file that was there still is.
pub fn write_recent(
    folder: &Path,
    record: &Record,
    wanted: impl Fn(&Page) -> bool,
) -> Result<(), CommandError> {
    let pages = record.pages.iter().filter(|page| wanted(page)).cloned().collect();
    write(&folder.join(RECENT), record.totals.clone(), pages)
}

/// Writes all pages.
///
/// # Errors
/// As [`write_recent`].
pub fn write_hours(folder: &Path, record: &Record) -> Result<(), CommandError> {
    write(&folder.join(HOURS_FILE), Vec::new(), record.pages.clone())
}

fn write(path: &Path, totals: Vec<Total>, pages: Vec<Page>) -> Result<(), CommandError> {
    let stored = Stored { format: FORMAT.into(), version: VERSION, written_s: now_s(), totals, pages };
    let cannot = |error: io::Error| crate::replace::cannot_write(path, &error);
    let mut file = Replacement::create(path)?;
    serde_json::to_writer(&mut file, &stored).map_err(|error| cannot(error.into()))?;
    file.write_all(b"\n").map_err(cannot)?;
    file.keep()?;
    fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::super::sums::Sums;
    use super::*;

    fn record(hours: &[(u64, u64)]) -> Record {
        let sums = |running_ms| {
            let mut sums = Sums { running_ms, ..Sums::default() };
            sums.task("grade").answered = running_ms;
            sums
        };
        let page = |&(hour, running_ms): &(u64, u64)| Page { hour, meter: None, sums: sums(running_ms) };
        let total = Total { meter: None, since_s: 5, sums: sums(hours.iter().map(|hour| hour.1).sum()) };
        Record { totals: vec![total], pages: hours.iter().map(page).collect() }
    }

    #[test]
    fn what_was_written_is_read_and_the_later_page_wins() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert!(read(folder.path()).expect("nothing").is_none());
        let earlier = record(&[(7, 100), (8, 50)]);
        write_hours(folder.path(), &earlier).expect("it can be written");
        let later = record(&[(7, 100), (8, 60), (9, 1)]);
        write_recent(folder.path(), &later, |page| page.hour > 7).expect("it can be written");
        assert_eq!(read(folder.path()).expect("ours").expect("a record"), later);
        // Killed between the two: the hours are newer than what changed.
        write_hours(folder.path(), &record(&[(7, 100), (8, 99), (9, 1)])).expect("it can be written");
        assert_eq!(take_up(folder.path()).pages[1].sums.running_ms, 99);
        let mode = fs::metadata(folder.path().join(RECENT)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn files_that_are_no_record_are_refused_to_readers_and_set_aside_by_the_daemon() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(RECENT);
        for (text, word) in [
            (&b"{\"format\":\"tern-energy\",\"ver"[..], "damaged"),
            (b"\xff\xfe\x00", "UTF-8"),
            (b"{\"format\":\"tern-energy\",\"version\":9,\"shiny\":1}", "version 9"),
            (b"{\"format\":\"other\",\"version\":1}", "\"other\""),
            (
                b"{\"format\":\"tern-energy\",\"version\":1,\"written_s\":-4,\"totals\":[],\"pages\":[]}",
                "damaged",
            ),
            (b"", "damaged"),
        ] {
            fs::write(&path, text).expect("a few bytes");
            let error = read(folder.path()).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(take_up(folder.path()), Record::default());
            assert!(!path.exists(), "{word}");
            assert_eq!(fs::read(folder.path().join("energy.json.aside")).expect("set aside"), text);
        }
    }

    #[test]
    fn a_month_of_hours_has_a_bounded_size() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let hours: Vec<(u64, u64)> = (0..768).map(|hour| (hour, 3_600_000)).collect();
        write_hours(folder.path(), &record(&hours)).expect("it can be written");
        let bytes = fs::metadata(folder.path().join(HOURS_FILE)).expect("there").len();
        assert!(bytes < 400_000, "{bytes}");
    }
}
