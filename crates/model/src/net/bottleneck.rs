//! The way of a branch back into the residual stream, and a bottleneck on that way (Houlsby et al. 2019, arXiv:1902.00751,
//! section 2.1): with `y` what the branch's last map gives,
//!
//! ```text
//! stream += y + W_up gelu(W_down y + b_down) + b_up
//! ```

use antiphon_kernels::{Backend, Gelu};

use super::maps::{Ctx, Map, Param, dst, src};
use crate::workspace::{BottleneckActs, LowActs};

/// A bottleneck with its place in the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Bottleneck {
    pub(crate) down: Map,
    pub(crate) up: Map,
    /// Index of what it keeps.
    pub(crate) slot: usize,
}

impl Bottleneck {
    pub(crate) fn new(wired: &crate::wiring::Bottleneck, hidden: usize, slot: usize) -> Self {
        let map = |w: &std::ops::Range<usize>, b: &std::ops::Range<usize>, d_in, d_out| Map {
            w: Param::Live(w.clone()),
            bias: Some(Param::Live(b.clone())),
            d_in,
            d_out,
            layout: antiphon_kernels::Layout::OutIn,
            low: None,
        };
        Self {
            down: map(&wired.down, &wired.down_bias, hidden, wired.width),
            up: map(&wired.up, &wired.up_bias, wired.width, hidden),
            slot,
        }
    }
}

/// A branch's last map and what stands behind it.
#[derive(Clone, Debug)]
pub(crate) struct WayBack {
    pub(crate) map: Map,
    pub(crate) behind: Option<Bottleneck>,
}

impl WayBack {
    /// Whether gradients read the map's input.
    pub(crate) fn reads_input(&self) -> bool {
        self.map.reads_input()
    }

    /// Adds the branch to `stream` for `n` rows of its input `x`.
    pub(crate) fn forward<B: Backend>(
        &self,
        cx: &Ctx<'_, B>,
        n: usize,
        x: &B::Buf,
        stream: &mut B::Buf,
        low: &mut LowActs<B::Buf>,
        acts: &mut BottleneckActs<B::Buf>,
    ) {
        let Some(b) = &self.behind else { return self.map.forward(cx, n, x, stream, true, low) };
        let BottleneckActs { y, z, wide, .. } = acts;
        // inference keeps one for all
        let slot = b.slot.min(y.len() - 1);
        let (y, z) = (&mut y[slot], &mut z[slot]);
        self.map.forward(cx, n, x, y, false, low);
        b.down.forward(cx, n, y, z, false, low);
        let len = n * b.down.d_out;
        cx.backend.gelu(Gelu::Erf, src(z, len), dst(wide, len));
        b.up.forward(cx, n, wide, stream, true, low);
        let len = n * self.map.d_out;
        cx.backend.axpy(1.0, src(y, len), dst(stream, len), true);
    }

    /// Gradients of [`Self::forward`]: `dr` is that of the stream, and `dx` as for [`Map::backward`].
    #[expect(clippy::too_many_arguments, reason = "a gradient has its input and three ends")]
    pub(crate) fn backward<B: Backend>(
        &self,
        cx: &Ctx<'_, B>,
        n: usize,
        x: &B::Buf,
        dr: &B::Buf,
        dx: Option<(&mut B::Buf, bool)>,
        grads: &mut B::Buf,
        low: &mut LowActs<B::Buf>,
        acts: &mut BottleneckActs<B::Buf>,
    ) {
        let Some(b) = &self.behind else { return self.map.backward(cx, n, x, dr, dx, grads, low) };
        let BottleneckActs { y, z, wide, dwide, dy } = acts;
        let (y, z, len) = (&y[b.slot], &z[b.slot], n * b.down.d_out);
        cx.backend.gelu(Gelu::Erf, src(z, len), dst(wide, len));
        b.up.backward(cx, n, wide, dr, Some((&mut *dwide, false)), grads, low);
        cx.backend.gelu_grad(Gelu::Erf, src(z, len), src(dwide, len), dst(wide, len));
        let len = n * self.map.d_out;
        cx.backend.axpy(1.0, src(dr, len), dst(dy, len), false);
        b.down.backward(cx, n, y, wide, Some((&mut *dy, true)), grads, low);
        self.map.backward(cx, n, x, dy, dx, grads, low);
    }
}
