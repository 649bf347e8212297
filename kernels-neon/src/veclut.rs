//! Ternary products with eight tokens or more by tables of vectors: one lookup adds five weights for eight tokens.
//!
//! Five ternary weights are one of 243 patterns. For five columns there is a table with what each pattern makes of
//! the activations of eight tokens, in lanes of 16 bits; a weight byte (see [`tern_kernels::five`]) is the index
//! into it as it is. A row is then a load and an addition for 40 products, without multiplying. Tables cost 243
//! additions and stores and are shared by all rows, so this pays from about 64 rows times eight tokens, and best
//! with a thousand or more.
//!
//! ```text
//! for each at most 64 tokens:                                         a pass
//!   for each block of 80 columns (16 groups of five):
//!     indices = 16 bytes of every row                                 from T5C as they are, else converted
//!     for each eight tokens, each half of the block:
//!       tables = for 8 groups, all 243 sums of +-a0 +-a1 +-a2 +-a3 +-a4 of eight tokens
//!       for each row: sums16[row] += tables[i][index[i]], i in 0..8   `veclut_rows`, nearly all of the time
//!       before `reach` would pass 32767: sums += sums16; sums16 = 0   8 rows x 8 tokens transposed at once
//! ```
//!
//! Bounds, for any `i8` activations, -128 included: whatever the weights are, what a block adds to `sums16` is at
//! most the sum of its columns' magnitudes. `reach` adds these up, the largest of the eight tokens', and says when
//! 16 bits could be too few; real activations need that every 10 to 20 blocks, the worst every third, as a block is
//! at most 80 * 128 = 10240. `sums` are at most 128 * 65280 < 2^23.
//!
//! Tail rules: rows are padded to whole panels in the indices, tokens with zeros to eight and columns with zeros to
//! 80. Whether tokens beyond a multiple of eight go this way too is [`pays`]'s to say; those that do not take the
//! set's kernel for few tokens.
//!
//! Memory: eight tables of 4 KiB, of which 31 KiB are read, fill the smallest L1 cache; indices and sums pass by it
//! in order, 24 bytes for 320 products. Indices are copied, for in the matrix those of a block lie a panel apart,
//! often a power of two, and every half and eight tokens read them again.
//!
//! Expected cycles per 64 products, by the issue models of `benches/yard`: the loops take 1.4 on Cortex-A76, 1.9 on
//! A72 and 4.6 on A53. With 64 tokens and 2560 rows a product takes 1.7 and 2.4; with 16 tokens, which four workers
//! share as eight tokens of 1280 rows each, so that tables cost twice as much, 2.0, 2.9 and 6.7.
//!
//! Source: bitnet.cpp's lookup kernels (arXiv 2502.11880) and Vec-LUT (arXiv 2512.06443) for vectors as entries;
//! five weights an index, 16-bit lanes with a proven bound and the loops are ours.

use crate::asm::load;
use crate::veclut_rows::{AddRows, ENTRIES, GROUPS, Lanes, ROW_STEP, Tables};
use core::arch::aarch64::{
    int16x8_t, uint8x16_t, uint16x8_t, vabsq_s8, vaddq_s16, vaddvq_u16, vaddw_high_s16, vaddw_s16,
    vcreate_s8, vdupq_n_s16, vdupq_n_u8, vdupq_n_u16, vget_low_s16, vld1q_s32, vld1q_u16, vmovl_s8,
    vnegq_s16, vpadalq_u8, vreinterpretq_s8_u8, vreinterpretq_s16_u16, vreinterpretq_u8_s8, vst1q_s16,
    vst1q_s32, vst1q_u8, vsubq_s16, vzip1q_u8, vzip1q_u16, vzip2q_u8, vzip2q_u16,
};
use tern_kernels::reference::{PLAIN_HEADER, prepared_bytes};
use tern_kernels::{Grain, Tile, five};

/// Tokens that share a lookup.
pub(crate) const TOKENS: usize = 8;
/// Columns of a block.
pub(crate) const BLOCK_COLS: usize = 80;
/// Tokens of one pass; bounds the scratch, and is enough for a conversion of the indices not to show.
const PASS_TOKENS: usize = 64;
/// Tokens that one call should get.
const GRAIN_TOKENS: usize = 16;

/// Whether eight lanes, of which `tokens` are used, are faster than as many tokens one by one over `rows` rows:
/// tables cost as much as about 450 rows of a token.
pub(crate) fn pays(rows: usize, tokens: usize) -> bool {
    tokens > 1 && (tokens - 1) * rows >= 448
}

/// How many of the first of `tokens` tokens [`multiply`] should take.
pub(crate) fn share(rows: usize, tokens: usize) -> usize {
    let whole = if pays(rows, TOKENS) { tokens / TOKENS * TOKENS } else { 0 };
    if pays(rows, (tokens - whole).min(TOKENS)) { tokens } else { whole }
}

