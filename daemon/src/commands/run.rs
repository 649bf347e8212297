//! `tern run`: one prompt, or a conversation on the terminal.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use signal_hook::consts::SIGINT;
use tern_protocol::request::Role;

use super::input;
use super::stream::Printing;
use crate::error::{CommandError, Exit};
use crate::local::{DaemonChoice, Session};
use crate::wire::{Chat, Generate, Message, Request, Sampling};

/// What a shell reports for a program that Ctrl-C ended: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
Examples:
  tern run 'Which folder holds the system log?'
  dmesg | tail -5 | tern run 'What happened here?'
  tern run --raw 'Once upon a time' --max-tokens 40 --temperature 0.8 --seed 7
  tern run                                   a conversation; Ctrl-C stops an answer, Ctrl-D leaves

The text of standard input, if it is not a terminal, is put behind the prompt. What an answer cost is said on \
standard error.";

/// Answers a prompt, or holds a conversation on the terminal
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The prompt; without it and on a terminal, a conversation
    prompt: Option<String>,
    /// Give the prompt to the model as it is, without the form of a conversation
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// Standing instructions for the model
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer; without it what the context leaves
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
    #[command(flatten)]
    printing: Printing,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten, next_help_heading = "Daemon")]
    daemon: DaemonChoice,
}

/// How tokens are chosen; without any of these, always the likeliest.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Divides logits: 0 is greedy, 1 as trained
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,
    /// Keep the K likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Keep the likeliest tokens that reach this probability together
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Drop tokens less likely than this times the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Make recent tokens less likely; 1 does nothing
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// Start of the random sequence
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArgs {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: (!self.stop.is_empty()).then(|| self.stop.clone()),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If there is no prompt, no daemon can be had, or it refuses.
pub fn run(args: &RunArgs) -> Result<(), CommandError> {
    let terminal = io::stdin().is_terminal();
    let prompt = match (&args.prompt, terminal) {
        (None, true) if args.raw => {
            return Err(CommandError::new(
                Exit::BadInput,
                "--raw needs a prompt, as an argument or on standard input",
            ));
        }
        (None, true) => return converse(args),
        (Some(prompt), true) => prompt.clone(),
        (prompt, false) => with_standard_input(prompt.as_deref(), &input::whole()?, args.raw),
    };
    if prompt.is_empty() {
        return Err(CommandError::new(
            Exit::BadInput,
            "the prompt is empty; give one as an argument or on standard input",
        ));
    }
    let mut session = args.daemon.open()?;
    let id = session.client.new_id();
    let request = if args.raw {
        let generate = Generate {
            max_tokens: args.max_tokens,
            sampling: Some(args.sampling.sampling()),
            ..Generate::new(prompt)
        };
        Request { generate: Some(generate), ..Request::new(id) }
    } else {
        let mut messages = args.opening();
        messages.push(Message { role: Role::User, content: prompt });
        args.chat(id, messages)
    };
    args.printing.stream(&mut session.client, request, None).map(drop)
}

/// The prompt with what came on standard input behind it. A raw prompt keeps its line end: it may matter.
fn with_standard_input(prompt: Option<&str>, piped: &str, raw: bool) -> String {
    let piped = if raw { piped } else { piped.trim() };
    match prompt {
        Some(prompt) if piped.is_empty() => prompt.to_owned(),
        Some(prompt) => format!("{prompt}\n{piped}"),
        None => piped.to_owned(),
    }
}

impl RunArgs {
    /// The messages before the first one of the user.
    fn opening(&self) -> Vec<Message> {
        let system = self.system.iter();
        system.map(|content| Message { role: Role::System, content: content.clone() }).collect()
    }

    fn chat(&self, id: String, messages: Vec<Message>) -> Request {
        let chat = Chat {
            max_tokens: self.max_tokens,
            sampling: Some(self.sampling.sampling()),
            ..Chat::new(messages)
        };
        Request { chat: Some(chat), ..Request::new(id) }
    }
}

/// A conversation: reads a line, answers it, remembers both.
fn converse(args: &RunArgs) -> Result<(), CommandError> {
    let mut session = args.daemon.open()?;
    let status = session.status()?;
    eprintln!("{} on {} ({} threads).", status.model, status.kernels, status.threads);
    eprintln!("Ctrl-C stops an answer, /clear forgets what was said, Ctrl-D leaves.");
    let (stop, at_prompt) = interrupts()?;
    let mut messages = args.opening();
    loop {
        let Some(said) = ask_person(&at_prompt)? else { return Ok(()) };
        match said.trim() {
            "" => continue,
            "/clear" => {
                messages = args.opening();
                eprintln!("(forgotten)");
                continue;
            }
            "/quit" | "/exit" => return Ok(()),
            content => messages.push(Message { role: Role::User, content: content.to_owned() }),
        }
        stop.store(false, Ordering::Relaxed);
        match answer(args, &mut session, &messages, &stop) {
            Ok(content) => messages.push(Message { role: Role::Assistant, content }),
            Err(error) if error.exit() == Exit::Unavailable || error.exit() == Exit::OutputClosed => {
                return Err(error);
            }
            Err(error) => {
                // The conversation goes on as if this had not been said.
                messages.pop();
                eprintln!("({error})");
                if error.exit() == Exit::BadInput && messages.iter().any(|said| said.role == Role::Assistant)
                {
                    eprintln!("(/clear begins anew)");
                }
            }
        }
    }
}

fn answer(
    args: &RunArgs,
    session: &mut Session,
    messages: &[Message],
    stop: &AtomicBool,
) -> Result<String, CommandError> {
    let request = args.chat(session.client.new_id(), messages.to_vec());
    args.printing.stream(&mut session.client, request, Some(stop)).map(|text| text.text)
}

/// Flags for Ctrl-C: the first is set by it; while the second is set, it ends the program instead.
fn interrupts() -> Result<(Arc<AtomicBool>, Arc<AtomicBool>), CommandError> {
    let fail = |error| CommandError::new(Exit::Internal, format!("cannot catch Ctrl-C: {error}"));
    let (stop, at_prompt) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    // In this order: the program ends before the flag is of any use.
    signal_hook::flag::register_conditional_shutdown(SIGINT, INTERRUPTED, Arc::clone(&at_prompt))
        .map_err(fail)?;
    signal_hook::flag::register(SIGINT, Arc::clone(&stop)).map_err(fail)?;
    Ok((stop, at_prompt))
}

/// A line from the terminal; `None` at its end.
fn ask_person(at_prompt: &AtomicBool) -> Result<Option<String>, CommandError> {
    let mut out = io::stdout().lock();
    write!(out, "> ").and_then(|()| out.flush()).map_err(|error| CommandError::output(&error))?;
    let mut line = Vec::new();
    at_prompt.store(true, Ordering::Relaxed);
    let read = io::stdin().lock().read_until(b'\n', &mut line);
    at_prompt.store(false, Ordering::Relaxed);
    match read {
        Ok(0) => {
            let _ = writeln!(out);
            Ok(None)
        }
        Ok(_) => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
        Err(error) => {
            Err(CommandError::new(Exit::NoInput, format!("cannot read from the terminal: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::with_standard_input;

    #[test]
    fn standard_input_goes_behind_the_prompt() {
        assert_eq!(with_standard_input(Some("What is this?"), "a\n", false), "What is this?\na");
        assert_eq!(with_standard_input(Some("Once"), "", true), "Once");
        assert_eq!(with_standard_input(None, " a b \n", false), "a b");
        assert_eq!(with_standard_input(None, " a b \n", true), " a b \n");
    }
}
