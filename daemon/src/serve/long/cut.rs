//! A text as prompts that fit, measured by the tokenizer.
//!
//! Pieces are measured on their own, parts are packed by the sum, and then the finished prompts are measured: tokens of
//! a sum are not the sum of tokens, though mostly fewer.

use std::ops::Range;
use std::sync::mpsc;

use super::Surroundings;
use super::split::{self, Piece};
use crate::serve::queue::{Notice, Queue};
use crate::serve::tokenizing::{Found, Tokenizing, Wanted};
use crate::tasks::Task;
use crate::tasks::prompt::Prompt;

/// Bytes that the engine's thread measures between two steps: some milliseconds.
const MEASURE_BYTES: usize = 32 << 10;

/// Tokens by which the borders of a text may make a prompt longer.
const SLACK: usize = 4;

/// The engine's thread has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineEnded;

/// A prompt and its length.
#[derive(Debug)]
pub struct Measured {
    /// The prompt.
    pub prompt: Prompt,
    /// Its tokens.
    pub tokens: usize,
}

/// A task on texts of any length.
#[derive(Clone, Copy, Debug)]
pub struct Cutter<'c> {
    /// The daemon.
    pub around: &'c Surroundings,
    /// The task.
    pub task: &'c Task,
    /// Tokens of the longest prompt.
    pub most_tokens: usize,
    /// Tokens of the task's prompt for no text at all.
    pub form: usize,
}

/// How many tokens these have.
pub fn measure(queue: &Queue, prompts: Vec<Prompt>) -> Result<Vec<usize>, EngineEnded> {
    let (tell, told) = mpsc::channel();
    // Who asked waits for it.
    let then = Box::new(move |found| drop(tell.send(found)));
    queue.notify(Notice::Tokenize(Tokenizing { wanted: Wanted::Lengths(prompts), then }));
    match told.recv() {
        Ok(Found::Lengths(lengths)) => Ok(lengths),
        _ => Err(EngineEnded),
    }
}

impl Cutter<'_> {
    /// Tokens of text that fit one prompt.
    pub fn room(&self) -> usize {
        self.most_tokens.saturating_sub(self.form + SLACK)
    }

    /// The prompts for all of `text`, in its order. Parts without a letter make none.
    pub fn cut(&self, text: &str) -> Result<Vec<Measured>, EngineEnded> {
        let text = text.trim();
        let room = self.room().max(1);
        let mut pieces = Vec::new();
        for piece in self.pieces(text, split::sentences(text, 4 * room, room))? {
            match piece.tokens > room {
                // Each has fewer bytes than there is room for tokens.
                true => pieces.extend(self.pieces(text, split::words(text, piece.bytes, room))?),
                false => pieces.push(piece),
            }
        }
        self.prompts(text, &pieces, room)
    }

    /// Measures the pieces of a text.
    fn pieces(&self, text: &str, ranges: Vec<Range<usize>>) -> Result<Vec<Piece>, EngineEnded> {
        // A prompt is limited in bytes too, so many for a token; half of them are left for the form.
        let token_bytes = (self.around.prompt_bytes / self.around.context_tokens.max(1) / 2).max(1);
        let prompts = ranges.iter().map(|range| Prompt::piece(&text[range.clone()]));
        let tokens = self.measure(prompts.collect())?.into_iter().map(|measured| measured.tokens);
        let piece = |(bytes, tokens): (Range<usize>, usize)| Piece {
            tokens: tokens.max(bytes.len().div_ceil(token_bytes)),
            bytes,
        };
        Ok(ranges.into_iter().zip(tokens).map(piece).collect())
    }

    /// Packs pieces into prompts; those that came out too long are packed again with less room.
    fn prompts(&self, text: &str, pieces: &[Piece], room: usize) -> Result<Vec<Measured>, EngineEnded> {
        let part = |places: &Range<usize>| {
            let bytes = pieces[places.start].bytes.start..pieces[places.end - 1].bytes.end;
            text[bytes].trim()
        };
        let mut parts = split::pack(text, pieces, room);
        parts.retain(|places| !part(places).is_empty());
        let prompts = parts.iter().map(|places| self.around.form.task(self.task, part(places)));
        let mut fitting = Vec::with_capacity(parts.len());
        for (places, measured) in parts.iter().zip(self.measure(prompts.collect())?) {
            let fits = measured.tokens <= self.most_tokens
                && measured.prompt.longest_text_bytes() <= self.around.prompt_bytes;
            // What cannot be cut any further is left to the engine to refuse.
            if fits || places.len() == 1 {
                fitting.push(measured);
            } else {
                fitting.extend(self.prompts(text, &pieces[places.clone()], room / 2)?);
            }
        }
        Ok(fitting)
    }

    fn measure(&self, prompts: Vec<Prompt>) -> Result<Vec<Measured>, EngineEnded> {
        let mut measured = Vec::with_capacity(prompts.len());
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut prompts = prompts.into_iter().peekable();
        while let Some(prompt) = prompts.next() {
            bytes += prompt.longest_text_bytes();
            batch.push(prompt);
            if bytes >= MEASURE_BYTES || prompts.peek().is_none() {
                let tokens = measure(&self.around.queue, batch.clone())?;
                let both = batch.drain(..).zip(tokens);
                measured.extend(both.map(|(prompt, tokens)| Measured { prompt, tokens }));
                bytes = 0;
            }
        }
        Ok(measured)
    }
}
