//! The tokens that end a text, a turn or an answer.

use super::vocab::TokenKind;
use super::{Repair, Tokenizer};
use crate::error::LoadError;
use crate::gguf::{Gguf, optional};

/// Most stop tokens of a model; published ones have one to three.
pub(super) const MAX_STOPS: usize = 16;

/// Texts of tokens that end a turn, the most particular first. Source: the templates of published models.
const TURN_ENDS: [&str; 6] =
    ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>", "<end_of_utterance>", "<|end_of_text|>"];

/// Texts of tokens that end an answer, whatever the file declares.
const STOP_TEXTS: [&str; 12] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eos|>",
    "<eos>",
    "<EOT>",
    "<|end|>",
    "<end_of_utterance>",
];

impl Tokenizer<'_> {
    /// An id that the file declares under `key`, if it does.
    fn declared(&self, gguf: &Gguf<'_>, key: &str) -> Result<Option<u32>, LoadError> {
        match optional(gguf.u32(key))? {
            Some(id) if id as usize >= self.vocab.len() => {
                let expected = "a token id below the number of tokens";
                Err(LoadError::KeyRange { key: key.into(), found: id.into(), expected })
            }
            id => Ok(id),
        }
    }

    /// Finds where texts begin and end. The template is to be known by now.
    pub(super) fn find_ends(&mut self, gguf: &Gguf<'_>) -> Result<(), LoadError> {
        self.bos = self.declared(gguf, "tokenizer.ggml.bos_token_id")?;
        self.eos = self.declared(gguf, "tokenizer.ggml.eos_token_id")?;
        let end_of_turn = self.declared(gguf, "tokenizer.ggml.eot_token_id")?;
        for id in [self.eos, end_of_turn].into_iter().flatten() {
            self.add_stop(id)?;
        }
        for &id in self.specials.ids() {
            let text = self.vocab.text(id);
            // Converters call some of them user-defined.
            let is_marker = matches!(self.vocab.kind(id), TokenKind::Control | TokenKind::UserDefined);
            if !is_marker || !STOP_TEXTS.contains(&text) {
                continue;
            }
            if text == "<|eot_id|>" && !self.stops.contains(&id) {
                self.repairs.add(Repair::UndeclaredEndOfTurn);
            }
            self.add_stop(id)?;
        }
        self.end_of_turn = end_of_turn.or_else(|| self.usual_end_of_turn());
        Ok(())
    }

    /// The marker that the template ends turns with, as far as its text tells. Without a template the first marker of
    /// turns that the vocabulary has, else what ends a text.
    fn usual_end_of_turn(&self) -> Option<u32> {
        let written = |text: &&&str| self.template.is_none_or(|template| template.contains(**text));
        let find = |text: &str| self.stops.iter().copied().find(|id| self.vocab.text(*id) == text);
        let marker = TURN_ENDS.iter().filter(written).find_map(|text| find(text));
        marker.or(self.eos).or(self.stops.first().copied())
    }

    fn add_stop(&mut self, id: u32) -> Result<(), LoadError> {
        if self.stops.contains(&id) {
            return Ok(());
        }
        let (found, most) = (MAX_STOPS as u64 + 1, MAX_STOPS as u64);
        self.stops.push(id).map_err(|_| LoadError::TooMany { what: "stop tokens", found, most })
    }
}
