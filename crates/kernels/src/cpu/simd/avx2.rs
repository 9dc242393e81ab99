//! Sixteen lanes in two registers.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{Kernel, LANES, Lanes, Simd, Words};

/// Proof of AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Two registers. Only an [`Avx2`] makes them, which is what each `unsafe` below rests on.
#[derive(Clone, Copy)]
pub(crate) struct F(__m256, __m256);

/// Two registers of words; as [`F`].
#[derive(Clone, Copy)]
pub(crate) struct U(__m256i, __m256i);

/// Compiles `kernel` with the instruction set, and runs it.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2(()))
}

/// Masks of the first `count < 16` lanes, as sign bits.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn first(count: usize) -> [__m256i; 2] {
    debug_assert!(count < LANES);
    let count = (count % LANES) as i32;
    // SAFETY: the caller's promise.
    unsafe {
        let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), index);
        [below, _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), index)]
    }
}

impl Simd for Avx2 {
    type F = F;
    type U = U;
    #[inline(always)]
    fn splat_word(self, x: u32) -> U {
        // SAFETY: `self` proves the instruction set.
        let v = unsafe { _mm256_set1_epi32(x.cast_signed()) };
        U(v, v)
    }
    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> U {
        // SAFETY: `self` proves the instruction set; the array has twice eight elements.
        unsafe {
            let at = x.as_ptr();
            U(_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(8).cast()))
        }
    }
    #[inline(always)]
    fn interleave(self, [a, b, c, d]: [F; 4]) -> [F; 4] {
        // SAFETY: `self` proves the instruction set.
        unsafe {
            let [first, second] = rows_of_four([a.0, b.0, c.0, d.0]);
            let [third, fourth] = rows_of_four([a.1, b.1, c.1, d.1]);
            [first, second, third, fourth]
        }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: `self` proves the instruction set.
        let v = unsafe { _mm256_set1_ps(x) };
        F(v, v)
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        // SAFETY: `self` proves the instruction set; the array has twice eight elements.
        unsafe { F(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> F {
        // SAFETY: `self` proves the instruction set; the masks end with the slice.
        unsafe {
            let [low, high] = first(x.len());
            let fill = _mm256_set1_ps(fill);
            let (a, b) = (x.as_ptr(), x.as_ptr().wrapping_add(8));
            F(
                _mm256_blendv_ps(fill, _mm256_maskload_ps(a, low), _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(fill, _mm256_maskload_ps(b, high), _mm256_castsi256_ps(high)),
            )
        }
    }
}

/// Eight rows of four numbers, given by columns, in memory order.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn rows_of_four([a, b, c, d]: [__m256; 4]) -> [F; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (low2, high2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        // half h of vector r is row 4 h + r
        let rows = [
            _mm256_shuffle_ps::<0b01_00_01_00>(low, low2),
            _mm256_shuffle_ps::<0b11_10_11_10>(low, low2),
            _mm256_shuffle_ps::<0b01_00_01_00>(high, high2),
            _mm256_shuffle_ps::<0b11_10_11_10>(high, high2),
        ];
        [
            F(
                _mm256_permute2f128_ps::<0x20>(rows[0], rows[1]),
                _mm256_permute2f128_ps::<0x20>(rows[2], rows[3]),
            ),
            F(
                _mm256_permute2f128_ps::<0x31>(rows[0], rows[1]),
                _mm256_permute2f128_ps::<0x31>(rows[2], rows[3]),
            ),
        ]
    }
}

macro_rules! operator {
    ($trait:ident $method:ident $intrinsic:ident) => {
        impl $trait for F {
            type Output = F;
            #[inline(always)]
            fn $method(self, b: F) -> F {
                // SAFETY: `self` exists.
                unsafe { F($intrinsic(self.0, b.0), $intrinsic(self.1, b.1)) }
            }
        }
    };
}
operator!(Add add _mm256_add_ps);
operator!(Sub sub _mm256_sub_ps);
operator!(Mul mul _mm256_mul_ps);
operator!(Div div _mm256_div_ps);

impl Neg for F {
    type Output = F;
    #[inline(always)]
    fn neg(self) -> F {
        // SAFETY: `self` exists.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            F(_mm256_xor_ps(self.0, sign), _mm256_xor_ps(self.1, sign))
        }
    }
}

