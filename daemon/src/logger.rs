//! Log lines on standard error, as the system journal wants them or as a person reads them.

mod storms;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use log::{Level, LevelFilter, Log, Metadata, Record};
use storms::Storms;

/// Where log lines go.
struct Stderr {
    /// The journal reads standard error, and takes a priority in front of each line (`sd-daemon(3)`).
    journal: AtomicBool,
    storms: Mutex<Storms>,
}

static STDERR: Stderr = Stderr { journal: AtomicBool::new(false), storms: Mutex::new(Storms::new()) };

impl Stderr {
    fn write(&self, level: Level, message: &str) {
        let line = line(self.journal.load(Ordering::Relaxed), level, message);
        // Nobody is left to tell if standard error is closed.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    /// Tells the sums that are due, all of them at the end.
    fn sum_up(&self, now: Instant, all: bool) {
        let sums = self.storms.lock().unwrap_or_else(PoisonError::into_inner).sums(now, all);
        for (level, message) in sums {
            self.write(level, &message);
        }
    }
}

/// Priority of a level after `syslog(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// One line, line end included. A message may quote input: a line break in it must not begin a line of its own.
fn line(journal: bool, level: Level, message: &str) -> String {
    let message = message.replace(['\n', '\r'], " ");
    match (journal, level) {
        (true, _) => format!("<{}>{message}\n", priority(level)),
        (false, Level::Info) => format!("tern: {message}\n"),
        (false, _) => format!("tern: {}: {message}\n", level.as_str().to_ascii_lowercase()),
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (now, message) = (Instant::now(), record.args().to_string());
        self.sum_up(now, false);
        let place = (record.module_path_static().unwrap_or_default(), record.line().unwrap_or(0));
        let mut storms = self.storms.lock().unwrap_or_else(PoisonError::into_inner);
        let told = storms.is_told(place, record.level(), now, &message);
        drop(storms);
        if told {
            self.write(record.level(), &message);
        }
    }

    fn flush(&self) {
        self.sum_up(Instant::now(), false);
    }
}

/// Sends log messages up to `level` to standard error from now on. A second call only changes the level.
pub fn init(level: LevelFilter) {
    let journal = std::env::var_os("JOURNAL_STREAM").is_some_and(|value| !value.is_empty());
    STDERR.journal.store(journal, Ordering::Relaxed);
    // It fails if there is a logger already, which then is this one.
    let _ = log::set_logger(&STDERR);
    log::set_max_level(level);
}

/// Tells what was counted and not told yet; the process ends.
pub fn finish() {
    STDERR.sum_up(Instant::now(), true);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_with_its_priority() {
        assert_eq!(line(true, Level::Warn, "two\nlines"), "<4>two lines\n");
        assert_eq!(line(false, Level::Info, "ready"), "tern: ready\n");
        assert_eq!(line(false, Level::Error, "no"), "tern: error: no\n");
    }
}
