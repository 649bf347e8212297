//! What is kept on disk: lines go to the journal while it takes them. When it refuses, what is missing comes
//! with the next rewrite of everything, which is tried again and again.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::transport::mqtt::journal::{Journal, JournalError};

/// Pause before a disk that refused is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// A journal that may be out of order for a while.
#[derive(Debug)]
pub struct Disk {
    journal: Journal,
    /// What it holds, for people.
    what: &'static str,
    /// What the system said, and when it was last tried.
    trouble: Option<(String, Instant)>,
}

impl Disk {
    /// Opens the journal of `what` at `path` and returns what is in it.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn open<R: DeserializeOwned>(
        path: &Path,
        what: &'static str,
    ) -> Result<(Self, Vec<R>), JournalError> {
        let (journal, lines) = Journal::open(path)?;
        let parsed: Vec<_> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let strange = lines.len() - parsed.len();
        if strange > 0 {
            log::warn!("{strange} records of the {what} are of another version of Tern and were passed over");
        }
        Ok((Disk { journal, what, trouble: None }, parsed))
    }

    /// Bytes of the journal.
    pub fn bytes(&self) -> u64 {
        self.journal.bytes()
    }

    /// Why not everything is on disk, if so.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|(reason, _)| reason.as_str())
    }

    /// Whether a disk that refused is to be tried again.
    pub fn is_to_be_tried(&self) -> bool {
        self.trouble.as_ref().is_some_and(|(_, since)| since.elapsed() >= PAUSE)
    }

    /// Appends a record.
    pub fn write(&mut self, record: &impl Serialize) {
        if self.trouble.is_none() {
            let line = serde_json::to_string(record).map_err(io::Error::from);
            let written = line.and_then(|line| self.journal.append(&line));
            self.note(written);
        }
    }

    /// Waits until all that was written is on the disk.
    pub fn sync(&mut self) {
        if self.trouble.is_none() {
            let synced = self.journal.sync();
            self.note(synced);
        }
    }

    /// Replaces everything by `records`, after which nothing is missing.
    pub fn rewrite(&mut self, records: &[impl Serialize]) {
        let lines: Result<Vec<_>, _> = records.iter().map(serde_json::to_string).collect();
        let lines = lines.map_err(io::Error::from);
        let written = lines.and_then(|lines| self.journal.rewrite(lines.iter().map(String::as_str)));
        if written.is_ok() && self.trouble.take().is_some() {
            log::warn!("the {} is on disk again; answers go out", self.what);
        }
        self.note(written);
    }

    fn note(&mut self, done: io::Result<()>) {
        let Err(error) = done else { return };
        if self.trouble.is_none() {
            log::error!(
                "the {} cannot be written ({error}); answers wait, and messages stay with the broker, until it can: \
                 make room or mend the disk",
                self.what
            );
        }
        self.trouble = Some((error.to_string(), Instant::now()));
    }
}