impl Lanes for F {
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: `self` exists; the array has twice eight elements.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), self.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), self.1);
        }
    }
    #[inline(always)]
    fn store_part(self, to: &mut [f32]) {
        // SAFETY: `self` exists; the masks end with the slice.
        unsafe {
            let [low, high] = first(to.len());
            _mm256_maskstore_ps(to.as_mut_ptr(), low, self.0);
            _mm256_maskstore_ps(to.as_mut_ptr().wrapping_add(8), high, self.1);
        }
    }
    #[inline(always)]
    fn mul_add(self, a: F, b: F) -> F {
        // SAFETY: `self` exists.
        unsafe { F(_mm256_fmadd_ps(self.0, a.0, b.0), _mm256_fmadd_ps(self.1, a.1, b.1)) }
    }
    #[inline(always)]
    fn sqrt(self) -> F {
        // SAFETY: `self` exists.
        unsafe { F(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
    }
    #[inline(always)]
    fn abs(self) -> F {
        // SAFETY: `self` exists.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            F(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
        }
    }
    #[inline(always)]
    fn max(self, b: F) -> F {
        // SAFETY: `self` exists.
        unsafe { F(_mm256_max_ps(self.0, b.0), _mm256_max_ps(self.1, b.1)) }
    }
    #[inline(always)]
    fn less(self, bound: F, yes: F, no: F) -> F {
        // SAFETY: `self` exists.
        unsafe {
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(self.1, bound.1);
            F(_mm256_blendv_ps(no.0, yes.0, low), _mm256_blendv_ps(no.1, yes.1, high))
        }
    }
    #[inline(always)]
    fn shift_to_exponent(self) -> F {
        // SAFETY: `self` exists.
        unsafe {
            F(
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(self.0))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(self.1))),
            )
        }
    }
}

macro_rules! of_words {
    ($method:ident $intrinsic:ident) => {
        #[inline(always)]
        fn $method(self, b: U) -> U {
            // SAFETY: `self` exists.
            unsafe { U($intrinsic(self.0, b.0), $intrinsic(self.1, b.1)) }
        }
    };
}

/// [`Words::wide_product`] of eight lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn wide_product(a: __m256i, b: __m256i) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let even = _mm256_mul_epu32(a, b);
        let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
        [
            _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd),
            _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd)),
        ]
    }
}

impl Words for U {
    type F = F;
    of_words!(plus _mm256_add_epi32);
    of_words!(xor _mm256_xor_si256);
    of_words!(and _mm256_and_si256);
    #[inline(always)]
    fn wide_product(self, b: U) -> [U; 2] {
        // SAFETY: `self` exists.
        unsafe {
            let ([high, low], [high2, low2]) = (wide_product(self.0, b.0), wide_product(self.1, b.1));
            [U(high, high2), U(low, low2)]
        }
    }
    #[inline(always)]
    fn right<const N: u32>(self) -> U {
        // SAFETY: `self` exists; a count in a register, because this instruction takes a signed constant.
        unsafe {
            let count = _mm_cvtsi32_si128(N.cast_signed());
            U(_mm256_srl_epi32(self.0, count), _mm256_srl_epi32(self.1, count))
        }
    }
    #[inline(always)]
    fn left<const N: u32>(self) -> U {
        // SAFETY: as in `right`.
        unsafe {
            let count = _mm_cvtsi32_si128(N.cast_signed());
            U(_mm256_sll_epi32(self.0, count), _mm256_sll_epi32(self.1, count))
        }
    }
    #[inline(always)]
    fn to_numbers(self) -> F {
        // SAFETY: `self` exists.
        unsafe { F(_mm256_cvtepi32_ps(self.0), _mm256_cvtepi32_ps(self.1)) }
    }
    #[inline(always)]
    fn as_numbers(self) -> F {
        // SAFETY: `self` exists.
        unsafe { F(_mm256_castsi256_ps(self.0), _mm256_castsi256_ps(self.1)) }
    }
    #[inline(always)]
    fn of_numbers(x: F) -> U {
        // SAFETY: `x` exists.
        unsafe { U(_mm256_castps_si256(x.0), _mm256_castps_si256(x.1)) }
    }
}
