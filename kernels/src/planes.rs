//! An int8 matrix with one scale a row, kept as two planes of nibbles: the layout `h8n2`.
//!
//! A weight is `w = s q` with `q` in -127..=127. The byte `q + 128` is cut in two: its upper nibble lies in the high
//! plane, its lower one in the low plane, so that a reader who is content with four bits of a weight reads half. In
//! both planes a row is blocks of 64 bytes and 128 columns, the last one padded with weights of 0; byte `l` of block
//! `b` holds column `128 b + l` in its lower half and column `128 b + 64 + l` in its upper half. `docs/layouts.md` draws
//! it, `docs/head.md` says what it is for.
//!
//! Activations meet it with sixteen bits: `x ~ x16 / s` with `x16` in -32512..=32512, as two bytes
//! `x16 = 256 high + low`, both signed. A nibble times a byte is then all that a kernel needs to know:
//!
//! ```text
//! sum q x16 = 256 (16 [hi, high] + [lo, high] - 128 sum high) + 16 [hi, low] + [lo, low] - 128 sum low
//! ```
//!
//! where `[plane, part]` is the sum of products of that plane's nibbles with that part. Each is at most
//! 15 x 128 x 65,280 = 1.3e8 in magnitude, the whole at most 127 x 32,512 x 65,280 = 2.7e11.

use crate::layout::MAX_COLS;
use crate::quant::quantize_value;
use crate::set::KernelSet;

/// The layout's name in files and reports.
pub const NAME: &str = "h8n2";
/// Columns of a block.
pub const BLOCK_COLS: usize = 128;
/// Bytes of a block in one plane.
pub const BLOCK_BYTES: usize = 64;
/// The largest magnitude of an activation: 127 in the high part and nothing in the low one.
pub const MAX_ACTIVATION: f32 = 32_512.0;

/// Columns with padding: whole blocks.
pub const fn padded_cols(cols: usize) -> usize {
    cols.next_multiple_of(BLOCK_COLS)
}

/// Bytes of a row in one plane.
pub const fn row_bytes(cols: usize) -> usize {
    padded_cols(cols) / 2
}

/// Bytes of one plane, or `None` if there are more columns than [`MAX_COLS`] or the size overflows.
pub const fn plane_bytes(rows: usize, cols: usize) -> Option<usize> {
    if cols > MAX_COLS { None } else { rows.checked_mul(row_bytes(cols)) }
}

/// The nibble of column `col` in one row of a plane, 0..=15.
#[inline(always)]
pub fn nibble_at(row: &[u8], col: usize) -> u8 {
    let byte = row[col / BLOCK_COLS * BLOCK_BYTES + col % BLOCK_BYTES];
    if col % BLOCK_COLS < BLOCK_BYTES { byte & 15 } else { byte >> 4 }
}

/// The weight of column `col`, from one row of each plane, in -128..=127 (-128 is never written).
#[inline(always)]
pub fn weight_at(high: &[u8], low: &[u8], col: usize) -> i8 {
    (nibble_at(high, col) << 4 | nibble_at(low, col)) as i8 ^ i8::MIN
}

/// Quantises one row to `q = round_half_even(w 127 / max|w|)` and writes its nibbles; returns the scale `max|w| / 127`,
/// which is 0, like every `q`, where no weight reaches 1e-30. NaN is written as 0.
///
/// # Panics
/// If a plane's row is not [`row_bytes`] long.
pub fn quantize_row(set: &KernelSet, row: &[f32], high: &mut [u8], low: &mut [u8]) -> f32 {
    assert!(high.len() == row_bytes(row.len()) && low.len() == high.len(), "a row of each plane");
    let absmax = set.absmax(row);
    let (scale, inverse) = if absmax < 1e-30 { (0.0, 0.0) } else { (absmax / 127.0, 127.0 / absmax) };
    let byte = |w: Option<&f32>| w.map_or(128, |w| quantize_value(*w, inverse) as u8 ^ 128);
    let blocks = high.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().zip(low.as_chunks_mut::<BLOCK_BYTES>().0);
    for (b, (high, low)) in blocks.enumerate() {
        for l in 0..BLOCK_BYTES {
            let (first, second) = (b * BLOCK_COLS + l, b * BLOCK_COLS + BLOCK_BYTES + l);
            let (first, second) = (byte(row.get(first)), byte(row.get(second)));
            high[l] = first >> 4 | second & 0xf0;
            low[l] = first & 15 | second << 4;
        }
    }
    scale
}

/// Activations of one token in two parts, and what is known of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Split {
    /// `x16 = round_half_even(x scale)`.
    pub scale: f32,
    /// Sum of the high parts.
    pub high_sum: i32,
    /// Sum of the low parts.
    pub low_sum: i32,
    /// Sum of the squares of `x16`.
    pub squares: i64,
    /// Sum of the squares of the low parts.
    pub low_squares: i64,
}

/// Splits activations `x` into two parts, each [`padded_cols`] long. NaN becomes 0, infinities the largest magnitude.
///
/// # Panics
/// If the lengths do not belong together.
pub fn split(set: &KernelSet, x: &[f32], high: &mut [i8], low: &mut [i8]) -> Split {
    assert!(high.len() == padded_cols(x.len()) && low.len() == high.len(), "two parts of a token");
    /// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer, ties to even.
    const ROUND: f32 = 12_582_912.0;
    // From 1e-30 so that the scale is finite, to the largest number so that it is not 0.
    let scale = MAX_ACTIVATION / set.absmax(x).clamp(1e-30, f32::MAX);
    let mut split = Split { scale, ..Split::default() };
    let (high, high_rest) = high.split_at_mut(x.len());
    let (low, low_rest) = low.split_at_mut(x.len());
    high_rest.fill(0);
    low_rest.fill(0);
    for ((x, high), low) in x.iter().zip(high).zip(low) {
        let v = (x * scale).clamp(-MAX_ACTIVATION, MAX_ACTIVATION);
        let whole = ((v + ROUND) - ROUND) as i32;
        let (upper, lower) = ((whole + 128) >> 8, ((whole + 128) & 255) - 128);
        (*high, *low) = (upper as i8, lower as i8);
        split.high_sum += upper;
        split.low_sum += lower;
        split.squares += i64::from(whole) * i64::from(whole);
        split.low_squares += i64::from(lower * lower);
    }
    split
}

