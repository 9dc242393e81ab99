//! Sixteen lanes in one register.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{Kernel, LANES, Lanes, Simd};

/// Proof of AVX-512 F.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// A register. Only an [`Avx512`] makes one, which is what each `unsafe` below rests on.
#[derive(Clone, Copy)]
pub(super) struct F(__m512);

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
