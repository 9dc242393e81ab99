//! The MLP branch of a block.

use antiphon_kernels::Backend;

use super::maps::{Ctx, dst, src};
use super::norm::residual;
use super::resolve::Mlp;
use super::{Net, plan};
use crate::workspace::{Acts, MlpActs};

impl<B: Backend> Net<B> {
    /// Adds the branch of site `2 · layer + 1`.
    pub(super) fn mlp(&self, cx: &Ctx<'_, B>, n: usize, acts: &mut Acts<B::Buf>, layer: usize) {
        let (block, k) = (&self.parts.blocks[layer], 2 * layer + 1);
        let (i, j) = self.sites(acts, k);
        let slot = self.layer_slot(acts, layer);
        let Acts { res, stats, mlp, low, bottlenecks, n: normed, wide, .. } = acts;
        let m = &mut mlp[slot];
        self.norm(cx, k, n, &res[i], normed, &mut stats[i]);
        match &block.mlp {
            Mlp::SwiGlu { gate, up } => {
                gate.forward(cx, n, normed, &mut m.gate, false, low);
                up.forward(cx, n, normed, &mut m.up, false, low);
            }
            Mlp::Gelu { up, .. } => up.forward(cx, n, normed, &mut m.up, false, low),
        }
        self.activate(cx, n, layer, m, &mut wide[0]);
        let stream = residual(cx.backend, self.post_norm(), normed, res, (i, j), n * self.spec().hidden);
        block.down.forward(cx, n, &wide[0], stream, low, bottlenecks);
    }

    /// Gradients of [`Self::mlp`]: `dr` comes as the gradient after the branch and leaves as the one before.
    pub(super) fn mlp_backward(
        &self,
        cx: &Ctx<'_, B>,
        n: usize,
        acts: &mut Acts<B::Buf>,
        layer: usize,
        grads: &mut B::Buf,
    ) {
        let (block, k, spec) = (&self.parts.blocks[layer], 2 * layer + 1, self.spec());
        let (lowest, len) = (self.parts.plan.lowest, n * spec.ffn);
        let (i, _) = self.sites(acts, k);
        let slot = self.layer_slot(acts, layer);
        let Acts { res, stats, mlp, low, bottlenecks, n: normed, dn, dr, wide, gain, .. } = acts;
        let m = &mlp[slot];
        let [da, dgate_or_up, dup, _] = wide;

        // the product of the gate again: cheaper than keeping it, and read by nothing that is frozen
        if block.down.reads_input() {
            self.activate(cx, n, layer, m, dgate_or_up);
        }
        let below = lowest <= plan::inner(k);
        let dx = below.then_some((&mut *da, false));
        block.down.backward(cx, n, dgate_or_up, dr, dx, grads, low, bottlenecks);
        if !below {
            return;
        }
        let reads_input = match &block.mlp {
            Mlp::SwiGlu { gate, up } => gate.reads_input() || up.reads_input(),
            Mlp::Gelu { up, .. } => up.reads_input(),
        };
        if reads_input {
            self.norm(cx, k, n, &res[i], normed, &mut stats[i]);
        }
        let further = lowest <= plan::norm(k);
        let add = self.start_dn(cx.backend, further, dr, dn, n * spec.hidden);
        match &block.mlp {
            Mlp::SwiGlu { gate, up } => {
                let (g, u, dy) = (src(&m.gate, len), src(&m.up, len), src(da, len));
                cx.backend.swiglu_grad(g, u, dy, dst(dgate_or_up, len), dst(dup, len));
                gate.backward(cx, n, normed, dgate_or_up, further.then_some((&mut *dn, add)), grads, low);
                up.backward(cx, n, normed, dup, further.then_some((&mut *dn, true)), grads, low);
            }
            Mlp::Gelu { kind, up } => {
                cx.backend.gelu_grad(*kind, src(&m.up, len), src(da, len), dst(dgate_or_up, len));
                up.backward(cx, n, normed, dgate_or_up, further.then_some((&mut *dn, add)), grads, low);
            }
        }
        if further {
            let to = (dr, !self.post_norm());
            self.norm_backward(cx, k, n, &res[i], &stats[i], dn, to, grads, gain);
        }
    }

    fn activate(&self, cx: &Ctx<'_, B>, n: usize, layer: usize, m: &MlpActs<B::Buf>, y: &mut B::Buf) {
        let (len, up) = (n * self.spec().ffn, &m.up);
        match &self.parts.blocks[layer].mlp {
            Mlp::SwiGlu { .. } => cx.backend.swiglu(src(&m.gate, len), src(up, len), dst(y, len)),
            Mlp::Gelu { kind, .. } => cx.backend.gelu(*kind, src(up, len), dst(y, len)),
        }
    }
}
