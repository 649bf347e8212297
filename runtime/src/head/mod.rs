//! Hidden states to logits, for the whole vocabulary, for a few of its rows, or for those that can still be chosen.
//!
//! A head is used as the file stores it ([`dense`]), or in int8 as two planes of nibbles ([`planes`]), where choosing a
//! token reads one plane and a few rows of the other ([`screen`]). `docs/head.md` explains the second.

pub mod dense;
pub mod planes;
pub mod screen;

use core::ops::Range;

use tern_kernels::KernelSet;
use tern_kernels::planes::{padded_cols, split};

use crate::arena::{Arena, slice_bytes};
use crate::engine::{LOGIT_CHUNK, MOST_DRAFTS};
use crate::error::LoadError;
use crate::forward::Machine;
use crate::kv_cache::MAX_SLOTS;
use crate::model::Dense;
pub use planes::{Planes, Query};

/// Which head the engine computes logits with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadKind {
    /// Int8 planes where the file has them, else the head as the file stores it.
    #[default]
    Stored,
    /// The head that the model was published with, even where int8 planes stand beside it.
    File,
    /// Int8 planes, made in the arena where the file has none.
    Int8,
}

/// A matrix `[vocab, hidden]` that turns hidden states into logits.
#[derive(Clone, Copy, Debug)]
pub enum Head<'a> {
    /// As the file stores it.
    Dense(Dense<'a>),
    /// Int8 in two planes.
    Planes(Planes<'a>),
}

impl Head<'_> {
    /// Tokens of the vocabulary.
    pub fn rows(&self) -> usize {
        match self {
            Head::Dense(dense) => dense.rows,
            Head::Planes(planes) => planes.rows,
        }
    }

    /// Values of a hidden state.
    pub fn cols(&self) -> usize {
        match self {
            Head::Dense(dense) => dense.cols,
            Head::Planes(planes) => planes.cols,
        }
    }

    /// Bytes of the whole head.
    pub fn bytes(&self) -> usize {
        match self {
            Head::Dense(dense) => dense.bytes(),
            Head::Planes(planes) => planes.bytes(),
        }
    }

    /// Bytes that choosing a token greedily reads, apart from the few rows that are looked at twice.
    pub fn streamed_bytes(&self) -> usize {
        match self {
            Head::Dense(dense) => dense.bytes(),
            Head::Planes(planes) => planes.screened_bytes(),
        }
    }

    /// What it is made of, for reports: the type of its tensor, or the layout's name.
    pub fn name(&self) -> &'static str {
        match self {
            Head::Dense(dense) => dense.ty.name(),
            Head::Planes(_) => tern_kernels::planes::NAME,
        }
    }
}

/// The most states that a step has.
const MOST_STATES: usize = MAX_SLOTS + if LOGIT_CHUNK > MOST_DRAFTS { LOGIT_CHUNK } else { MOST_DRAFTS };

/// What turning states into logits needs beside the states.
#[derive(Debug)]
pub struct Workspace<'a> {
    /// One widened row of a dense head, `[hidden]`.
    wide: &'a mut [f32],
    /// High part, then low part of each state, each `[padded hidden]`; of a dense head nothing.
    parts: &'a mut [i8],
    queries: heapless::Vec<Query, MOST_STATES>,
}

impl<'a> Workspace<'a> {
    /// Bytes of arena for a head of `cols` columns, in planes or not, and `rows` states at once.
    pub fn arena_bytes(cols: usize, in_planes: bool, rows: usize) -> Option<usize> {
        let parts = if in_planes { rows.checked_mul(2 * padded_cols(cols))? } else { 0 };
        slice_bytes::<f32>(cols)?.checked_add(slice_bytes::<i8>(parts)?)
    }

    /// Cuts the memory for `head` and `rows` states at once.
    ///
    /// # Errors
    /// If the arena is too small.
    pub fn new(head: &Head<'_>, rows: usize, arena: &mut Arena<'a>) -> Result<Self, LoadError> {
        let cols = head.cols();
        let parts = if matches!(head, Head::Planes(_)) { rows * 2 * padded_cols(cols) } else { 0 };
        Ok(Workspace { wide: arena.take(cols)?, parts: arena.take(parts)?, queries: heapless::Vec::new() })
    }

    /// Takes `states: [n, hidden]` to be asked about, in place of those before.
    ///
    /// # Panics
    /// If there are more than the workspace was cut for.
    pub fn prepare(&mut self, set: &KernelSet, head: &Head<'_>, states: &[f32]) {
        self.queries.clear();
        if let Head::Planes(planes) = head {
            let cols = padded_cols(planes.cols);
            let n = states.len() / planes.cols;
            let parts = self.parts[..n * 2 * cols].chunks_exact_mut(2 * cols);
            for (state, parts) in states.chunks_exact(planes.cols).zip(parts) {
                let (high, low) = parts.split_at_mut(cols);
                let query = Query::new(split(set, state, high, low));
                self.queries.push(query).expect("no more states than slots and logit rows");
            }
        }
    }

    /// Prepared states `range`.
    fn asked(&self, planes: &Planes<'_>, range: Range<usize>) -> (&[i8], &[Query]) {
        let each = 2 * padded_cols(planes.cols);
        (&self.parts[range.start * each..range.end * each], &self.queries[range])
    }

    /// What [`screen::candidates`] looks rows up with: prepared state `index`.
    pub fn state(&self, planes: &Planes<'_>, index: usize) -> (&[i8], &Query) {
        let (parts, queries) = self.asked(planes, index..index + 1);
        (parts, &queries[0])
    }
}

/// `logits[i] = head . states[range][i]` with `states: [n, hidden]`, which were [`Workspace::prepare`]d, and
/// `logits: [range, vocab]`.
///
/// `scratch` must hold `hidden` values of binary32 a worker.
pub fn logits(
    machine: Machine<'_>,
    scratch: &mut [u64],
    head: &Head<'_>,
    work: &Workspace<'_>,
    (states, range): (&[f32], Range<usize>),
    logits: &mut [f32],
) {
    match head {
        Head::Dense(head) => {
            let states = &states[range.start * head.cols..range.end * head.cols];
            dense::logits(machine, scratch, head, states, logits);
        }
        Head::Planes(planes) => {
            let (parts, queries) = work.asked(planes, range);
            planes.logits(machine, scratch, parts, queries, logits);
        }
    }
}

/// For each of the prepared states `range` and every row the most that its logit can be, `bounds: [range, vocab]`; see
/// [`screen`].
pub fn bounds(
    machine: Machine<'_>,
    scratch: &mut [u64],
    planes: &Planes<'_>,
    work: &Workspace<'_>,
    range: Range<usize>,
    bounds: &mut [f32],
) {
    let (parts, queries) = work.asked(planes, range);
    screen::bounds(machine, scratch, planes, parts, queries, bounds);
}

/// The logit of one token for `state`, the [`Workspace::prepare`]d one of this index: the same bits as [`logits`] gives it.
pub fn logit(
    set: &KernelSet,
    head: &Head<'_>,
    work: &mut Workspace<'_>,
    (state, index): (&[f32], usize),
    token: usize,
) -> f32 {
    match head {
        Head::Dense(head) => dense::logit(set, head, state, token, work.wide),
        Head::Planes(planes) => {
            let (parts, query) = work.state(planes, index);
            planes.logit(set, parts, query, token)
        }
    }
}
