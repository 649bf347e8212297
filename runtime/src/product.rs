//! Ternary products on the workers: how one is cut into tasks, what memory a task needs, and what becomes of its sums.
//!
//! A kernel set says how it likes a product to be cut ([`tern_kernels::Grain`]): by output rows, by tokens, or both.
//! Every task computes exact integer sums of its tile and turns them into activations while they are in its core's
//! cache, so a cut never changes a result.
//!
//! With one scale a matrix and a token the sums of a tile are the product but for one factor. Otherwise
//!
//! ```text
//! y = 0
//! for each group of columns, in order
//!     for each digit of the inputs, the largest first
//!         y = y + sum * (weight scale * (1 / (input scale * 254^digit)))
//! ```
//!
//! in binary32, every step rounded by itself: that order, and nothing of the cut, decides the bits. All of it is one call of
//! the kernels ([`KernelSet::multiply_groups`]).

use bytemuck::cast_slice_mut;
use tern_kernels::{Gate, GroupedTile, KernelSet};

use crate::activations::Form;
use crate::forward::Machine;
use crate::model::{Config, Scales, Ternary};
use crate::parallel::{self, Grid, GridTile, Segment, Stripe};

/// Quantised rows as the kernels take them.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// Prepared tokens, packed for the number of columns of the matrix they meet: `[groups, tokens, digits]`.
    pub prepared: &'a [u8],
    /// What their sums are multiplied by beside the scales of the weights, `[tokens, groups, digits]`; where whole rows of
    /// one digit are all there is, their quantisation scales.
    pub factors: &'a [f32],
    /// How many there are.
    pub tokens: usize,
    /// What they consist of.
    pub form: Form,
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
pub(crate) fn scratch_words(
    config: &Config,
    (set, form): (&KernelSet, Form),
    rows: usize,
    workers: usize,
) -> usize {
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
        let segment = segment((set, form), matrix_rows, cols, tokens, workers);
        let (rows, tokens) = (segment.most_cols.min(matrix_rows), segment.most_rows.min(tokens));
        let (group, seen) = (form.group_cols(cols), tokens * form.digits());
        // Sums of the product where they are all, else of a group or digit, and values beside them.
        let (sums, words) = match form.group {
            Some(_) => (set.grouped_sums(rows, group, seen), set.grouped_scratch_words(rows, group, seen)),
            None if form.is_whole() => (matrices * rows * tokens, set.scratch_words(rows, group, seen)),
            None => (rows * seen, set.scratch_words(rows, group, seen)),
        };
        let values = if form.is_whole() { 0 } else { matrices * rows * tokens };
        sums.div_ceil(2) + values.div_ceil(2) + words
    };
    // A grain may depend on the number of tokens in any way, so every number is asked for.
    let tokens = 1..=rows;
    tokens.flat_map(|tokens| shapes.map(|shape| task_words(shape, tokens))).max().unwrap_or(0)
}

/// How the product of a matrix `[rows, cols]` with `tokens` tokens is cut.
fn segment(
    (set, form): (&KernelSet, Form),
    rows: usize,
    cols: usize,
    tokens: usize,
    workers: usize,
) -> Segment {
    let grain = form.grain(set, rows, cols, tokens, workers);
    Segment { cols: rows, most_cols: grain.rows, most_rows: grain.tokens }
}

/// The tile of `matrix . input`, a matrix with one scale, as integers: every digit of a token is one to the kernels.
fn multiply(
    set: &KernelSet,
    matrix: &Ternary<'_>,
    tile: &GridTile,
    input: Input<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    // A tile starts at a panel, because a grain is a whole number of them.
    let packed = matrix.panels(set.layout, 0..1, tile.cols.clone());
    let token_bytes = input.form.group_bytes(set, matrix.cols);
    let prepared = &input.prepared[tile.rows.start * token_bytes..tile.rows.end * token_bytes];
    let seen = tile.rows.len() * input.form.digits();
    set.multiply(packed, tile.cols.len(), matrix.cols, prepared, seen, scratch, sums);
}

