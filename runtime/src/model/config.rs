//! The shape of a model, read from the file's metadata and checked against itself.

use tern_kernels::layout::MAX_COLS;

use crate::error::LoadError;
use crate::gguf::{Gguf, ReadingError, optional};

use super::graph::Graph;
use super::rope::{self, Rope};

/// The most layers of a model; a weight table of this length is part of it.
pub const MAX_LAYERS: usize = 128;

/// The shape of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// What its layers do.
    pub graph: Graph,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// Values of a hidden state.
    pub hidden: usize,
    /// Values between the two halves of a feed-forward block.
    pub ffn: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// How fast positions turn queries and keys.
    pub rope: Rope,
    /// Added to the mean square before its root.
    pub rms_eps: f32,
    /// Constants that the graph multiplies with.
    pub multipliers: Multipliers,
}

/// Constants that a graph multiplies with; those of most are 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Of embeddings, where they enter the residual stream.
    pub embedding: f32,
    /// Of what every block adds to the residual stream.
    pub residual: f32,
    /// Logits are divided by it.
    pub logits: f32,
}

impl Multipliers {
    /// Those of a graph that multiplies with nothing.
    pub const ONE: Multipliers = Multipliers { embedding: 1.0, residual: 1.0, logits: 1.0 };

    /// The keys that the converters of MiniCPM write; all must be there, for their defaults were never agreed on.
    fn read(gguf: &Gguf<'_>) -> Result<Self, LoadError> {
        Ok(Multipliers {
            embedding: positive(gguf, "embedding_scale", None)?,
            residual: positive(gguf, "residual_scale", None)?,
            logits: positive(gguf, "logit_scale", None)?,
        })
    }
}

impl Config {
    /// Reads and checks the metadata.
    ///
    /// # Errors
    /// If the architecture is another one, a key is missing or mistyped, or numbers contradict each other.
    pub fn read(gguf: &Gguf<'_>) -> Result<Self, LoadError> {
        let arch = gguf.architecture()?;
        let graph = Graph::of(arch).ok_or_else(|| LoadError::Architecture { found: arch.into() })?;
        if let Some((key, _)) = gguf.entries().find(|(key, _)| key.starts_with("prism.hadamard.")) {
            return Err(ReadingError::Transform { key: key.into() }.into());
        }
        let number = |suffix, most, expected| number(gguf, suffix, most, expected);
        let hidden = number("embedding_length", MAX_COLS as u64, "1 to 65280")?;
        let heads = number("attention.head_count", 1 << 10, "1 to 1024")?;
        let kv_heads = match optional(number("attention.head_count_kv", 1 << 10, "1 to 1024"))? {
            Some(kv_heads) => kv_heads,
            None => heads,
        };
        let turning = optional(number("rope.dimension_count", 1 << 10, "1 to 1024"))?;
        let declared = optional(number("attention.key_length", 1 << 10, "1 to 1024"))?;
        let head_dim = declared.or(turning).unwrap_or(hidden / heads);
        let values = optional(number("attention.value_length", 1 << 10, "1 to 1024"))?.unwrap_or(head_dim);
        let config = Config {
            graph,
            vocab: gguf.strings("tokenizer.ggml.tokens")?.len(),
            context: rope::usable_context(gguf, number("context_length", 1 << 24, "1 to 16777216")?)?,
            hidden,
            ffn: number("feed_forward_length", MAX_COLS as u64, "1 to 65280")?,
            layers: number("block_count", MAX_LAYERS as u64, "1 to 128")?,
            heads,
            kv_heads,
            head_dim,
            rope: Rope::read(gguf, positive(gguf, "rope.freq_base", Some(10_000.0))?)?,
            rms_eps: positive(gguf, "attention.layer_norm_rms_epsilon", None)?,
            multipliers: if graph.multiplies { Multipliers::read(gguf)? } else { Multipliers::ONE },
        };
        check(&[
            (
                turning.is_none_or(|turning| turning == head_dim),
                "only a part of each head turns",
                turning.unwrap_or(0),
                head_dim,
            ),
            (values == head_dim, "heads of values have another size than those of keys", values, head_dim),
            (
                declared.is_some() || heads * head_dim == hidden,
                "heads times head size is not the hidden size",
                heads * head_dim,
                hidden,
            ),
        ])?;
        config.check()?;
        Ok(config)
    }