/// The part of a product that a call should get: all rows and sixteen tokens where that is enough for all workers,
/// since every call builds its own tables; else eight tokens, and then fewer rows.
pub(crate) fn grain(panel: usize, rows: usize, tokens: usize, workers: usize) -> Grain {
    let each = if tokens.div_ceil(GRAIN_TOKENS) >= workers { GRAIN_TOKENS } else { TOKENS };
    let parts = tokens.div_ceil(each).max(1);
    let cuts = workers.div_ceil(parts).min(rows / 512).max(1);
    Grain { rows: rows.div_ceil(cuts).next_multiple_of(panel).max(panel), tokens: each }
}

/// Rows that the buffers have: whole panels, of which [`transpose_out`] takes eight rows at a time.
const fn padded(rows: usize, panel: usize) -> usize {
    rows.next_multiple_of(panel).next_multiple_of(8)
}

/// Words of scratch that [`multiply`] needs.
pub(crate) fn scratch_words(rows: usize, panel: usize, tokens: usize) -> usize {
    let eights = tokens.min(PASS_TOKENS).div_ceil(TOKENS);
    let rows = padded(rows, panel) + ROW_STEP;
    // Tables start at a cache line.
    7 + size_of::<Tables>() / 8 + 2 * rows + eights * 2 * rows
}

/// The parts of the scratch.
struct Scratch<'a> {
    tables: &'a mut Tables,
    /// For each half of a block a word for each row, and [`ROW_STEP`] more.
    indices: [&'a mut [u64]; 2],
    /// For each eight tokens, [`ROW_STEP`] rows of no use and all rows.
    sums: &'a mut [Lanes],
}

impl<'a> Scratch<'a> {
    fn new(words: &'a mut [u64], rows: usize) -> Self {
        let aligned = words.as_ptr().align_offset(64);
        let (tables, rest) = words[aligned..].split_at_mut(size_of::<Tables>() / 8);
        let (tables, _) =
            tables.as_chunks_mut::<2>().0.as_chunks_mut::<ENTRIES>().0.as_chunks_mut::<GROUPS>();
        let (low, rest) = rest.split_at_mut(rows + ROW_STEP);
        let (high, rest) = rest.split_at_mut(rows + ROW_STEP);
        Scratch { tables: &mut tables[0], indices: [low, high], sums: rest.as_chunks_mut().0 }
    }
}

/// Writes the indices of block `block` of every row of whole panels, the first half of a row's sixteen bytes and
/// the second apart.
pub(crate) type Indices<'a> = &'a dyn Fn(usize, &mut [u64], &mut [u64]);

/// `sums[t * rows + r] = sum_c weight[r][c] q[t][c]` for the first `tokens` tokens of `tile`, of whose weights only
/// `indices` knows the form, in panels of `panel` rows.
pub(crate) fn multiply(
    tile: Tile<'_>,
    panel: usize,
    tokens: usize,
    scratch: &mut [u64],
    sums: &mut [i32],
    indices: Indices<'_>,
    add_rows: AddRows,
) {
    let rows = padded(tile.rows, panel);
    let mut scratch = Scratch::new(scratch, rows);
    let blocks = tile.cols.div_ceil(BLOCK_COLS);
    let stride = prepared_bytes(tile.cols);
    if blocks == 0 {
        sums[..tokens * tile.rows].fill(0);
    }
    for first in (0..tokens).step_by(PASS_TOKENS) {
        let last = tokens.min(first + PASS_TOKENS);
        let mut reaches = [0; PASS_TOKENS / TOKENS];
        // Whether sums have been written, and can be added to.
        let mut begun = [false; PASS_TOKENS / TOKENS];
        for block in 0..blocks {
            let [low, high] = &mut scratch.indices;
            indices(block, low, high);
            let eights =
                scratch.sums.chunks_exact_mut(rows + ROW_STEP).zip(reaches.iter_mut().zip(&mut begun));
            for ((lanes, (reach, begun)), token) in eights.zip((first..last).step_by(TOKENS)) {
                let used = TOKENS.min(last - token);
                let prepared = core::array::from_fn(|t| {
                    let at = (token + t) * stride + PLAIN_HEADER;
                    if t < used { &tile.prepared[at..][..tile.cols] } else { &[] }
                });
                let sums = &mut sums[token * tile.rows..][..used * tile.rows];
                // SAFETY: NEON is part of the target that this module is compiled for.
                let (columns, adds) = unsafe { transpose_in(prepared, block * BLOCK_COLS) };
                if block == 0 {
                    lanes.fill([0; 2]);
                } else if *reach + adds > i16::MAX as u32 {
                    flush(&mut lanes[ROW_STEP..], sums, tile.rows, *begun);
                    (*reach, *begun) = (0, true);
                }
                *reach += adds;
                for (half, indices) in scratch.indices.iter().enumerate() {
                    for (group, table) in scratch.tables.iter_mut().enumerate() {
                        let columns = core::array::from_fn(|k| columns[k][GROUPS * half + group]);
                        // SAFETY: as above.
                        unsafe { build(columns, table) };
                    }
                    add_rows(scratch.tables, indices, lanes);
                }
                if block == blocks - 1 {
                    flush(&mut lanes[ROW_STEP..], sums, tile.rows, *begun);
                }
            }
        }
    }
}

