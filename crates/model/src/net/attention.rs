//! The attention branch of a block: maps, head norms, rotation, attention, and back into the stream.

use antiphon_kernels::{Backend, Dst, Src};

use super::cache::LayerCache;
use super::maps::{Ctx, Param, dst, src};
use super::norm::{gather, residual, scatter};
use super::resolve::Qkv;
use super::{Net, plan};
use crate::batch::Batch;
use crate::workspace::Acts;

impl<B: Backend> Net<B> {
    /// Adds the branch of site `2 · layer`. With a cache, keys and values go to its `rows` and the queries see all that
    /// their segments name there.
    pub(super) fn attention(
        &self,
        cx: &Ctx<'_, B>,
        batch: &Batch,
        head: Option<&[u32]>,
        acts: &mut Acts<B::Buf>,
        layer: usize,
        cache: Option<(&mut LayerCache<B>, &[u32])>,
    ) {
        let (backend, spec, block) = (cx.backend, self.spec(), &self.parts.blocks[layer]);
        let (n, k) = (batch.rows(), 2 * layer);
        let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let (i, j) = self.sites(acts, k);
        let slot = self.layer_slot(acts, layer);
        let Acts { res, stats, attention, low, bottlenecks, n: normed, wide, out, .. } = acts;
        let a = &mut attention[slot];
        self.norm(cx, k, n, &res[i], normed, &mut stats[i]);

        // with head norms the raw maps are kept beside their norms
        let head_norms = block.qk_norm.as_ref();
        let q_to = if head_norms.is_some() { &mut a.q_raw[0] } else { &mut a.q };
        let k_to = if head_norms.is_some() { &mut a.k_raw[0] } else { &mut a.k };
        match &block.qkv {
            Qkv::Split { q, k, v } => {
                q.forward(cx, n, normed, q_to, false, low);
                k.forward(cx, n, normed, k_to, false, low);
                v.forward(cx, n, normed, &mut a.v, false, low);
            }
            Qkv::Fused(map) => {
                map.forward(cx, n, normed, &mut wide[0], false, low);
                let fused = src(&wide[0], n * map.d_out);
                let mut at = 0;
                for (to, cols) in [(q_to, q_width), (k_to, kv_width), (&mut a.v, kv_width)] {
                    backend.columns(fused, map.d_out, at, dst(to, n * cols), cols, 0, cols, false);
                    at += cols;
                }
            }
        }
        if let Some([q_gain, k_gain]) = head_norms {
            self.head_norm(cx, q_gain, n * spec.heads, &mut a.q_raw, &mut a.q);
            self.head_norm(cx, k_gain, n * spec.kv_heads, &mut a.k_raw, &mut a.k);
        }
        self.rotate(cx, batch, &mut a.q, spec.heads, false);
        self.rotate(cx, batch, &mut a.k, spec.kv_heads, false);

        let (q, shape) = (src(&a.q, n * q_width), self.attention_shape());
        let (y, lse) = (dst(&mut a.y, n * q_width), dst(&mut a.lse, n * spec.heads));
        match cache {
            None => {
                let (k, v) = (src(&a.k, n * kv_width), src(&a.v, n * kv_width));
                backend.attention(q, k, v, &batch.segments, shape, y, lse);
            }
            Some((cache, rows)) => {
                for (from, to) in [(&a.k, &mut cache.k), (&a.v, &mut cache.v)] {
                    let len = backend.len(to);
                    backend.rows(
                        src(from, n * kv_width),
                        &batch.iota[..n],
                        dst(to, len),
                        rows,
                        kv_width,
                        false,
                    );
                }
                let len = backend.len(&cache.k);
                backend.attention(q, src(&cache.k, len), src(&cache.v, len), &batch.segments, shape, y, lse);
            }
        }
        match head {
            None => {
                let stream = residual(backend, self.post_norm(), normed, res, (i, j), n * spec.hidden);
                block.o.forward(cx, n, &a.y, stream, low, bottlenecks);
            }
            Some(rows) => {
                let (m, d) = (rows.len(), spec.hidden);
                let from = if self.post_norm() { &*normed } else { &res[i] };
                gather(backend, batch, from, n, rows, &mut out.x, d);
                backend.axpy(1.0, src(&out.x, m * d), dst(&mut res[j], m * d), false);
                gather(backend, batch, &a.y, n, rows, &mut wide[0], q_width);
                block.o.forward(cx, m, &wide[0], &mut res[j], low, bottlenecks);
            }
        }
    }

