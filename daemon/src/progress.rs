//! A progress bar for long work: on standard error, and only where a person sees it.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that disappears when it is dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Work measured in bytes.
    pub fn bytes(what: &'static str, total: u64) -> Self {
        Self::with_template(what, total, "{msg} [{bar:32}] {bytes} of {total_bytes}, {eta} left")
    }

    /// Work measured in anything else.
    pub fn items(what: &'static str, total: u64) -> Self {
        Self::with_template(what, total, "{msg} [{bar:32}] {pos} of {len}, {eta} left")
    }

    fn with_template(what: &'static str, total: u64, template: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        // The default style stays if a template were wrong: a bar is not worth a failure.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("#>."));
        }
        Progress(bar.with_message(what))
    }

    /// So much more is done.
    pub fn add(&self, amount: u64) {
        self.0.inc(amount);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
