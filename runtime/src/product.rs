//! Ternary products on the workers: how one is cut into tasks, what memory a task needs, and what becomes of its sums.
//!
//! A kernel set says how it likes a product to be cut ([`tern_kernels::Grain`]): by output rows, by tokens, or both.
//! Every task computes exact integer sums of its tile and turns them into activations while they are in its core's
//! cache, so a cut never changes a result.

use bytemuck::cast_slice_mut;
use tern_kernels::{Gate, KernelSet};

use crate::forward::Machine;
use crate::model::{Config, Ternary};
use crate::parallel::{self, Grid, GridTile, Segment, Stripe};

/// Quantised rows as the kernels take them.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// Prepared tokens, packed for the number of columns of the matrix they meet.
    pub prepared: &'a [u8],
    /// The quantisation scale of each.
    pub scales: &'a [f32],
    /// How many there are.
    pub tokens: usize,
}

/// What becomes of a product.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue {
    /// It is the output.
    Store,
    /// It is added to the output, which is a residual stream.
    Add,
}

/// Words of scratch that a task of any product of a model needs, with up to `rows` tokens on `workers` workers.
pub(crate) fn scratch_words(config: &Config, set: &KernelSet, rows: usize, workers: usize) -> usize {
    let (hidden, ffn) = (config.hidden, config.ffn);
    // Rows, columns, and how many matrices a task multiplies with.
    let shapes = [
        (config.q_dim(), hidden, 1),
        (config.kv_dim(), hidden, 1),
        (hidden, config.q_dim(), 1),
        (ffn, hidden, 2),
        (hidden, ffn, 1),
    ];
    let task_words = |(matrix_rows, cols, matrices): (usize, usize, usize), tokens| {
        let segment = segment(set, matrix_rows, cols, tokens, workers);
        let (rows, tokens) = (segment.most_cols.min(matrix_rows), segment.most_rows.min(tokens));
        (matrices * rows * tokens).div_ceil(2) + set.scratch_words(rows, cols, tokens)
    };
    // A grain may depend on the number of tokens in any way, so every number is asked for.
    let tokens = 1..=rows;
    tokens.flat_map(|tokens| shapes.map(|shape| task_words(shape, tokens))).max().unwrap_or(0)
}

/// How the product of a matrix `[rows, cols]` with `tokens` tokens is cut.
fn segment(set: &KernelSet, rows: usize, cols: usize, tokens: usize, workers: usize) -> Segment {
    let grain = set.grain(rows, cols, tokens, workers);
    Segment { cols: rows, most_cols: grain.rows, most_rows: grain.tokens }
}

/// The tile of `matrix . input`, as integers.
fn multiply(
    set: &KernelSet,
    matrix: &Ternary<'_>,
    tile: &GridTile,
    input: Input<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    let layout = set.layout;
    // A tile starts at a panel, because a grain is a whole number of them.
    let panels = tile.cols.start / layout.panel_rows()..tile.cols.end.div_ceil(layout.panel_rows());
    let panel_bytes = layout.panel_bytes(matrix.cols);
    let packed = &matrix.packed[panels.start * panel_bytes..panels.end * panel_bytes];
    let token_bytes = set.prepared_bytes(matrix.cols);
    let prepared = &input.prepared[tile.rows.start * token_bytes..tile.rows.end * token_bytes];
    set.multiply(packed, tile.cols.len(), matrix.cols, prepared, tile.rows.len(), scratch, sums);
}

/// `out[t][r] = (matrices . input)[t][r]`, or that added to it: the rows of `matrices`, three at most, one after
/// another in `out: [tokens, stride]`.
pub(crate) fn product(
    machine: Machine<'_>,
    scratch: &mut [u64],
    matrices: &[Ternary<'_>],
    input: Input<'_>,
    (out, stride): (&mut [f32], usize),
    epilogue: Epilogue,
) {
    let mut segments = [Segment::default(); 3];
    for (to, matrix) in segments.iter_mut().zip(matrices) {
        *to = segment(machine.set, matrix.rows, matrix.cols, input.tokens, machine.exec.workers());
    }
    let grid = Grid { rows: input.tokens, segments: &segments[..matrices.len()] };
    let out = (&mut out[..input.tokens * stride], stride);
    parallel::tiles(machine.exec, scratch, out, grid, |scratch, tile, mut stripe| {
        let (matrix, width) = (&matrices[tile.segment], tile.cols.len());
        let count = width * tile.rows.len();
        let (sums, scratch) = scratch.split_at_mut(count.div_ceil(2));
        let sums = &mut cast_slice_mut::<u64, i32>(sums)[..count];
        multiply(machine.set, matrix, &tile, input, scratch, sums);
        for ((i, token), sums) in tile.rows.enumerate().zip(sums.chunks_exact(width)) {
            let factor = matrix.scale / input.scales[token];
            match epilogue {
                Epilogue::Store => machine.set.scale_sums(sums, factor, stripe.row(i)),
                Epilogue::Add => machine.set.add_sums(sums, factor, stripe.row(i)),
            }
        }
    });
}

/// `out[t] = kind(gate . input) * (up . input)`, `[tokens, ffn]`.
pub(crate) fn gated_product(
    machine: Machine<'_>,
    scratch: &mut [u64],
    [gate, up]: &[Ternary<'_>; 2],
    kind: Gate,
    input: Input<'_>,
    out: &mut [f32],
) {
    let segment = segment(machine.set, gate.rows, gate.cols, input.tokens, machine.exec.workers());
    let grid = Grid { rows: input.tokens, segments: &[segment] };
    let out = (&mut out[..input.tokens * gate.rows], gate.rows);
    let task = |scratch: &mut [u64], tile: GridTile, mut stripe: Stripe<'_, f32>| {
        let width = tile.cols.len();
        let count = width * tile.rows.len();
        let (sums, scratch) = scratch.split_at_mut(count);
        let (gates, ups) = cast_slice_mut::<u64, i32>(sums).split_at_mut(count);
        multiply(machine.set, gate, &tile, input, scratch, gates);
        multiply(machine.set, up, &tile, input, scratch, ups);
        let sums = gates.chunks_exact(width).zip(ups.chunks_exact(width));
        for ((i, token), (gates, ups)) in tile.rows.enumerate().zip(sums) {
            let factors = [gate, up].map(|matrix| matrix.scale / input.scales[token]);
            machine.set.gate(kind, gates, ups, factors, stripe.row(i));
        }
    };
    parallel::tiles(machine.exec, scratch, out, grid, task);
}
