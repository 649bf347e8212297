//! The set for processors with AVX-512 VNNI: Ice Lake and later servers, Zen 4 and later.
//!
//! ```text
//! per pair of blocks (256 columns), for each row of the tile
//!   c = 64 bytes of codes, four fields of two bits
//!   for each field f, top bits first
//!     w = (c >> (6 - 2f)) & 3                                64 codes, unsigned bytes
//!     for each token: a32 = vpdpbusd(a32, w, q[32f .. 32f+32] and q[128+32f .. 128+32f+32])
//! an odd last block in 256 bits
//! ```
//!
//! The 64 bytes of a pair hold field `f` of two blocks, which meets columns `32f..32f+32` of the first block and then
//! the same of the second: two loads of half a vector for each token.
//!
//! Bound: four products of at most 3 x 128 are added to a double word without saturation; all 2^22 columns together
//! reach 1.61e9, below 2^31.
//!
//! Tail: one block of 128 columns where their number is an odd multiple of 128.
//! Estimate per 64 bytes and token: 1 load, 3 shifts, 4 ands, 4 dot products, about 3 cycles.
//! Source: Intel SDM volume 2, VPDPBUSD (EVEX form).

use core::arch::x86_64::*;
use std::arch::is_x86_feature_detected;

use tern_kernels::{KernelSet, Layout, TernaryOps, Tile, VectorOps};

use crate::avx2::{self, Avx2};
use crate::floats;
use crate::head;
use crate::products::in_strips;
use crate::tiles::{self, TileKernel, prefetch};

/// Proof that this machine has AVX-512 F, BW, VL and VNNI and that its operating system saves their registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Vnni(());

impl Avx512Vnni {
    /// The token, where the machine has the features.
    pub(crate) fn detect() -> Option<Self> {
        let usable = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        usable.then_some(Avx512Vnni(()))
    }

    /// The kernel sets that the token unlocks, in the order of [`crate::all`].
    pub(crate) fn sets(self) -> [&'static KernelSet; 5] {
        let [t5r, t2r4, t5c, tl1] = &products::SETS;
        [&SET, t5r, t2r4, t5c, tl1]
    }
}

static SET: KernelSet = KernelSet::new(
    "x86_64-t2i8-avx512vnni",
    Layout::T2B128,
    TernaryOps { multiply, ..crate::products::ops(Layout::T2B128) },
    // SAFETY: answers (1): this table is reached through `Avx512Vnni::sets` alone, which takes the token.
    unsafe { vector_ops() },
);

/// The vector functions.
///
/// # Safety
/// 1. The functions of the table are called only on a machine with AVX-512 F, BW, VL and VNNI, AVX2 and F16C.
const unsafe fn vector_ops() -> VectorOps {
    // SAFETY: answers (1) of both as our caller did.
    unsafe { VectorOps { head: head::avx512vnni(), ..featured::ops() } }
}

crate::products::featured!(
    "avx512vnni", "avx512f,avx512bw,avx512vl,avx512vnni", Avx512Vnni,
    // SAFETY: answers (1): `Avx512Vnni::sets` alone hands these tables out.
    unsafe { super::vector_ops() },
    t5r: crate::t5r::multiply,
    t2r4: crate::t2r4::multiply,
    t5c: crate::t5c::multiply,
    t5r_groups: crate::t5r_groups::multiply,
    t2r4_groups: crate::t2r4_groups::multiply,
);

/// The product of a matrix in `T2B128`.
fn multiply(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
    if !in_strips(tile.cols, tile.tokens) {
        return tiles::multiply::<Dpbusd>(tile, sums);
    }
    // SAFETY: only `SET` names this function: its users hold the token, and its wrapper has checked the shapes.
    unsafe { products::t2b128(tile, scratch, sums) }
}

floats::featured!("avx512f,avx512bw,avx512vl", Avx512Vnni);

/// `vpdpbusd` on 512 bits.
struct Dpbusd;

impl TileKernel for Dpbusd {
    const MAX_SUMS: usize = 16;

    fn sums<const R: usize, const T: usize>(codes: [&[u8]; R], q: [&[u8]; T]) -> [[i32; T]; R] {
        // SAFETY: only `SET` names this kernel, and its users hold the token.
        unsafe { sums(codes, q) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sums<const R: usize, const T: usize>(codes: [&[u8]; R], q: [&[u8]; T]) -> [[i32; T]; R] {
    let pairs = codes[0].len() / 64;
    let code_pairs = tiles::chunks::<64, R>(codes, pairs);
    let q_pairs = tiles::chunks::<256, T>(q, pairs);
    let zero = _mm512_setzero_si512();
    let ahead = tiles::ahead(R * codes[0].len());
    let mut sums = [[zero; T]; R];
    for b in 0..pairs {
        let mut packed = [zero; R];
        for (packed, codes) in packed.iter_mut().zip(code_pairs) {
            prefetch(&codes[b], ahead);
            *packed = load(&codes[b]);
        }
        for f in 0..4 {
            let mut w = packed;
            for w in &mut w {
                *w = field(*w, f);
            }
            for t in 0..T {
                let runs = q_pairs[t][b].as_chunks().0;
                let a = join(&runs[f], &runs[4 + f]);
                for r in 0..R {
                    sums[r][t] = _mm512_dpbusd_epi32(sums[r][t], w[r], a);
                }
            }
        }
    }
    let mut totals = [[0; T]; R];
    for (totals, sums) in totals.iter_mut().zip(sums) {
        for (total, sum) in totals.iter_mut().zip(sums) {
            *total = _mm512_reduce_add_epi32(sum);
        }
    }
    if !codes[0].len().is_multiple_of(64) {
        for (totals, codes) in totals.iter_mut().zip(codes) {
            for (total, q) in totals.iter_mut().zip(q) {
                *total += last_block(&codes[64 * pairs..], &q[256 * pairs..]);
            }
        }
    }
    totals
}

/// `sum code q` of one block of 128 columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn last_block(codes: &[u8], q: &[u8]) -> i32 {
    let packed = avx2::load(&codes.as_chunks().0[0]);
    let mut sum = _mm256_setzero_si256();
    for f in 0..4 {
        let a = avx2::load(&q.as_chunks().0[f]);
        sum = _mm256_dpbusd_epi32(sum, avx2::field(packed, f), a);
    }
    avx2::total(sum)
}

/// Sixty-four bytes, wherever they lie.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers the 64 bytes that are read, and this load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Twice thirty-two bytes, wherever they lie.
#[inline]
#[target_feature(enable = "avx512f")]
fn join(low: &[u8; 32], high: &[u8; 32]) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(avx2::load(low)), avx2::load(high))
}

/// Field `f` of sixty-four bytes of codes, counted from the top bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn field(packed: __m512i, f: usize) -> __m512i {
    let low = match f {
        0 => _mm512_srli_epi16::<6>(packed),
        1 => _mm512_srli_epi16::<4>(packed),
        2 => _mm512_srli_epi16::<2>(packed),
        _ => packed,
    };
    _mm512_and_si512(low, _mm512_set1_epi8(3))
}
