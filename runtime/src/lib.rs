//! From a model file to logits, text and decisions.
//!
//! The runtime is handed a [`tern_kernels::KernelSet`], something that runs tasks ([`parallel::Exec`]), the bytes of
//! a model file and one block of memory; it names no instruction set, no board, no socket and no watt. After start-up
//! it allocates nothing.
//!
//! | module | holds |
//! |---|---|
//! | [`gguf`] | the model container: parsed without trust, written for tools |
//! | [`tokenizer`] | byte-level BPE over the file's own tables, streaming UTF-8 |
//! | [`model`] | configuration and weights of a BitNet b1.58 model |
//! | [`activations`] | the inputs of ternary products: int8 or float, a scale a row or a group |
//! | [`arena`], [`plan`] | one block of memory and what goes where in it |
//! | [`parallel`], `pool` | sharing work between cores |
//! | [`kv_cache`] | keys and values of past positions, in pages |
//! | [`forward`], `product`, `attention` | one batch of tokens through the layers |
//! | [`head`] | hidden states to logits, for all of the vocabulary or some rows |
//! | [`sampler`] | logits to the next token |
//! | [`constraint`] | rules of the caller's for which token may follow |
//! | [`trie`] | a label set as a tree of tokens, scored exactly |
//! | [`stop`] | stop strings in streamed text |
//! | [`engine`] | requests in slots, one batched step at a time |
//!
//! Features: `std` (default) adds the memory map, the worker pool and the GGUF writer. Without it the crate needs
//! neither the standard library nor an allocator.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian and are used as they are mapped; this target is big-endian");

/// Version of the arithmetic: it goes up with every change that gives a cell of the key/value cache other bits, so that
/// nobody goes on with those of an older program.
pub const NUMERICS: u32 = 1;

pub mod activations;
pub mod arena;
mod attention;
pub mod constraint;
pub mod engine;
pub mod error;
pub mod forward;
pub mod gguf;
pub mod head;
pub mod kv_cache;
pub mod model;
mod name;
pub mod plan;
mod product;
pub mod sampler;
pub mod stop;
pub mod tokenizer;
pub mod trie;

#[cfg(feature = "std")]
#[allow(unsafe_code, reason = "mapping a file is a promise that no type can check")]
pub mod map;
#[allow(unsafe_code, reason = "disjoint parts of one buffer go to different workers")]
pub mod parallel;
#[cfg(feature = "std")]
#[allow(unsafe_code, reason = "a borrowed task is shared with threads that outlive it")]
pub mod pool;
