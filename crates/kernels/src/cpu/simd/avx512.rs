//! Sixteen lanes in one register.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{Kernel, LANES, Lanes, Simd, Words};

/// Proof of AVX-512 F.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// A register. Only an [`Avx512`] makes one, which is what each `unsafe` below rests on.
#[derive(Clone, Copy)]
pub(crate) struct F(__m512);

/// A register of words; as [`F`].
#[derive(Clone, Copy)]
pub(crate) struct U(__m512i);

/// Compiles `kernel` with the instruction set, and runs it.
///
/// # Safety
/// The processor has AVX-512 F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512(()))
}

/// A mask of the first `count < 16` lanes.
#[inline(always)]
fn first(count: usize) -> u16 {
    debug_assert!(count < LANES);
    !(u16::MAX << (count % LANES))
}

impl Simd for Avx512 {
    type F = F;
    type U = U;
    #[inline(always)]
    fn splat_word(self, x: u32) -> U {
        // SAFETY: `self` proves the instruction set.
        U(unsafe { _mm512_set1_epi32(x.cast_signed()) })
    }
    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> U {
        // SAFETY: `self` proves the instruction set; the array has sixteen elements.
        U(unsafe { _mm512_loadu_si512(x.as_ptr().cast()) })
    }
    #[inline(always)]
    fn interleave(self, [a, b, c, d]: [F; 4]) -> [F; 4] {
        // SAFETY: `self` proves the instruction set.
        unsafe {
            let (low, high) = (_mm512_unpacklo_ps(a.0, b.0), _mm512_unpackhi_ps(a.0, b.0));
            let (low2, high2) = (_mm512_unpacklo_ps(c.0, d.0), _mm512_unpackhi_ps(c.0, d.0));
            // quarter q of vector r is row 4 q + r
            let rows = [
                _mm512_shuffle_ps::<0b01_00_01_00>(low, low2),
                _mm512_shuffle_ps::<0b11_10_11_10>(low, low2),
                _mm512_shuffle_ps::<0b01_00_01_00>(high, high2),
                _mm512_shuffle_ps::<0b11_10_11_10>(high, high2),
            ];
            let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(rows[0], rows[1]);
            let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(rows[0], rows[1]);
            let even2 = _mm512_shuffle_f32x4::<0b10_00_10_00>(rows[2], rows[3]);
            let odd2 = _mm512_shuffle_f32x4::<0b11_01_11_01>(rows[2], rows[3]);
            [
                F(_mm512_shuffle_f32x4::<0b10_00_10_00>(even, even2)),
                F(_mm512_shuffle_f32x4::<0b10_00_10_00>(odd, odd2)),
                F(_mm512_shuffle_f32x4::<0b11_01_11_01>(even, even2)),
                F(_mm512_shuffle_f32x4::<0b11_01_11_01>(odd, odd2)),
            ]
        }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> F {
        // SAFETY: `self` proves the instruction set.
        F(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        // SAFETY: `self` proves the instruction set; the array has sixteen elements.
        F(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> F {
        // SAFETY: `self` proves the instruction set; the mask ends with the slice.
        F(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(x.len()), x.as_ptr()) })
    }
}

macro_rules! operator {
    ($trait:ident $method:ident $intrinsic:ident) => {
        impl $trait for F {
            type Output = F;
            #[inline(always)]
            fn $method(self, b: F) -> F {
                // SAFETY: `self` exists.
                F(unsafe { $intrinsic(self.0, b.0) })
            }
        }
    };
}
operator!(Add add _mm512_add_ps);
operator!(Sub sub _mm512_sub_ps);
operator!(Mul mul _mm512_mul_ps);
operator!(Div div _mm512_div_ps);

impl Neg for F {
    type Output = F;
    #[inline(always)]
    fn neg(self) -> F {
        // SAFETY: `self` exists.
        F(unsafe {
            let sign = _mm512_set1_epi32(i32::MIN);
            _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(self.0), sign))
        })
    }
}

impl Lanes for F {
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        // SAFETY: `self` exists; the array has sixteen elements.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
    }
    #[inline(always)]
    fn store_part(self, to: &mut [f32]) {
        // SAFETY: `self` exists; the mask ends with the slice.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), first(to.len()), self.0) }
    }
    #[inline(always)]
    fn mul_add(self, a: F, b: F) -> F {
        // SAFETY: `self` exists.
        F(unsafe { _mm512_fmadd_ps(self.0, a.0, b.0) })
    }
    #[inline(always)]
    fn sqrt(self) -> F {
        // SAFETY: `self` exists.
        F(unsafe { _mm512_sqrt_ps(self.0) })
    }
    #[inline(always)]
    fn abs(self) -> F {
        // SAFETY: `self` exists.
        F(unsafe { _mm512_abs_ps(self.0) })
    }
    #[inline(always)]
    fn max(self, b: F) -> F {
        // SAFETY: `self` exists.
        F(unsafe { _mm512_max_ps(self.0, b.0) })
    }
    #[inline(always)]
    fn less(self, bound: F, yes: F, no: F) -> F {
        // SAFETY: `self` exists.
        F(unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0);
            _mm512_mask_blend_ps(mask, no.0, yes.0)
        })
    }
    #[inline(always)]
    fn shift_to_exponent(self) -> F {
        // SAFETY: `self` exists.
        F(unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(self.0))) })
    }
}

macro_rules! of_words {
    ($method:ident $intrinsic:ident) => {
        #[inline(always)]
        fn $method(self, b: U) -> U {
            // SAFETY: `self` exists.
            U(unsafe { $intrinsic(self.0, b.0) })
        }
    };
}

impl Words for U {
    type F = F;
    of_words!(plus _mm512_add_epi32);
    of_words!(xor _mm512_xor_si512);
    of_words!(and _mm512_and_si512);
    #[inline(always)]
    fn wide_product(self, b: U) -> [U; 2] {
        // SAFETY: `self` exists.
        unsafe {
            let even = _mm512_mul_epu32(self.0, b.0);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(self.0), _mm512_srli_epi64::<32>(b.0));
            [
                U(_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64::<32>(even), odd)),
                U(_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64::<32>(odd))),
            ]
        }
    }
    #[inline(always)]
    fn right<const N: u32>(self) -> U {
        // SAFETY: `self` exists.
        U(unsafe { _mm512_srli_epi32::<N>(self.0) })
    }
    #[inline(always)]
    fn left<const N: u32>(self) -> U {
        // SAFETY: `self` exists.
        U(unsafe { _mm512_slli_epi32::<N>(self.0) })
    }
    #[inline(always)]
    fn to_numbers(self) -> F {
        // SAFETY: `self` exists.
        F(unsafe { _mm512_cvtepi32_ps(self.0) })
    }
    #[inline(always)]
    fn as_numbers(self) -> F {
        // SAFETY: `self` exists.
        F(unsafe { _mm512_castsi512_ps(self.0) })
    }
    #[inline(always)]
    fn of_numbers(x: F) -> U {
        // SAFETY: `x` exists.
        U(unsafe { _mm512_castps_si512(x.0) })
    }
}
