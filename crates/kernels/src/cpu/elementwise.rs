//! Blocks that treat each element alone, and the optimisers, which do so too.

use super::Cpu;
use super::math;
use super::simd::{Kernel, Lanes, Simd, dispatch, vectors};
use super::split::{GRAIN, Parts, split};
use crate::backend::Gelu;
use crate::check;

/// A function of `N` inputs and the `M` outputs' old values, lane by lane. `at` must be `#[inline(always)]`.
pub(super) trait Pointwise<const N: usize, const M: usize>: Sync {
    /// Whether the old values matter; where not, they are not read, and `y` is zero.
    const IN_PLACE: bool;

    /// The outputs' new values.
    fn at<S: Simd>(&self, s: S, x: [S::F; N], y: [S::F; M]) -> [S::F; M];
}

/// Applies `op` to all elements.
#[track_caller]
pub(super) fn apply<const N: usize, const M: usize>(
    cpu: &Cpu,
    what: &str,
    op: impl Pointwise<N, M>,
    x: [&[f32]; N],
    y: [&mut [f32]; M],
) {
    let len = y[0].len();
    x.iter().for_each(|x| check::same(what, x.len(), len));
    y.iter().for_each(|y| check::same(what, y.len(), len));
    split(&cpu.pool, len.div_ceil(GRAIN), y.map(|y| (y, GRAIN)), |i, y| {
        let (first, count) = (i * GRAIN, y[0].len());
        dispatch(cpu.isa, Apply { op: &op, x: x.map(|x| &x[first..][..count]), y });
    });
}

struct Apply<'a, O, const N: usize, const M: usize> {
    op: &'a O,
    x: [&'a [f32]; N],
    y: [&'a mut [f32]; M],
}

impl<O: Pointwise<N, M>, const N: usize, const M: usize> Kernel for Apply<'_, O, N, M> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { op, x, y } = self;
        for at in vectors(y[0].len()) {
            let mut inputs = [s.splat(0.0); N];
            for i in 0..N {
                inputs[i] = s.read(x[i], at);
            }
            let mut outputs = [s.splat(0.0); M];
            if O::IN_PLACE {
                for i in 0..M {
                    outputs[i] = s.read(y[i], at);
                }
            }
            let outputs = op.at(s, inputs, outputs);
            for i in 0..M {
                outputs[i].write(y[i], at);
            }
        }
    }
}

/// `v`, or `y + v`.
#[inline(always)]
fn put<F: Lanes>(add: bool, y: F, v: F) -> F {
    if add { y + v } else { v }
}

/// `y (+)= alpha · x`.
pub(super) struct Axpy {
    pub(super) alpha: f32,
    pub(super) add: bool,
}
impl Pointwise<1, 1> for Axpy {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [x]: [S::F; 1], [y]: [S::F; 1]) -> [S::F; 1] {
        [put(self.add, y, s.splat(self.alpha) * x)]
    }
}

/// `y = alpha · y`.
pub(super) struct Scale(pub(super) f32);
impl Pointwise<0, 1> for Scale {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, []: [S::F; 0], [y]: [S::F; 1]) -> [S::F; 1] {
        [s.splat(self.0) * y]
    }
}

/// `y = tanh x`.
pub(super) struct Tanh;
impl Pointwise<1, 1> for Tanh {
    const IN_PLACE: bool = false;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [x]: [S::F; 1], _: [S::F; 1]) -> [S::F; 1] {
        [math::tanh(s, x)]
    }
}

/// `dx (+)= dy (1 - y²)`.
pub(super) struct TanhGrad {
    pub(super) add: bool,
}
impl Pointwise<2, 1> for TanhGrad {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [y, dy]: [S::F; 2], [dx]: [S::F; 1]) -> [S::F; 1] {
        [put(self.add, dx, dy * (-y).mul_add(y, s.splat(1.0)))]
    }
}

