//! RMSNorm (arXiv:1910.07467, equation 4) and LayerNorm (arXiv:1607.06450, equation 3).
//!
//! The gradients of weights are sums over rows: blocks of [`ROWS`] rows each sum their own, and the blocks' sums are
//! added in order.

use super::Cpu;
use super::buf::scratch;
use super::simd::{Kernel, Lanes, Simd, dispatch, vectors};
use super::split::{rows_per_task, split};
use crate::check;

/// Rows of a block whose weight gradients are summed together; part of the bits.
const ROWS: usize = 32;

pub(super) fn rms_norm(
    cpu: &Cpu,
    x: &[f32],
    w: &[f32],
    width: usize,
    eps: f32,
    y: &mut [f32],
    inv: &mut [f32],
) {
    let n = check::rows("rms_norm x", x.len(), width);
    check::same("rms_norm w", w.len(), width);
    check::same("rms_norm y", y.len(), x.len());
    check::same("rms_norm inv", inv.len(), n);
    let rows = rows_per_task(width);
    split(&cpu.pool, n.div_ceil(rows), [(y, rows * width), (inv, rows)], |i, [y, inv]| {
        let x = &x[i * rows * width..][..y.len()];
        dispatch(cpu.isa, RmsNorm { x, w, eps, y, inv });
    });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    w: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
    inv: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, w, eps, y, inv } = self;
        let width = w.len();
        for ((x, y), inv) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(inv) {
            let mut squares = s.splat(0.0);
            for at in vectors(width) {
                let v = s.read(x, at);
                squares = v.mul_add(v, squares);
            }
            *inv = 1.0 / (squares.sum() / width as f32 + eps).sqrt();
            let scale = s.splat(*inv);
            for at in vectors(width) {
                (s.read(x, at) * scale * s.read(w, at)).write(y, at);
            }
        }
    }
}

/// The gradient with respect to the input, and each block's part of those of the parameters.
///
/// `of(first row, rows' dy, rows' dx, the block's sums)` treats one block. `sums` is the number of parameter vectors.
fn by_blocks(
    cpu: &Cpu,
    width: usize,
    sums: usize,
    dx: &mut [f32],
    of: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
    merge: impl FnOnce(&[f32]),
) {
    let blocks = dx.len().div_ceil(ROWS * width);
    scratch(blocks * sums * width, |partial| {
        partial.fill(0.0);
        split(&cpu.pool, blocks, [(dx, ROWS * width), (partial, sums * width)], |i, [dx, sums]| {
            of(i * ROWS, dx, sums);
        });
        merge(partial);
    });
}

/// `d += Σ_blocks partial`, in order.
fn accumulate(partial: &[f32], stride: usize, at: usize, d: &mut [f32]) {
    for block in partial.chunks_exact(stride) {
        d.iter_mut().zip(&block[at..]).for_each(|(d, v)| *d += v);
    }
}

/// With `x̂ = x · inv` and `g = dy ⊙ w`: `dx = inv (g - x̂ mean(g ⊙ x̂))`, `dw = Σ dy ⊙ x̂`.
pub(super) fn rms_norm_grad(
    cpu: &Cpu,
    x: &[f32],
    w: &[f32],
    width: usize,
    inv: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    add: bool,
    dw: Option<&mut [f32]>,
) {
    check::same("rms_norm w", w.len(), width);
    check::same("rms_norm inv", inv.len(), check::rows("rms_norm x", x.len(), width));
    check::same("rms_norm dy", dy.len(), x.len());
    check::same("rms_norm dx", dx.len(), x.len());
    if let Some(dw) = &dw {
        check::same("rms_norm dw", dw.len(), width);
    }
    let of = |first: usize, dx: &mut [f32], dw: &mut [f32]| {
        let at = first * width;
        let (x, dy, inv) = (&x[at..][..dx.len()], &dy[at..][..dx.len()], &inv[first..]);
        dispatch(cpu.isa, RmsNormGrad { x, w, inv, dy, dx, add, dw });
    };
    by_blocks(cpu, width, usize::from(dw.is_some()), dx, of, |partial| {
        if let Some(dw) = dw {
            accumulate(partial, width, 0, dw);
        }
    });
}

struct RmsNormGrad<'a> {
    x: &'a [f32],
    w: &'a [f32],
    inv: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    add: bool,
    /// Empty when nobody asks.
    dw: &'a mut [f32],
}

impl Kernel for RmsNormGrad<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, w, inv, dy, dx, add, dw } = self;
        let width = w.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)).zip(inv);
        for (((x, dy), dx), &inv) in rows {
            let inv = s.splat(inv);
            let mut dot = s.splat(0.0);
            for at in vectors(width) {
                let (g, hat) = (s.read(dy, at) * s.read(w, at), s.read(x, at) * inv);
                dot = g.mul_add(hat, dot);
            }
            let mean = s.splat(-dot.sum() / width as f32);
            for at in vectors(width) {
                let (dy, hat) = (s.read(dy, at), s.read(x, at) * inv);
                let v = inv * hat.mul_add(mean, dy * s.read(w, at));
                let v = if add { s.read(dx, at) + v } else { v };
                v.write(dx, at);
                if !dw.is_empty() {
                    dy.mul_add(hat, s.read(dw, at)).write(dw, at);
                }
            }
        }
    }
}

