//! Text as it comes: printed while the daemon writes it.

use std::io::{self, Write};
use std::sync::atomic::AtomicBool;

use crate::client::{Client, ClientError};
use crate::cost;
use crate::error::CommandError;
use crate::local::unexpected;
use crate::wire::{Answer, Request, Text};

/// What a command that answers with text prints.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Printing {
    /// Print the daemon's answer as one JSON object a line, when it is complete
    #[arg(long)]
    pub json: bool,
    /// Do not say on standard error what the answer cost
    #[arg(long, short)]
    pub quiet: bool,
}

impl Printing {
    /// Sends `request`, prints its text on standard output and its cost on standard error. Once `stop` is set the
    /// request is cancelled, which is an error whose reason is `cancelled`.
    ///
    /// # Errors
    /// If the daemon refuses or is gone, or the output cannot be written.
    pub fn stream(
        self,
        client: &mut Client,
        mut request: Request,
        stop: Option<&AtomicBool>,
    ) -> Result<Text, CommandError> {
        request.stream = !self.json;
        let mut out = io::stdout().lock();
        let mut ends_line = true;
        let print = |text: &str| {
            ends_line = text.ends_with('\n');
            out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ClientError::Output)
        };
        let answer = match stop {
            Some(stop) => client.ask_until(&request, stop, print),
            None => client.ask(&request, print),
        };
        if !ends_line {
            // Also after an error: its message must not run into the text.
            writeln!(out).map_err(|error| CommandError::output(&error))?;
        }
        let text = match answer? {
            Answer::Text(text) => text,
            other => return Err(unexpected(&other)),
        };
        if self.json {
            json_line(&mut out, &Answer::Text(text.clone()))?;
        } else if text.text.is_empty() {
            writeln!(out).map_err(|error| CommandError::output(&error))?;
        }
        drop(out);
        if !self.quiet {
            eprintln!("[{}]", cost::line(&text.usage, &text.energy));
        }
        Ok(text)
    }
}

/// Writes `value` as one line of JSON.
pub fn json_line(out: &mut impl Write, value: &impl serde::Serialize) -> Result<(), CommandError> {
    let line = serde_json::to_string(value).map_err(|error| CommandError::output(&error.into()))?;
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| CommandError::output(&error))
}
