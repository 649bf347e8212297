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
