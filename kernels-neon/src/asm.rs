//! Single instructions that stable Rust has no intrinsic for, and the one checked way to load a register.
//!
//! Each wrapper is one instruction on registers: no memory, no stack, no flags. The names are the Arm ARM's
//! (DDI 0487, section C7.2).

use core::arch::aarch64::{float32x4_t, int8x16_t, int32x4_t, uint8x16_t, uint16x8_t, vld1q_u8};
use core::arch::asm;

/// Sixteen bytes in a register; alignment does not matter.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: `vld1q_u8` reads 16 bytes at any alignment, and the reference says that they are there.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// `SDOT Vd.4S, Vn.16B, Vm.16B`: lane `i` of `sums` plus `sum_j a[4i + j] b[4i + j]`, wrapping at 32 bits.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, which the enabled feature provides.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// `SMMLA Vd.4S, Vn.16B, Vm.16B`: each operand holds two rows of eight; lane `2 i + j` of `sums` plus the product of row
/// `i` of `a` with row `j` of `b`, wrapping at 32 bits.
#[inline]
#[target_feature(enable = "neon,i8mm")]
pub(crate) fn smmla(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, which the enabled feature provides.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// `FCVTL Vd.4S, Vn.4H`: the values of the first four binary16 lanes, exact; a signalling NaN becomes a quiet one.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn fcvtl(halves: uint16x8_t) -> float32x4_t {
    let values;
    // SAFETY: one instruction on registers; conversion between precisions is part of the Armv8.0 baseline.
    unsafe {
        asm!(
            "fcvtl {values:v}.4s, {halves:v}.4h",
            values = lateout(vreg) values, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    values
}

/// `FCVTL2 Vd.4S, Vn.8H`: [`fcvtl`] of the last four lanes.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn fcvtl2(halves: uint16x8_t) -> float32x4_t {
    let values;
    // SAFETY: as in `fcvtl`.
    unsafe {
        asm!(
            "fcvtl2 {values:v}.4s, {halves:v}.8h",
            values = lateout(vreg) values, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    values
}

/// The same bytes, from the compiler's view unrelated ones: it would put `mul`, which has half the throughput on the
/// big cores, in place of a shift and an addition whose meeting it can see.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn opaque(mut bytes: int8x16_t) -> int8x16_t {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0:v} */", inout(vreg) bytes, options(pure, nomem, nostack, preserves_flags)) };
    bytes
}

/// `PRFM PLDL1STRM`: asks for the line `ahead` bytes behind the start of `bytes`, to be read once. It may lie past
/// the end of everything: a hint never faults.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn prefetch<const AHEAD: usize>(bytes: &[u8; 16]) {
    // SAFETY: a hint changes nothing that a program can see.
    unsafe {
        asm!(
            "prfm pldl1strm, [{at}, #{ahead}]",
            at = in(reg) bytes.as_ptr().addr(), ahead = const AHEAD,
            options(nomem, nostack, preserves_flags),
        );
    }
}

/// `sums[i] += q[i] a[i]`, sixteen products folded into four lanes, by `SMULL`, `SMLAL2` and `SADALP`.
///
/// Two products meet in 16 bits, so `q` may not hold -128: 2 * 127 * 128 = 32512 fits, 2 * 128 * 128 does not. Two sums
/// are taken in turn, because each step waits for the one before; a compiler that may move the steps further apart runs
/// out of registers.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn add_products<const N: usize>(
    mut sums: [int32x4_t; N],
    q: [int8x16_t; N],
    a: [int8x16_t; N],
) -> [int32x4_t; N] {
    for i in (0..N / 2 * 2).step_by(2) {
        // SAFETY: six instructions on registers, part of the Armv8.0 baseline.
        unsafe {
            asm!(
                "smull {x:v}.8h, {q:v}.8b, {a:v}.8b",
                "smull {y:v}.8h, {r:v}.8b, {b:v}.8b",
                "smlal2 {x:v}.8h, {q:v}.16b, {a:v}.16b",
                "smlal2 {y:v}.8h, {r:v}.16b, {b:v}.16b",
                "sadalp {s:v}.4s, {x:v}.8h",
                "sadalp {t:v}.4s, {y:v}.8h",
                x = out(vreg) _, y = out(vreg) _,
                s = inout(vreg) sums[i], t = inout(vreg) sums[i + 1],
                q = in(vreg) q[i], r = in(vreg) q[i + 1],
                a = in(vreg) a[i], b = in(vreg) a[i + 1],
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    if N % 2 == 1 {
        // SAFETY: three instructions on registers, part of the Armv8.0 baseline.
        unsafe {
            asm!(
                "smull {x:v}.8h, {q:v}.8b, {a:v}.8b",
                "smlal2 {x:v}.8h, {q:v}.16b, {a:v}.16b",
                "sadalp {s:v}.4s, {x:v}.8h",
                x = out(vreg) _,
                s = inout(vreg) sums[N - 1],
                q = in(vreg) q[N - 1], a = in(vreg) a[N - 1],
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    sums
}

/// `PRFM PLDL1STRM` for `LINES` lines of 64 bytes from `at`, which may lie past the end of everything: a hint never
/// faults.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) fn prefetch_lines<const LINES: usize>(at: *const u8) {
    for line in 0..LINES {
        // SAFETY: a hint changes nothing that a program can see.
        unsafe {
            asm!(
                "prfm pldl1strm, [{at}]",
                at = in(reg) at.wrapping_add(64 * line).addr(),
                options(nomem, nostack, preserves_flags),
            );
        }
    }
}