/// `sum q x16` of a row from its four sums of products: `[hi, high]`, `[lo, high]`, `[hi, low]`, `[lo, low]`.
#[inline(always)]
pub fn total(split: &Split, [hi_high, lo_high, hi_low, lo_low]: [i32; 4]) -> i64 {
    let part = |hi: i32, lo: i32, sum: i32| 16 * i64::from(hi) + i64::from(lo) - 128 * i64::from(sum);
    256 * part(hi_high, lo_high, split.high_sum) + part(hi_low, lo_low, split.low_sum)
}

/// The product of a row of scale `weight_scale` with a token, from [`total`]: `sum (weight_scale / scale)`.
#[inline(always)]
pub fn product(split: &Split, weight_scale: f32, total: i64) -> f32 {
    total as f32 * (weight_scale / split.scale)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::SCALAR;
    use std::{vec, vec::Vec};

    #[test]
    fn a_row_comes_back_from_its_planes() {
        for cols in [1, 64, 65, 128, 200, 256] {
            let row: Vec<f32> = (0..cols).map(|c| ((c * 37 + 5) % 255) as f32 - 127.0).collect();
            let (mut high, mut low) = (vec![0; row_bytes(cols)], vec![0; row_bytes(cols)]);
            let scale = quantize_row(&SCALAR, &row, &mut high, &mut low);
            let most = row.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            assert_eq!(scale, most / 127.0);
            for (c, w) in row.iter().enumerate() {
                let q = f32::from(weight_at(&high, &low, c));
                assert!((q * scale - w).abs() <= scale * 0.500_01, "column {c}: {q} for {w}");
            }
            for c in cols..padded_cols(cols) {
                assert_eq!(weight_at(&high, &low, c), 0, "padding {c}");
            }
        }
    }

    #[test]
    fn rows_without_a_scale_are_zeros() {
        for row in [[0.0f32; 3], [1e-31; 3], [f32::NAN; 3]] {
            let (mut high, mut low) = ([0; 64], [0; 64]);
            assert_eq!(quantize_row(&SCALAR, &row, &mut high, &mut low), 0.0);
            assert!((0..128).all(|c| weight_at(&high, &low, c) == 0));
        }
    }

    #[test]
    fn parts_of_an_activation_add_up() {
        let x: Vec<f32> = (0..130).map(|i| (i as f32 - 64.0) * 0.37).collect();
        let (mut high, mut low) = (vec![1i8; 256], vec![1i8; 256]);
        let split = split(&SCALAR, &x, &mut high, &mut low);
        let mut squares = 0;
        for (i, x) in x.iter().enumerate() {
            let whole = 256 * i32::from(high[i]) + i32::from(low[i]);
            assert!((whole as f32 - x * split.scale).abs() <= 0.51, "value {i}");
            assert!(high[i] > -128);
            squares += i64::from(whole) * i64::from(whole);
        }
        assert_eq!(squares, split.squares);
        assert_eq!(split.high_sum, high.iter().map(|v| i32::from(*v)).sum());
        assert!(high[130..].iter().chain(&low[130..]).all(|v| *v == 0));
    }

    #[test]
    fn wild_activations_have_a_finite_scale() {
        let (mut high, mut low) = ([0i8; 128], [0i8; 128]);
        for x in [[0.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, -1.0], [f32::NEG_INFINITY, f32::NAN]] {
            let split = split(&SCALAR, &x, &mut high, &mut low);
            assert!(split.scale.is_finite() && split.scale > 0.0, "{x:?}");
        }
        assert_eq!((high[0], low[0], high[1]), (-127, 0, 0));
    }

    #[test]
    fn a_product_is_the_integer_sum_times_both_scales() {
        let row: Vec<f32> = (0..300).map(|c| ((c * 91 + 17) % 199) as f32 - 99.0).collect();
        let x: Vec<f32> = (0..300).map(|c| ((c * 57 + 3) % 211) as f32 / 7.0 - 15.0).collect();
        let (mut hi, mut lo) = (vec![0; row_bytes(300)], vec![0; row_bytes(300)]);
        let scale = quantize_row(&SCALAR, &row, &mut hi, &mut lo);
        let (mut high, mut low) = (vec![0i8; 384], vec![0i8; 384]);
        let split = split(&SCALAR, &x, &mut high, &mut low);
        let dot = |plane: &[u8], part: &[i8]| {
            (0..384).map(|c| i32::from(nibble_at(plane, c)) * i32::from(part[c])).sum::<i32>()
        };
        let sums = [dot(&hi, &high), dot(&lo, &high), dot(&hi, &low), dot(&lo, &low)];
        let expected: i64 = (0..384)
            .map(|c| {
                let whole = 256 * i64::from(high[c]) + i64::from(low[c]);
                i64::from(weight_at(&hi, &lo, c)) * whole
            })
            .sum();
        assert_eq!(total(&split, sums), expected);
        let exact: f32 = row.iter().zip(&x).map(|(w, x)| w * x).sum();
        assert!((product(&split, scale, expected) - exact).abs() < 0.02 * exact.abs().max(1000.0));
    }
}
