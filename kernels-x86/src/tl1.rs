//! Products of [`Layout::Tl1P32`](tern_kernels::Layout::Tl1P32): pairs of weights as indices, for machines with table
//! lookups. Here an index is looked up to the two codes of its pair, and the codes are multiplied.
//!
//! ```text
//! per 16 rows and 16 columns (64 bytes, a lane for each 4 columns)
//!   low = bytes & 15, high = bytes >> 4      indices of columns 0, 1 and of columns 2, 3
//!   c0 = index / 3, c1 = index % 3           two pshufb for each of low and high
//!   bytes of c0 c1 c2 c3 alternating: a double word is a row
//! ```
//!
//! That is the form of a strip already, so that one token takes this way as well: 20 operations for 256 weights.
//! Bound and tail: those of [`crate::gemm`]. Columns are a multiple of 4; the groups of a last run that no matrix has are
//! those of its last group, and meet zeros.

use core::ops::Range;

use tern_kernels::{GroupedTile, Tile};

use crate::gemm::{self, Expand, RUN, StripProduct};
use crate::gemm_groups;
use crate::tiles::prefetch_line;
use crate::vectors::{Scale, Vectors};

/// Rows of a panel, and bytes that it has for four columns.
const PANEL: usize = 32;

/// How far ahead weights are asked for, in bytes of a panel.
const AHEAD_BYTES: usize = 4096;

/// First and second code of a pair index; indices above 8 are never packed.
const FIRST: [u8; 16] = [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0];
const SECOND: [u8; 16] = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0];

/// The product through expanded strips, for any tier and any number of tokens.
///
/// # Safety
/// As [`gemm::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_strips<B: StripProduct>(
    b: B,
    tile: Tile<'_>,
    scratch: &mut [u64],
    sums: &mut [i32],
) {
    // SAFETY: the caller's duties are the same.
    unsafe { gemm::multiply::<B, Tl1, 4>(b, tile, scratch, sums) }
}

/// The product in groups of columns, the same way.
///
/// # Safety
/// As [`gemm_groups::multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply_groups<B: Scale + StripProduct>(
    b: B,
    tile: GroupedTile<'_>,
    scratch: &mut [u64],
    values: &mut [f32],
) {
    // SAFETY: the caller's duties are the same.
    unsafe { gemm_groups::multiply::<B, Tl1, 4>(b, tile, scratch, values) }
}

/// How strips are expanded.
pub(crate) struct Tl1;

impl Expand<4> for Tl1 {
    const UNIT: usize = RUN;

    #[inline(always)]
    unsafe fn expand<B: Vectors>(b: B, tile: Tile<'_>, row: usize, cols: Range<usize>, strip: *mut u8) {
        let panel_bytes = 8 * tile.cols;
        let last = tile.rows.div_ceil(PANEL) - 1;
        let last_group = tile.cols / 4 - 1;
        // SAFETY: sixteen bytes each.
        let (first, second) = unsafe { (b.repeat16(FIRST.as_ptr()), b.repeat16(SECOND.as_ptr())) };
        // Sixteen rows, which are one vector or two.
        let sixteens = B::WORDS / 4;
        for sixteen in 0..sixteens {
            let row = row + 16 * sixteen;
            let from = tile.weights[(row / PANEL).min(last) * panel_bytes + row % PANEL..].as_ptr();
            for run in 0..cols.len().div_ceil(RUN) {
                for part in 0..4 / B::LANES {
                    let group = cols.start / 4 + 4 * run + part * B::LANES;
                    let mut at = [from; 4];
                    for (l, at) in at.iter_mut().enumerate() {
                        *at = at.wrapping_add(PANEL * (group + l).min(last_group));
                    }
                    prefetch_line(at[0].wrapping_add(AHEAD_BYTES));
                    prefetch_line(at[2].wrapping_add(AHEAD_BYTES));
                    // SAFETY: sixteen rows of groups that the panel has, within the tile (1).
                    let bytes = unsafe { b.load_lanes(at) };
                    let (low, high) = (b.field(bytes, 0, 15), b.field(bytes, 4, 15));
                    let (low01, high01) = b.zip::<1>(b.lookup(first, low), b.lookup(second, low));
                    let (low23, high23) = b.zip::<1>(b.lookup(first, high), b.lookup(second, high));
                    // Vector i has rows 4i..4i+4, a lane for each group.
                    let (rows0, rows4) = b.zip::<2>(low01, low23);
                    let (rows8, rows12) = b.zip::<2>(high01, high23);
                    let (even0, odd0) = b.unzip_lanes(rows0, rows4);
                    let (even8, odd8) = b.unzip_lanes(rows8, rows12);
                    let step = 4 * run + part * B::LANES;
                    // SAFETY: vectors of steps of a run of `cols`, for which the strip has room (3).
                    unsafe {
                        let to = |step: usize, v: usize| strip.add((4 * step + v) * B::BYTES);
                        if B::LANES == 4 {
                            let (step0, step2) = b.unzip_lanes(even0, even8);
                            let (step1, step3) = b.unzip_lanes(odd0, odd8);
                            b.store(to(step, sixteen), step0);
                            b.store(to(step + 1, sixteen), step1);
                            b.store(to(step + 2, sixteen), step2);
                            b.store(to(step + 3, sixteen), step3);
                        } else {
                            b.store(to(step, 2 * sixteen), even0);
                            b.store(to(step, 2 * sixteen + 1), even8);
                            b.store(to(step + 1, 2 * sixteen), odd0);
                            b.store(to(step + 1, 2 * sixteen + 1), odd8);
                        }
                    }
                }
            }
        }
    }
}