/// Moves sixteen-bit sums to where they are added up, `sums`, which hold something if `begun`.
fn flush(lanes: &mut [Lanes], sums: &mut [i32], rows: usize, begun: bool) {
    // SAFETY: NEON is part of the target that this module is compiled for.
    unsafe {
        if begun {
            transpose_out::<true>(lanes, sums, rows)
        } else {
            transpose_out::<false>(lanes, sums, rows)
        }
    }
}

/// Activations of eight tokens in columns `col..col + 80`, as bytes, an absent token's or column's zero: word
/// `[k][l]` is column `col + 16 k + l`, the first token in the lowest byte. And the largest sum of a token's
/// magnitudes.
#[target_feature(enable = "neon")]
fn transpose_in(tokens: [&[u8]; TOKENS], col: usize) -> ([[u64; 16]; five::WEIGHTS], u32) {
    let mut columns = [[0u64; 16]; five::WEIGHTS];
    let mut magnitudes = [vdupq_n_u16(0); TOKENS];
    for (k, columns) in columns.iter_mut().enumerate() {
        let rows = tokens.map(|token| match token.get(col + 16 * k..).and_then(|a| a.first_chunk::<16>()) {
            Some(bytes) => load(bytes),
            None => vdupq_n_u8(0),
        });
        for (magnitude, row) in magnitudes.iter_mut().zip(rows) {
            // The magnitude of -128, 128, is right as an unsigned byte.
            let bytes = vreinterpretq_u8_s8(vabsq_s8(vreinterpretq_s8_u8(row)));
            *magnitude = vpadalq_u8(*magnitude, bytes);
        }
        // Each round puts the bytes of twice as many tokens side by side.
        let by_eight = zip_halves(zip_halves(zip_halves(rows)));
        for (words, bytes) in columns.as_chunks_mut::<2>().0.iter_mut().zip(by_eight) {
            // SAFETY: sixteen bytes into two words.
            unsafe { vst1q_u8(words.as_mut_ptr().cast(), bytes) };
        }
    }
    let largest = magnitudes.map(|magnitude| u32::from(vaddvq_u16(magnitude))).into_iter().max();
    (columns, largest.unwrap_or(0))
}

/// Each of the first four registers zipped with that four further on; after three times, eight rows are columns.
#[inline]
#[target_feature(enable = "neon")]
fn zip_halves(rows: [uint8x16_t; 8]) -> [uint8x16_t; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    [
        vzip1q_u8(a, e),
        vzip2q_u8(a, e),
        vzip1q_u8(b, f),
        vzip2q_u8(b, f),
        vzip1q_u8(c, g),
        vzip2q_u8(c, g),
        vzip1q_u8(d, h),
        vzip2q_u8(d, h),
    ]
}

/// Byte of each of the 243 patterns, the first column's weight the most significant digit.
const PATTERNS: [u8; 243] = {
    let (mut bytes, mut n) = ([0; 243], 0);
    while n < 243 {
        let digits = [n / 81, n / 27 % 3, n / 9 % 3, n / 3 % 3, n % 3];
        let (mut weights, mut k) = ([0; five::WEIGHTS], 0);
        while k < five::WEIGHTS {
            weights[k] = digits[k] as i8 - 1;
            k += 1;
        }
        bytes[n] = five::encode(weights);
        n += 1;
    }
    bytes
};

/// Fills the table of five columns of eight tokens: entry `byte` is `sum_k weight_k column_k`.
#[target_feature(enable = "neon")]
fn build(columns: [u64; five::WEIGHTS], table: &mut [Lanes; ENTRIES]) {
    let [c0, c1, c2, c3, c4] = columns.map(|column| vmovl_s8(vcreate_s8(column)));
    let (plus, minus) = (vaddq_s16(c3, c4), vsubq_s16(c3, c4));
    let low = [
        vnegq_s16(plus),
        vnegq_s16(c3),
        vnegq_s16(minus),
        vnegq_s16(c4),
        vdupq_n_s16(0),
        c4,
        minus,
        c3,
        plus,
    ];
    // Nine calls with numbers written out, so that entries have constant places.
    macro_rules! add_third {
        ($base:expr, $first:literal, $second:literal, $third:literal) => {
            let base = $base;
            store_nine::<$first>(vsubq_s16(base, c2), low, table);
            store_nine::<$second>(base, low, table);
            store_nine::<$third>(vaddq_s16(base, c2), low, table);
        };
    }
    let minus_c0 = vnegq_s16(c0);
    add_third!(vsubq_s16(minus_c0, c1), 0, 1, 2);
    add_third!(minus_c0, 3, 4, 5);
    add_third!(vaddq_s16(minus_c0, c1), 6, 7, 8);
    add_third!(vnegq_s16(c1), 9, 10, 11);
    add_third!(vdupq_n_s16(0), 12, 13, 14);
    add_third!(c1, 15, 16, 17);
    add_third!(vsubq_s16(c0, c1), 18, 19, 20);
    add_third!(c0, 21, 22, 23);
    add_third!(vaddq_s16(c0, c1), 24, 25, 26);
}

