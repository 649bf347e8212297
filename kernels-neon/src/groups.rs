//! Products of a matrix in groups of columns: what becomes of a group's sums, and the walk of the sets that meet a panel with
//! few tokens at a time.
//!
//! ```text
//! values = 0
//! for each block of panels (256 rows or so), each group of columns, each panel of the block
//!   for each group of at most four tokens (or digits of one)
//!     sums of the panel's rows, by the kernel of the set
//!     values += sums (scales factor)            4 rows: ldr, fcvtl, scvtf, 2 fmul, ldr, fadd, str
//! ```
//!
//! Groups lie apart in memory, hence the blocks: what a block has of a group is some KiB, read from front to back.
//!
//! Every float step is rounded by itself, as [`tern_kernels::set::grouped`] says.

use crate::asm::{fcvtl, prefetch_lines};
use crate::panels::PanelKernel;
use core::arch::aarch64::{
    vaddq_f32, vcombine_u16, vcvtq_f32_s32, vdup_n_u16, vdupq_n_f32, vld1_u16, vld1q_f32, vld1q_s32,
    vmulq_f32, vmulq_n_f32, vst1q_f32,
};
use tern_kernels::reference::prepared_bytes;
use tern_kernels::{GroupedOps, GroupedTile, elementwise};

/// Rows of a block, at least: as many as fill a page of codes in groups of 64 columns.
const BLOCK_ROWS: usize = 256;

/// Tokens that share decoded weights at most, as in [`crate::panels`].
const SHARE: usize = 4;

/// Bytes that kernels ask for ahead of their use at most; what they cannot reach beyond the end of a block is asked for here.
const AHEAD: usize = 1024;

/// What a set says that meets up to `most_tokens` tokens by `multiply` and needs no memory for it.
pub(crate) const fn ops(
    most_tokens: usize,
    multiply: fn(GroupedTile<'_>, &mut [u64], &mut [f32]),
) -> GroupedOps {
    GroupedOps { most_tokens, scratch_words: |_, _, _| 0, multiply }
}

/// The product with the kernel `K`, for panels of `ROWS` rows.
pub(crate) fn multiply<K: PanelKernel<ROWS>, const ROWS: usize>(tile: GroupedTile<'_>, values: &mut [f32]) {
    values.fill(0.0);
    let panels = tile.rows.div_ceil(ROWS);
    let panel_bytes = tile.group(0).weights.len() / panels;
    let block = BLOCK_ROWS.div_ceil(ROWS);
    let seen = tile.tokens * tile.digits;
    for first in (0..panels).step_by(block) {
        let last = panels.min(first + block);
        for group in 0..tile.groups {
            let (weights, next) = (tile.group(group).weights, tile.ahead(group, 1, block * panel_bytes));
            for index in first..last {
                let panel = &weights[index * panel_bytes..][..panel_bytes];
                let left = (last - index) * panel_bytes;
                if left <= AHEAD.next_multiple_of(panel_bytes) {
                    // As far into the next group's part of the block as the kernel would look ahead.
                    let at = weights[first * panel_bytes..].as_ptr().wrapping_add(next);
                    prefetch_panel(at.wrapping_add(AHEAD.next_multiple_of(panel_bytes) - left), panel_bytes);
                }
                let mut token = 0;
                while token < seen {
                    let at = Place { group, row: index * ROWS, token };
                    token += match seen - token {
                        1 => meet::<K, ROWS, 1>(&tile, panel, at, values),
                        2 => meet::<K, ROWS, 2>(&tile, panel, at, values),
                        3 => meet::<K, ROWS, 3>(&tile, panel, at, values),
                        _ => meet::<K, ROWS, SHARE>(&tile, panel, at, values),
                    };
                }
            }
        }
    }
}

/// Asks for the lines of a panel.
#[inline]
fn prefetch_panel(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: NEON is part of the target, and a hint never faults.
        unsafe { prefetch_lines::<1>(at.wrapping_add(line)) };
    }
}

