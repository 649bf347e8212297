//! The contract that every kernel back end of Tern obeys.
//!
//! Ternary weights in {-1, 0, +1} are multiplied with int8 activations into exact 32-bit sums; everything else on
//! the path of a token is float32. This crate says how weights lie in memory ([`layout`]), how they are packed
//! ([`pack`]), how activations are quantised ([`quant`]), and what each operation returns ([`reference`](mod@reference),
//! the oracle). A back end fills a [`KernelSet`]; the runtime is handed one and names no instruction set.
//!
//! | module | holds |
//! |---|---|
//! | [`trit`] | a weight and its two-bit code |
//! | [`five`] | five weights in a byte |
//! | [`layout`] | byte layouts of a ternary matrix, with sizes and alignment rules |
//! | [`coding`] | how ternary matrices lie in files of other programs |
//! | [`pack`] | packing and unpacking, weight by weight |
//! | [`mod@repack`] | from one layout to another |
//! | [`planes`] | an int8 matrix as two planes of nibbles, for LM heads |
//! | [`blocks`] | tensor types of other programs, widened |
//! | [`half`] | binary16 and bfloat16 to binary32 and back |
//! | [`quant`] | absmax quantisation of one token's activations |
//! | [`lanes`] | float operations in the sixteen-lane order that makes them equal on every machine |
//! | [`attention`] | attention over one page of a key/value cache |
//! | [`elementwise`] | what becomes of sums, norms, rotary embedding |
//! | [`exp`](mod@exp) | a vectorisable exponential |
//! | [`reference`](mod@reference) | the scalar oracle and a scalar set for every layout |
//! | [`set`] | [`KernelSet`]: the function tables and their checked wrappers |
//!
//! # Exactness
//!
//! Integer sums are exact, so their order does not matter. Float sums are taken in one stated order
//! (see [`lanes`]) and never fused, so every set returns the same bits: a model answers alike on every board.
//!
//! ```
//! use tern_kernels::{pack, quant, Layout, SCALAR};
//! let weights = [1i8; 128]; // one row of 128 weights, all +1
//! let mut packed = [0u8; 32];
//! pack::pack(Layout::T2B128, &weights, 1, 128, &mut packed);
//! let mut q = [0i8; 128];
//! let scale = quant::quantize(&SCALAR, &[0.5f32; 128], &mut q); // 127 / 0.5
//! let mut prepared = vec![0u8; SCALAR.prepared_bytes(128)];
//! SCALAR.prepare(&q, &mut prepared);
//! let mut sums = [0i32; 1];
//! SCALAR.multiply(&packed, 1, 128, &prepared, 1, &mut [], &mut sums);
//! assert_eq!(sums[0], 127 * 128);
//! assert_eq!(scale, 254.0);
//! ```
#![no_std]
#![forbid(unsafe_code)]

pub mod attention;
pub mod blocks;
pub mod coding;
pub mod elementwise;
pub mod exp;
pub mod five;
pub mod half;
pub mod lanes;
pub mod layout;
pub mod pack;
pub mod planes;
pub mod quant;
pub mod reference;
pub mod repack;
pub mod set;
pub mod trit;

pub use coding::Coding;
pub use layout::Layout;
pub use reference::SCALAR;
pub use set::{
    AttentionOps, Cached, ElementOps, Gate, Grain, GroupedOps, GroupedTile, HeadOps, KernelSet, Nibbles,
    TernaryOps, Tile, VectorOps,
};
