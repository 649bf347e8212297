//! Results on standard output: a text for people, or one JSON value for programs.

use std::io::Write;

use serde::Serialize;

use crate::error::{CommandError, Exit};

/// Writes `text` as it is.
///
/// # Errors
/// If standard output cannot be written; a closed pipe is an ordinary end.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| CommandError::output(&error))
}

/// Writes `value` as indented JSON and a line break.
///
/// # Errors
/// As [`print`](fn@print).
pub fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CommandError::from_error(Exit::Internal, &error))?;
    print(&(text + "\n"))
}
