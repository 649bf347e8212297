//! Widening rows of tensor types that are no plain floats, for embeddings and heads. `docs/layouts.md` draws each one.
//!
//! A value is computed in the same order everywhere: a block's scale times its sub-scale, if it has one, times the
//! number. The loops have fixed lengths and no branches; a back end compiles them for its features.

use crate::coding::{self, TernaryBlock};
use crate::half::{bf16_to_f32, f16_to_f32};

/// A type whose rows are widened before they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocks {
    /// bfloat16: two bytes a value.
    Bf16,
    /// 34 bytes for 32 values.
    Q8_0,
    /// 18 bytes for 32 values.
    Q4_0,
    /// 210 bytes for 256 values.
    Q6K,
    /// 144 bytes for 256 values.
    Q4K,
    /// Ternary weights with a scale a block; a code of 3 is twice the scale.
    Ternary(TernaryBlock),
}

impl Blocks {
    /// Values of a block.
    pub const fn values(self) -> usize {
        match self {
            Blocks::Bf16 => 1,
            Blocks::Q8_0 | Blocks::Q4_0 => 32,
            Blocks::Q6K | Blocks::Q4K => 256,
            Blocks::Ternary(block) => block.values(),
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Blocks::Bf16 => 2,
            Blocks::Q8_0 => 34,
            Blocks::Q4_0 => 18,
            Blocks::Q6K => 210,
            Blocks::Q4K => 144,
            Blocks::Ternary(block) => block.bytes(),
        }
    }
}

/// Widens whole blocks in `bytes` into `out`, as many values as both hold.
#[inline(always)]
pub fn widen(blocks: Blocks, bytes: &[u8], out: &mut [f32]) {
    match blocks {
        Blocks::Bf16 => bf16(bytes, out),
        Blocks::Q8_0 => q8_0(bytes, out),
        Blocks::Q4_0 => q4_0(bytes, out),
        Blocks::Q6K => q6_k(bytes, out),
        Blocks::Q4K => q4_k(bytes, out),
        Blocks::Ternary(block) => ternary(block, bytes, out),
    }
}

/// A binary16 at `at` of `bytes`.
#[inline(always)]
fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

#[inline(always)]
fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, pair) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *out = bf16_to_f32(u16::from_le_bytes(*pair));
    }
}

/// binary16 scale, 32 int8.
#[inline(always)]
fn q8_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let scale = f16_at(block, 0);
        for (out, q) in out.iter_mut().zip(&block[2..]) {
            *out = scale * f32::from(*q as i8);
        }
    }
}

/// binary16 scale, 16 bytes whose low nibbles are the first 16 values; 8 is zero.
#[inline(always)]
fn q4_0(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        let scale = f16_at(block, 0);
        // All numbers as bytes first, then as floats: two loops that each become a few vector instructions.
        let codes = &block[2..].as_chunks::<16>().0[0];
        let (first, second) = (codes.map(|byte| byte & 15), codes.map(|byte| byte >> 4));
        let runs = out.as_chunks_mut::<16>().0.iter_mut().zip([first, second]);
        for (out, q) in runs {
            for l in 0..16 {
                out[l] = scale * (f32::from(q[l]) - 8.0);
            }
        }
    }
}

/// 128 bytes of low nibbles, 64 of high bit pairs, 16 int8 scales, binary16 scale.
#[inline(always)]
fn q6_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let scale = f16_at(block, 208);
        let halves = out.as_chunks_mut::<128>().0.iter_mut().zip(block.as_chunks::<64>().0);
        for (half, (out, low)) in halves.enumerate() {
            let (high, _) = block[128 + 32 * half..160 + 32 * half].as_chunks::<32>();
            let scales = &block[192 + 8 * half..200 + 8 * half];
            // Four groups of 32 values: 0 and 1 take low nibbles, 2 and 3 high ones. As bytes first, see above.
            let mut q = [0u8; 128];
            for l in 0..32 {
                let pairs = high[0][l];
                q[l] = low[l] & 15 | (pairs & 3) << 4;
                q[l + 32] = low[l + 32] & 15 | (pairs >> 2 & 3) << 4;
                q[l + 64] = low[l] >> 4 | (pairs >> 4 & 3) << 4;
                q[l + 96] = low[l + 32] >> 4 | (pairs >> 6) << 4;
            }
            let runs = out.as_chunks_mut::<16>().0.iter_mut().zip(q.as_chunks::<16>().0);
            for ((out, q), sub) in runs.zip(scales) {
                let factor = scale * f32::from(*sub as i8);
                for l in 0..16 {
                    out[l] = factor * (f32::from(q[l]) - 32.0);
                }
            }
        }
    }
}

