//! Keeping the book on disk, in a thread of its own: a memory card may take seconds for what the engine must not wait for.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::book::Book;
use super::file;
use crate::error::{CommandError, Exit};

/// Who holds this file's lock writes the record.
const LOCK: &str = "energy.lock";

/// The book that a daemon writes in, shared by its threads.
#[derive(Debug, Default)]
pub struct Daybook(Mutex<Book>);

impl Daybook {
    /// The book, for as long as one entry takes.
    pub fn open(&self) -> MutexGuard<'_, Book> {
        // An entry that was broken off by a panic is one count short at most.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Told {
    stop: Mutex<bool>,
    changed: Condvar,
}

/// Writes a book to disk every so often, and when it goes.
#[derive(Debug)]
pub struct Keeper {
    told: Arc<Told>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Resumes `book` from what is in `folder`, and keeps it there from now on.
    ///
    /// # Errors
    /// If the folder cannot be made or another daemon keeps its record there, or the system refuses a thread.
    pub fn start<B>(folder: &Path, every: Duration, book: Arc<B>) -> Result<Keeper, CommandError>
    where
        B: AsRef<Daybook> + Send + Sync + 'static,
    {
        let cannot = |error: &dyn std::error::Error| {
            CommandError::from_error(Exit::CannotCreate, error)
                .while_doing(format!("keeping the record of energy in '{}'", folder.display()))
        };
        fs::create_dir_all(folder).map_err(|error| cannot(&error))?;
        let lock = File::create(folder.join(LOCK)).map_err(|error| cannot(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "another daemon keeps its record of energy in '{}'; give each its own energy.record.folder",
                    folder.display()
                );
                return Err(CommandError::new(Exit::CannotCreate, message));
            }
            Err(TryLockError::Error(error)) => return Err(cannot(&error)),
        }
        (*book).as_ref().open().resume(file::take_up(folder));
        let told = Arc::new(Told::default());
        let (of_thread, folder) = (Arc::clone(&told), folder.to_owned());
        let thread = std::thread::Builder::new()
            .name("tern-record".into())
            .spawn(move || {
                // Held as long as this thread writes.
                let _lock = lock;
                keep(&folder, every, (*book).as_ref(), &of_thread);
            })
            .map_err(|error| cannot(&error))?;
        Ok(Keeper { told, thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.told.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that keeps the record of energy panicked; this is a fault of Tern");
        }
    }
}

fn keep(folder: &Path, every: Duration, book: &Daybook, told: &Told) {
    let mut pen = Pen { folder: folder.to_owned(), hour: None, changes: 0, failed: false };
    loop {
        let stop = told.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = told.changed.wait_timeout_while(stop, every, |stop| !*stop);
        let (stop, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_last = *stop;
        drop(stop);
        pen.write(book, is_last);
        if is_last {
            return;
        }
    }
}

/// What writes the files.
struct Pen {
    folder: PathBuf,
    /// The hour in which all pages were last written.
    hour: Option<u64>,
    /// Changes that are on disk.
    changes: u64,
    failed: bool,
}

impl Pen {
    fn write(&mut self, book: &Daybook, is_last: bool) {
        let (record, touched, hour, changes) = {
            let book = book.open();
            if book.changes() == self.changes {
                return;
            }
            (book.record().clone(), book.touched().clone(), book.hour(), book.changes())
        };
        // The hours first: until the other file is written, pages are in both.
        let all = is_last || self.hour != Some(hour);
        let written = if all { file::write_hours(&self.folder, &record) } else { Ok(()) };
        let written = written.and_then(|()| {
            file::write_recent(&self.folder, &record, |page| {
                touched.contains(&page.hour) && (!all || page.hour == hour)
            })
        });
        match written {
            Ok(()) => {
                self.changes = changes;
                self.failed = false;
                if all {
                    self.hour = Some(hour);
                    book.open().written();
                }
            }
            // Once, not once a minute.
            Err(error) if !self.failed => {
                self.failed = true;
                log::warn!("{error}; the record of energy is kept in memory until it can be written");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sums::Charge;
    use super::*;
    use tern_boards::energy::fake::FakeMeter;
    use tern_boards::energy::{Ledger, Phase};

    impl AsRef<Daybook> for Daybook {
        fn as_ref(&self) -> &Daybook {
            self
        }
    }

    fn run(folder: &Path, tokens: u64) {
        let book = Arc::new(Daybook::default());
        let keeper = Keeper::start(folder, Duration::from_secs(3600), Arc::clone(&book)).expect("it starts");
        let ledger = Ledger::new(Some(Box::new(FakeMeter::steady(1_000_000))), Duration::ZERO);
        book.open().set_tasks(["grade"].into_iter());
        book.open().begin(&ledger, Duration::ZERO);
        let charge = Charge { tokens, uj: Some(tokens * 10), is_lump: false };
        book.open().charge("grade", Phase::Decode, charge);
        book.open().settle(&ledger, Duration::from_secs(1));
        let error = Keeper::start(folder, Duration::from_secs(1), Arc::new(Daybook::default()));
        assert!(error.is_err_and(|error| error.to_string().contains("another daemon")));
        drop(keeper);
    }

    #[test]
    fn a_restart_goes_on_with_the_sums() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("state");
        run(&state, 5);
        run(&state, 7);
        let record = file::read(&state).expect("ours").expect("there");
        let work = record.totals[0].sums.tasks["grade"];
        assert_eq!((record.totals.len(), work.decode_tokens, work.decode_uj), (1, 12, 120));
        let pages: u64 = record.pages.iter().map(|page| page.sums.tasks["grade"].decode_uj).sum();
        assert_eq!(pages, 120);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_and_costs_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a few bytes");
        let error = Keeper::start(&file.join("state"), Duration::from_secs(1), Arc::new(Daybook::default()));
        assert!(error.is_err_and(|error| error.to_string().contains("record of energy")));
    }
}
