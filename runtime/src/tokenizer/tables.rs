//! The tokenizer's tables in the model file: found, checked against each other, and measured.

use super::bpe::Merges;
use super::slots;
use super::vocab::Vocab;
use crate::error::LoadError;
use crate::gguf::{Gguf, I32Array, StringArray, optional};

/// How much memory a tokenizer takes; made by [`Tokenizer::plan`](super::Tokenizer::plan).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenizerPlan {
    pub(super) tokens: usize,
    pub(super) merges: usize,
    pub(super) specials: usize,
    pub(super) vocab_words: usize,
    pub(super) table_words: usize,
}

impl TokenizerPlan {
    /// Words of 32 bits that [`Tokenizer::build`](super::Tokenizer::build) needs.
    #[must_use]
    pub fn table_words(&self) -> usize {
        self.table_words
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Number of merge rules.
    #[must_use]
    pub fn merges(&self) -> usize {
        self.merges
    }
}

/// The file's tables, looked up and checked against each other.
pub(super) struct Tables<'a> {
    pub(super) tokens: StringArray<'a>,
    pub(super) types: I32Array<'a>,
    pub(super) merges: StringArray<'a>,
    pub(super) is_pre_missing: bool,
}

impl<'a> Tables<'a> {
    pub(super) fn find(gguf: &Gguf<'a>) -> Result<Self, LoadError> {
        let model = gguf.str("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(LoadError::TokenizerModel { found: model.into() });
        }
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        let types = gguf.i32s("tokenizer.ggml.token_type")?;
        let merges = gguf.strings("tokenizer.ggml.merges")?;
        if types.len() != tokens.len() {
            return Err(LoadError::KeyLength {
                key: "tokenizer.ggml.token_type".into(),
                found: types.len() as u64,
                expected: tokens.len() as u64,
            });
        }
        let pre = optional(gguf.str("tokenizer.ggml.pre"))?;
        let is_llama3 = || {
            let is_bitnet = gguf.architecture().is_ok_and(|arch| arch.starts_with("bitnet"));
            is_bitnet || (tokens.len() == 128_256 && merges.len() == 280_147)
        };
        match pre {
            Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon_e") => {}
            None if is_llama3() => {}
            found => return Err(LoadError::Pretokenizer { found: found.unwrap_or("(none)").into() }),
        }
        Ok(Self { tokens, types, merges, is_pre_missing: pre.is_none() })
    }

    pub(super) fn specials(&self) -> impl Iterator<Item = u32> + use<'a> {
        let types = self.types;
        (0..self.tokens.len() as u32).filter(move |&id| matches!(types.at(id as usize), Some(3 | 4)))
    }

    pub(super) fn plan(&self) -> Result<TokenizerPlan, LoadError> {
        let (tokens, merges, specials) = (self.tokens.len(), self.merges.len(), self.specials().count());
        // Offsets into the string table are 32 bits wide, ids and ranks in the hash tables 24.
        let (most_bytes, most_entries) = (u32::MAX as usize, slots::MAX_ENTRIES);
        for (what, found, most) in [
            ("bytes of tokens", self.tokens.size_bytes(), most_bytes),
            ("tokens", tokens, most_entries),
            ("merge rules", merges, most_entries),
        ] {
            if found > most {
                return Err(LoadError::TooMany { what, found: found as u64, most: most as u64 });
            }
        }
        let sizes = Vocab::words(tokens).and_then(|vocab| {
            Some((vocab, vocab.checked_add(Merges::words(merges)?)?.checked_add(specials)?))
        });
        // Out of reach on machines that can map such a file.
        let too_many = LoadError::TooMany { what: "tokens", found: tokens as u64, most: most_entries as u64 };
        let (vocab_words, table_words) = sizes.ok_or(too_many)?;
        Ok(TokenizerPlan { tokens, merges, specials, vocab_words, table_words })
    }
}
