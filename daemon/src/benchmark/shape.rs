//! A model that nobody has, or that does not fit, timed by its layers: what a token costs when it is as large as its shape.
//!
//! Layers of a transformer are alike, and a token takes them one after the other. So a few are made of random weights, one
//! at a time, each as a model of a single layer with a small vocabulary; the engine runs it as it runs any model; and the
//! whole is added up:
//!
//! ```text
//! bytes a token   = layers * (bytes of a layer + keys and values of the context) + high plane of the head
//! seconds a token = layers * measured seconds of a layer + high plane of the head / measured bytes a second
//! ```
//!
//! Measured is a layer; implied is the rest. The head is not run: it streams as layers do, at their rate at best.

use std::time::Instant;

use serde::Serialize;
use tern_boards::energy::Ledger;
use tern_kernels::KernelSet;
use tern_runtime::engine::Engine;
use tern_runtime::error::LoadError;
use tern_runtime::gguf::Gguf;
use tern_runtime::head::planes::FACTORS;
use tern_runtime::map::Anonymous;
use tern_runtime::model::Config;
use tern_runtime::plan::{MemoryPlan, Options};
use tern_runtime::pool::Pool;

use super::{Amount, measure};
use crate::synth::{Shape, header, write_model};

/// Tokens of the vocabulary that a single layer is run with; its head is a few per cent of a layer at most.
const VOCAB: u32 = 512;

/// Rows of a step and tokens of the prompt that is timed.
const PROMPT: usize = 64;

/// Tokens that are generated and timed.
const GENERATE: usize = 8;

/// Bytes of a shape, without a weight of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ShapeBytes {
    /// Layers.
    pub layers: u64,
    /// Ternary weights of all layers.
    pub ternary_weights: u64,
    /// Packed weights of one layer, in the layout of the kernels.
    pub layer_bytes: u64,
    /// High plane and factors of an int8 head.
    pub head_bytes: u64,
    /// Keys and values of one position in one layer, in f16.
    pub kv_bytes_per_position: u64,
    /// Positions that a token sees.
    pub context_tokens: u64,
}

impl ShapeBytes {
    /// What a token of `shape` reads, with `context_tokens` positions before it and weights in the layout of `set`; `None`
    /// if the kernels cannot take such a shape.
    pub fn new(shape: &Shape, set: &KernelSet, context_tokens: u64) -> Option<Self> {
        let (hidden, ffn) = (shape.hidden as usize, shape.ffn as usize);
        let (q, kv) = ((shape.heads * shape.head_dim) as usize, (shape.kv_heads * shape.head_dim) as usize);
        let matrices = [
            (q, hidden),
            (kv, hidden),
            (kv, hidden),
            (hidden, q),
            (ffn, hidden),
            (ffn, hidden),
            (hidden, ffn),
        ];
        let layer_bytes =
            matrices.iter().map(|(rows, cols)| set.layout.bytes(*rows, *cols)).sum::<Option<usize>>()?;
        let weights: usize = matrices.iter().map(|(rows, cols)| rows * cols).sum();
        let vocab = u64::from(shape.vocab);
        Some(ShapeBytes {
            layers: shape.layers.into(),
            ternary_weights: u64::from(shape.layers) * weights as u64,
            layer_bytes: layer_bytes as u64,
            head_bytes: vocab * u64::from(shape.hidden).next_multiple_of(128) / 2
                + 4 * FACTORS as u64 * vocab,
            kv_bytes_per_position: 2 * 2 * kv as u64,
            context_tokens,
        })
    }

    /// What a token reads of all layers: weights, keys and values.
    pub const fn layers_bytes(&self) -> u64 {
        self.layers * (self.layer_bytes + self.context_tokens * self.kv_bytes_per_position)
    }

    /// What a token reads.
    pub const fn bytes_per_token(&self) -> u64 {
        self.layers_bytes() + self.head_bytes
    }

    /// What must stay in memory: that, since every token reads all of it.
    pub const fn resident_bytes(&self) -> u64 {
        self.bytes_per_token()
    }

    /// Tokens a second at which so many bytes a second are used up.
    pub fn most_tokens_per_second(&self, bytes_per_second: f64) -> f64 {
        bytes_per_second / self.bytes_per_token() as f64
    }
}

/// One layer as it was timed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerTime {
    /// Milliseconds a token, decoded one by one.
    pub decode_ms: f64,
    /// Milliseconds a token of a prompt, 64 of them together.
    pub prompt_ms: f64,
    /// Bytes of weights a second while decoding.
    pub bytes_per_second: f64,
}

/// Why a layer cannot be timed.
#[derive(Debug)]
pub enum LayerError {
    /// The system refuses memory.
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The system refuses threads.
    Workers(std::io::Error),
    /// The layer cannot be written.
    Write(std::io::Error),
    /// The layer cannot be loaded.
    Load(LoadError),
    /// The engine refuses to run it.
    Refused(tern_runtime::engine::Refusal),
}

