//! tokenizer.json and its neighbours as the keys of a GGUF.
//!
//! | key | from |
//! |---|---|
//! | `tokenizer.ggml.model` | `gpt2` for byte-level BPE, `llama` for BPE over characters with byte fallback |
//! | `tokenizer.ggml.pre` | of `gpt2`: the name of the pattern that text is cut by, see [`byte_level`] |
//! | `tokenizer.ggml.tokens` | the vocabulary and the added tokens by id, up to `vocab_size`; `[PAD id]` where there is none |
//! | `tokenizer.ggml.token_type` | 3 for special added tokens, 4 for other added ones, 5 for holes; of `llama` 2 for the unknown token and 6 for `<0xHH>`; else 1 |
//! | `tokenizer.ggml.merges` | of `gpt2`: `left right`, in their order |
//! | `tokenizer.ggml.scores` | of `llama`: the order of merges, see [`sentence`] |
//! | `tokenizer.ggml.add_space_prefix` | of `llama`: whether a space is put in front of a text |
//! | `tokenizer.ggml.bos_token_id`, `.eos_token_id`, `.eot_token_id` | see [`ends`] |
//! | `tokenizer.ggml.add_bos_token` | whether the post-processor, or tokenizer_config.json, puts the begin token in front |
//! | `tokenizer.chat_template` | chat_template.jinja, else tokenizer_config.json |
//!
//! Nothing is guessed: a pattern, normalizer or option that is not known exactly is refused and shown.

mod byte_level;
mod ends;
mod json;
mod sentence;

use std::path::Path;

use tern_runtime::gguf::Header;

use super::CheckpointError;
use super::error::shown;
use super::settings::{self, Settings};

use ends::Ends;
use json::{Bpe, File};

/// Largest tokenizer.json; those of 250,000 tokens have 20 MB.
const MOST_BYTES: u64 = 256 << 20;

/// `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// A tokenizer as GGUF files have it.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<i32>,
    method: Method,
    ends: Ends,
}

/// How text becomes tokens.
#[derive(Clone, Debug)]
enum Method {
    /// Byte-level BPE.
    ByteLevel { pre: &'static str, merges: Vec<String> },
    /// BPE over characters, by scores.
    Sentence { scores: Vec<f32>, space_prefix: bool },
}

impl Vocabulary {
    /// Reads the tokenizer in `folder` for an embedding of `vocab` rows, and hands back the bytes of its files, too.
    pub fn open(folder: &Path, config: &Settings, vocab: u32) -> Result<(Self, Vec<u8>), CheckpointError> {
        let path = folder.join("tokenizer.json");
        let no_file = CheckpointError::NoFile {
            folder: folder.to_owned(),
            wanted: "tokenizer.json",
            advice: "transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...) makes one of other tokenizers",
        };
        let bytes = settings::read(&path, MOST_BYTES)?.ok_or(no_file)?;
        let broken = |error| CheckpointError::Json { path: path.clone(), error };
        let file: File<'_> = serde_json::from_slice(&bytes).map_err(broken)?;
        let bpe = Bpe::read(file.model.get()).map_err(broken)?.ok_or_else(|| refused(
            "model",
            &file.model.get().chars().take(100).collect::<String>(),
            "BPE, byte-level or over characters with byte fallback; Unigram and WordPiece merge by other rules",
        ))?;
        bpe.check()?;
        let (mut tokens, mut types) = table(&file, &bpe, vocab)?;
        let mut method = if bpe.byte_fallback {
            let space_prefix = sentence::space_prefix(&file)?;
            sentence::mark(&mut types, &tokens, bpe.unk_token.as_deref());
            let scores = sentence::scores(&bpe, &tokens, &types)?;
            Method::Sentence { scores, space_prefix }
        } else {
            Method::ByteLevel { pre: byte_level::name(&file, bpe.ignore_merges)?, merges: bpe.merge_texts() }
        };
        for id in tokens.len()..vocab as usize {
            tokens.push(format!("[PAD{id}]"));
            types.push(UNUSED);
        }
        if let Method::Sentence { scores, .. } = &mut method {
            scores.resize(tokens.len(), 0.0);
        }
        let (ends, mut texts) = Ends::open(folder, config, &file, &tokens, &types)?;
        texts.extend(&bytes);
        Ok((Vocabulary { tokens, types, method, ends }, texts))
    }

    /// Adds its keys to `header`.
    pub fn write(&self, header: &mut Header) {
        match &self.method {
            Method::ByteLevel { pre, .. } => {
                header.str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", pre)
            }
            Method::Sentence { .. } => header.str("tokenizer.ggml.model", "llama"),
        };
        header.strings("tokenizer.ggml.tokens", &self.tokens).i32s("tokenizer.ggml.token_type", &self.types);
        match &self.method {
            Method::ByteLevel { merges, .. } => header.strings("tokenizer.ggml.merges", merges),
            Method::Sentence { scores, space_prefix } => header
                .f32s("tokenizer.ggml.scores", scores)
                .bool("tokenizer.ggml.add_space_prefix", *space_prefix),
        };
        self.ends.write(header);
    }
}

/// Tokens and their types by id; there may be no more than rows of the embedding.
fn table(file: &File<'_>, bpe: &Bpe, vocab: u32) -> Result<(Vec<String>, Vec<i32>), CheckpointError> {
    let added = file.added_tokens.iter().map(|added| (added.id, added.content.as_str()));
    let all = || bpe.vocab.iter().map(|(text, id)| (*id, text.as_str())).chain(added.clone());
    let largest = all().map(|(id, _)| id).max();
    let largest = largest.ok_or_else(|| refused("vocabulary", "empty", "at least one token"))?;
    if largest >= vocab {
        let found = format!("of ids up to {largest}");
        return Err(refused("vocabulary", &found, "ids below vocab_size of config.json"));
    }
    let mut texts: Vec<Option<&str>> = vec![None; largest as usize + 1];
    let mut types = vec![UNUSED; texts.len()];
    for (id, text) in all() {
        let place = &mut texts[id as usize];
        // An added token may be in the vocabulary as well, spelled the same.
        if place.is_some_and(|other| other != text) {
            let found = format!("{:?} and {text:?} with the id {id}", place.unwrap_or_default());
            return Err(refused("vocabulary", &found, "one text an id"));
        }
        *place = Some(text);
        types[id as usize] = NORMAL;
    }
    for added in &file.added_tokens {
        types[added.id as usize] = if added.special { CONTROL } else { USER_DEFINED };
        if !added.special && (added.lstrip || added.rstrip || added.single_word) {
            let found = format!("with {:?}, which takes in spaces or ends of words around it", added.content);
            return Err(refused("added tokens", &found, "added tokens that stand for themselves"));
        }
    }
    let tokens = texts.iter().enumerate();
    let tokens = tokens.map(|(id, text)| text.map_or_else(|| format!("[PAD{id}]"), str::to_owned));
    Ok((tokens.collect(), types))
}

/// That a part of tokenizer.json is none that is known.
fn refused(part: &'static str, found: &str, understood: &'static str) -> CheckpointError {
    CheckpointError::Tokenizer { part, found: shown(found), understood }
}