pub(super) fn layer_norm(
    cpu: &Cpu,
    x: &[f32],
    w: &[f32],
    b: &[f32],
    width: usize,
    eps: f32,
    y: &mut [f32],
    stats: &mut [f32],
) {
    let n = check::rows("layer_norm x", x.len(), width);
    check::same("layer_norm w", w.len(), width);
    check::same("layer_norm b", b.len(), width);
    check::same("layer_norm y", y.len(), x.len());
    check::same("layer_norm stats", stats.len(), 2 * n);
    let rows = rows_per_task(width);
    split(&cpu.pool, n.div_ceil(rows), [(y, rows * width), (stats, 2 * rows)], |i, [y, stats]| {
        let x = &x[i * rows * width..][..y.len()];
        dispatch(cpu.isa, LayerNorm { x, w, b, eps, y, stats });
    });
}

struct LayerNorm<'a> {
    x: &'a [f32],
    w: &'a [f32],
    b: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
    stats: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, w, b, eps, y, stats } = self;
        let width = w.len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width)).zip(stats.as_chunks_mut::<2>().0);
        for ((x, y), [mean, inv]) in rows {
            let mut sum = s.splat(0.0);
            for at in vectors(width) {
                sum = sum + s.read(x, at);
            }
            *mean = sum.sum() / width as f32;
            let centre = s.splat(*mean);
            let mut squares = s.splat(0.0);
            for at in vectors(width) {
                // past the end the deviation must be zero
                let v = s.read_or(x, at, *mean) - centre;
                squares = v.mul_add(v, squares);
            }
            *inv = 1.0 / (squares.sum() / width as f32 + eps).sqrt();
            let scale = s.splat(*inv);
            for at in vectors(width) {
                let hat = (s.read(x, at) - centre) * scale;
                hat.mul_add(s.read(w, at), s.read(b, at)).write(y, at);
            }
        }
    }
}

/// With `x̂ = (x - mean) inv` and `g = dy ⊙ w`: `dx = inv (g - mean(g) - x̂ mean(g ⊙ x̂))`, `dw = Σ dy ⊙ x̂`,
/// `db = Σ dy`. `dwb` is a buffer with the places of `dw` and `db`.
pub(super) fn layer_norm_grad(
    cpu: &Cpu,
    x: &[f32],
    w: &[f32],
    width: usize,
    stats: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    add: bool,
    dwb: Option<(&mut [f32], usize, usize)>,
) {
    let n = check::rows("layer_norm x", x.len(), width);
    check::same("layer_norm w", w.len(), width);
    check::same("layer_norm stats", stats.len(), 2 * n);
    check::same("layer_norm dy", dy.len(), x.len());
    check::same("layer_norm dx", dx.len(), x.len());
    let of = |first: usize, dx: &mut [f32], dwb: &mut [f32]| {
        let at = first * width;
        let (x, dy, stats) = (&x[at..][..dx.len()], &dy[at..][..dx.len()], &stats[2 * first..]);
        let (dw, db) = dwb.split_at_mut(dwb.len() / 2);
        dispatch(cpu.isa, LayerNormGrad { x, w, stats, dy, dx, add, dw, db });
    };
    by_blocks(cpu, width, if dwb.is_some() { 2 } else { 0 }, dx, of, |partial| {
        if let Some((grads, w_at, b_at)) = dwb {
            accumulate(partial, 2 * width, 0, &mut grads[w_at..][..width]);
            accumulate(partial, 2 * width, width, &mut grads[b_at..][..width]);
        }
    });
}

struct LayerNormGrad<'a> {
    x: &'a [f32],
    w: &'a [f32],
    stats: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    add: bool,
    /// Empty when nobody asks, like `db`.
    dw: &'a mut [f32],
    db: &'a mut [f32],
}

impl Kernel for LayerNormGrad<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, w, stats, dy, dx, add, dw, db } = self;
        let width = w.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((x, dy), dx), &[mean, inv]) in rows.zip(stats.as_chunks::<2>().0) {
            let (centre, inv) = (s.splat(mean), s.splat(inv));
            let (mut sum, mut dot) = (s.splat(0.0), s.splat(0.0));
            for at in vectors(width) {
                let g = s.read(dy, at) * s.read(w, at);
                let hat = (s.read(x, at) - centre) * inv;
                sum = sum + g;
                dot = g.mul_add(hat, dot);
            }
            let (mean_g, mean_gx) = (s.splat(sum.sum() / width as f32), s.splat(-dot.sum() / width as f32));
            for at in vectors(width) {
                let (dy, hat) = (s.read(dy, at), (s.read(x, at) - centre) * inv);
                let v = inv * hat.mul_add(mean_gx, dy * s.read(w, at) - mean_g);
                let v = if add { s.read(dx, at) + v } else { v };
                v.write(dx, at);
                if !dw.is_empty() {
                    dy.mul_add(hat, s.read(dw, at)).write(dw, at);
                    (s.read(db, at) + dy).write(db, at);
                }
            }
        }
    }
}
