//! The set for any x86-64 since 2013 (Haswell, Excavator): AVX2 and F16C, no dot-product instruction.
//!
//! ```text
//! per block of 128 columns, for each row of the tile
//!   c = 32 bytes of codes, four fields of two bits
//!   for each field f, top bits first
//!     w = (c >> (6 - 2f)) & 3                                32 codes, unsigned bytes
//!     for each token: a16 += vpmaddubsw(w, q[32f .. 32f+32])  pairs of products, signed words
//! every 10 blocks
//!   a32 += vpmaddwd(a16, 1); a16 = 0                          pairs of words, signed double words
//! ```
//!
//! Bound on the words: a pair is at most 2 x 3 x 128 = 768 in magnitude (3 is the code that no packer writes; even
//! that stays exact), four fields a block make 3,072, ten blocks 30,720, below 32,767. `vpmaddubsw` itself saturates
//! only beyond 32,767. Bound on the double words: 2^22 columns x 3 x 128 = 1.61e9 over all of them together, below
//! 2^31, and their sum less `sum q` is the result.
//!
//! Tail: none, columns are a multiple of 128. Ten blocks also divide 2,560 columns evenly.
//! Estimate per 32 bytes and token: 1 load, 3 shifts, 4 ands, 4 multiplies, 4 adds, about 4 cycles.
//! Source: Intel SDM volume 2, VPMADDUBSW; the code-times-activation form is that of the `I2_S` kernels of
//! bitnet.cpp (arXiv 2502.11880, section 3), whose words are not widened in time for every input; these are.

use core::arch::x86_64::*;
use std::arch::is_x86_feature_detected;

use tern_kernels::{KernelSet, Layout, TernaryOps, Tile, VectorOps};

use crate::floats;
use crate::head;
use crate::products::in_strips;
use crate::tiles::{self, TileKernel, prefetch};

/// Proof that this machine has AVX2 and F16C and that its operating system saves their registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The token, where the machine has the features.
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")).then_some(Avx2(()))
    }

    /// The kernel sets that the token unlocks, in the order of [`crate::all`].
    pub(crate) fn sets(self) -> [&'static KernelSet; 5] {
        let [t5r, t2r4, t5c, tl1] = &products::SETS;
        [&SET, t5r, t2r4, t5c, tl1]
    }
}

static SET: KernelSet = KernelSet::new(
    "x86_64-t2i8-avx2",
    Layout::T2B128,
    TernaryOps { multiply, ..crate::products::ops(Layout::T2B128) },
    // SAFETY: answers (1): this table is reached through `Avx2::sets` alone, which takes the token.
    unsafe { float_ops() },
);

/// The vector functions, for every set whose token implies this one.
///
/// # Safety
/// 1. The functions of the table are called only on a machine with AVX2 and F16C.
pub(crate) const unsafe fn float_ops() -> VectorOps {
    // SAFETY: answers (1) of both as our caller did.
    unsafe { VectorOps { head: head::avx2(), ..featured::ops() } }
}

floats::featured!("avx2,f16c", Avx2);

crate::products::featured!(
    "avx2", "avx2,f16c", Avx2,
    // SAFETY: answers (1): `Avx2::sets` alone hands these tables out.
    unsafe { super::float_ops() },
    t5r: crate::t5r::multiply_strips,
    t2r4: crate::t2r4::multiply_codes,
    t5c: crate::t5c::multiply_strips,
    t5r_groups: crate::t5r_groups::multiply_strips,
    t2r4_groups: crate::t2r4_groups::multiply_codes,
);

/// The product of a matrix in `T2B128`.
fn multiply(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
    if !in_strips(tile.cols, tile.tokens) {
        return tiles::multiply::<Maddubs>(tile, sums);
    }
    // SAFETY: only `SET` names this function: its users hold the token, and its wrapper has checked the shapes.
    unsafe { products::t2b128(tile, scratch, sums) }
}

/// `vpmaddubsw`, the multiplication of AVX2.
struct Maddubs;

impl TileKernel for Maddubs {
    const MAX_SUMS: usize = 8;

    fn sums<const R: usize, const T: usize>(codes: [&[u8]; R], q: [&[u8]; T]) -> [[i32; T]; R] {
        // SAFETY: only `SET` names this kernel, and its users hold the token.
        unsafe { sums(codes, q) }
    }
}

/// Blocks between widenings; the head of this file proves that the words hold so many.
const BLOCKS_IN_WORDS: usize = 10;

#[target_feature(enable = "avx2")]
fn sums<const R: usize, const T: usize>(codes: [&[u8]; R], q: [&[u8]; T]) -> [[i32; T]; R] {
    let blocks = codes[0].len() / 32;
    let codes = tiles::chunks::<32, R>(codes, blocks);
    let q = tiles::chunks::<128, T>(q, blocks);
    let zero = _mm256_setzero_si256();
    let ahead = tiles::ahead(R * codes[0].as_flattened().len());
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[zero; T]; R];
    for first in (0..blocks).step_by(BLOCKS_IN_WORDS) {
        let mut words = [[zero; T]; R];
        for b in first..blocks.min(first + BLOCKS_IN_WORDS) {
            let mut packed = [zero; R];
            for (packed, codes) in packed.iter_mut().zip(codes) {
                prefetch(&codes[b], ahead);
                *packed = load(&codes[b]);
            }
            for f in 0..4 {
                let mut w = packed;
                for w in &mut w {
                    *w = field(*w, f);
                }
                for t in 0..T {
                    let a = load(&q[t][b].as_chunks().0[f]);
                    for r in 0..R {
                        words[r][t] = _mm256_add_epi16(words[r][t], _mm256_maddubs_epi16(w[r], a));
                    }
                }
            }
        }
        for r in 0..R {
            for t in 0..T {
                sums[r][t] = _mm256_add_epi32(sums[r][t], _mm256_madd_epi16(words[r][t], ones));
            }
        }
    }
    totals(sums)
}

/// Thirty-two bytes, wherever they lie.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes that are read, and this load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Field `f` of thirty-two bytes of codes, counted from the top bits.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn field(packed: __m256i, f: usize) -> __m256i {
    let low = match f {
        0 => _mm256_srli_epi16::<6>(packed),
        1 => _mm256_srli_epi16::<4>(packed),
        2 => _mm256_srli_epi16::<2>(packed),
        _ => packed,
    };
    _mm256_and_si256(low, _mm256_set1_epi8(3))
}

/// The sum of each vector.
// Loops, here and above: a closure with intrinsics in it is not inlined through `array::from_fn` or `map`, which are
// compiled without the features.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn totals<const R: usize, const T: usize>(sums: [[__m256i; T]; R]) -> [[i32; T]; R] {
    let mut totals = [[0; T]; R];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (to, sum) in totals.iter_mut().zip(sums) {
            *to = total(sum);
        }
    }
    totals
}

/// The sum of eight double words.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn total(v: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two)))
}
