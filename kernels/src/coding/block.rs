//! Blocks of ternary weights along a row, each with a binary16 scale: types of llama.cpp and of makers of ternary models.
//!
//! | name | weights | bytes | form |
//! |---|---|---|---|
//! | TQ1_0 | 256 | 54 | 48 bytes of five digits, 4 of four, scale |
//! | TQ2_0 | 256 | 66 | 64 bytes of bit pairs, scale |
//! | Q2_0 | 64 | 18 | scale, 16 bytes of bit pairs |
//! | PQ2_0 | 128 | 34 | scale, 32 bytes of bit pairs |
//! | PTQ1_0 | 128 | 28 | 24 bytes of five digits, 2 of four, scale |
//! | STQ1_0 | 256 | 42 | 64 nibbles, 64 signs, scale: one weight of four is zero |
//! | Q1_0 | 128 | 18 | scale, 16 bytes of signs: no weight is zero |
//!
//! Sources: `ggml-common.h` and `ggml-quants.c` of llama.cpp for TQ1_0, TQ2_0, Q2_0 and Q1_0; the llama.cpp forks of Prism
//! ML (PQ2_0, PTQ1_0) and Tencent (STQ1_0, the 3:4 sparse form of Sherry).

use crate::half::f16_to_f32;

/// Which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TernaryBlock {
    /// Base-3 digits, 256 weights: byte `l` of the first 32 holds weights `l + 32 k`, the next 16 `160 + l + 16 k`, the
    /// last four `240 + l + 4 k`; digit `k` of a byte is found by tripling, see [`TernaryBlock::decode`].
    Tq1_0,
    /// Bit pairs, 256 weights: byte `l` of half `h` holds weights `128 h + l + 32 k`, the first in the lowest bits.
    Tq2_0,
    /// Bit pairs, 64 weights in their order, the first in the lowest bits.
    Q2_0,
    /// As [`Q2_0`](Self::Q2_0) with 128 weights.
    Pq2_0,
    /// Base-3 digits, 128 weights: byte `l` of the first 16 holds weights `l + 16 k`, the next 8 `80 + l + 8 k`, the last
    /// two `120 + l + 2 k`.
    Ptq1_0,
    /// Four weights of which one is zero, 256 weights: group `g` is weights `64 (g / 16) + g % 16 + 16 p`. Its nibble
    /// says in the upper two bits which `p` is zero and in the lower two whether the second and the third of the others
    /// are negative; its sign negates all three.
    Stq1_0,
    /// Signs, 128 weights in their order, the first in the lowest bit: 1 is +1, 0 is -1.
    Q1_0,
}

/// The most weights of a block.
pub(crate) const MAX_VALUES: usize = 256;

impl TernaryBlock {
    /// Every block this crate knows.
    pub const ALL: [TernaryBlock; 7] = [
        TernaryBlock::Tq1_0,
        TernaryBlock::Tq2_0,
        TernaryBlock::Q2_0,
        TernaryBlock::Pq2_0,
        TernaryBlock::Ptq1_0,
        TernaryBlock::Stq1_0,
        TernaryBlock::Q1_0,
    ];

