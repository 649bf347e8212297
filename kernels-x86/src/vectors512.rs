//! [`Vectors`] of AVX-512: four lanes, `vpdpbusd`.

use core::arch::asm;
use core::arch::x86_64::*;

use crate::vectors::{Dot, Scale, Vectors};
use crate::vnni::Avx512Vnni;

// SAFETY of every block below: the token exists only where `detect` found AVX-512 F, BW, VL and VNNI, which are the
// features of these intrinsics; what reads or writes memory is told by its caller that it may, and none needs alignment.

impl Vectors for Avx512Vnni {
    type V = __m512i;

    const LANES: usize = 4;
    const SUMS: usize = 25;
    const DOT: bool = true;

    #[inline(always)]
    fn zero(self) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn splat8(self, value: u8) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_set1_epi8(value as i8) }
    }

    #[inline(always)]
    fn splat32(self, value: i32) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load(self, at: *const u8) -> __m512i {
        // SAFETY: duty (1) is the caller's; see above.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }

    #[inline(always)]
    unsafe fn load_halves(self, low: *const u8, high: *const u8) -> __m512i {
        // SAFETY: duty (1) is the caller's; see above.
        unsafe {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(low.cast()));
            _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(high.cast()))
        }
    }

    #[inline(always)]
    unsafe fn load_lanes(self, at: [*const u8; 4]) -> __m512i {
        // SAFETY: duty (1) is the caller's; see above.
        unsafe {
            let v = _mm512_castsi128_si512(_mm_loadu_si128(at[0].cast()));
            let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(at[1].cast()));
            let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(at[2].cast()));
            _mm512_inserti32x4::<3>(v, _mm_loadu_si128(at[3].cast()))
        }
    }

    #[inline(always)]
    unsafe fn repeat16(self, at: *const u8) -> __m512i {
        // SAFETY: duty (1) is the caller's; see above.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(at.cast())) }
    }

    #[inline(always)]
    unsafe fn repeat4(self, at: *const u8) -> __m512i {
        // SAFETY: duty (1) is the caller's; see above.
        unsafe { _mm512_set1_epi32(at.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut u8, v: __m512i) {
        // SAFETY: duty (1) is the caller's; see above.
        unsafe { _mm512_storeu_si512(to.cast(), v) }
    }

    #[inline(always)]
    fn add8(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_add_epi8(a, b) }
    }

    #[inline(always)]
    fn triple8(self, a: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { triple8(a) }
    }

    #[inline(always)]
    fn add32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn sub32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    fn shift32<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }

    #[inline(always)]
    fn up32<const N: u32>(self, a: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_slli_epi32::<N>(a) }
    }

    #[inline(always)]
    fn and(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn field(self, a: __m512i, by: usize, mask: u8) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe {
            let low = match by {
                0 => a,
                2 => _mm512_srli_epi16::<2>(a),
                4 => _mm512_srli_epi16::<4>(a),
                _ => _mm512_srli_epi16::<6>(a),
            };
            _mm512_and_si512(low, _mm512_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    fn five_code(self, q: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe {
            let some = _mm512_cmpgt_epi8_mask(q, _mm512_set1_epi8(-43));
            let two = _mm512_cmpgt_epi8_mask(q, _mm512_set1_epi8(42));
            let code = _mm512_maskz_mov_epi8(some, _mm512_set1_epi8(1));
            _mm512_mask_mov_epi8(code, two, _mm512_set1_epi8(2))
        }
    }

    #[inline(always)]
    fn lookup(self, table: __m512i, a: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_shuffle_epi8(table, a) }
    }

    #[inline(always)]
    fn zip<const SIZE: usize>(self, a: __m512i, b: __m512i) -> (__m512i, __m512i) {
        // SAFETY: registers only; see above.
        unsafe {
            match SIZE {
                1 => (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)),
                2 => (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)),
                4 => (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)),
                _ => (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)),
            }
        }
    }

    #[inline(always)]
    fn unzip_lanes(self, a: __m512i, b: __m512i) -> (__m512i, __m512i) {
        // SAFETY: registers only; see above.
        unsafe { (_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)) }
    }

    #[inline(always)]
    fn permute32(self, table: __m512i, index: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_permutexvar_epi32(index, table) }
    }

    #[inline(always)]
    fn choose32(self, mask: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe {
            let mask = _mm512_cmplt_epi32_mask(mask, _mm512_setzero_si512());
            _mm512_mask_blend_epi32(mask, a, b)
        }
    }

    #[inline(always)]
    fn dot_code(self, sum: __m512i, codes: __m512i, q: __m512i) -> __m512i {
        self.dot(sum, codes, q)
    }

    #[inline(always)]
    fn dot_codes(self, mut sum: __m512i, codes: [__m512i; 4], q: [__m512i; 4]) -> __m512i {
        for i in 0..4 {
            sum = self.dot(sum, codes[i], q[i]);
        }
        sum
    }
}

impl Dot for Avx512Vnni {
    #[inline(always)]
    fn dot(self, sum: __m512i, u: __m512i, q: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_dpbusd_epi32(sum, u, q) }
    }
}

impl Scale for Avx512Vnni {
    #[inline(always)]
    unsafe fn load_halves_wide(self, at: *const u16) -> __m512i {
        // SAFETY: duty (1) is the caller's; see above.
        unsafe { _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(at.cast()))) }
    }

    #[inline(always)]
    fn add_scaled(self, values: __m512i, sums: __m512i, scales: __m512i, factor: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe {
            let factors = _mm512_mul_ps(_mm512_castsi512_ps(scales), _mm512_castsi512_ps(factor));
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), factors);
            _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(values), scaled))
        }
    }

    #[inline(always)]
    fn later32(self, a: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_bslli_epi128::<4>(a) }
    }

    #[inline(always)]
    fn earlier32(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_alignr_epi8::<4>(b, a) }
    }

    #[inline(always)]
    fn shift_each32(self, a: __m512i, by: __m512i) -> __m512i {
        // SAFETY: registers only; see above.
        unsafe { _mm512_srav_epi32(a, by) }
    }
}

/// See [`Vectors::triple8`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn triple8(a: __m512i) -> __m512i {
    let mut twice = _mm512_add_epi8(a, a);
    // SAFETY: no instruction at all; it hides where the sum comes from.
    unsafe {
        asm!("/* {0} */", inout(zmm_reg) twice, options(pure, nomem, nostack, preserves_flags));
    }
    _mm512_add_epi8(twice, a)
}
