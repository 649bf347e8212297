//! Strips of [`Layout::T2B128`](tern_kernels::Layout::T2B128), row after row with two bits a weight.
//!
//! ```text
//! for each 16 bytes of a row, which are 16 columns of each of four runs, for each vector of rows
//!   lanes = the 16 bytes of every fourth row, four times; transposed: double word i = 4 bytes of row i
//!   for each field f: codes of run 2f, or 2f + 1 for the upper half of a block
//! ```
//!
//! Few tokens read the rows as they lie, see [`crate::tiles`]. The unused code 3 stays 3.

use core::ops::Range;

use tern_kernels::Tile;

use crate::gemm::{self, Expand, RUN, StripProduct};
use crate::tiles::prefetch_line;
use crate::vectors::{Vectors, transpose4};

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
    unsafe { gemm::multiply::<B, T2b128, 4>(b, tile, scratch, sums) }
}

/// How strips are expanded.
pub(crate) struct T2b128;

impl Expand<4> for T2b128 {
    const UNIT: usize = 128;

    #[inline(always)]
    unsafe fn expand<B: Vectors>(b: B, tile: Tile<'_>, row: usize, cols: Range<usize>, strip: *mut u8) {
        let row_bytes = tile.cols / 4;
        for v in 0..4 {
            let mut rows = [[tile.weights.as_ptr(); 4]; 4];
            for (j, lanes) in rows.iter_mut().enumerate() {
                for (l, lane) in lanes.iter_mut().enumerate() {
                    let row = (row + v * B::WORDS + 4 * l + j).min(tile.rows - 1);
                    *lane = tile.weights[row * row_bytes + cols.start / 4..].as_ptr();
                }
            }
            for half in 0..cols.len() / 64 {
                let mut bytes = [b.zero(); 4];
                for (j, bytes) in bytes.iter_mut().enumerate() {
                    let mut at = rows[j];
                    for at in &mut at {
                        *at = at.wrapping_add(16 * half);
                    }
                    // SAFETY: half a block of rows of the tile (1), within `cols`, a multiple of a block.
                    *bytes = unsafe { b.load_lanes(at) };
                    if half % 4 == 0 {
                        for at in &at[..B::LANES] {
                            prefetch_line(at.wrapping_add(B::WORDS * row_bytes));
                        }
                    }
                }
                for (s, codes) in transpose4(b, bytes).into_iter().enumerate() {
                    for f in 0..4 {
                        let run = half / 2 * (128 / RUN) + 2 * f + half % 2;
                        // SAFETY: a vector of a step of a run of `cols`, for which the strip has room (3).
                        unsafe {
                            let to = strip.add(((4 * run + s) * 4 + v) * B::BYTES);
                            b.store(to, b.field(codes, 6 - 2 * f, 3));
                        }
                    }
                }
            }
        }
    }
}