/// The tile of `matrix . input`, group by group and digit by digit: `values: [tile tokens, tile rows]`.
fn accumulate(
    set: &KernelSet,
    matrix: &Ternary<'_>,
    tile: &GridTile,
    input: Input<'_>,
    scratch: &mut [u64],
    values: &mut [f32],
) {
    let (rows, tokens, digits) = (tile.cols.len(), tile.rows.len(), input.form.digits());
    let groups = matrix.cols / matrix.group_cols();
    let factors = &input.factors[tile.rows.start * groups * digits..][..tokens * groups * digits];
    match matrix.scales {
        Scales::One(scale) => {
            let count = rows * tokens * digits;
            let (sums, scratch) = scratch.split_at_mut(count.div_ceil(2));
            let sums = &mut cast_slice_mut::<u64, i32>(sums)[..count];
            multiply(set, matrix, tile, input, scratch, sums);
            values.fill(0.0);
            let of_digits = sums.chunks_exact(rows).zip(factors).enumerate();
            for (at, (sums, factor)) in of_digits {
                set.add_sums(sums, scale * factor, &mut values[at / digits * rows..][..rows]);
            }
        }
        Scales::Groups { cols, scales } => {
            let count = set.grouped_sums(rows, cols, tokens * digits);
            let (sums, scratch) = scratch.split_at_mut(count.div_ceil(2));
            let sums = &mut cast_slice_mut::<u64, i32>(sums)[..count];
            let token_bytes = input.form.group_bytes(set, matrix.cols);
            let others = (groups - 1) * input.tokens;
            let tile = GroupedTile {
                weights: matrix.panels(set.layout, 0..groups, tile.cols.clone()),
                weights_stride: matrix.group_stride(set.layout),
                scales: &scales[tile.cols.start..][..(groups - 1) * matrix.rows + rows],
                scales_stride: matrix.rows,
                rows,
                cols,
                groups,
                prepared: &input.prepared[tile.rows.start * token_bytes..][..(others + tokens) * token_bytes],
                prepared_stride: input.tokens * token_bytes,
                tokens,
                digits,
                factors,
            };
            set.multiply_groups(tile, scratch, sums, values);
        }
    }
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
    let (set, form) = (machine.set, input.form);
    let mut segments = [Segment::default(); 3];
    for (to, matrix) in segments.iter_mut().zip(matrices) {
        *to = segment((set, form), matrix.rows, matrix.cols, input.tokens, machine.exec.workers());
    }
    let grid = Grid { rows: input.tokens, segments: &segments[..matrices.len()] };
    let out = (&mut out[..input.tokens * stride], stride);
    parallel::tiles(machine.exec, scratch, out, grid, |scratch, tile, mut stripe| {
        let (matrix, width) = (&matrices[tile.segment], tile.cols.len());
        let count = width * tile.rows.len();
        let (place, scratch) = scratch.split_at_mut(count.div_ceil(2));
        if !form.is_whole() {
            let values = &mut cast_slice_mut::<u64, f32>(place)[..count];
            accumulate(set, matrix, &tile, input, scratch, values);
            for (i, values) in values.chunks_exact(width).enumerate() {
                match epilogue {
                    Epilogue::Store => stripe.row(i).copy_from_slice(values),
                    Epilogue::Add => set.blend(stripe.row(i), 1.0, values, 1.0),
                }
            }
            return;
        }
        let sums = &mut cast_slice_mut::<u64, i32>(place)[..count];
        multiply(set, matrix, &tile, input, scratch, sums);
        let Scales::One(scale) = matrix.scales else { unreachable!("a form without groups") };
        for ((i, token), sums) in tile.rows.enumerate().zip(sums.chunks_exact(width)) {
            let factor = scale / input.factors[token];
            match epilogue {
                Epilogue::Store => set.scale_sums(sums, factor, stripe.row(i)),
                Epilogue::Add => set.add_sums(sums, factor, stripe.row(i)),
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
    let (set, form) = (machine.set, input.form);
    let segment = segment((set, form), gate.rows, gate.cols, input.tokens, machine.exec.workers());
    let grid = Grid { rows: input.tokens, segments: &[segment] };
    let out = (&mut out[..input.tokens * gate.rows], gate.rows);
    let task = |scratch: &mut [u64], tile: GridTile, mut stripe: Stripe<'_, f32>| {
        let width = tile.cols.len();
        let count = width * tile.rows.len();
        let (place, scratch) = scratch.split_at_mut(count);
        if !form.is_whole() {
            let (gates, ups) = cast_slice_mut::<u64, f32>(place).split_at_mut(count);
            accumulate(set, gate, &tile, input, scratch, gates);
            accumulate(set, up, &tile, input, scratch, ups);
            let values = gates.chunks_exact(width).zip(ups.chunks_exact(width));
            for (i, (gates, ups)) in values.enumerate() {
                set.gate_values(kind, gates, ups, stripe.row(i));
            }
            return;
        }
        let (gates, ups) = cast_slice_mut::<u64, i32>(place).split_at_mut(count);
        multiply(set, gate, &tile, input, scratch, gates);
        multiply(set, up, &tile, input, scratch, ups);
        let (Scales::One(gate), Scales::One(up)) = (gate.scales, up.scales) else {
            unreachable!("a form without groups")
        };
        let sums = gates.chunks_exact(width).zip(ups.chunks_exact(width));
        for ((i, token), (gates, ups)) in tile.rows.enumerate().zip(sums) {
            let factors = [gate, up].map(|scale| scale / input.factors[token]);
            set.gate(kind, gates, ups, factors, stripe.row(i));
        }
    };
    parallel::tiles(machine.exec, scratch, out, grid, task);
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::activations::Activations;
    use crate::parallel::Serial;
    use tern_kernels::half::{f16_to_f32, f32_to_f16};
    use tern_kernels::pack;
    use tern_kernels::reference::SCALARS;

    const ROWS: usize = 37;
    const COLS: usize = 512;
    const TOKENS: usize = 5;

    fn weight(row: usize, col: usize) -> i8 {
        ((row * 31 + col * 7 + (row * col) % 13) % 251 % 3) as i8 - 1
    }

    fn scale(row: usize, group: usize) -> u16 {
        f32_to_f16(0.02 + 0.01 * ((row * 7 + group * 5) % 11) as f32)
    }

    fn x(token: usize, col: usize) -> f32 {
        libm::sinf((token * 131 + col * 17) as f32) * (1.0 + (col % 29) as f32)
    }

    /// A matrix of [`weight`]s and [`scale`]s in the layout of `set`.
    struct Packed {
        codes: Vec<u8>,
        scales: Vec<u16>,
        group: usize,
    }

    impl Packed {
        fn new(set: &KernelSet, group: usize) -> Self {
            let each = set.layout.bytes(ROWS, group).expect("it fits");
            let mut codes = vec![0; COLS / group * each];
            for (at, codes) in codes.chunks_exact_mut(each).enumerate() {
                pack::pack_with(set.layout, ROWS, group, codes, |row, col| weight(row, at * group + col));
            }
            let scales = (0..COLS / group * ROWS).map(|i| scale(i % ROWS, i / ROWS)).collect();
            Packed { codes, scales, group }
        }

        fn ternary(&self) -> Ternary<'_> {
            let scales = if self.group == COLS {
                Scales::One(f16_to_f32(scale(0, 0)))
            } else {
                Scales::Groups { cols: self.group, scales: &self.scales }
            };
            Ternary { packed: &self.codes, rows: ROWS, cols: COLS, scales }
        }
    }

    /// The product of tokens `from..TOKENS` by `set`, added to ones.
    fn run(set: &'static KernelSet, form: Form, from: usize) -> Vec<f32> {
        let matrix = Packed::new(set, form.group_cols(COLS));
        let (group, groups, bytes) = (form.group_cols(COLS), form.groups(COLS), form.group_bytes(set, COLS));
        let tokens = TOKENS - from;
        let each = form.factors(COLS) / groups;
        let (mut prepared, mut factors) = (vec![0; groups * tokens * bytes], Vec::new());
        let (mut q, mut rest) = (vec![0; group], vec![0.0; group]);
        for token in 0..tokens {
            let row: Vec<f32> = (0..COLS).map(|col| x(from + token, col)).collect();
            for (at, x) in row.chunks_exact(group).enumerate() {
                let place = &mut prepared[(at * tokens + token) * bytes..][..bytes];
                let s = form.quantize(set, x, (&mut q, &mut rest), place);
                factors.extend_from_slice(&[0.0; 3][..each]);
                let end = factors.len();
                form.write_factors(s, &mut factors[end - each..]);
            }
        }
        let input = Input { prepared: &prepared, factors: &factors, tokens, form };
        let mut scratch = vec![0; 1 << 16];
        let mut out = vec![1.0; tokens * ROWS];
        let machine = Machine { set, exec: &Serial };
        let matrices = [matrix.ternary()];
        product(machine, &mut scratch, &matrices, input, (&mut out, ROWS), Epilogue::Add);
        let mut gated = vec![0.0; tokens * ROWS];
        let both = [matrix.ternary(), matrix.ternary()];
        gated_product(machine, &mut scratch, &both, Gate::Silu, input, &mut gated);
        out.extend(gated);
        out
    }

    fn expected(form: Form) -> Vec<f64> {
        let group = form.group_cols(COLS);
        let value = |token: usize, row: usize| -> f64 {
            let weight = |col: usize| {
                let scale = if group == COLS { scale(0, 0) } else { scale(row, col / group) };
                f64::from(weight(row, col)) * f64::from(f16_to_f32(scale))
            };
            (0..COLS).map(|col| f64::from(x(token, col)) * weight(col)).sum()
        };
        let products: Vec<f64> = (0..TOKENS * ROWS).map(|i| value(i / ROWS, i % ROWS)).collect();
        let gated = products.iter().map(|v| v / (1.0 + (-v).exp()) * v);
        products.iter().map(|v| v + 1.0).chain(gated).collect()
    }

    #[test]
    fn groups_and_digits_come_near_the_product_and_every_layout_gives_the_same_bits() {
        for activations in Activations::ALL {
            for group in [None, Some(64), Some(128), Some(256)] {
                let form = Form { group, activations };
                let takes = |set: &&KernelSet| group.is_none_or(|cols| set.layout.takes_groups(cols));
                let found: Vec<Vec<f32>> =
                    SCALARS.into_iter().filter(takes).map(|set| run(set, form, 0)).collect();
                assert!(found.len() > 2 && found.iter().all(|other| *other == found[0]), "{form:?}");
                let expected = expected(form);
                let largest = expected.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
                let errors = found[0].iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs());
                let error = errors.fold(0.0, f64::max) / largest;
                let most = if activations == Activations::Float { 1e-6 } else { 2e-2 };
                assert!(error < most, "{form:?}: {error}");
            }
        }
    }

    #[test]
    fn a_token_has_the_same_bits_alone_and_in_a_batch() {
        for activations in Activations::ALL {
            let form = Form { group: Some(128), activations };
            let (all, last) = (run(SCALARS[2], form, 0), run(SCALARS[2], form, TOKENS - 1));
            assert_eq!(all[(TOKENS - 1) * ROWS..TOKENS * ROWS], last[..ROWS], "{activations:?}");
            assert_eq!(all[(2 * TOKENS - 1) * ROWS..], last[ROWS..], "{activations:?}");
        }
    }
}
