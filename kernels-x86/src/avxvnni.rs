//! The set for Intel cores without AVX-512, from Alder Lake on; the N100 of small gateways is one.
//!
//! ```text
//! per block of 128 columns, for each row of the tile
//!   c = 32 bytes of codes, four fields of two bits
//!   for each field f, top bits first
//!     w = (c >> (6 - 2f)) & 3                                32 codes, unsigned bytes
//!     for each token: a32 = vpdpbusd(a32, w, q[32f .. 32f+32])
//! ```
//!
//! Bound: four products of at most 3 x 128 are added to a double word without saturation (`vpdpbusd`, not its
//! saturating sister); all 2^22 columns together reach 1.61e9, below 2^31.
//!
//! Tail: none, columns are a multiple of 128.
//! Estimate per 32 bytes and token: 1 load, 3 shifts, 4 ands, 4 dot products, about 3 cycles.
//! Source: Intel SDM volume 2, VPDPBUSD (VEX form).

use core::arch::x86_64::*;
use std::arch::is_x86_feature_detected;

use tern_kernels::{KernelSet, Layout, TernaryOps, Tile, VectorOps};

use crate::avx2::{self, Avx2, field, load, totals};
use crate::head;
use crate::products::in_strips;
use crate::tiles::{self, TileKernel, prefetch};

/// Proof that this machine has AVX-VNNI besides what [`Avx2`] proves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AvxVnni(());

impl AvxVnni {
    /// The token, where the machine has the features.
    pub(crate) fn detect() -> Option<Self> {
        Avx2::detect().filter(|_| is_x86_feature_detected!("avxvnni")).map(|_| AvxVnni(()))
    }

    /// The kernel sets that the token unlocks, in the order of [`crate::all`].
    pub(crate) fn sets(self) -> [&'static KernelSet; 5] {
        let [t5r, t2r4, t5c, tl1] = &products::SETS;
        [&SET, t5r, t2r4, t5c, tl1]
    }
}

static SET: KernelSet = KernelSet::new(
    "x86_64-t2i8-avxvnni",
    Layout::T2B128,
    TernaryOps { multiply, ..crate::products::ops(Layout::T2B128) },
    // SAFETY: answers (1): this table is reached through `AvxVnni::sets` alone, which takes the token.
    unsafe { vector_ops() },
);

/// The vector functions.
///
/// # Safety
/// 1. The functions of the table are called only on a machine with AVX2, F16C and AVX-VNNI.
const unsafe fn vector_ops() -> VectorOps {
    // SAFETY: answers (1) of both as our caller did.
    unsafe { VectorOps { head: head::avxvnni(), ..avx2::float_ops() } }
}

crate::products::featured!(
    "avxvnni", "avx2,f16c,avxvnni", AvxVnni,
    // SAFETY: answers (1): `AvxVnni::sets` alone hands these tables out.
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

/// `vpdpbusd` on 256 bits.
struct Dpbusd;

impl TileKernel for Dpbusd {
    const MAX_SUMS: usize = 8;

    fn sums<const R: usize, const T: usize>(codes: [&[u8]; R], q: [&[u8]; T]) -> [[i32; T]; R] {
        // SAFETY: only `SET` names this kernel, and its users hold the token.
        unsafe { sums(codes, q) }
    }
}

#[target_feature(enable = "avx2,avxvnni")]
fn sums<const R: usize, const T: usize>(codes: [&[u8]; R], q: [&[u8]; T]) -> [[i32; T]; R] {
    let blocks = codes[0].len() / 32;
    let codes = tiles::chunks::<32, R>(codes, blocks);
    let q = tiles::chunks::<128, T>(q, blocks);
    let zero = _mm256_setzero_si256();
    let ahead = tiles::ahead(R * codes[0].as_flattened().len());
    let mut sums = [[zero; T]; R];
    for b in 0..blocks {
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
                    sums[r][t] = _mm256_dpbusd_avx_epi32(sums[r][t], w[r], a);
                }
            }
        }
    }
    totals(sums)
}
