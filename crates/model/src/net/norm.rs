//! Norms of the residual stream, forward and backward, and how its rows are copied.

use antiphon_kernels::{Backend, Dst};

use super::Net;
use super::maps::{Ctx, dst, src};
use crate::batch::Batch;

impl<B: Backend> Net<B> {
    /// `y = norm_k(x)` for `n` rows of the residual stream.
    pub(super) fn norm(
        &self,
        cx: &Ctx<'_, B>,
        k: usize,
        n: usize,
        x: &B::Buf,
        y: &mut B::Buf,
        stats: &mut B::Buf,
    ) {
        let (p, d, eps) = (&self.parts.norms[k], self.spec().hidden, self.spec().norm.eps);
        let (x, y, w) = (src(x, n * d), dst(y, n * d), p.w.mat(cx));
        match &p.b {
            None => cx.backend.rms_norm(x, w, d, eps, y, dst(stats, n)),
            Some(b) => cx.backend.layer_norm(x, w, b.mat(cx), d, eps, y, dst(stats, 2 * n)),
        }
    }

    /// `dx (+)=` the gradient of [`Self::norm`] for `dy`; gains and biases that train accumulate into `grads`. `gain` is
    /// scratch of `[2, d]` for a LayerNorm whose gain trains without its bias.
    #[expect(clippy::too_many_arguments, reason = "a gradient has its input, its statistics and three ends")]
    pub(super) fn norm_backward(
        &self,
        cx: &Ctx<'_, B>,
        k: usize,
        n: usize,
        x: &B::Buf,
        stats: &B::Buf,
        dy: &B::Buf,
        (dx, add): (&mut B::Buf, bool),
        grads: &mut B::Buf,
        gain: &mut B::Buf,
    ) {
        let (p, d, backend) = (&self.parts.norms[k], self.spec().hidden, cx.backend);
        let (x, dy, dx, w) = (src(x, n * d), src(dy, n * d), dst(dx, n * d), p.w.mat(cx));
        let Some(bias) = &p.b else {
            backend.rms_norm_grad(x, w, d, src(stats, n), dy, dx, add, p.w.grad(grads));
            return;
        };
        let stats = src(stats, 2 * n);
        match (p.w.live(), bias.live()) {
            (Some(w_at), Some(b_at)) => {
                let dwb = Some((grads, w_at.start, b_at.start));
                backend.layer_norm_grad(x, w, d, stats, dy, dx, add, dwb);
            }
            (Some(w_at), None) => {
                backend.fill(dst(gain, 2 * d), 0.0);
                backend.layer_norm_grad(x, w, d, stats, dy, dx, add, Some((&mut *gain, 0, d)));
                backend.axpy(1.0, src(gain, d), Dst::new(grads, w_at.start, d), true);
            }
            (None, _) => {
                backend.layer_norm_grad(x, w, d, stats, dy, dx, add, None);
                if let Some(db) = bias.grad(grads) {
                    backend.bias_grad(dy, d, db);
                }
            }
        }
    }
}

/// Where the branch of site `k` adds: buffer `j` of the stream, holding the residual. The stream is buffer `i` before
/// the branch; `i == j` where the backward does not read it.
pub(super) fn residual<'a, B: Backend>(
    backend: &B,
    post_norm: bool,
    normed: &B::Buf,
    res: &'a mut [B::Buf],
    (i, j): (usize, usize),
    len: usize,
) -> &'a mut B::Buf {
    if post_norm {
        backend.axpy(1.0, src(normed, len), dst(&mut res[j], len), false);
    } else if i != j {
        let (before, after) = res.split_at_mut(j);
        backend.axpy(1.0, src(&before[i], len), Dst::new(&mut after[0], 0, len), false);
    }
    &mut res[j]
}

/// `to = from[rows]`, of `n` rows of `width`.
pub(super) fn gather<B: Backend>(
    backend: &B,
    batch: &Batch,
    from: &B::Buf,
    n: usize,
    rows: &[u32],
    to: &mut B::Buf,
    width: usize,
) {
    let m = rows.len();
    backend.rows(src(from, n * width), rows, dst(to, m * width), &batch.iota[..m], width, false);
}

/// `to[rows] = from`, and zero on the rest of its `n` rows.
pub(super) fn scatter<B: Backend>(
    backend: &B,
    batch: &Batch,
    from: &B::Buf,
    rows: &[u32],
    to: &mut B::Buf,
    n: usize,
    width: usize,
) {
    let m = rows.len();
    backend.fill(dst(to, n * width), 0.0);
    backend.rows(src(from, m * width), &batch.iota[..m], dst(to, n * width), rows, width, false);
}
