//! Sixteen lanes in an array. Where the target has a fused multiply-add (AArch64, RISC-V) the compiler finds vectors;
//! where it has none (old x86-64) each one is a call, exact and slow.

use std::array::from_fn;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::{LANES, Lanes, Simd, Words};

/// Any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable;

/// An array.
#[derive(Clone, Copy)]
pub(crate) struct F([f32; LANES]);

/// An array of words.
#[derive(Clone, Copy)]
pub(crate) struct U([u32; LANES]);

impl Simd for Portable {
    type F = F;
    type U = U;
    #[inline(always)]
    fn splat_word(self, x: u32) -> U {
        U([x; LANES])
    }
    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> U {
        U(*x)
    }
    #[inline(always)]
    fn interleave(self, columns: [F; 4]) -> [F; 4] {
        from_fn(|v| F(from_fn(|i| columns[i % 4].0[4 * v + i / 4])))
    }
    #[inline(always)]
    fn splat(self, x: f32) -> F {
        F([x; LANES])
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        F(*x)
    }
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> F {
        let mut all = [fill; LANES];
        all[..x.len()].copy_from_slice(x);
        F(all)
    }
}

macro_rules! operator {
    ($trait:ident $method:ident $operator:tt) => {
        impl $trait for F {
            type Output = F;
            #[inline(always)]
            fn $method(self, b: F) -> F {
                F(from_fn(|i| self.0[i] $operator b.0[i]))
            }
        }
    };
}
operator!(Add add +);
operator!(Sub sub -);
operator!(Mul mul *);
operator!(Div div /);

impl Neg for F {
    type Output = F;
    #[inline(always)]
    fn neg(self) -> F {
        F(self.0.map(|x| -x))
    }
}

impl Lanes for F {
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }
    #[inline(always)]
    fn store_part(self, to: &mut [f32]) {
        to.copy_from_slice(&self.0[..to.len()]);
    }
    #[inline(always)]
    fn mul_add(self, a: F, b: F) -> F {
        F(from_fn(|i| self.0[i].mul_add(a.0[i], b.0[i])))
    }
    #[inline(always)]
    fn sqrt(self) -> F {
        F(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn abs(self) -> F {
        F(self.0.map(f32::abs))
    }
    #[inline(always)]
    fn max(self, b: F) -> F {
        F(from_fn(|i| if self.0[i] > b.0[i] { self.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    fn less(self, bound: F, yes: F, no: F) -> F {
        F(from_fn(|i| if self.0[i] < bound.0[i] { yes.0[i] } else { no.0[i] }))
    }
    #[inline(always)]
    fn shift_to_exponent(self) -> F {
        F(self.0.map(|x| f32::from_bits(x.to_bits() << 23)))
    }
}

impl Words for U {
    type F = F;
    #[inline(always)]
    fn plus(self, b: U) -> U {
        U(from_fn(|i| self.0[i].wrapping_add(b.0[i])))
    }
    #[inline(always)]
    fn xor(self, b: U) -> U {
        U(from_fn(|i| self.0[i] ^ b.0[i]))
    }
    #[inline(always)]
    fn and(self, b: U) -> U {
        U(from_fn(|i| self.0[i] & b.0[i]))
    }
    #[inline(always)]
    fn wide_product(self, b: U) -> [U; 2] {
        let wide: [u64; LANES] = from_fn(|i| u64::from(self.0[i]) * u64::from(b.0[i]));
        [U(wide.map(|w| (w >> 32) as u32)), U(wide.map(|w| w as u32))]
    }
    #[inline(always)]
    fn right<const N: u32>(self) -> U {
        U(self.0.map(|x| x >> N))
    }
    #[inline(always)]
    fn left<const N: u32>(self) -> U {
        U(self.0.map(|x| x << N))
    }
    #[inline(always)]
    fn to_numbers(self) -> F {
        F(self.0.map(|x| x.cast_signed() as f32))
    }
    #[inline(always)]
    fn as_numbers(self) -> F {
        F(self.0.map(f32::from_bits))
    }
    #[inline(always)]
    fn of_numbers(x: F) -> U {
        U(x.0.map(f32::to_bits))
    }
}
