//! Log messages: to the system journal with fields, where standard error is connected to it, else lines on standard error
//! as a supervisor or a person reads them.
//!
//! Fields beside the journal's own: `TARGET` is the module, `TERN_CLIENT` and `TERN_REQUEST` say whose request a message is
//! about, `TERN_TASK` which task. No message and no field holds what a client sent to be read by a model.

mod storms;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use log::{Level, LevelFilter, Log, Metadata, Record};
use storms::Storms;
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Where log messages go.
struct Logger {
    /// The journal itself; a daemon finds out at its start whether it can be reached.
    journal: OnceLock<JournalLog>,
    /// Whoever reads standard error takes a priority in front of each line (`sd-daemon(3)`).
    prefixed: AtomicBool,
    storms: Mutex<Storms>,
}

static LOGGER: Logger =
    Logger { journal: OnceLock::new(), prefixed: AtomicBool::new(false), storms: Mutex::new(Storms::new()) };

impl Logger {
    fn write(&self, record: &Record<'_>) {
        if self.journal.get().is_some_and(|journal| journal.journal_send(record).is_ok()) {
            return;
        }
        let line = line(self.prefixed.load(Ordering::Relaxed), record.level(), &record.args().to_string());
        // Nobody is left to tell if standard error is closed.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    /// Tells the sums that are due, all of them at the end.
    fn sum_up(&self, now: Instant, all: bool) {
        let sums = self.storms.lock().unwrap_or_else(PoisonError::into_inner).sums(now, all);
        for (level, message) in sums {
            self.write(
                &Record::builder().level(level).target("tern").args(format_args!("{message}")).build(),
            );
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
fn line(prefixed: bool, level: Level, message: &str) -> String {
    let message = message.replace(['\n', '\r'], " ");
    match (prefixed, level) {
        (true, _) => format!("<{}>{message}\n", priority(level)),
        (false, Level::Info) => format!("tern: {message}\n"),
        (false, _) => format!("tern: {}: {message}\n", level.as_str().to_ascii_lowercase()),
    }
}

impl Log for Logger {
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
            self.write(record);
        }
    }

    fn flush(&self) {
        self.sum_up(Instant::now(), false);
    }
}

/// Logs messages up to `level` from now on. A second call only changes the level.
pub fn init(level: LevelFilter) {
    let named = std::env::var_os("JOURNAL_STREAM").is_some_and(|value| !value.is_empty());
    LOGGER.prefixed.store(named, Ordering::Relaxed);
    // Where its socket is not to be had, in a chroot say, lines still reach it through standard error.
    if connected_to_journal()
        && let Ok(journal) = JournalLog::empty()
    {
        // It fails if there is one already.
        let _ = LOGGER.journal.set(journal.with_syslog_identifier("tern".to_owned()));
    }
    // It fails if there is a logger already, which then is this one.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Tells what was counted and not told yet; the process ends.
pub fn finish() {
    LOGGER.sum_up(Instant::now(), true);
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
