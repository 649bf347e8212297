//! One ternary product in groups of columns as a test case.

use crate::fill::{Fill, Random};
use tern_kernels::half::f16_to_f32;
use tern_kernels::{GroupedTile, KernelSet, pack};

/// What nobody may change behind values.
const GUARD: f32 = -12345.5;

/// Its sizes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of a group.
    pub cols: usize,
    /// Groups.
    pub groups: usize,
    /// Tokens.
    pub tokens: usize,
    /// Digits of an activation.
    pub digits: usize,
}

/// A product with the values that are its definition.
pub struct GroupedProduct {
    fill: Fill,
    shape: Shape,
    /// `[rows, groups, cols]`.
    weights: Vec<i8>,
    /// `[groups, rows]`.
    scales: Vec<u16>,
    /// `[tokens, digits, groups, cols]`.
    activations: Vec<i8>,
    /// `[tokens, groups, digits]`.
    factors: Vec<f32>,
    /// `[tokens, rows]`.
    expected: Vec<f32>,
}

impl GroupedProduct {
    /// A filled matrix and filled tokens, with scales and factors of many sizes, some of them zero; the expected values are
    /// computed by the definition, from unpacked numbers.
    pub fn new(fill: Fill, shape: Shape) -> Self {
        let Shape { rows, cols, groups, tokens, digits } = shape;
        let width = groups * cols;
        let (weights, activations) = (fill.weights(rows, width), fill.activations(tokens * digits, width));
        let mut random = Random::new((rows * 31 + cols * 7 + tokens) as u64);
        // Binary16 up to 2; one in nine is zero, one in nine below what is normal.
        let scales: Vec<u16> = (0..groups * rows)
            .map(|_| match random.below(9) {
                0 => 0,
                1 => random.below(0x400) as u16,
                _ => random.below(0x4000) as u16,
            })
            .collect();
        let factors: Vec<f32> =
            (0..tokens * groups * digits).map(|_| random.float() * [1.0, 1e-3][random.below(2)]).collect();
        let mut expected = vec![0f32; tokens * rows];
        for (at, value) in expected.iter_mut().enumerate() {
            let (token, row) = (at / rows, at % rows);
            for group in 0..groups {
                for digit in 0..digits {
                    let first = row * width + group * cols;
                    let q = &activations[((token * digits + digit) * groups + group) * cols..][..cols];
                    let pairs = weights[first..first + cols].iter().zip(q);
                    let sum: i32 = pairs.map(|(w, q)| i32::from(*w) * i32::from(*q)).sum();
                    let factor = factors[(token * groups + group) * digits + digit];
                    *value += sum as f32 * (f16_to_f32(scales[group * rows + row]) * factor);
                }
            }
        }
        GroupedProduct { fill, shape, weights, scales, activations, factors, expected }
    }

    /// Packs, prepares and multiplies rows `first..` with `set`, as a task of a larger product does: groups lie further apart
    /// than the tile is long.
    ///
    /// # Panics
    /// If a value has other bits or something behind the values was written; the message names set, fill and shape.
    pub fn check(&self, set: &KernelSet, first: usize) {
        let Shape { rows, cols, groups, tokens, digits } = self.shape;
        let case = format!("{} with {:?}, {:?} from row {first}", set.name, self.fill, self.shape);
        let each = set.layout.bytes(rows, cols).expect("groups that fit the layout");
        let mut packed = vec![0; groups * each];
        for (group, codes) in packed.chunks_exact_mut(each.max(1)).enumerate() {
            let weight = |row: usize, col: usize| self.weights[(row * groups + group) * cols + col];
            pack::pack_with(set.layout, rows, cols, codes, weight);
        }
        let (seen, stride) = (tokens * digits, set.prepared_bytes(cols));
        // One token more than is met, in front.
        let mut prepared = vec![0xee; groups * (seen + 1) * stride];
        for (at, place) in prepared.chunks_exact_mut(stride).enumerate() {
            let (group, token) = (at / (seen + 1), at % (seen + 1));
            if token > 0 {
                set.prepare(&self.activations[((token - 1) * groups + group) * cols..][..cols], place);
            }
        }
        let height = rows - first;
        let panel = first / set.layout.panel_rows() * set.layout.panel_bytes(cols);
        let mut values = vec![GUARD; tokens * height + 16];
        let mut sums = vec![0; set.grouped_sums(height, cols, seen)];
        let mut scratch = vec![0; set.grouped_scratch_words(height, cols, seen)];
        let tile = GroupedTile {
            weights: &packed[panel..],
            weights_stride: each,
            scales: &self.scales[first..],
            scales_stride: rows,
            rows: height,
            cols,
            groups,
            prepared: &prepared[stride..],
            prepared_stride: (seen + 1) * stride,
            tokens,
            digits,
            factors: &self.factors,
        };
        set.multiply_groups(tile, &mut scratch, &mut sums, &mut values[..tokens * height]);
        for (at, found) in values.iter().enumerate() {
            if at >= tokens * height {
                assert!(*found == GUARD, "{case}: written behind the values");
                continue;
            }
            let (token, row) = (at / height, first + at % height);
            let expected = self.expected[token * rows + row];
            assert!(
                found.to_bits() == expected.to_bits(),
                "{case}: token {token} row {row} is {found:e}, expected {expected:e}"
            );
        }
    }
}
