//! Ternary products by `sdot`, on 2-bit codes as they lie in the file.
//!
//! A code is the weight plus one, so `sum w a = sum code a - sum a`, and `prepare` has `sum a` ready: codes go into
//! `sdot` as they are. Biasing them to -1..=1 first would cost one more operation for every 16 weights and save one
//! subtraction a row.
//!
//! ```text
//! one token, four rows:                        several tokens, four rows by four tokens:
//! for each 16 code bytes (64 columns)          for each 16 code bytes (64 columns)
//!   load 4 vectors of activations                for each row: load the bytes
//!   for each row:                                for each field f of 2 bits:
//!     load the bytes b                             code[row] = (b[row] >> 6 - 2f) & 3
//!     ones     += sdot(b >> 6, a0)                 for each token: load a[f]
//!     ones     += sdot(b & 0x03, a3)                 for each row: sum += sdot(code[row], a[f])
//!     fours    += sdot(b & 0x0c, a2)
//!     sixteens += sdot(b & 0x30, a1)
//! sum = ones + fours / 4 + sixteens / 16 - sum a
//! ```
//!
//! Eight tokens and more go by [`crate::gemm_dotprod`]. With one token the codes are used once, so two of the three shifts are left out and made up for by a shift of the
//! sums; with four tokens the codes are shared and single sums keep all sixteen in registers.
//!
//! Bounds, for any `i8` activations and codes up to 3: a lane of `sixteens` gets at most 2^22 / 16 products of
//! magnitude 48 * 128, that is 1.5 * 2^30 < 2^31, `fours` a quarter of it, and `ones` at most 2^22 / 8 products of
//! 3 * 128. The division is done lane by lane, where it is exact. The magnitudes of all of `sum code a` together are at
//! most 3 * 128 * 2^22 = 1.5 * 2^30, so neither single sums nor adding up lanes can overflow.
//!
//! Tail rules: columns come in whole blocks of 128; rows beyond a multiple of four and tokens beyond one of four run
//! one at a time through the same code.
//!
//! Expected cycles per 64 weights, estimates from the operation table of Cortex-A76 (two vector operations and two
//! loads a cycle): 6 with one token (13 instructions), 3.5 with four (8). Kernels of this kind over rows interleaved four
//! by four are estimated at 3.6 and 2.4; reading the file as it is mapped, without a copy, is worth the difference here.
//!
//! Source: SDOT (vector), Arm ARM DDI 0487, section C7.2; the block is that of GGUF type `I2_S`.

use crate::asm::{load, sdot};
use crate::float::FLOAT_OPS;
use crate::gemm_dotprod;
use crate::head::dotprod_head;
use crate::strip;
use core::arch::aarch64::{
    int8x16_t, int32x4_t, vaddq_s32, vaddvq_s32, vandq_u8, vdupq_n_s32, vdupq_n_u8, vreinterpretq_s8_u8,
    vshrq_n_s32, vshrq_n_u8,
};
use tern_kernels::reference::{PLAIN_HEADER, PLAIN_OPS, plain_sum, prepared_bytes};
use tern_kernels::{KernelSet, Layout, TernaryOps, Tile, VectorOps};

/// Proof that this machine has FEAT_DotProd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DotProd(());

impl DotProd {
    /// The proof, if the operating system reports the feature.
    #[cfg(not(target_os = "none"))]
    pub(crate) fn detect() -> Option<DotProd> {
        std::arch::is_aarch64_feature_detected!("dotprod").then_some(DotProd(()))
    }

    /// None: without an operating system there is nobody to ask.
    #[cfg(target_os = "none")]
    pub(crate) fn detect() -> Option<DotProd> {
        None
    }

    /// The set that needs the feature; there is no other way to it.
    pub(crate) fn set(self) -> &'static KernelSet {
        static SET: KernelSet = KernelSet::new(
            "aarch64-t2i8-dotprod",
            Layout::T2B128,
            TernaryOps {
                scratch_words: |_, cols, tokens| gemm_dotprod::scratch_words(4, cols, tokens),
                multiply,
                ..PLAIN_OPS
            },
            // SAFETY: answers (1): this table is reached through `DotProd::set` alone, which takes the token.
            VectorOps { head: unsafe { dotprod_head() }, ..FLOAT_OPS },
        );
        &SET
    }
}

/// Code bytes of one block of one row.
type Codes = [u8; 32];
/// Activations of one block of one token, as bytes.
type Block = [u8; 128];

/// `sums[t * rows + r] = sum_c weight[r][c] q[t][c]`, many tokens by strips.
fn multiply(tile: Tile<'_>, scratch: &mut [u64], sums: &mut [i32]) {
    if tile.tokens < gemm_dotprod::MIN_TOKENS {
        multiply_few(tile, sums);
    } else {
        // SAFETY: the only way to this function is `DotProd::set`, whose token proves the feature.
        unsafe { gemm_dotprod::multiply::<strip::Codes, 4>(tile, scratch, sums) }
    }
}

/// The same, for tokens that are too few to expand anything. Only for sets whose machine has the feature.
pub(crate) fn multiply_few(tile: Tile<'_>, sums: &mut [i32]) {
    // SAFETY: the only way to this function is through sets that a `DotProd` was given for.
    unsafe { multiply_sdot(tile, sums) }
}

