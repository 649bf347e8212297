//! What `tokenizer.ggml.pre` names: how text is cut, and what goes with it in the tokenizers of that name.

use core::fmt;

use super::pretokenize::Split;

/// What is known of the tokenizers of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// `tokenizer.ggml.pre`.
    name: &'static str,
    pub split: Split,
    /// Whether a piece that is a token is taken whole even where merging would not lead to it.
    pub whole_pieces: bool,
    /// Whether a prompt begins with BOS where the file does not say.
    pub adds_bos: bool,
    /// Whether text is brought into normalisation form C first.
    pub nfc: bool,
}

const fn family(name: &'static str, split: Split, whole_pieces: bool, adds_bos: bool, nfc: bool) -> Family {
    Family { name, split, whole_pieces, adds_bos, nfc }
}

/// All of them. Names, patterns and flags: the published `tokenizer.json` of the models behind each name, and
/// llama.cpp's table of names.
const FAMILIES: [Family; 16] = [
    family("llama-bpe", Split::Llama3, true, true, false),
    family("llama3", Split::Llama3, true, true, false),
    family("llama-v3", Split::Llama3, true, true, false),
    family("falcon3", Split::Llama3, true, true, false),
    family("falcon_e", Split::Llama3, true, true, false),
    family("falcon-e", Split::Llama3, true, true, false),
    family("smaug-bpe", Split::Llama3, false, false, false),
    family("dbrx", Split::Llama3, false, false, false),
    family("qwen2", Split::Qwen2, false, false, true),
    family("deepseek-r1-qwen", Split::Qwen2, false, false, true),
    family("gpt-2", Split::Gpt2, false, false, false),
    family("phi-2", Split::Gpt2, false, false, false),
    family("jais", Split::Gpt2, false, false, false),
    family("gpt-neox", Split::Gpt2, false, false, true),
    family("olmo", Split::Gpt2, false, false, true),
    family("mpt", Split::Gpt2, false, false, true),
];

impl Family {
    /// The family of this name.
    pub fn named(name: &str) -> Option<Self> {
        FAMILIES.into_iter().find(|family| family.name == name)
    }
}

/// The names that are known, as a list for people.
pub(crate) struct KnownNames;

impl fmt::Display for KnownNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, family) in FAMILIES.iter().enumerate() {
            let before = if index == 0 { "" } else { ", " };
            write!(f, "{before}{}", family.name)?;
        }
        Ok(())
    }
}
