//! [`Vectors`] of AVX2 and AVX-VNNI: two lanes.
//!
//! AVX2 has no dot product. `vpmaddubsw` multiplies a code with an activation and adds two products into a signed word:
//! at most 2 x 3 x 128 = 768 in magnitude, so that four of them, 3,072, and even forty fit before they are widened.

use core::arch::asm;
use core::arch::x86_64::*;

use crate::avx2::Avx2;
use crate::avxvnni::AvxVnni;
use crate::vectors::{Dot, Scale, Vectors};

// SAFETY of every block below: a token exists only where `detect` found AVX2 and F16C, and AVX-VNNI where that is used, which
// are the features of these intrinsics; what reads or writes memory is told by its caller that it may, and none needs
// alignment.

/// What both tokens have in common: everything but `dot_codes`.
macro_rules! common {
    () => {
        type V = __m256i;

        const LANES: usize = 2;

        #[inline(always)]
        fn zero(self) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_setzero_si256() }
        }

        #[inline(always)]
        fn splat8(self, value: u8) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_set1_epi8(value as i8) }
        }

        #[inline(always)]
        fn splat32(self, value: i32) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_set1_epi32(value) }
        }

        #[inline(always)]
        unsafe fn load(self, at: *const u8) -> __m256i {
            // SAFETY: duty (1) is the caller's; see above.
            unsafe { _mm256_loadu_si256(at.cast()) }
        }

        #[inline(always)]
        unsafe fn load_halves(self, low: *const u8, high: *const u8) -> __m256i {
            // SAFETY: duty (1) is the caller's; see above.
            unsafe { _mm256_loadu2_m128i(high.cast(), low.cast()) }
        }

        #[inline(always)]
        unsafe fn load_lanes(self, at: [*const u8; 4]) -> __m256i {
            // SAFETY: duty (1) is the caller's; see above.
            unsafe { _mm256_loadu2_m128i(at[1].cast(), at[0].cast()) }
        }

        #[inline(always)]
        unsafe fn repeat16(self, at: *const u8) -> __m256i {
            // SAFETY: duty (1) is the caller's; see above.
            unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(at.cast())) }
        }

        #[inline(always)]
        unsafe fn repeat4(self, at: *const u8) -> __m256i {
            // SAFETY: duty (1) is the caller's; see above.
            unsafe { _mm256_set1_epi32(at.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut u8, v: __m256i) {
            // SAFETY: duty (1) is the caller's; see above.
            unsafe { _mm256_storeu_si256(to.cast(), v) }
        }

        #[inline(always)]
        fn add8(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_add_epi8(a, b) }
        }

        #[inline(always)]
        fn triple8(self, a: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { triple8(a) }
        }

        #[inline(always)]
        fn add32(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_add_epi32(a, b) }
        }

        #[inline(always)]
        fn sub32(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_sub_epi32(a, b) }
        }

        #[inline(always)]
        fn shift32<const N: u32>(self, a: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(N as i32)) }
        }

        #[inline(always)]
        fn up32<const N: u32>(self, a: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)) }
        }

        #[inline(always)]
        fn and(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_and_si256(a, b) }
        }

        #[inline(always)]
        fn xor(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_xor_si256(a, b) }
        }

        #[inline(always)]
        fn field(self, a: __m256i, by: usize, mask: u8) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe {
                let low = match by {
                    0 => a,
                    2 => _mm256_srli_epi16::<2>(a),
                    4 => _mm256_srli_epi16::<4>(a),
                    _ => _mm256_srli_epi16::<6>(a),
                };
                _mm256_and_si256(low, _mm256_set1_epi8(mask as i8))
            }
        }

        #[inline(always)]
        fn five_code(self, q: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe {
                // A comparison that holds is -1.
                let some = _mm256_cmpgt_epi8(q, _mm256_set1_epi8(-43));
                let two = _mm256_cmpgt_epi8(q, _mm256_set1_epi8(42));
                _mm256_abs_epi8(_mm256_add_epi8(some, two))
            }
        }

        #[inline(always)]
        fn lookup(self, table: __m256i, a: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_shuffle_epi8(table, a) }
        }

        #[inline(always)]
        fn zip<const SIZE: usize>(self, a: __m256i, b: __m256i) -> (__m256i, __m256i) {
            // SAFETY: registers only; see above.
            unsafe {
                match SIZE {
                    1 => (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)),
                    2 => (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)),
                    4 => (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)),
                    _ => (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)),
                }
            }
        }

        #[inline(always)]
        fn unzip_lanes(self, a: __m256i, b: __m256i) -> (__m256i, __m256i) {
            // SAFETY: registers only; see above.
            unsafe { (_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)) }
        }

        #[inline(always)]
        fn permute32(self, table: __m256i, index: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe { _mm256_permutevar8x32_epi32(table, index) }
        }

        #[inline(always)]
        fn choose32(self, mask: __m256i, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: registers only; see above.
            unsafe {
                let (mask, a, b) =
                    (_mm256_castsi256_ps(mask), _mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
                _mm256_castps_si256(_mm256_blendv_ps(a, b, mask))
            }
        }
    };
}