/// The entries of patterns `9 N..9 N + 9`: `base` plus each of `low`.
#[inline]
#[target_feature(enable = "neon")]
fn store_nine<const N: usize>(base: int16x8_t, low: [int16x8_t; 9], table: &mut [Lanes; ENTRIES]) {
    for (j, low) in low.into_iter().enumerate() {
        let entry = &mut table[usize::from(PATTERNS[9 * N + j])];
        // SAFETY: sixteen bytes into an entry of sixteen.
        unsafe { vst1q_s16(entry.as_mut_ptr().cast(), vaddq_s16(base, low)) };
    }
}

/// Adds the lanes of every row to `sums`, `[tokens, rows]`, or writes them there unless `BEGUN`, and clears them.
/// Rows of `lanes` beyond `rows` are padding.
#[target_feature(enable = "neon")]
fn transpose_out<const BEGUN: bool>(lanes: &mut [Lanes], sums: &mut [i32], rows: usize) {
    let mut tokens = sums.chunks_exact_mut(rows);
    let mut whole: [&mut [[i32; 8]]; TOKENS] = Default::default();
    let mut last: [&mut [i32]; TOKENS] = Default::default();
    for (whole, last) in whole.iter_mut().zip(&mut last) {
        (*whole, *last) = tokens.next().unwrap_or_default().as_chunks_mut();
    }
    let (lanes, _) = lanes.as_chunks_mut::<8>();
    for (chunk, lanes) in lanes.iter_mut().enumerate().take(rows / 8) {
        let by_token = take_transposed(lanes);
        for (sums, lanes) in whole.iter_mut().zip(by_token) {
            if let Some(sums) = sums.get_mut(chunk) {
                add_lanes::<BEGUN>(sums, lanes);
            }
        }
    }
    if let Some(lanes) = lanes.get_mut(rows / 8) {
        for (sums, lanes) in last.iter_mut().zip(take_transposed(lanes)) {
            let mut padded = [0; 8];
            padded[..sums.len()].copy_from_slice(sums);
            add_lanes::<BEGUN>(&mut padded, lanes);
            sums.copy_from_slice(&padded[..sums.len()]);
        }
    }
}

/// The lanes of eight rows by token, and zeros in their place.
#[inline]
#[target_feature(enable = "neon")]
fn take_transposed(lanes: &mut [Lanes; 8]) -> [int16x8_t; TOKENS] {
    // SAFETY: sixteen bytes of a row's sixteen.
    let by_row = lanes.each_ref().map(|lanes| unsafe { vld1q_u16(lanes.as_ptr().cast()) });
    *lanes = [[0; 2]; 8];
    zip_sums(zip_sums(zip_sums(by_row))).map(|lanes| vreinterpretq_s16_u16(lanes))
}

/// As [`zip_halves`], for eight lanes.
#[inline]
#[target_feature(enable = "neon")]
fn zip_sums(rows: [uint16x8_t; 8]) -> [uint16x8_t; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    [
        vzip1q_u16(a, e),
        vzip2q_u16(a, e),
        vzip1q_u16(b, f),
        vzip2q_u16(b, f),
        vzip1q_u16(c, g),
        vzip2q_u16(c, g),
        vzip1q_u16(d, h),
        vzip2q_u16(d, h),
    ]
}

/// Adds eight lanes to eight sums, which count as zero unless `BEGUN`.
#[inline]
#[target_feature(enable = "neon")]
fn add_lanes<const BEGUN: bool>(sums: &mut [i32; 8], lanes: int16x8_t) {
    if !BEGUN {
        *sums = [0; 8];
    }
    let sums = sums.as_mut_ptr();
    // SAFETY: two loads and two stores of four numbers each, in an array of eight.
    unsafe {
        let low = vaddw_s16(vld1q_s32(sums), vget_low_s16(lanes));
        let high = vaddw_high_s16(vld1q_s32(sums.add(4)), lanes);
        vst1q_s32(sums, low);
        vst1q_s32(sums.add(4), high);
    }
}