    /// Values of all query heads of a token.
    pub const fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Values of all key (or value) heads of a token.
    pub const fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// What embeddings are multiplied with.
    ///
    /// The residual stream is kept divided by [`Multipliers::residual`], so that blocks add to it what they compute. Its
    /// norms then give what they gave, if what is added to a mean square is divided by the square of that number.
    pub fn stream_scale(&self) -> f32 {
        self.multipliers.embedding / self.multipliers.residual
    }

    /// What norms of the residual stream add to its mean square.
    pub fn stream_eps(&self) -> f32 {
        self.rms_eps / (self.multipliers.residual * self.multipliers.residual)
    }

    /// Ternary weights of the whole model, at most 2^43: more than a small machine's `usize` may count.
    pub const fn ternary_weights(&self) -> u64 {
        let hidden = self.hidden as u64;
        let attention = hidden * 2 * (self.q_dim() + self.kv_dim()) as u64;
        self.layers as u64 * (attention + 3 * hidden * self.ffn as u64)
    }

    /// Multiply-accumulates of one row with the key and the value of one position, in all layers.
    pub const fn attention_products(&self) -> u64 {
        2 * (self.layers * self.q_dim()) as u64
    }

    /// Relations between numbers, each with the sentence that says what is wrong.
    fn check(&self) -> Result<(), LoadError> {
        let Config { hidden, ffn, heads, kv_heads, head_dim, .. } = *self;
        check(&[
            (
                heads.is_multiple_of(kv_heads),
                "query heads are not a multiple of key/value heads",
                heads,
                kv_heads,
            ),
            (head_dim.is_multiple_of(2), "the rotary embedding needs an even head size", head_dim, 2),
            (
                (heads * head_dim).is_multiple_of(128),
                "the heads together are not a multiple of the 128-weight block",
                heads * head_dim,
                128,
            ),
            (heads * head_dim <= MAX_COLS, "the heads together are too wide", heads * head_dim, MAX_COLS),
            (
                hidden.is_multiple_of(128),
                "the hidden size is not a multiple of the 128-weight block",
                hidden,
                128,
            ),
            (
                ffn.is_multiple_of(128),
                "the feed-forward size is not a multiple of the 128-weight block",
                ffn,
                128,
            ),
            (self.vocab > 0, "the vocabulary is empty", self.vocab, 1),
        ])
    }
}

/// The first of `rules` that is broken: whether each holds, what is wrong if not, the number found and its measure.
fn check(rules: &[(bool, &'static str, usize, usize)]) -> Result<(), LoadError> {
    match rules.iter().find(|(holds, ..)| !holds) {
        Some((_, rule, found, against)) => {
            Err(LoadError::Inconsistent { rule, found: *found, against: *against })
        }
        None => Ok(()),
    }
}

/// A whole number from 1 to `most`.
pub(super) fn number(
    gguf: &Gguf<'_>,
    suffix: &'static str,
    most: u64,
    expected: &'static str,
) -> Result<usize, LoadError> {
    let key = gguf.arch_key(suffix)?;
    let found = gguf.u64(key.as_str())?;
    if found == 0 || found > most {
        return Err(LoadError::KeyRange {
            key: key.as_str().into(),
            found: i64::try_from(found).unwrap_or(i64::MAX),
            expected,
        });
    }
    Ok(found as usize)
}

/// A finite number above 0.
pub(super) fn positive(
    gguf: &Gguf<'_>,
    suffix: &'static str,
    default: Option<f32>,
) -> Result<f32, LoadError> {
    let key = gguf.arch_key(suffix)?;
    let found = match (optional(gguf.f32(key.as_str()))?, default) {
        (Some(found), _) => found,
        (None, Some(default)) => default,
        (None, None) => return Err(LoadError::KeyMissing { key: key.as_str().into() }),
    };
    if found.is_finite() && found > 0.0 {
        Ok(found)
    } else {
        Err(LoadError::NotFinite { what: key.as_str().into() })
    }
}