    /// Weights of a block.
    pub const fn values(self) -> usize {
        match self {
            Self::Tq1_0 | Self::Tq2_0 | Self::Stq1_0 => 256,
            Self::Pq2_0 | Self::Ptq1_0 | Self::Q1_0 => 128,
            Self::Q2_0 => 64,
        }
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Tq1_0 => 54,
            Self::Tq2_0 => 66,
            Self::Q2_0 | Self::Q1_0 => 18,
            Self::Pq2_0 => 34,
            Self::Ptq1_0 => 28,
            Self::Stq1_0 => 42,
        }
    }

    /// Where in a block the scale lies.
    const fn scale_at(self) -> usize {
        match self {
            Self::Q2_0 | Self::Pq2_0 | Self::Q1_0 => 0,
            Self::Tq1_0 | Self::Tq2_0 | Self::Ptq1_0 | Self::Stq1_0 => self.bytes() - 2,
        }
    }

    /// Where in a block the code of weight `at` lies, in blocks that can hold a code of 3.
    pub(super) const fn code_at(self, at: usize) -> usize {
        match self {
            Self::Tq2_0 => at / 128 * 32 + at % 32,
            _ => 2 + at / 4,
        }
    }

    /// Reads `block` into `weights`, [`values`](Self::values) of them, and returns its scale. Where codes are bit pairs a
    /// code of 3 gives 2: its value is twice the scale, and it is not ternary.
    ///
    /// # Panics
    /// If `block` or `weights` is shorter than a block.
    #[inline(always)]
    pub fn decode(self, block: &[u8], weights: &mut [i8]) -> f32 {
        match self {
            Self::Tq1_0 => {
                digits(&block[..32], 5, &mut weights[..160]);
                digits(&block[32..48], 5, &mut weights[160..240]);
                digits(&block[48..52], 4, &mut weights[240..256]);
            }
            Self::Ptq1_0 => {
                digits(&block[..16], 5, &mut weights[..80]);
                digits(&block[16..24], 5, &mut weights[80..120]);
                digits(&block[24..26], 4, &mut weights[120..128]);
            }
            Self::Tq2_0 => {
                let halves = block[..64].as_chunks::<32>().0;
                for (weights, bytes) in weights.as_chunks_mut::<128>().0.iter_mut().zip(halves) {
                    for (k, weights) in weights.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                        for (weight, byte) in weights.iter_mut().zip(bytes) {
                            *weight = (byte >> (2 * k) & 3) as i8 - 1;
                        }
                    }
                }
            }
            Self::Q2_0 | Self::Pq2_0 => {
                let bytes = &block[2..self.bytes()];
                for (weights, byte) in weights.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
                    *weights = [0, 2, 4, 6].map(|shift| (byte >> shift & 3) as i8 - 1);
                }
            }
            Self::Stq1_0 => {
                for group in 0..64 {
                    let nibble = block[group / 2] >> (4 * (group % 2)) & 15;
                    let sign = 1 - 2 * (block[32 + group / 8] >> (group % 8) & 1) as i8;
                    // The three that are not zero, in their order.
                    let signs = [1, 1 - 2 * (nibble & 1) as i8, 1 - (nibble & 2) as i8];
                    let (zero, first) = (usize::from(nibble >> 2), group / 16 * 64 + group % 16);
                    weights[first + 16 * zero] = 0;
                    let others = (0..4).filter(|p| *p != zero);
                    others.zip(signs).for_each(|(p, s)| weights[first + 16 * p] = sign * s);
                }
            }
            Self::Q1_0 => {
                let bytes = &block[2..self.bytes()];
                for (weights, byte) in weights.as_chunks_mut::<8>().0.iter_mut().zip(bytes) {
                    *weights = core::array::from_fn(|bit| 2 * (byte >> bit & 1) as i8 - 1);
                }
            }
        }
        self.scale(block)
    }

    /// The scale of `block`.
    ///
    /// # Panics
    /// If `block` is shorter than one.
    #[inline(always)]
    pub fn scale(self, block: &[u8]) -> f32 {
        let at = self.scale_at();
        f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
    }
}

/// `count` digits of each of `bytes`: weight `l + bytes.len() * k` is digit `k` of byte `l`, less one.
///
/// A byte is a fraction in base 3: tripled in eight bits, what wraps is the next digit (compare [`crate::five`], where
/// the fraction is balanced).
#[inline(always)]
fn digits(bytes: &[u8], count: usize, weights: &mut [i8]) {
    let mut power = 1u8;
    for weights in weights.chunks_exact_mut(bytes.len()).take(count) {
        for (weight, byte) in weights.iter_mut().zip(bytes) {
            let digit = (3 * u16::from(byte.wrapping_mul(power))) >> 8;
            *weight = digit as i8 - 1;
        }
        power = power.wrapping_mul(3);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::half::f32_to_f16;
    use std::{vec, vec::Vec};

    fn decoded(kind: TernaryBlock, block: &[u8]) -> (Vec<i8>, f32) {
        let mut weights = vec![9; kind.values()];
        let scale = kind.decode(block, &mut weights);
        (weights, scale)
    }

    #[test]
    fn any_bytes_give_weights_and_a_scale() {
        for kind in TernaryBlock::ALL {
            let most = if matches!(kind, TernaryBlock::Tq2_0 | TernaryBlock::Q2_0 | TernaryBlock::Pq2_0) {
                2
            } else {
                1
            };
            for seed in 0..64u32 {
                let bytes = (0..kind.bytes() as u32)
                    .map(|i| ((i + 1).wrapping_mul(2_654_435_761) >> (seed % 23)) as u8);
                let (weights, _) = decoded(kind, &bytes.collect::<Vec<u8>>());
                assert!(weights.iter().all(|w| (-1..=most).contains(w)), "{kind:?}: {weights:?}");
            }
        }
    }

    #[test]
    fn the_scale_stands_where_it_is_drawn() {
        for kind in TernaryBlock::ALL {
            let mut block = vec![0; kind.bytes()];
            let at = if matches!(kind, TernaryBlock::Q2_0 | TernaryBlock::Pq2_0 | TernaryBlock::Q1_0) {
                0
            } else {
                kind.bytes() - 2
            };
            block[at..at + 2].copy_from_slice(&f32_to_f16(0.375).to_le_bytes());
            assert_eq!(decoded(kind, &block).1, 0.375, "{kind:?}");
        }
    }

    #[test]
    fn one_of_four_is_zero_in_the_sparse_block() {
        // Group 17 of nibble 0110 and a set sign: the second is zero, the others are +, + and -, negated.
        let mut block = [0u8; 42];
        block[8] = 6 << 4;
        block[32 + 2] = 2;
        let (weights, _) = decoded(TernaryBlock::Stq1_0, &block);
        assert_eq!([65, 81, 97, 113].map(|at| weights[at]), [-1, 0, -1, 1]);
    }
}