    /// Gradients of [`Self::attention`]: `dr` comes as the gradient after the branch and leaves as the one before.
    pub(super) fn attention_backward(
        &self,
        cx: &Ctx<'_, B>,
        batch: &Batch,
        head: Option<&[u32]>,
        acts: &mut Acts<B::Buf>,
        layer: usize,
        grads: &mut B::Buf,
    ) {
        let (backend, spec, block) = (cx.backend, self.spec(), &self.parts.blocks[layer]);
        let (n, k, d) = (batch.rows(), 2 * layer, spec.hidden);
        let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let lowest = self.parts.plan.lowest;
        let (i, _) = self.sites(acts, k);
        let slot = self.layer_slot(acts, layer);
        let Acts { res, stats, attention, low, bottlenecks, n: normed, dn, dr, wide, gain, out, .. } = acts;
        let a = &attention[slot];

        let below = lowest <= plan::inner(k);
        match head {
            None => {
                let dx = below.then_some((&mut wide[0], false));
                block.o.backward(cx, n, &a.y, dr, dx, grads, low, bottlenecks);
            }
            Some(rows) => {
                let [y, dy, ..] = &mut *wide;
                if block.o.reads_input() {
                    gather(backend, batch, &a.y, n, rows, y, q_width);
                }
                let dx = below.then_some((&mut *dy, false));
                block.o.backward(cx, rows.len(), y, dr, dx, grads, low, bottlenecks);
            }
        }
        if !below {
            return;
        }
        if let Some(rows) = head {
            // from here on all rows again: those that the head did not read start from zero
            let m = rows.len();
            let [full, dy, ..] = &mut *wide;
            scatter(backend, batch, dy, rows, full, n, q_width);
            backend.axpy(1.0, src(dr, m * d), dst(&mut out.x, m * d), false);
            scatter(backend, batch, &out.x, rows, dr, n, d);
        }
        {
            let [dy, dq, dk, dv] = &mut *wide;
            backend.attention_grad(
                src(&a.q, n * q_width),
                src(&a.k, n * kv_width),
                src(&a.v, n * kv_width),
                src(&a.y, n * q_width),
                src(&a.lse, n * spec.heads),
                src(dy, n * q_width),
                &batch.segments,
                self.attention_shape(),
                dst(dq, n * q_width),
                dst(dk, n * kv_width),
                dst(dv, n * kv_width),
            );
            self.rotate(cx, batch, dq, spec.heads, true);
            self.rotate(cx, batch, dk, spec.kv_heads, true);
        }

        let reads_input = match &block.qkv {
            Qkv::Fused(map) => map.reads_input(),
            Qkv::Split { q, k, v } => [q, k, v].iter().any(|m| m.reads_input()),
        };
        if reads_input {
            self.norm(cx, k, n, &res[i], normed, &mut stats[i]);
        }
        let further = lowest <= plan::norm(k);
        let mut add = self.start_dn(backend, further, dr, dn, n * d);
        let [spare, dq, dk, dv] = &mut *wide;
        match &block.qkv {
            Qkv::Fused(map) => {
                let mut at = 0;
                for (from, cols) in [(&*dq, q_width), (&*dk, kv_width), (&*dv, kv_width)] {
                    let to = dst(spare, n * map.d_out);
                    backend.columns(src(from, n * cols), cols, 0, to, map.d_out, at, cols, false);
                    at += cols;
                }
                map.backward(cx, n, normed, spare, further.then_some((&mut *dn, add)), grads, low);
            }
            Qkv::Split { q, k, v } => {
                let (mut dq, mut dk) = (&*dq, &*dk);
                if let Some([gain, _]) = &block.qk_norm {
                    self.head_norm_backward(cx, gain, n * spec.heads, &a.q_raw, dq, spare, grads);
                    dq = &*spare;
                }
                q.backward(cx, n, normed, dq, further.then_some((&mut *dn, add)), grads, low);
                add = true;
                if let Some([_, gain]) = &block.qk_norm {
                    self.head_norm_backward(cx, gain, n * spec.kv_heads, &a.k_raw, dk, spare, grads);
                    dk = &*spare;
                }
                k.backward(cx, n, normed, dk, further.then_some((&mut *dn, add)), grads, low);
                v.backward(cx, n, normed, dv, further.then_some((&mut *dn, add)), grads, low);
            }
        }
        if further {
            let to = (dr, !self.post_norm());
            self.norm_backward(cx, k, n, &res[i], &stats[i], dn, to, grads, gain);
        }
    }

    /// The gradient of a branch's input starts as the residual's where the residual is that input (post-norm), and as
    /// nothing otherwise. Returns whether the first contribution adds.
    pub(super) fn start_dn(
        &self,
        backend: &B,
        further: bool,
        dr: &B::Buf,
        dn: &mut B::Buf,
        len: usize,
    ) -> bool {
        let copy = further && self.post_norm();
        if copy {
            backend.axpy(1.0, src(dr, len), dst(dn, len), false);
        }
        copy
    }

    fn rotate(&self, cx: &Ctx<'_, B>, batch: &Batch, x: &mut B::Buf, heads: usize, inverse: bool) {
        let Some(table) = &self.rope else { return };
        let head_dim = self.spec().head_dim;
        let x = dst(x, batch.rows() * heads * head_dim);
        let table = src(table, self.max_len * head_dim);
        cx.backend.rope(x, heads, head_dim, &batch.positions, table, inverse);
    }

    /// RMSNorm of each head: `rows` heads of raw values and their statistics to `y`.
    fn head_norm(&self, cx: &Ctx<'_, B>, gain: &Param, rows: usize, raw: &mut [B::Buf; 2], y: &mut B::Buf) {
        let (width, eps) = (self.spec().head_dim, self.spec().norm.eps);
        let [x, inv] = raw;
        let (x, y) = (src(x, rows * width), dst(y, rows * width));
        cx.backend.rms_norm(x, gain.mat(cx), width, eps, y, dst(inv, rows));
    }

    #[expect(clippy::too_many_arguments, reason = "a gradient has its input, its statistics and three ends")]
    fn head_norm_backward(
        &self,
        cx: &Ctx<'_, B>,
        gain: &Param,
        rows: usize,
        raw: &[B::Buf; 2],
        dy: &B::Buf,
        dx: &mut B::Buf,
        grads: &mut B::Buf,
    ) {
        let width = self.spec().head_dim;
        let len = rows * width;
        let [x, inv] = raw;
        let (x, inv): (Src<'_, B::Buf>, _) = (src(x, len), src(inv, rows));
        let dw: Option<Dst<'_, B::Buf>> = gain.grad(grads);
        cx.backend.rms_norm_grad(x, gain.mat(cx), width, inv, src(dy, len), dst(dx, len), false, dw);
    }
}
