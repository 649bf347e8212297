//! tokenizer.json as the library `tokenizers` writes it, as far as a tokenizer of a language model goes.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::refused;
use crate::checkpoint::CheckpointError;

/// The file.
#[derive(Deserialize)]
pub(super) struct File<'a> {
    #[serde(default)]
    pub added_tokens: Vec<Added>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    /// Megabytes: parsed by itself, once it is known to be BPE.
    #[serde(borrow)]
    pub model: &'a RawValue,
}

/// A token beside the trained vocabulary.
#[derive(Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub single_word: bool,
}

/// A model that merges pairs.
#[derive(Deserialize)]
pub(super) struct Bpe {
    pub vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    pub unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
}

/// A rule, in the older and in the newer spelling.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    name: Option<String>,
}

impl Bpe {
    /// The model, if it is of this kind. Old files do not say; only one that merges has rules.
    pub fn read(model: &str) -> Result<Option<Self>, serde_json::Error> {
        let Kind { name } = serde_json::from_str(model)?;
        match name.as_deref() {
            Some("BPE") | None => serde_json::from_str(model).map(Some),
            Some(_) => Ok(None),
        }
    }

    /// Refuses what changes merging in ways that a GGUF cannot say.
    pub fn check(&self) -> Result<(), CheckpointError> {
        if self.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err(refused(
                "model",
                "BPE with dropout",
                "merging that gives the same tokens every time",
            ));
        }
        for (name, affix) in [
            ("continuing_subword_prefix", &self.continuing_subword_prefix),
            ("end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if let Some(affix) = affix.as_deref().filter(|affix| !affix.is_empty()) {
                let found = format!("BPE with {name} {affix:?}");
                return Err(refused("model", &found, "merging without marks inside words"));
            }
        }
        for (left, right) in self.merges() {
            if left.is_empty() || right.is_empty() || left.contains(' ') || right.contains(' ') {
                let found = format!("the rule {left:?}, {right:?}");
                return Err(refused("merges", &found, "two texts without spaces"));
            }
        }
        Ok(())
    }

    /// Both sides of each rule, the strongest first; empty ones for a rule that is none.
    pub fn merges(&self) -> impl Iterator<Item = (&str, &str)> {
        self.merges.iter().map(|merge| match merge {
            Merge::Joined(text) => text.split_once(' ').unwrap_or(("", "")),
            Merge::Pair(left, right) => (left.as_str(), right.as_str()),
        })
    }

    /// The rules as GGUF files have them.
    pub fn merge_texts(&self) -> Vec<String> {
        self.merges().map(|(left, right)| format!("{left} {right}")).collect()
    }
}
