//! Progress of long work: a bar on standard error where a person sees it, and the status of a service.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::systemd::Loading;

/// A bar that disappears when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    service: Option<Loading>,
}

impl Progress {
    /// Work measured in bytes.
    pub fn bytes(what: &'static str, total: u64) -> Self {
        Self::with_template(
            what,
            total,
            "{msg} [{bar:32}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        )
    }

    /// Work measured in anything else.
    pub fn items(what: &'static str, total: u64) -> Self {
        Self::with_template(what, total, "{msg} [{bar:32}] {pos} of {len}, {eta} left")
    }

    fn with_template(what: &'static str, total: u64, template: &str) -> Self {
        let service = Loading::begin(what, total);
        if !std::io::stderr().is_terminal() {
            return Progress { bar: ProgressBar::hidden(), service };
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        // The default style stays if a template were wrong: a bar is not worth a failure.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("#>."));
        }
        Progress { bar: bar.with_message(what), service }
    }

    /// So much more is done.
    pub fn add(&self, amount: u64) {
        self.bar.inc(amount);
        if let Some(service) = &self.service {
            service.add(amount);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
