//! A job as the engine takes it, and what the engine says of it as the wire does.

use std::borrow::Cow;

use tern_protocol::answer::{Finish, Reason};
use tern_runtime::engine::{self, Engine, Generate, Goal, Refusal, Request};

use super::queue::Job;
use crate::tasks::{Answering, nfc};

/// Gives a job to the engine.
///
/// # Errors
/// If the engine does not take it.
pub fn submit(engine: &mut Engine<'_>, key: u64, job: &Job) -> Result<(), Refusal> {
    let pieces = job.prompt.pieces();
    let texts: Vec<&str>;
    let normalised: Vec<Cow<'_, str>>;
    let goal = match job.answering() {
        Answering::Decision { labels, .. } => {
            let wants_nfc = engine.tokenizer().wants_nfc();
            let form = |label| if wants_nfc { nfc::normalised(label) } else { Cow::Borrowed(label) };
            normalised = labels.iter().map(|label| form(&**label)).collect();
            texts = normalised.iter().map(|label| &**label).collect();
            Goal::Choose { labels: &texts }
        }
        &Answering::Text { sampling, ref stops, max_tokens, logprobs, .. } => {
            texts = stops.iter().map(String::as_str).collect();
            Goal::Generate(Generate {
                sampling,
                max_tokens,
                stops: &texts,
                ignore_stop_tokens: false,
                logprobs,
                speculate: true,
            })
        }
    };
    engine.submit(&Request { key, prompt: &pieces, goal })
}

/// The reason of a refusal, for programs.
pub fn reason(refusal: &Refusal) -> Reason {
    match refusal {
        Refusal::ContextOverflow { .. } | Refusal::PromptTooLong { .. } | Refusal::Busy { .. } => {
            Reason::TooLarge
        }
        _ => Reason::BadRequest,
    }
}

/// Why a text ended.
pub fn finish(reason: engine::Finish) -> Finish {
    match reason {
        // Where a schema is satisfied and nothing may follow, no token is needed to end the text.
        engine::Finish::StopToken | engine::Finish::Complete => Finish::StopToken,
        engine::Finish::StopString => Finish::StopString,
        engine::Finish::MaxTokens => Finish::MaxTokens,
        engine::Finish::Ended => Finish::Energy,
        _ => Finish::ContextFull,
    }
}
