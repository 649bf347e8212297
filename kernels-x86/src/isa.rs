//! Sixteen binary32 lanes as the registers of an instruction set, behind safe methods.
//!
//! The float order of [`tern_kernels::lanes`] is sixteen lanes wide: two AVX registers or one AVX-512 register. Only
//! the operations that [`crate::floats`] uses are here. Holding a value of an [`Isa`] proves its features, so calling
//! a method is sound anywhere; it is fast only when inlined into a function compiled for those features, which is
//! why everything is `inline(always)`.

use core::arch::x86_64::*;

use tern_kernels::lanes::LANES;

use crate::avx2::Avx2;
use crate::vnni::Avx512Vnni;

/// An instruction set with sixteen float lanes. A value exists only where the machine has its features.
pub(crate) trait Isa: Copy {
    /// Sixteen lanes.
    type Vector: Copy;
    /// Whether there are 32 registers, each a whole `Vector`, rather than 16 that each hold half of one.
    const MANY_REGISTERS: bool;

    /// `value` in every lane.
    fn splat(self, value: f32) -> Self::Vector;
    /// Lane `i` is `x[i]`.
    fn load(self, x: &[f32; LANES]) -> Self::Vector;
    /// Lane `i` is the value of the binary16 `x[i]`.
    fn load_half(self, x: &[u16; LANES]) -> Self::Vector;
    /// Lane `i` is `x[i]`.
    fn load_byte(self, x: &[i8; LANES]) -> Self::Vector;
    /// Writes lane `i` to `x[i]`.
    fn store(self, v: Self::Vector, x: &mut [f32; LANES]);
    /// `a + b`.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a b`, rounded before anything is added to it.
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `if a > b { a } else { b }`: `b` where either is NaN.
    fn larger(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `|v|`.
    fn abs(self, v: Self::Vector) -> Self::Vector;
    /// [`tern_kernels::quant::quantize_value`] of every lane.
    fn quantize(self, x: Self::Vector, s: Self::Vector, q: &mut [i8; LANES]);
}

// SAFETY of every block below: a token exists only where `detect` found AVX, AVX2 and F16C, or AVX-512 F, which are
// the features of these intrinsics; loads and stores take references to as many values as they touch, and none of
// them needs alignment.

impl Isa for Avx2 {
    type Vector = (__m256, __m256);
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        // SAFETY: registers only; see above.
        unsafe { (_mm256_set1_ps(value), _mm256_set1_ps(value)) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Vector {
        // SAFETY: reads x[0..8] and x[8..16]; see above.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn load_half(self, x: &[u16; LANES]) -> Self::Vector {
        // SAFETY: reads x[0..8] and x[8..16]; see above.
        unsafe {
            let low = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_loadu_si128(x.as_ptr().add(8).cast());
            (_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        }
    }

    #[inline(always)]
    fn load_byte(self, x: &[i8; LANES]) -> Self::Vector {
        // SAFETY: reads x[0..16]; see above.
        unsafe {
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let (low, high) = (_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)));
            (_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
        }
    }

    #[inline(always)]
    fn store(self, v: Self::Vector, x: &mut [f32; LANES]) {
        // SAFETY: writes x[0..8] and x[8..16]; see above.
        unsafe {
            _mm256_storeu_ps(x.as_mut_ptr(), v.0);
            _mm256_storeu_ps(x.as_mut_ptr().add(8), v.1);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: registers only; see above.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: registers only; see above.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn larger(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: registers only; see above. `vmaxps` returns its second operand when either is NaN.
        unsafe { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn abs(self, v: Self::Vector) -> Self::Vector {
        // SAFETY: registers only; see above.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            (_mm256_andnot_ps(sign, v.0), _mm256_andnot_ps(sign, v.1))
        }
    }

    #[inline(always)]
    fn quantize(self, x: Self::Vector, s: Self::Vector, q: &mut [i8; LANES]) {
        // SAFETY: the store writes q[0..16], the rest is registers only; see above. The conversion rounds ties to
        // even, which is the mode Rust programs run in.
        unsafe {
            let half = |x: __m256, s: __m256| {
                let v = _mm256_mul_ps(x, s);
                let known = _mm256_and_ps(v, _mm256_cmp_ps::<_CMP_ORD_Q>(v, v));
                let low = _mm256_max_ps(known, _mm256_set1_ps(-128.0));
                _mm256_cvtps_epi32(_mm256_min_ps(low, _mm256_set1_ps(127.0)))
            };
            let words = _mm256_packs_epi32(half(x.0, s.0), half(x.1, s.1));
            // The pack works within 128-bit halves: back into order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(q.as_mut_ptr().cast(), bytes);
        }
    }
}

impl Isa for Avx512Vnni {
    type Vector = __m512;
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::Vector {
        // SAFETY: registers only; see above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Vector {
        // SAFETY: reads x[0..16]; see above.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_half(self, x: &[u16; LANES]) -> Self::Vector {
        // SAFETY: reads x[0..16]; see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_byte(self, x: &[i8; LANES]) -> Self::Vector {
        // SAFETY: reads x[0..16]; see above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn store(self, v: Self::Vector, x: &mut [f32; LANES]) {
        // SAFETY: writes x[0..16]; see above.
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: registers only; see above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: registers only; see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn larger(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: registers only; see above. `vmaxps` returns its second operand when either is NaN.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, v: Self::Vector) -> Self::Vector {
        // SAFETY: registers only; see above.
        unsafe { _mm512_abs_ps(v) }
    }

    #[inline(always)]
    fn quantize(self, x: Self::Vector, s: Self::Vector, q: &mut [i8; LANES]) {
        // SAFETY: the store writes q[0..16], the rest is registers only; see above. The conversion rounds ties to
        // even, which is the mode Rust programs run in.
        unsafe {
            let v = _mm512_mul_ps(x, s);
            let ordered = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v);
            let low = _mm512_maskz_max_ps(ordered, v, _mm512_set1_ps(-128.0));
            let whole = _mm512_cvtps_epi32(_mm512_min_ps(low, _mm512_set1_ps(127.0)));
            _mm_storeu_si128(q.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(whole));
        }
    }
}
