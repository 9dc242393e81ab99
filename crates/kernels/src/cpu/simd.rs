//! Sixteen binary32 lanes, on every instruction set.
//!
//! A kernel is written once over [`Simd`] and compiled for each instruction set. Every operation here is one IEEE-754
//! operation a lane (a fused multiply-add is one), and a reduction folds lanes `i` and `i + 8`, then 4, 2, 1. So a
//! kernel has the same bits on AVX-512 (one register), AVX2 (two) and anything else (an array), and
//! `tests/agreement.rs` says so for every block.
//!
//! A value of type [`Simd`] proves that the processor has the instruction set: only [`dispatch`] makes one, after
//! asking.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::Isa;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// An instruction set that the processor has.
pub(crate) trait Simd: Copy {
    /// Sixteen numbers.
    type F: Lanes;
    /// Sixteen words.
    type U: Words<F = Self::F>;
    /// `x` in every lane.
    fn splat_word(self, x: u32) -> Self::U;
    /// The words of an array.
    fn load_words(self, x: &[u32; LANES]) -> Self::U;
    /// Sixteen rows of four numbers, given by columns, as four vectors in memory order: number `4 i + j` of the result is
    /// lane `i` of `columns[j]`.
    fn interleave(self, columns: [Self::F; 4]) -> [Self::F; 4];
    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// The numbers of an array.
    fn load(self, x: &[f32; LANES]) -> Self::F;

    /// The numbers of a slice of fewer than sixteen, and `fill` behind them.
    fn load_part(self, x: &[f32], fill: f32) -> Self::F;

    /// Sixteen numbers of `x` from `at`, with `fill` for those past its end.
    #[inline(always)]
    fn read_or(self, x: &[f32], at: usize, fill: f32) -> Self::F {
        match x[at..].first_chunk() {
            Some(full) => self.load(full),
            None => self.load_part(&x[at..], fill),
        }
    }

    /// Sixteen numbers of `x` from `at`, with zeros for those past its end.
    #[inline(always)]
    fn read(self, x: &[f32], at: usize) -> Self::F {
        self.read_or(x, at, 0.0)
    }

    /// A polynomial by Horner's rule, lowest coefficient first.
    #[inline(always)]
    fn horner<const N: usize>(self, x: Self::F, coefficients: [f32; N]) -> Self::F {
        let mut y = self.splat(coefficients[N - 1]);
        for c in coefficients[..N - 1].iter().rev() {
            y = y.mul_add(x, self.splat(*c));
        }
        y
    }
}

/// Sixteen numbers. Operators and methods act on each lane.
pub(crate) trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    /// Writes the numbers.
    fn store(self, to: &mut [f32; LANES]);
    /// `self · a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// Without the sign.
    fn abs(self) -> Self;
    /// `self > b ? self : b`; `b` where either is not a number.
    fn max(self, b: Self) -> Self;
    /// `self < bound ? yes : no`; `no` where either is not a number.
    fn less(self, bound: Self, yes: Self, no: Self) -> Self;
    /// The bits moved up by 23 places: an integer becomes an exponent.
    fn shift_to_exponent(self) -> Self;

    /// Writes the first numbers into a slice of fewer than sixteen.
    fn store_part(self, to: &mut [f32]);

    /// Writes the numbers to `y` from `at`, but for those past its end.
    #[inline(always)]
    fn write(self, y: &mut [f32], at: usize) {
        match y[at..].first_chunk_mut() {
            Some(full) => self.store(full),
            None => self.store_part(&mut y[at..]),
        }
    }

    /// The numbers.
    #[inline(always)]
    fn array(self) -> [f32; LANES] {
        let mut all = [0.0; LANES];
        self.store(&mut all);
        all
    }

    /// The sum of the lanes, by halves.
    #[inline(always)]
    fn sum(self) -> f32 {
        fold(self.array(), |a, b| a + b)
    }

    /// The largest lane, by halves.
    #[inline(always)]
    fn largest(self) -> f32 {
        fold(self.array(), |a, b| if a > b { a } else { b })
    }
}

/// Sixteen words of 32 bits. Additions wrap.
pub(crate) trait Words: Copy {
    /// As many numbers.
    type F: Lanes;
    /// The sum, without its carry.
    fn plus(self, b: Self) -> Self;
    /// Exclusive or.
    fn xor(self, b: Self) -> Self;
    /// Bits of both.
    fn and(self, b: Self) -> Self;
    /// The high and the low half of the product.
    fn wide_product(self, b: Self) -> [Self; 2];
    /// Bits moved down, zeros behind them.
    fn right<const N: u32>(self) -> Self;
    /// Bits moved up, zeros behind them.
    fn left<const N: u32>(self) -> Self;
    /// As signed integers, rounded to the nearest number, ties to even.
    fn to_numbers(self) -> Self::F;
    /// The same bits as numbers.
    fn as_numbers(self) -> Self::F;
    /// The bits of numbers.
    fn of_numbers(x: Self::F) -> Self;
}

#[inline(always)]
fn fold(mut x: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            x[i] = f(x[i], x[i + width]);
        }
        width /= 2;
    }
    x[0]
}

/// A computation written once for all instruction sets. `run` must be `#[inline(always)]`, as must be all that it
/// calls, to be compiled with the instructions of its caller.
pub(crate) trait Kernel {
    /// What it returns.
    type Out;
    /// Computes.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs a kernel on `isa`, or on plain Rust where the processor lacks it.
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Out {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.available() => {
            // SAFETY: the processor has it.
            unsafe { avx512::run(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.available() => {
            // SAFETY: the processor has it.
            unsafe { avx2::run(kernel) }
        }
        _ => kernel.run(portable::Portable),
    }
}

/// Places of the vectors of a slice of `len`; the last may reach past the end.
#[inline(always)]
pub(crate) fn vectors(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(LANES)
}
