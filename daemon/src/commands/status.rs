//! `tern status`: what a running daemon says of itself.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use tern_protocol::answer::{Pacing, SlowedBy, State};

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
    let kept = tokens.cached.filter(|cached| *cached > 0);
    let kept = kept.map(|cached| format!(" ({cached} of them kept from before)")).unwrap_or_default();
    let ahead = match (tokens.drafted, tokens.accepted) {
        (Some(drafted), Some(accepted)) if drafted > 0 => {
            format!("; {drafted} tried ahead, {accepted} of them rightly")
        }
        _ => String::new(),
    };
    let mut text = format!(
        "model     {} with {} on {} threads\nversion   {}, up {:.0} s\nrequests  {} running, {} waiting; {} \
         answered, {} refused, {} expired, {} cancelled\ntokens    {} read{kept}, {} written{}\ntasks     {}\n",
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
        ahead,
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
    if let Some(pacing) = &status.pacing {
        text += &pace(pacing);
    }
    text
}

/// Lines on power and warmth, where there is something to say.
fn pace(pacing: &Pacing) -> String {
    let mut text = String::new();
    if let (Some(budget_w), Some(window_s)) = (pacing.power_budget_w, pacing.window_s) {
        let mean = pacing.mean_w.map_or("unknown".to_owned(), |mean_w| format!("{mean_w:.2} W"));
        let _ = writeln!(text, "power     {mean} over the last {window_s} s, of a budget of {budget_w} W");
    }
    if let Some(celsius) = pacing.temperature_c {
        let limit =
            pacing.temperature_limit_c.map(|limit| format!(", kept below {limit:.0}")).unwrap_or_default();
        let slowed = match pacing.throttled {
            Some(true) => format!("; slowed by firmware or kernel now (time {})", pacing.throttled_times),
            Some(false) => format!("; slowed by firmware or kernel {} times", pacing.throttled_times),
            None => String::new(),
        };
        let _ = writeln!(text, "warmth    {celsius:.1} degrees Celsius{limit}{slowed}");
    }
    if pacing.paced_s > 0.0 {
        let now = match pacing.slowed_by {
            Some(SlowedBy::Power) => ", now to keep the power budget",
            Some(SlowedBy::Heat) => ", now to stay cool",
            None => "",
        };
        let share = 100.0 * pacing.working;
        let _ = writeln!(
            text,
            "paced     {:.1} s held still so far{now}; works {share:.0} % of the time",
            pacing.paced_s
        );
    }
    text
}
