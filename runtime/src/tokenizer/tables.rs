//! The tokenizer's tables in the model file: found, checked against each other, and measured.

use super::bpe::Merges;
use super::family::Family;
use super::slots;
use super::spm::Scores;
use super::vocab::{Spelling, Vocab};
use crate::error::LoadError;
use crate::gguf::{Array32, Gguf, StringArray, optional};

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

    /// Number of merge rules; a tokenizer that merges by score has none.
    #[must_use]
    pub fn merges(&self) -> usize {
        self.merges
    }
}

/// The file's tables, looked up and checked against each other.
pub(super) struct Tables<'a> {
    pub(super) tokens: StringArray<'a>,
    pub(super) types: Array32<'a, i32>,
    pub(super) method: Found<'a>,
}

/// How the file's tokenizer joins pieces of text.
pub(super) enum Found<'a> {
    /// `gpt2`: byte-level BPE.
    Bpe { merges: StringArray<'a>, family: Family, is_pre_missing: bool },
    /// `llama`: SentencePiece.
    Spm { scores: Scores<'a> },
}

impl<'a> Tables<'a> {
    pub(super) fn find(gguf: &Gguf<'a>) -> Result<Self, LoadError> {
        let model = gguf.str("tokenizer.ggml.model")?;
        if !matches!(model, "gpt2" | "llama") {
            return Err(LoadError::TokenizerModel { found: model.into() });
        }
        let tokens = gguf.strings("tokenizer.ggml.tokens")?;
        let types = gguf.i32s("tokenizer.ggml.token_type")?;
        if types.len() != tokens.len() {
            return Err(LoadError::KeyLength {
                key: "tokenizer.ggml.token_type".into(),
                found: types.len() as u64,
                expected: tokens.len() as u64,
            });
        }
        let method = if model == "llama" {
            Found::Spm { scores: Scores::find(gguf, tokens.len())? }
        } else {
            Self::find_bpe(gguf, tokens.len())?
        };
        Ok(Self { tokens, types, method })
    }

    fn find_bpe(gguf: &Gguf<'a>, tokens: usize) -> Result<Found<'a>, LoadError> {
        let merges = gguf.strings("tokenizer.ggml.merges")?;
        let pre = optional(gguf.str("tokenizer.ggml.pre"))?;
        let is_llama3 = || {
            let is_bitnet = gguf.architecture().is_ok_and(|arch| arch.starts_with("bitnet"));
            is_bitnet || (tokens == 128_256 && merges.len() == 280_147)
        };
        let name = pre.or_else(|| is_llama3().then_some("llama-bpe")).unwrap_or("(none)");
        let family = Family::named(name).ok_or_else(|| LoadError::Pretokenizer { found: name.into() })?;
        Ok(Found::Bpe { merges, family, is_pre_missing: pre.is_none() })
    }

    pub(super) fn spelling(&self) -> Spelling {
        match self.method {
            Found::Bpe { .. } => Spelling::Alphabet,
            Found::Spm { .. } => Spelling::Spaced,
        }
    }

    fn merge_count(&self) -> usize {
        match &self.method {
            Found::Bpe { merges, .. } => merges.len(),
            Found::Spm { .. } => 0,
        }
    }

    pub(super) fn specials(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        let types = self.types;
        (0..self.tokens.len() as u32).filter(move |&id| matches!(types.at(id as usize), Some(3 | 4)))
    }

    pub(super) fn plan(&self) -> Result<TokenizerPlan, LoadError> {
        let (tokens, merges, specials) = (self.tokens.len(), self.merge_count(), self.specials().count());
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
            let merge_words = match self.method {
                Found::Bpe { .. } => Merges::words(merges)?,
                Found::Spm { .. } => 0,
            };
            Some((vocab, vocab.checked_add(merge_words)?.checked_add(specials)?))
        });
        // Out of reach on machines that can map such a file.
        let too_many = LoadError::TooMany { what: "tokens", found: tokens as u64, most: most_entries as u64 };
        let (vocab_words, table_words) = sizes.ok_or(too_many)?;
        Ok(TokenizerPlan { tokens, merges, specials, vocab_words, table_words })
    }
}