#[target_feature(enable = "neon,dotprod")]
fn multiply_sdot(tile: Tile<'_>, sums: &mut [i32]) {
    for row in (0..tile.rows / 4 * 4).step_by(4) {
        multiply_rows::<4>(tile, row, sums);
    }
    for row in tile.rows / 4 * 4..tile.rows {
        multiply_rows::<1>(tile, row, sums);
    }
}

/// Rows `row..row + R` against every token.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn multiply_rows<const R: usize>(tile: Tile<'_>, row: usize, sums: &mut [i32]) {
    let blocks = tile.cols / 128;
    let codes: [&[Codes]; R] =
        core::array::from_fn(|r| &tile.weights[(row + r) * (tile.cols / 4)..].as_chunks::<32>().0[..blocks]);
    let stride = prepared_bytes(tile.cols);
    let prepared = |token: usize| &tile.prepared[token * stride..][..stride];
    let activations = |token: usize| &prepared(token)[PLAIN_HEADER..].as_chunks::<128>().0[..blocks];
    let mut write = |token: usize, dots: [i32; R]| {
        let sum = plain_sum(prepared(token));
        for (r, dot) in dots.into_iter().enumerate() {
            sums[token * tile.rows + row + r] = dot - sum;
        }
    };
    let fours = tile.tokens / 4 * 4;
    for token in (0..fours).step_by(4) {
        let dots = dot_tokens(codes, core::array::from_fn(|t| activations(token + t)));
        for (t, dots) in dots.into_iter().enumerate() {
            write(token + t, dots);
        }
    }
    for token in fours..tile.tokens {
        write(token, dot_token(codes, activations(token)));
    }
}

/// `sum code a` of `R` rows with one token.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_token<const R: usize>(codes: [&[Codes]; R], activations: &[Block]) -> [i32; R] {
    let zero = vdupq_n_s32(0);
    let (mut ones, mut fours, mut sixteens) = ([zero; R], [zero; R], [zero; R]);
    let codes = codes.map(|codes| codes[..activations.len()].as_flattened().as_chunks::<16>().0);
    for at in 0..2 * activations.len() {
        let a = [0, 2, 4, 6].map(|field| load_part(&activations[at / 2], field + at % 2));
        for r in 0..R {
            let b = load(&codes[r][at]);
            let masked = |mask| vreinterpretq_s8_u8(vandq_u8(b, vdupq_n_u8(mask)));
            ones[r] = sdot(ones[r], vreinterpretq_s8_u8(vshrq_n_u8::<6>(b)), a[0]);
            sixteens[r] = sdot(sixteens[r], masked(0x30), a[1]);
            fours[r] = sdot(fours[r], masked(0x0c), a[2]);
            ones[r] = sdot(ones[r], masked(0x03), a[3]);
        }
    }
    core::array::from_fn(|r| {
        let scaled = vaddq_s32(vshrq_n_s32::<2>(fours[r]), vshrq_n_s32::<4>(sixteens[r]));
        vaddvq_s32(vaddq_s32(ones[r], scaled))
    })
}

/// `sum code a` of `R` rows with four tokens, by token.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_tokens<const R: usize>(codes: [&[Codes]; R], activations: [&[Block]; 4]) -> [[i32; R]; 4] {
    let mut sums = [[vdupq_n_s32(0); R]; 4];
    let blocks = activations[0].len();
    let codes = codes.map(|codes| codes[..blocks].as_flattened().as_chunks::<16>().0);
    let activations = activations.map(|activations| &activations[..blocks]);
    let three = vdupq_n_u8(3);
    for at in 0..2 * blocks {
        let bytes = codes.map(|codes| load(&codes[at]));
        let blocks = activations.map(|activations| &activations[at / 2]);
        // Written out rather than as a loop: a loop that stays a loop would keep the codes in memory.
        let first = bytes.map(|b| vreinterpretq_s8_u8(vshrq_n_u8::<6>(b)));
        add_field(&mut sums, first, blocks, at % 2);
        let second = bytes.map(|b| vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(b), three)));
        add_field(&mut sums, second, blocks, at % 2 + 2);
        let third = bytes.map(|b| vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(b), three)));
        add_field(&mut sums, third, blocks, at % 2 + 4);
        let fourth = bytes.map(|b| vreinterpretq_s8_u8(vandq_u8(b, three)));
        add_field(&mut sums, fourth, blocks, at % 2 + 6);
    }
    sums.map(|sums| sums.map(|sum| vaddvq_s32(sum)))
}

/// Adds the products of sixteen codes of each row with part `part` of each token's block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_field<const R: usize>(
    sums: &mut [[int32x4_t; R]; 4],
    codes: [int8x16_t; R],
    blocks: [&Block; 4],
    part: usize,
) {
    for (sums, block) in sums.iter_mut().zip(blocks) {
        let a = load_part(block, part);
        for (sum, code) in sums.iter_mut().zip(codes) {
            *sum = sdot(*sum, code, a);
        }
    }
}

/// Activations `16 part..16 part + 16` of a block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn load_part(block: &Block, part: usize) -> int8x16_t {
    vreinterpretq_s8_u8(load(&block.as_chunks::<16>().0[part]))
}
