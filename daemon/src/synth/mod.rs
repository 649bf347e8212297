//! Models of a given shape with random weights, for benchmarks and tests.
//!
//! Speed and memory depend on the shape of a model and on how many of its weights are zero, not on what they say; so a
//! synthetic file measures like the real one of its shape, and nobody has to download it. What it writes is noise.

mod shape;
mod vocabulary;
mod weights;

use std::io::{self, Write};

use tern_runtime::gguf::{Header, TensorType};

pub use shape::Shape;
pub use vocabulary::Vocabulary;
pub use weights::{ZERO_SHARE, zero_share};

use crate::random::Random;
use weights::CodeTable;

/// What a tensor is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filling {
    /// Small random values: embeddings.
    Noise,
    /// All one: norms.
    Ones,
    /// Random codes.
    Ternary,
}

/// A tensor of the file: name, row length and rows.
struct Part {
    name: String,
    cols: u64,
    rows: u64,
    filling: Filling,
}

/// The tensors of `shape` in the order in which converters write them.
fn parts(shape: &Shape) -> Vec<Part> {
    let (hidden, ffn) = (shape.hidden.into(), shape.ffn.into());
    let (q, kv) = (u64::from(shape.heads * shape.head_dim), u64::from(shape.kv_heads * shape.head_dim));
    let part = |name: String, cols, rows, filling| Part { name, cols, rows, filling };
    let mut parts = vec![part("token_embd.weight".into(), hidden, shape.vocab.into(), Filling::Noise)];
    for n in 0..shape.layers {
        let norms =
            [("attn_norm", hidden), ("attn_sub_norm", q), ("ffn_norm", hidden), ("ffn_sub_norm", ffn)];
        for (name, len) in norms {
            parts.push(part(format!("blk.{n}.{name}.weight"), len, 1, Filling::Ones));
        }
        let matrices = [
            ("attn_q", hidden, q),
            ("attn_k", hidden, kv),
            ("attn_v", hidden, kv),
            ("attn_output", q, hidden),
            ("ffn_gate", hidden, ffn),
            ("ffn_up", hidden, ffn),
            ("ffn_down", ffn, hidden),
        ];
        for (name, cols, rows) in matrices {
            parts.push(part(format!("blk.{n}.{name}.weight"), cols, rows, Filling::Ternary));
        }
    }
    parts.push(part("output_norm.weight".into(), hidden, 1, Filling::Ones));
    parts
}

/// The header of a model of `shape`: metadata, tokenizer tables and tensor descriptions.
///
/// # Errors
/// `InvalidInput` if `shape` is that of no model; the shapes of this build all are.
pub fn header(shape: &Shape, seed: u64) -> io::Result<Header> {
    header_of(shape, seed, &parts(shape))
}

fn header_of(shape: &Shape, seed: u64, parts: &[Part]) -> io::Result<Header> {
    const ARCH: &str = "bitnet-b1.58";
    let vocabulary = Vocabulary::new(shape.vocab);
    let mut header = Header::new();
    header
        .str("general.architecture", ARCH)
        .str("general.name", &format!("synthetic {} (random weights, seed {seed})", shape.name))
        .u32(&format!("{ARCH}.vocab_size"), shape.vocab)
        .u32(&format!("{ARCH}.context_length"), shape.context)
        .u32(&format!("{ARCH}.embedding_length"), shape.hidden)
        .u32(&format!("{ARCH}.block_count"), shape.layers)
        .u32(&format!("{ARCH}.feed_forward_length"), shape.ffn)
        .u32(&format!("{ARCH}.rope.dimension_count"), shape.head_dim)
        .u32(&format!("{ARCH}.attention.head_count"), shape.heads)
        .u32(&format!("{ARCH}.attention.head_count_kv"), shape.kv_heads)
        .f32(&format!("{ARCH}.attention.layer_norm_rms_epsilon"), 1e-5)
        .f32(&format!("{ARCH}.rope.freq_base"), shape.rope_theta)
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "llama-bpe")
        .strings("tokenizer.ggml.tokens", &vocabulary.tokens)
        .i32s("tokenizer.ggml.token_type", &vocabulary.types)
        .strings("tokenizer.ggml.merges", &vocabulary.merges)
        .u32("tokenizer.ggml.bos_token_id", vocabulary.bos)
        .u32("tokenizer.ggml.eos_token_id", vocabulary.eos)
        .u32("tokenizer.ggml.eot_token_id", vocabulary.end_of_turn)
        .bool("tokenizer.ggml.add_bos_token", true);
    for part in parts {
        match part.filling {
            Filling::Ones => header.tensor(&part.name, TensorType::F32, &[part.cols])?,
            Filling::Noise => header.tensor(&part.name, TensorType::F16, &[part.cols, part.rows])?,
            Filling::Ternary => header.tensor(&part.name, TensorType::I2S, &[part.cols, part.rows])?,
        };
    }
    Ok(header)
}

/// Writes a model of `shape` to `out` piece by piece and tells `wrote` how many bytes each piece had. The same shape
/// and seed give the same bytes.
///
/// # Errors
/// Those of `out`.
pub fn write_model<W: Write>(shape: &Shape, seed: u64, out: W, mut wrote: impl FnMut(u64)) -> io::Result<W> {
    let parts = parts(shape);
    let mut data = header_of(shape, seed, &parts)?.begin(out)?;
    let table = CodeTable::new();
    let mut random = Random::new(seed);
    let mut buffer = Vec::with_capacity(weights::PIECE_BYTES);
    for part in &parts {
        let elements = part.cols * part.rows;
        let mut left = match part.filling {
            Filling::Ones => 4 * elements,
            Filling::Noise => 2 * elements,
            Filling::Ternary => elements / 4,
        };
        while left > 0 {
            let bytes = left.min(weights::PIECE_BYTES as u64) as usize;
            buffer.clear();
            match part.filling {
                Filling::Ones => buffer.extend(1f32.to_le_bytes().iter().cycle().take(bytes)),
                Filling::Noise => weights::noise(&mut random, bytes, &mut buffer),
                Filling::Ternary => table.codes(&mut random, bytes, &mut buffer),
            }
            data.write(&buffer)?;
            wrote(bytes as u64);
            left -= bytes as u64;
        }
        if part.filling == Filling::Ternary {
            // One scale after the codes and 28 bytes without meaning; see `docs/layouts.md`.
            let mut tail = [0u8; 32];
            tail[..4].copy_from_slice(&weights::scale(part.cols).to_le_bytes());
            data.write(&tail)?;
        }
    }
    data.finish()
}