/// Which part of a product is computed; a token is a digit of one here.
#[derive(Clone, Copy)]
struct Place {
    group: usize,
    row: usize,
    token: usize,
}

/// A panel with tokens `token..token + T`; returns `T`.
#[inline]
fn meet<K: PanelKernel<ROWS>, const ROWS: usize, const T: usize>(
    tile: &GroupedTile<'_>,
    panel: &[u8],
    at: Place,
    values: &mut [f32],
) -> usize {
    let stride = prepared_bytes(tile.cols);
    let prepared = &tile.prepared[at.group * tile.prepared_stride + at.token * stride..];
    let tokens = core::array::from_fn(|t| &prepared[t * stride..][..stride]);
    let rows = ROWS.min(tile.rows - at.row);
    let scales = &tile.group_scales(at.group)[at.row..][..rows];
    for (t, sums) in K::products::<T>(panel, tokens).iter().enumerate() {
        let (token, digit) = if tile.digits == 1 {
            (at.token + t, 0)
        } else {
            ((at.token + t) / tile.digits, (at.token + t) % tile.digits)
        };
        let factor = tile.factor(token, at.group, digit);
        let values = &mut values[token * tile.rows + at.row..][..rows];
        match (<&[u16; ROWS]>::try_from(scales), <&mut [f32; ROWS]>::try_from(&mut *values)) {
            // SAFETY: NEON is part of the target.
            (Ok(scales), Ok(values)) => unsafe { add_rows(sums, scales, factor, values) },
            _ => add_last(&sums[..rows], scales, factor, values),
        }
    }
    T
}

/// [`elementwise::add_groups`] of a last panel that is not full: apart, so that the code of a full one stays together.
#[cold]
#[inline(never)]
fn add_last(sums: &[i32], scales: &[u16], factor: f32, values: &mut [f32]) {
    elementwise::add_groups(sums, scales, factor, values);
}

/// `values += sums (scales factor)` of at least four rows, four at a time; the last four overlap those before where `ROWS` is
/// no multiple of four, and what is written twice is the same.
#[inline]
#[target_feature(enable = "neon")]
fn add_rows<const ROWS: usize>(
    sums: &[i32; ROWS],
    scales: &[u16; ROWS],
    factor: f32,
    values: &mut [f32; ROWS],
) {
    const { assert!(ROWS >= 4 && ROWS <= 16) };
    let mut y = [vdupq_n_f32(0.0); 4];
    let at = |i: usize| (4 * i).min(ROWS - 4);
    for (i, y) in y.iter_mut().enumerate().take(ROWS.div_ceil(4)) {
        // SAFETY: four numbers of each array, from at most `ROWS - 4` on.
        let (sums, halves, old) = unsafe {
            let halves = vld1_u16(scales.as_ptr().add(at(i)));
            (vld1q_s32(sums.as_ptr().add(at(i))), halves, vld1q_f32(values.as_ptr().add(at(i))))
        };
        let scales = fcvtl(vcombine_u16(halves, vdup_n_u16(0)));
        *y = vaddq_f32(old, vmulq_f32(vcvtq_f32_s32(sums), vmulq_n_f32(scales, factor)));
    }
    for (i, y) in y.into_iter().enumerate().take(ROWS.div_ceil(4)) {
        // SAFETY: as above.
        unsafe { vst1q_f32(values.as_mut_ptr().add(at(i)), y) };
    }
}

/// [`elementwise::add_groups`], its scales widened by `fcvtl`.
pub(crate) fn add_groups(sums: &[i32], scales: &[u16], factor: f32, values: &mut [f32]) {
    let (sums, last_sums) = sums.as_chunks::<16>();
    let (scales, last_scales) = scales.as_chunks::<16>();
    let (values, last_values) = values.as_chunks_mut::<16>();
    for ((sums, scales), values) in sums.iter().zip(scales).zip(values) {
        // SAFETY: NEON is part of the target.
        unsafe { add_rows(sums, scales, factor, values) };
    }
    elementwise::add_groups(last_sums, last_scales, factor, last_values);
}
