//! A BitNet b1.58 model: its shape and its weights, used where the file lies or repacked once for the kernels.
//!
//! Weight scales follow GGUF I2_S: `weight = (code - 1) * scale`, one scale a tensor, in the four bytes after the
//! codes (`docs/layouts.md`).

pub mod config;
pub mod dense;

use tern_kernels::{KernelSet, Layout, pack, trit};

use crate::arena::{Arena, slice_bytes};
use crate::error::LoadError;
use crate::gguf::{Gguf, TensorInfo, TensorType};
pub use config::{Config, MAX_LAYERS};
pub use dense::{Dense, DenseData};

/// A ternary matrix `[rows, cols]` in the layout of the model's kernel set.
#[derive(Clone, Copy, Debug)]
pub struct Ternary<'a> {
    /// Codes.
    pub packed: &'a [u8],
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// Multiplies every weight.
    pub scale: f32,
}

/// Weights of one transformer layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// `[hidden]`, before attention.
    pub attn_norm: &'a [f32],
    /// `[q_dim]`, on the concatenated head outputs.
    pub attn_sub_norm: &'a [f32],
    /// `[hidden]`, before the feed-forward block.
    pub ffn_norm: &'a [f32],
    /// `[ffn]`, on the gated values.
    pub ffn_sub_norm: &'a [f32],
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
    /// `[vocab, hidden]`; the embedding itself when the model ties them.
    pub head: Dense<'a>,
    /// Whether the file has a head of its own.
    pub untied: bool,
    /// `[hidden]`, before the head.
    pub output_norm: &'a [f32],
    /// The layers in order.
    pub layers: heapless::Vec<Layer<'a>, MAX_LAYERS>,
}

/// The layout of I2_S tensors in the file.
const FILE_LAYOUT: Layout = Layout::T2B128;

/// Bytes of arena that repacking the ternary weights for `layout` takes, 0 where the file's own serves.
pub fn repacked_bytes(config: &Config, layout: Layout) -> Option<usize> {
    if layout == FILE_LAYOUT {
        return Some(0);
    }
    let (hidden, ffn, q, kv) = (config.hidden, config.ffn, config.q_dim(), config.kv_dim());
    let shapes =
        [(q, hidden), (kv, hidden), (kv, hidden), (hidden, q), (ffn, hidden), (ffn, hidden), (hidden, ffn)];
    let mut layer = 0usize;
    for (rows, cols) in shapes {
        layer = layer.checked_add(slice_bytes::<u8>(layout.bytes(rows, cols)?)?)?;
    }
    layer.checked_mul(config.layers)
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
        let Config { hidden, ffn, vocab, .. } = config;
        let embedding = Dense::load(&gguf.require("token_embd.weight")?, hidden, vocab)?;
        let (head, untied) = match gguf.tensor("output.weight") {
            Some(info) => (Dense::load(&info, hidden, vocab)?, true),
            None => (embedding, false),
        };
        let output_norm = dense::load_norm(&gguf.require("output_norm.weight")?, hidden)?;
        let mut layers = heapless::Vec::new();
        for n in 0..config.layers {
            let tensor = |suffix: &str| {
                let mut name = heapless::String::<48>::new();
                // Cannot overflow: at most three digits and the longest suffix below.
                let _ = core::fmt::write(&mut name, format_args!("blk.{n}.{suffix}.weight"));
                gguf.require(&name)
            };
            let norm = |suffix, len| dense::load_norm(&tensor(suffix)?, len);
            let mut ternary =
                |suffix, rows, cols| load_ternary(&tensor(suffix)?, rows, cols, set.layout, arena);
            let layer = Layer {
                attn_norm: norm("attn_norm", hidden)?,
                attn_sub_norm: norm("attn_sub_norm", config.q_dim())?,
                ffn_norm: norm("ffn_norm", hidden)?,
                ffn_sub_norm: norm("ffn_sub_norm", ffn)?,
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
        Ok(Model { config, embedding, head, untied, output_norm, layers })
    }

    /// Bytes of weights that decoding one token reads: every ternary code, the head, and one embedding row.
    pub fn bytes_per_token(&self) -> usize {
        // Four weights a byte of a file that is mapped, so it fits.
        let codes = (self.config.ternary_weights() / 4) as usize;
        codes + self.head.bytes() + self.embedding.bytes() / self.embedding.rows
    }
}

/// One I2_S tensor, checked, in `layout`.
fn load_ternary<'a>(
    info: &TensorInfo<'a>,
    rows: usize,
    cols: usize,
    layout: Layout,
    arena: &mut Arena<'a>,
) -> Result<Ternary<'a>, LoadError> {
    info.expect_shape(cols as u64, rows as u64)?;
    if info.ty() != TensorType::I2S {
        return Err(LoadError::NotTernary { tensor: info.name().into(), found: info.ty() });
    }
    // Columns are whole blocks; divided first, because a matrix that can be mapped may have more than 2^32 weights.
    let (codes, tail) = info.data()?.split_at(rows * (cols / 4));
    if let Some(at_bytes) = trit::first_invalid(codes) {
        return Err(LoadError::InvalidCode { tensor: info.name().into(), at_bytes });
    }
    let scale = f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    if !scale.is_finite() {
        return Err(LoadError::NotFinite { what: info.name().into() });
    }
    let packed = if layout == FILE_LAYOUT {
        codes
    } else {
        let no_layout = LoadError::Inconsistent {
            rule: "columns do not fit the kernel's layout",
            found: cols,
            against: layout.col_multiple(),
        };
        let packed = arena.take(layout.bytes(rows, cols).ok_or(no_layout)?)?;
        pack::repack(FILE_LAYOUT, codes, layout, rows, cols, packed);
        packed
    };
    Ok(Ternary { packed, rows, cols, scale })
}