impl core::fmt::Display for LayerError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Memory { bytes } => {
                write!(
                    f,
                    "the system refuses {} MiB for one layer; take a smaller shape",
                    bytes.div_ceil(1 << 20)
                )
            }
            Self::Workers(error) => write!(f, "the system refuses threads: {error}; lower --threads"),
            Self::Write(error) => write!(f, "a layer of this shape cannot be made: {error}"),
            Self::Load(error) => write!(f, "a layer of this shape cannot be run: {error}"),
            Self::Refused(refusal) => write!(f, "the engine refuses the measurement: {refusal}"),
        }
    }
}

impl core::error::Error for LayerError {}

/// A layer of `shape` with random weights from `seed`, as a file in memory, and the bytes that running it takes beside.
fn one_layer(shape: &Shape) -> Shape {
    Shape { layers: 1, vocab: VOCAB, context: shape.context.min(4096), ..*shape }
}

/// Bytes of memory that [`time`] takes at once.
///
/// # Errors
/// If no file of this shape can be made.
pub fn needed_bytes(shape: &Shape) -> Result<u64, LayerError> {
    let file_bytes = header(&one_layer(shape), 0).map_err(LayerError::Write)?.file_bytes();
    // The layer as a file and again as the kernels want it, and a little to work with.
    Ok(2 * file_bytes + (64 << 20))
}

/// Makes a layer of `shape` from `seed`, times it with `set` on `threads` threads, and forgets it.
///
/// # Errors
/// If there is no memory or no thread for it.
pub fn time(
    shape: &Shape,
    seed: u64,
    set: &'static KernelSet,
    threads: usize,
) -> Result<LayerTime, LayerError> {
    let layer = one_layer(shape);
    let bytes = header(&layer, seed).map_err(LayerError::Write)?.file_bytes() as usize;
    let mut file = Anonymous::new(bytes).map_err(|_| LayerError::Memory { bytes })?;
    write_model(&layer, seed, &mut file.bytes_mut()[..], |_| ()).map_err(LayerError::Write)?;
    let gguf = Gguf::parse(file.bytes_mut()).map_err(LayerError::Load)?;
    let config = Config::read(&gguf).map_err(LayerError::Load)?;
    let context_tokens = (PROMPT + GENERATE + 2).min(config.context);
    let options =
        Options { slots: 1, context_tokens, cache_tokens: context_tokens, ..Options::for_model(&config) };
    let plan = MemoryPlan::new(&gguf, options, set, threads).map_err(LayerError::Load)?;
    let bytes = plan.total_bytes();
    let mut memory = Anonymous::new(bytes).map_err(|_| LayerError::Memory { bytes })?;
    let pool = Pool::new(threads).map_err(LayerError::Workers)?;
    let mut engine = Engine::new(&gguf, &plan, set, &pool, memory.bytes_mut()).map_err(LayerError::Load)?;
    let read = engine.model().bytes_per_token() as f64;
    let origin = Instant::now();
    let mut ledger = Ledger::new(None, origin.elapsed());
    let amount = Amount { prompt_tokens: PROMPT, generate_tokens: GENERATE, sequences: 1, repeats: 3 };
    let measured = measure(&mut engine, amount, &mut ledger, origin, || ()).map_err(LayerError::Refused)?;
    // Both parts were asked for.
    let ms = |part: Option<super::Part>| part.map_or(f64::NAN, |part| 1e3 / part.tokens_per_second.mean);
    let decode_ms = ms(measured.generate);
    // The small head streams at the rate of the layer.
    let small_head = engine.model().head.streamed_bytes() as f64;
    let share = (read - small_head) / read;
    Ok(LayerTime {
        decode_ms: decode_ms * share,
        prompt_ms: ms(measured.prompt),
        bytes_per_second: read / (decode_ms * 1e-3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use tern_kernels::Layout;
    use tern_kernels::reference::scalar;

    #[test]
    fn a_hundred_billion_weights_are_added_up() {
        let shape = Shape::by_name("100b").expect("a shape of this build");
        let bytes = ShapeBytes::new(shape, scalar(Layout::T5R), 512).expect("its columns fit");
        // 72 layers of 4 * 8192^2 + 3 * 8192 * 45568 weights.
        assert_eq!(bytes.ternary_weights, 72 * (4 * 8192 * 8192 + 3 * 8192 * 45_568));
        let five = bytes.ternary_weights / 72 / 5;
        assert!((five..five * 101 / 100).contains(&bytes.layer_bytes), "{bytes:?}");
        // 64 key heads of 128 values, keys and values, two bytes each.
        assert_eq!(bytes.kv_bytes_per_position, 64 * 128 * 4);
        assert_eq!(bytes.head_bytes, 32_002 * 8192 / 2 + 32_002 * 20);
        assert_eq!(
            bytes.bytes_per_token(),
            72 * (bytes.layer_bytes + 512 * bytes.kv_bytes_per_position) + bytes.head_bytes
        );
        let rate = bytes.most_tokens_per_second(800e9);
        assert!((30.0..40.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_layer_is_timed_and_forgotten() {
        let shape = Shape::by_name("tiny").expect("a shape of this build");
        let time = time(shape, 1, &tern_kernels::SCALAR, 1).expect("a small layer");
        assert!(time.decode_ms > 0.0 && time.prompt_ms > 0.0 && time.bytes_per_second > 0.0, "{time:?}");
        assert!(needed_bytes(shape).expect("it can be made") > 64 << 20);
    }
}
