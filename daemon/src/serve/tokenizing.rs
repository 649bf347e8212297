//! Texts as tokens and back, for those who ask; the tokenizer lives on the engine's thread.

use std::borrow::Cow;
use std::fmt;

use crate::tasks::nfc;
use crate::tasks::prompt::Prompt;
use tern_runtime::tokenizer::{EncodeError, Special, Tokenizer};

/// A token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its number.
    pub id: u32,
    /// What it prints as; it may be part of a character.
    pub bytes: Vec<u8>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The tokens of a text. What spells a special token is plain text, as in every request.
    Tokens {
        /// The text.
        text: String,
        /// Whether the token that begins every prompt comes first, if the model has one.
        begin: bool,
    },
    /// The text of tokens.
    Text(Vec<u32>),
    /// How many tokens prompts have.
    Lengths(Vec<Prompt>),
    /// What every token prints as.
    Words,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Tokens.
    Tokens(Vec<Piece>),
    /// A text; what is no character is U+FFFD.
    Text(String),
    /// Numbers of tokens, in the order of the prompts.
    Lengths(Vec<usize>),
    /// What every token prints as, in the order of their numbers; nothing for those that print as nothing.
    Words(Vec<Vec<u8>>),
    /// A number that no token has.
    NoToken {
        /// The number.
        id: u32,
        /// Tokens that there are.
        tokens: usize,
    },
}

/// Something for the tokenizer, and what to do with what comes of it.
pub struct Tokenizing {
    /// What is to be done.
    pub wanted: Wanted,
    /// Called on the engine's thread; it must not wait.
    pub then: Box<dyn FnOnce(Found) + Send>,
}

impl fmt::Debug for Tokenizing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizing").finish_non_exhaustive()
    }
}

impl Tokenizing {
    /// Does it.
    pub fn run(self, tokenizer: &Tokenizer<'_>) {
        (self.then)(match self.wanted {
            Wanted::Tokens { text, begin } => Found::Tokens(tokens(tokenizer, &text, begin)),
            Wanted::Text(ids) => text(tokenizer, &ids),
            Wanted::Lengths(prompts) => {
                let mut scratch = Vec::new();
                let length = |prompt: &Prompt| prompt.tokens(tokenizer, &mut scratch);
                Found::Lengths(prompts.iter().map(length).collect())
            }
            Wanted::Words => Found::Words(
                (0..tokenizer.len() as u32).map(|id| tokenizer.token_bytes(id).collect()).collect(),
            ),
        });
    }
}

fn tokens(tokenizer: &Tokenizer<'_>, text: &str, begin: bool) -> Vec<Piece> {
    let text = if tokenizer.wants_nfc() { nfc::normalised(text) } else { Cow::Borrowed(text) };
    let text = &*text;
    let mut ids = vec![0; text.len()];
    let mut scratch = Vec::new();
    let found = loop {
        match tokenizer.encode(text, Special::Plain, &mut scratch, &mut ids) {
            Ok(found) => break found,
            Err(EncodeError::ScratchTooSmall { needed_words, given_words }) if needed_words > given_words => {
                scratch.resize(needed_words, 0);
            }
            Err(EncodeError::TooLong { needed_tokens, capacity_tokens })
                if needed_tokens > capacity_tokens =>
            {
                ids.resize(needed_tokens, 0);
            }
            // It asks for more than it was given, or it has not failed.
            Err(_) => break 0,
        }
    };
    let first = tokenizer.bos().filter(|_| begin && tokenizer.add_bos());
    let piece = |id| Piece { id, bytes: tokenizer.token_bytes(id).collect() };
    first.into_iter().chain(ids.into_iter().take(found)).map(piece).collect()
}

fn text(tokenizer: &Tokenizer<'_>, ids: &[u32]) -> Found {
    if let Some(id) = ids.iter().copied().find(|id| *id as usize >= tokenizer.len()) {
        return Found::NoToken { id, tokens: tokenizer.len() };
    }
    let (mut decoder, mut text) = (tokenizer.decoder(), String::new());
    for id in ids {
        // A String takes everything.
        let _ = decoder.push(tokenizer.token_bytes(*id), &mut text);
    }
    let _ = decoder.finish(&mut text);
    Found::Text(text)
}
