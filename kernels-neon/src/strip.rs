//! Strips: a few rows of a matrix as signed bytes, a vector of sixteen columns a row, ready for instructions that
//! multiply bytes. Expanding pays when many tokens meet the strip: it is done once for all of them.
//!
//! | layout | a strip's bytes | instructions for 64 weights |
//! |---|---|---|
//! | T5R, 5 rows | weights: `(-42 > q) - (q > 42)`, then `q = 3 q`, see [`crate::t5c`] | 20, and 4 stores |
//! | T2R4, 4 rows | `b & 3`, `b & 15`, `b & 63`, `b`: sums differ by multiples of the rows' | 3, and 4 stores |
//! | T2B128, 4 rows | codes, `(b >> 6 - 2f) & 3` | 11, and 4 stores |

use crate::asm::load;
use crate::t5c::triple;
use core::arch::aarch64::{
    int8x16_t, uint8x16_t, vandq_u8, vcgtq_s8, vdupq_n_s8, vdupq_n_u8, vreinterpretq_s8_u8, vshlq_u8,
    vsubq_s8,
};
use tern_kernels::{Layout, Tile};

/// A layout whose rows can be expanded, `R` at a time.
pub(crate) trait Strip<const R: usize> {
    /// Where the bytes of some rows are.
    type Rows<'a>: Copy;

    /// The rows `R * group` and following; those beyond the last may be anything.
    fn rows<'a>(tile: &Tile<'a>, group: usize) -> Self::Rows<'a>;

    /// A byte of each row for columns `16 step..16 step + 16`.
    fn step(rows: Self::Rows<'_>, step: usize) -> [int8x16_t; R];

    /// `sum weight a` of each row from the sums over a strip's bytes, less `sum`, which is the sum of the activations
    /// where the strip has codes; `sum` may be left to another strip of the same rows.
    fn finish(dots: [i32; R], sum: i32) -> [i32; R];
}

/// Five rows of [`Layout::T5R`].
pub(crate) struct Fives;

impl Strip<5> for Fives {
    type Rows<'a> = (&'a [[[u8; 16]; 2]], usize);

    #[inline]
    fn rows<'a>(tile: &Tile<'a>, group: usize) -> Self::Rows<'a> {
        let panel_bytes = Layout::T5R.panel_bytes(tile.cols);
        let panel = &tile.weights[group / 2 * panel_bytes..][..panel_bytes];
        (panel.as_chunks().0.as_chunks().0, group % 2)
    }

    #[inline]
    fn step((steps, half): Self::Rows<'_>, step: usize) -> [int8x16_t; 5] {
        // SAFETY: NEON is part of the target that this module is compiled for.
        unsafe { digits(&steps[step][half]) }
    }

    #[inline]
    fn finish(dots: [i32; 5], _: i32) -> [i32; 5] {
        dots
    }
}

/// The five weights of each byte.
#[inline]
#[target_feature(enable = "neon")]
fn digits(bytes: &[u8; 16]) -> [int8x16_t; 5] {
    let mut q = vreinterpretq_s8_u8(load(bytes));
    core::array::from_fn(|_| {
        let minus = vreinterpretq_s8_u8(vcgtq_s8(vdupq_n_s8(-42), q));
        let plus = vreinterpretq_s8_u8(vcgtq_s8(q, vdupq_n_s8(42)));
        q = triple(q);
        vsubq_s8(minus, plus)
    })
}

/// Four rows of [`Layout::T2R4`].
pub(crate) struct Nested;

impl Strip<4> for Nested {
    type Rows<'a> = (&'a [[[u8; 16]; 4]], usize);

    #[inline]
    fn rows<'a>(tile: &Tile<'a>, group: usize) -> Self::Rows<'a> {
        let panel_bytes = Layout::T2R4.panel_bytes(tile.cols);
        let panel = &tile.weights[group / 4 * panel_bytes..][..panel_bytes];
        (panel.as_chunks().0.as_chunks().0, group % 4)
    }

    #[inline]
    fn step((steps, quarter): Self::Rows<'_>, step: usize) -> [int8x16_t; 4] {
        // SAFETY: NEON is part of the target that this module is compiled for.
        unsafe { nested(&steps[step][quarter]) }
    }

    #[inline]
    fn finish(dots: [i32; 4], sum: i32) -> [i32; 4] {
        let [one, two, three, four] = dots;
        [one - sum, ((two - one) >> 2) - sum, ((three - two) >> 4) - sum, (four - three) >> 6]
    }
}

/// One row, two, three and four of each byte.
#[inline]
#[target_feature(enable = "neon")]
fn nested(bytes: &[u8; 16]) -> [int8x16_t; 4] {
    let b = load(bytes);
    [3, 15, 63, 255].map(|mask| vreinterpretq_s8_u8(vandq_u8(b, vdupq_n_u8(mask))))
}

/// Four rows of [`Layout::T2B128`].
pub(crate) struct Codes;

impl Strip<4> for Codes {
    type Rows<'a> = [&'a [[[u8; 16]; 2]]; 4];

    #[inline]
    fn rows<'a>(tile: &Tile<'a>, group: usize) -> Self::Rows<'a> {
        core::array::from_fn(|r| {
            let row = (4 * group + r).min(tile.rows - 1);
            tile.weights[row * (tile.cols / 4)..][..tile.cols / 4].as_chunks().0.as_chunks().0
        })
    }

    #[inline]
    fn step(rows: Self::Rows<'_>, step: usize) -> [int8x16_t; 4] {
        // Eight steps a block: the byte's top field has the first two, one for each half of the bytes.
        let (block, field, half) = (step / 8, step % 8 / 2, step % 2);
        // SAFETY: NEON is part of the target that this module is compiled for.
        rows.map(|row| unsafe { code(&row[block][half], field) })
    }

    #[inline]
    fn finish(dots: [i32; 4], sum: i32) -> [i32; 4] {
        dots.map(|dot| dot - sum)
    }
}

/// Field `field` of each byte, counted from the top.
#[inline]
#[target_feature(enable = "neon")]
fn code(bytes: &[u8; 16], field: usize) -> int8x16_t {
    let down: uint8x16_t = vshlq_u8(load(bytes), vdupq_n_s8(2 * field as i8 - 6));
    vreinterpretq_s8_u8(vandq_u8(down, vdupq_n_u8(3)))
}