/// `sqrt(2 / π)`.
const ROOT: f32 = 0.797_884_6;
/// Of the cube in the tanh form.
const CUBIC: f32 = 0.044_715;

/// `y = gelu x`.
pub(super) struct GeluOf(pub(super) Gelu);
impl Pointwise<1, 1> for GeluOf {
    const IN_PLACE: bool = false;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [x]: [S::F; 1], _: [S::F; 1]) -> [S::F; 1] {
        [x * match self.0 {
            Gelu::Erf => math::normal(s, x).0,
            // 0.5 (1 + tanh u) is sigmoid 2u, which cancels nothing
            Gelu::Tanh => {
                let inner = (x * x).mul_add(s.splat(2.0 * ROOT * CUBIC), s.splat(2.0 * ROOT));
                math::sigmoid(s, x * inner)
            }
        }]
    }
}

/// `dx = dy gelu'(x)`.
pub(super) struct GeluGrad(pub(super) Gelu);
impl Pointwise<2, 1> for GeluGrad {
    const IN_PLACE: bool = false;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [x, dy]: [S::F; 2], _: [S::F; 1]) -> [S::F; 1] {
        [dy * match self.0 {
            Gelu::Erf => {
                let (cdf, density) = math::normal(s, x);
                x.mul_add(density, cdf)
            }
            Gelu::Tanh => {
                let x2 = x * x;
                let inner = x2.mul_add(s.splat(2.0 * ROOT * CUBIC), s.splat(2.0 * ROOT));
                let p = math::sigmoid(s, x * inner);
                let slope = x2.mul_add(s.splat(6.0 * ROOT * CUBIC), s.splat(2.0 * ROOT));
                (x * p).mul_add((s.splat(1.0) - p) * slope, p)
            }
        }]
    }
}

/// `y = gate · sigmoid(gate) · up`.
pub(super) struct SwiGlu;
impl Pointwise<2, 1> for SwiGlu {
    const IN_PLACE: bool = false;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [gate, up]: [S::F; 2], _: [S::F; 1]) -> [S::F; 1] {
        [gate * math::sigmoid(s, gate) * up]
    }
}

/// `(dgate, dup)` from `(gate, up, dy)`.
pub(super) struct SwiGluGrad;
impl Pointwise<3, 2> for SwiGluGrad {
    const IN_PLACE: bool = false;

    #[inline(always)]
    fn at<S: Simd>(&self, s: S, [gate, up, dy]: [S::F; 3], _: [S::F; 2]) -> [S::F; 2] {
        let p = math::sigmoid(s, gate);
        let silu = gate * p;
        // d silu = p + silu (1 - p)
        let slope = silu.mul_add(s.splat(1.0) - p, p);
        [dy * up * slope, dy * silu]
    }
}

/// Most chunks of a sum over a flat vector.
const CHUNKS: usize = 64;

/// `Σ x²` in binary64: at most 64 chunks whose bounds depend on the length alone, sixteen lanes each, added in order.
pub(super) fn sum_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    let chunk = x.len().div_ceil(CHUNKS).max(GRAIN).next_multiple_of(16);
    let mut sums = [0.0; CHUNKS];
    let parts = Parts::new(&mut sums);
    cpu.pool.run(x.len().div_ceil(chunk), &|i| {
        let part = &x[i * chunk..x.len().min((i + 1) * chunk)];
        // SAFETY: one element a task.
        let sum = unsafe { parts.part(i, 1) };
        sum[0] = dispatch(cpu.isa, SumSquares(part));
    });
    sums.iter().sum()
}

struct SumSquares<'a>(&'a [f32]);
impl Kernel for SumSquares<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        // the square of a binary32 is exact in binary64: fused or not, the same bits
        let mut lanes = [0.0f64; 16];
        let (full, tail) = self.0.as_chunks::<16>();
        for x in full {
            for i in 0..16 {
                lanes[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(tail) {
            *lane += f64::from(x) * f64::from(x);
        }
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
        }
        lanes[0]
    }
}
