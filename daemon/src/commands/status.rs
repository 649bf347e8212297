//! `tern status`: what a running daemon says of itself.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use tern_protocol::answer::State;

use crate::client::Client;
use crate::config::default_socket;
use crate::error::{CommandError, Exit};
use crate::output::{print, print_json};
use crate::wire::{Answer, Request, Status};

/// Says what a running daemon does, and fails where none answers
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Socket of the daemon; without it the default one
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
///
/// # Errors
/// [`Exit::Unavailable`] if no daemon answers or it is shutting down.
pub fn run(args: &StatusArgs) -> Result<(), CommandError> {
    let socket = args.socket.clone().unwrap_or_else(default_socket);
    let mut client = Client::connect(&socket)?;
    let request = Request { status: true, ..Request::new(client.new_id()) };
    let Answer::Status(status) = client.ask(&request, |_| Ok(()))? else {
        return Err(CommandError::new(Exit::Internal, "the daemon's answer is no status"));
    };
    if args.json { print_json(&status) } else { print(&text(&status)) }?;
    match status.state {
        State::Ready => Ok(()),
        State::Stopping => Err(CommandError::new(Exit::Unavailable, "the daemon is shutting down")),
    }
}

fn text(status: &Status) -> String {
    let Status { requests, tokens, .. } = status;
    let mut text = format!(
        "model     {} with {} on {} threads\nversion   {}, up {:.0} s\nrequests  {} running, {} waiting; {} \
         answered, {} refused, {} expired, {} cancelled\ntokens    {} read, {} written\ntasks     {}\n",
        status.model,
        status.kernels,
        status.threads,
        status.version,
        status.uptime_s,
        status.live,
        status.queue,
        requests.answered,
        requests.refused,
        requests.expired,
        requests.cancelled,
        tokens.prompt,
        tokens.generated,
        status.tasks.join(", "),
    );
    if let Some(energy) = &status.energy {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "energy    {:.1} J since the start, {:.1} J of them for requests, by {}",
            energy.counter_joules, energy.requests_joules, energy.source
        );
    }
    text
}