impl Vectors for Avx2 {
    common!();

    const SUMS: usize = 10;
    const DOT: bool = false;

    #[inline(always)]
    fn dot_code(self, sum: __m256i, codes: __m256i, q: __m256i) -> __m256i {
        // SAFETY: registers only; see above.
        unsafe {
            let words = _mm256_maddubs_epi16(codes, q);
            _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn dot_codes(self, sum: __m256i, codes: [__m256i; 4], q: [__m256i; 4]) -> __m256i {
        // SAFETY: registers only; see above.
        unsafe {
            let mut words = _mm256_maddubs_epi16(codes[0], q[0]);
            for i in 1..4 {
                words = _mm256_add_epi16(words, _mm256_maddubs_epi16(codes[i], q[i]));
            }
            _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)))
        }
    }
}

impl Vectors for AvxVnni {
    common!();

    // Twelve and what a step of them needs are seventeen; a sum that goes through memory waits for it at every step.
    const SUMS: usize = 11;
    const DOT: bool = true;

    #[inline(always)]
    fn dot_code(self, sum: __m256i, codes: __m256i, q: __m256i) -> __m256i {
        self.dot(sum, codes, q)
    }

    #[inline(always)]
    fn dot_codes(self, mut sum: __m256i, codes: [__m256i; 4], q: [__m256i; 4]) -> __m256i {
        for i in 0..4 {
            sum = self.dot(sum, codes[i], q[i]);
        }
        sum
    }
}

impl Dot for AvxVnni {
    #[inline(always)]
    fn dot(self, sum: __m256i, u: __m256i, q: __m256i) -> __m256i {
        // SAFETY: registers only; see above.
        unsafe { _mm256_dpbusd_avx_epi32(sum, u, q) }
    }
}

/// [`Scale`] of either token.
macro_rules! scale {
    ($token:ty) => {
        impl Scale for $token {
            #[inline(always)]
            unsafe fn load_halves_wide(self, at: *const u16) -> __m256i {
                // SAFETY: duty (1) is the caller's; see above.
                unsafe { _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(at.cast()))) }
            }

            #[inline(always)]
            fn add_scaled(self, values: __m256i, sums: __m256i, scales: __m256i, factor: __m256i) -> __m256i {
                // SAFETY: registers only; see above.
                unsafe {
                    let factors = _mm256_mul_ps(_mm256_castsi256_ps(scales), _mm256_castsi256_ps(factor));
                    let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), factors);
                    _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(values), scaled))
                }
            }

            #[inline(always)]
            fn later32(self, a: __m256i) -> __m256i {
                // SAFETY: registers only; see above.
                unsafe { _mm256_bslli_epi128::<4>(a) }
            }

            #[inline(always)]
            fn earlier32(self, a: __m256i, b: __m256i) -> __m256i {
                // SAFETY: registers only; see above.
                unsafe { _mm256_alignr_epi8::<4>(b, a) }
            }

            #[inline(always)]
            fn shift_each32(self, a: __m256i, by: __m256i) -> __m256i {
                // SAFETY: registers only; see above.
                unsafe { _mm256_srav_epi32(a, by) }
            }
        }
    };
}

scale!(Avx2);
scale!(AvxVnni);

/// See [`Vectors::triple8`].
#[inline]
#[target_feature(enable = "avx2")]
fn triple8(a: __m256i) -> __m256i {
    let mut twice = _mm256_add_epi8(a, a);
    // SAFETY: no instruction at all; it hides where the sum comes from.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) twice, options(pure, nomem, nostack, preserves_flags));
    }
    _mm256_add_epi8(twice, a)
}