/// binary16 scale and minimum, 12 bytes of eight six-bit factors of each, 128 bytes of nibbles: 32 low ones, then 32 high
/// ones of each 32 bytes. A value is `scale * factor * nibble - minimum * its factor`.
#[inline(always)]
fn q4_k(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<256>().0) {
        let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
        let s = &block[4..16];
        let runs = out.as_chunks_mut::<32>().0.iter_mut().enumerate();
        for (j, out) in runs {
            // Four of each in the low six bits of bytes 0..4 and 4..8, whose upper bits belong to the other four.
            let (factor, less) = if j < 4 {
                (s[j] & 63, s[j + 4] & 63)
            } else {
                (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
            };
            let (factor, less) = (scale * f32::from(factor), minimum * f32::from(less));
            let codes = &block[16 + j / 2 * 32..].as_chunks::<32>().0[0];
            let shift = j % 2 * 4;
            let q = codes.map(|byte| byte >> shift & 15);
            for l in 0..32 {
                out[l] = factor * f32::from(q[l]) - less;
            }
        }
    }
}

/// Scale times weight.
#[inline(always)]
fn ternary(kind: TernaryBlock, bytes: &[u8], out: &mut [f32]) {
    let mut weights = [0i8; coding::MAX_VALUES];
    let blocks = bytes.chunks_exact(kind.bytes()).zip(out.chunks_exact_mut(kind.values()));
    for (block, out) in blocks {
        let scale = kind.decode(block, &mut weights);
        for (out, weight) in out.iter_mut().zip(weights) {
            *out = scale * f32::from(weight);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::half::f32_to_f16;
    use std::{vec, vec::Vec};

    fn row(blocks: Blocks, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; bytes.len() / blocks.bytes() * blocks.values()];
        widen(blocks, bytes, &mut out);
        out
    }

    #[test]
    fn q8_0_is_scale_times_int8() {
        let mut block = f32_to_f16(0.5).to_le_bytes().to_vec();
        block.extend((0..32).map(|i| (i * 8) as u8));
        let out = row(Blocks::Q8_0, &block);
        assert_eq!((out[0], out[1], out[15], out[16], out[31]), (0.0, 4.0, 60.0, -64.0, -4.0));
    }

    #[test]
    fn q4_0_splits_nibbles_into_halves() {
        let mut block = f32_to_f16(2.0).to_le_bytes().to_vec();
        block.extend((0..16).map(|i| i | (15 - i) << 4));
        let out = row(Blocks::Q4_0, &block);
        assert_eq!((out[0], out[15], out[16], out[31]), (-16.0, 14.0, 14.0, -16.0));
    }

    #[test]
    fn q6_k_follows_the_formula_of_its_definition() {
        let block: Vec<u8> =
            (0..208).map(|i| (i * 73 + 11) as u8).chain(f32_to_f16(0.25).to_le_bytes()).collect();
        let out = row(Blocks::Q6K, &block);
        let (ql, qh, sc) = (&block[..128], &block[128..192], &block[192..208]);
        for half in 0..2 {
            for l in 0..32 {
                let (ql, qh, sc) = (&ql[64 * half..], &qh[32 * half..], &sc[8 * half..]);
                let is = l / 16;
                let q = [
                    (ql[l] & 15) | (qh[l] & 3) << 4,
                    (ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4,
                    (ql[l] >> 4) | (qh[l] >> 4 & 3) << 4,
                    (ql[l + 32] >> 4) | (qh[l] >> 6 & 3) << 4,
                ];
                for (group, q) in q.into_iter().enumerate() {
                    let expected = 0.25 * f32::from(sc[is + 2 * group] as i8) * (f32::from(q) - 32.0);
                    assert_eq!(out[128 * half + 32 * group + l], expected);
                }
            }
        }
    }

    #[test]
    fn bfloat16_is_the_upper_half() {
        assert_eq!(row(Blocks::Bf16, &[0x80, 0x3f, 0x20, 0xc1]), [1.0, -10.0]);
    }
}
