//! A job in the engine, and what has come of it so far.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tern_runtime::engine::{self, Event, Usage};
use tern_runtime::tokenizer::Tokenizer;

use super::charges::Untold;
use super::queue::Job;
use super::report::Times;
use crate::tasks::Answering;
use crate::wire::{Alternative, Answer, Chosen, Token};

/// A job in the engine.
pub struct Live {
    /// The engine's name for it.
    pub key: u64,
    pub job: Box<Job>,
    pub admitted: Instant,
    pub prefill_end: Option<Instant>,
    pub prefill_rows: usize,
    /// Tokens chosen by its steps of decoding: of rows that were drafted in vain there are none.
    pub decode_tokens: usize,
    /// Time in which the engine held still.
    pub paced: Duration,
    pub text: String,
    /// Where the text begins that was not sent yet.
    unsent: usize,
    pub probabilities: Vec<f32>,
    /// Of the token that is about to come.
    weighed: Option<Weighed>,
    /// Tokens with their log probabilities, as far as they were not sent.
    tokens: Vec<(u32, Weighed)>,
    /// Tokens that the step at hand produced.
    pub step_tokens: u64,
    /// Joules of its decoding steps, as far as they were not sent.
    pub untold: Untold,
    /// What the daybook calls its task.
    pub label: Arc<str>,
    /// The step at hand produced the first token, the decision or the end.
    pub began_answer: bool,
    pub finish: Option<(engine::Finish, Usage)>,
}

/// Log probabilities of a token, and of the most probable ones by their ids.
struct Weighed {
    chosen: f32,
    top: Vec<(u32, f32)>,
}

impl Live {
    /// A job that the engine took just now.
    pub fn new(key: u64, job: Box<Job>, label: Arc<str>) -> Self {
        Live {
            key,
            job,
            admitted: Instant::now(),
            prefill_end: None,
            prefill_rows: 0,
            decode_tokens: 0,
            paced: Duration::ZERO,
            text: String::new(),
            unsent: 0,
            probabilities: Vec::new(),
            weighed: None,
            tokens: Vec::new(),
            step_tokens: 0,
            untold: Untold::default(),
            label,
            began_answer: false,
            finish: None,
        }
    }

    /// Takes what came of a step.
    pub fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Text(text) => self.text.push_str(text),
            Event::Decided { probabilities } => self.probabilities = probabilities.to_vec(),
            Event::Finished { reason, usage } => self.finish = Some((reason, usage)),
            Event::Logprobs { chosen, top } => {
                let top = top.iter().map(|token| (token.id, token.score)).collect();
                self.weighed = Some(Weighed { chosen, top });
            }
            Event::Token { id } => {
                self.step_tokens += 1;
                self.tokens.extend(self.weighed.take().map(|weighed| (id, weighed)));
            }
            Event::Logits { .. } => {}
        }
        self.began_answer = true;
    }

    /// When it waited, read and wrote.
    pub fn times(&self, now: Instant) -> Times {
        let prefill_end = self.prefill_end.unwrap_or(now);
        Times {
            queue: self.admitted.saturating_duration_since(self.job.queued_at),
            prefill: prefill_end.saturating_duration_since(self.admitted),
            decode: now.saturating_duration_since(prefill_end),
            prefill_rows: self.prefill_rows,
            decode_tokens: self.decode_tokens,
            paced: self.paced,
        }
    }

    /// The answer with the text that was not sent yet, if it is to be sent as it appears and there is some; at the end of
    /// the request also if only tokens are left over, such as those of a stop string, or joules, such as those of a stop
    /// token.
    pub fn unsent(&mut self, tokenizer: &Tokenizer<'_>) -> Option<Answer> {
        let left_over = !self.tokens.is_empty() || self.untold.is_some();
        if !self.job.stream || self.unsent == self.text.len() && !(self.finish.is_some() && left_over) {
            return None;
        }
        let joules = self.untold.tell(self.finish.is_some());
        let text = self.text[self.unsent..].to_owned();
        self.unsent = self.text.len();
        Some(Answer::Token(Token {
            id: self.job.id.clone(),
            text,
            logprobs: self.logprobs(tokenizer),
            joules,
        }))
    }

    /// The tokens with their log probabilities that were not sent yet, if they were asked for.
    pub fn logprobs(&mut self, tokenizer: &Tokenizer<'_>) -> Option<Vec<Chosen>> {
        let asked = matches!(self.job.answering(), Answering::Text { logprobs: Some(_), .. });
        let print = |id: u32| {
            let bytes: Vec<u8> = tokenizer.token_bytes(id).collect();
            // A control token prints as nothing; its name tells more.
            match bytes.is_empty() {
                true => tokenizer.token_text(id).to_owned(),
                false => String::from_utf8_lossy(&bytes).into_owned(),
            }
        };
        let alternative = |(id, logprob)| Alternative { token: print(id), logprob };
        let chosen = |(id, Weighed { chosen, top }): (u32, Weighed)| Chosen {
            token: print(id),
            logprob: chosen,
            top: top.into_iter().map(alternative).collect(),
        };
        let tokens = std::mem::take(&mut self.tokens);
        asked.then(|| tokens.into_iter().map(chosen).collect())
    }
}
