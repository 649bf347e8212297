//! A ternary model: its shape and its weights, used where the file lies or repacked once for the kernels.

pub mod config;
pub mod dense;
pub mod graph;
pub mod loading;
pub mod rope;
pub mod ternary;

use tern_kernels::{KernelSet, Layout};

use crate::arena::Arena;
use crate::error::LoadError;
use crate::gguf::Gguf;
use crate::head::{Head, HeadKind, Planes};
pub use config::{Config, MAX_LAYERS, Multipliers};
pub use dense::{Dense, DenseData};
pub use graph::Graph;
use loading::Loader;
pub use loading::{Rows, repacked_bytes};
pub use ternary::{Scales, ScalesError, Ternary, file_layout, grouping};

/// Weights of one transformer layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `[hidden]`, before attention.
    pub attn_norm: &'a [f32],
    /// `[q_dim]`, on the concatenated head outputs, where the graph has it.
    pub attn_sub_norm: Option<&'a [f32]>,
    /// `[head_dim]` each, on every head of queries and of keys, where the graph has them.
    pub head_norms: Option<[&'a [f32]; 2]>,
    /// `[hidden]`, before the feed-forward block.
    pub ffn_norm: &'a [f32],
    /// `[ffn]`, on the gated values, where the graph has it.
    pub ffn_sub_norm: Option<&'a [f32]>,
    /// Queries, keys and values: `[q_dim, hidden]`, `[kv_dim, hidden]` twice.
    pub qkv: [Ternary<'a>; 3],
    /// `[hidden, q_dim]`.
    pub attn_output: Ternary<'a>,
    /// Gate and up: `[ffn, hidden]` each.
    pub gate_up: [Ternary<'a>; 2],
    /// `[hidden, ffn]`.
    pub down: Ternary<'a>,
}

/// A loaded model.
#[derive(Debug)]
pub struct Model<'a> {
    /// Its shape.
    pub config: Config,
    /// `[vocab, hidden]`.
    pub embedding: Dense<'a>,
    /// `[vocab, hidden]`; the embedding itself, or made of it, when the model ties them.
    pub head: Head<'a>,
    /// Whether the file has a head of its own.
    pub untied: bool,
    /// `[hidden]`, before the head.
    pub output_norm: &'a [f32],
    /// `[head_dim / 2]`, what divides the rotary frequencies, where the file has such factors.
    pub rope_factors: Option<&'a [f32]>,
    /// The layers in order.
    pub layers: heapless::Vec<Layer<'a>, MAX_LAYERS>,
    /// Columns of its ternary matrices that share a scale, where each has several.
    pub group: Option<usize>,
}

impl<'a> Model<'a> {
    /// Checks every tensor against `config` and prepares the ternary ones for `set`.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape or type, or holds values no model has; or if `arena` is too small.
    pub fn load(
        gguf: &Gguf<'a>,
        config: Config,
        set: &KernelSet,
        arena: &mut Arena<'a>,
    ) -> Result<Self, LoadError> {
        Model::load_with_head(gguf, config, set, HeadKind::Stored, arena)
    }

    /// As [`load`](Self::load), with a head of this kind.
    ///
    /// # Errors
    /// See there.
    pub fn load_with_head(
        gguf: &Gguf<'a>,
        config: Config,
        set: &KernelSet,
        kind: HeadKind,
        arena: &mut Arena<'a>,
    ) -> Result<Self, LoadError> {
        Model::assemble(gguf, config, (set, Some(set.layout)), kind, arena)
    }

    /// Checks the model where it lies, whatever kernels could run it: every shape, code and scale. Its matrices then have the
    /// codes of the file. `arena` needs [`loading::rows_bytes`] at most.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn look_at(gguf: &Gguf<'a>, config: Config, arena: &mut Arena<'a>) -> Result<Self, LoadError> {
        Model::assemble(gguf, config, (&tern_kernels::SCALAR, None), HeadKind::Stored, arena)
    }

    /// The model with its matrices in `layout`, or as they lie.
    fn assemble(
        gguf: &Gguf<'a>,
        config: Config,
        (set, layout): (&KernelSet, Option<Layout>),
        kind: HeadKind,
        arena: &mut Arena<'a>,
    ) -> Result<Self, LoadError> {
        let Config { hidden, ffn, vocab, .. } = config;
        let embedding = Dense::load(&gguf.require("token_embd.weight")?, hidden, vocab)?;
        let (dense, untied) = match gguf.tensor("output.weight") {
            Some(info) => (Dense::load(&info, hidden, vocab)?, true),
            None => (embedding, false),
        };
        let head = match Planes::load(gguf, hidden, vocab)? {
            Some(planes) if kind != HeadKind::File => Head::Planes(planes),
            None if kind == HeadKind::Int8 => Head::Planes(Planes::build(set, &dense, arena)?),
            _ => Head::Dense(dense),
        };
        let output_norm = dense::load_norm(&gguf.require("output_norm.weight")?, hidden)?;
        let rope_factors = rope::factors(gguf, config.head_dim)?;
        let mut loader = Loader::new(gguf, layout, arena)?;
        let mut layers = heapless::Vec::new();
        for n in 0..config.layers {
            let tensor = |suffix: &str| {
                let mut name = heapless::String::<48>::new();
                // Cannot overflow: at most three digits and the longest suffix below.
                let _ = core::fmt::write(&mut name, format_args!("blk.{n}.{suffix}.weight"));
                gguf.require(&name)
            };
            let norm = |suffix, len| dense::load_norm(&tensor(suffix)?, len);
            let sub_norm = |suffix, len| config.graph.sub_norms.then(|| norm(suffix, len)).transpose();
            let head_norm = |suffix| norm(suffix, config.head_dim);
            let mut ternary = |suffix, rows, cols| loader.ternary(&tensor(suffix)?, (rows, cols), arena);
            let layer = Layer {
                attn_norm: norm("attn_norm", hidden)?,
                attn_sub_norm: sub_norm("attn_sub_norm", config.q_dim())?,
                head_norms: match config.graph.head_norms {
                    true => Some([head_norm("attn_q_norm")?, head_norm("attn_k_norm")?]),
                    false => None,
                },
                ffn_norm: norm("ffn_norm", hidden)?,
                ffn_sub_norm: sub_norm("ffn_sub_norm", ffn)?,
                qkv: [
                    ternary("attn_q", config.q_dim(), hidden)?,
                    ternary("attn_k", config.kv_dim(), hidden)?,
                    ternary("attn_v", config.kv_dim(), hidden)?,
                ],
                attn_output: ternary("attn_output", hidden, config.q_dim())?,
                gate_up: [ternary("ffn_gate", ffn, hidden)?, ternary("ffn_up", ffn, hidden)?],
                down: ternary("ffn_down", hidden, ffn)?,
            };
            // Cannot be full: `Config` bounds the number of layers.
            let _ = layers.push(layer);
        }
        if let Some(info) = gguf.tensors().find(|info| !config.graph.has(info.name(), config.layers)) {
            return Err(LoadError::TensorUnknown { tensor: info.name().into() });
        }
        let group = loader.group();
        Ok(Model { config, embedding, head, untied, output_norm, rope_factors, layers, group })
    }

    /// Bytes of weights that decoding one token reads: every ternary code and scale, the head, and one embedding row.
    pub fn bytes_per_token(&self) -> usize {
        let matrices = self.layers.iter().flat_map(|layer| {
            let single = [&layer.attn_output, &layer.down];
            layer.qkv.iter().chain(&layer.gate_up).chain(single)
        });
        let codes: usize = matrices.map(Ternary::bytes).sum();
        codes + self.head.streamed_bytes() + self.embedding.bytes() / self.embedding.rows
    }
}
