//! A linear map with what a wiring attached to it: a live weight or bias, a low-rank pair.

use std::ops::Range;

use antiphon_kernels::{Backend, Dropout, Dst, Layout, Linear, Mat, Noise, Src};

use crate::perturb::Perturbation;
use crate::weights::Weights;
use crate::wiring::LoraPair;
use crate::workspace::LowActs;

/// Where the masks of a step come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutSeed {
    /// Key of `Stream::keyed(seed, Purpose::Dropout, round, client, "")`.
    pub key: [u32; 2],
    /// Local step within the round; masks of two steps are independent.
    pub step: u32,
}

/// What every block of a step reads.
#[derive(Debug)]
pub(crate) struct Ctx<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) params: &'a B::Buf,
    pub(crate) weights: &'a Weights<B>,
    pub(crate) seed: Option<DropoutSeed>,
    /// Through which the trainable vector is seen.
    pub(crate) noise: Option<Perturbation>,
}

impl<B: Backend> Ctx<'_, B> {
    /// What a tensor of the trainable vector is perturbed by.
    fn noise_of(&self, range: &Range<usize>) -> Option<Noise> {
        self.noise.as_ref().and_then(|p| p.of(range.start))
    }

    /// A small tensor of the trainable vector as it is, or its perturbed copy in `seen`.
    pub(crate) fn overlay<'s>(&'s self, range: &Range<usize>, seen: &'s mut B::Buf) -> Src<'s, B::Buf> {
        let own = Src::new(self.params, range.start, range.len());
        let Some(noise) = self.noise_of(range) else { return own };
        self.backend.axpy(1.0, own, dst(seen, own.len), false);
        self.backend.add_noise(noise, dst(seen, own.len));
        src(seen, own.len)
    }
}

/// A tensor: frozen (its index among the weights) or live (its range of the trainable vector).
#[derive(Clone, Debug)]
pub(crate) enum Param {
    Frozen(usize),
    Live(Range<usize>),
}

impl Param {
    pub(crate) fn mat<'a, B: Backend>(&self, cx: &Ctx<'a, B>) -> Mat<'a, B> {
        match self {
            Self::Frozen(i) => Mat::Frozen(cx.weights.at(*i)),
            Self::Live(r) => {
                let own = Src::new(cx.params, r.start, r.len());
                cx.noise_of(r).map_or(Mat::Live(own), |noise| Mat::Noisy(own, noise))
            }
        }
    }

    pub(crate) fn live(&self) -> Option<&Range<usize>> {
        match self {
            Self::Frozen(_) => None,
            Self::Live(r) => Some(r),
        }
    }

    /// Where the gradient goes, if the tensor trains.
    pub(crate) fn grad<'g, T>(&self, grads: &'g mut T) -> Option<Dst<'g, T>> {
        self.live().map(|r| Dst::new(grads, r.start, r.len()))
    }
}

/// The whole first `len` elements, read.
pub(crate) fn src<T>(buf: &T, len: usize) -> Src<'_, T> {
    Src::new(buf, 0, len)
}

/// The whole first `len` elements, written.
pub(crate) fn dst<T>(buf: &mut T, len: usize) -> Dst<'_, T> {
    Dst::new(buf, 0, len)
}

/// A low-rank pair with its place in the workspace and among the masks.
#[derive(Clone, Debug)]
pub(crate) struct Low {
    pub(crate) pair: LoraPair,
    /// Index of its `x A^T`.
    pub(crate) slot: usize,
    /// Distinguishes its mask from those of other pairs.
    pub(crate) mask: u16,
}

impl Low {
    fn mask<B: Backend>(&self, cx: &Ctx<'_, B>) -> Option<Dropout> {
        let seed = cx.seed.filter(|_| self.pair.dropout > 0.0)?;
        let high = u64::from(seed.step) << 16 | u64::from(self.mask);
        Some(Dropout { key: seed.key, high, p: self.pair.dropout })
    }
}

/// A linear map with its overlays.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub(crate) w: Param,
    pub(crate) bias: Option<Param>,
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    pub(crate) layout: Layout,
    pub(crate) low: Option<Low>,
}

impl Map {
    fn linear<'a, B: Backend>(&self, cx: &Ctx<'a, B>) -> Linear<'a, B> {
        Linear {
            w: self.w.mat(cx),
            bias: self.bias.as_ref().map(|b| b.mat(cx)),
            d_in: self.d_in,
            d_out: self.d_out,
            layout: self.layout,
        }
    }

    /// Whether the gradient of the map's own parameters reads its input.
    pub(crate) fn reads_input(&self) -> bool {
        self.low.is_some() || self.w.live().is_some()
    }

    /// `y (+)= x W^T + b + scale · drop(x) A^T B^T` for `n` rows.
    pub(crate) fn forward<B: Backend>(
        &self,
        cx: &Ctx<'_, B>,
        n: usize,
        x: &B::Buf,
        y: &mut B::Buf,
        add: bool,
        low: &mut LowActs<B::Buf>,
    ) {
        let (x, len) = (src(x, n * self.d_in), n * self.d_out);
        cx.backend.linear(x, self.linear(cx), dst(y, len), add);
        let Some(Low { pair, slot, .. }) = &self.low else { return };
        let LowActs { xa, dropped, seen: [a, b], .. } = low;
        let x = self.dropped(cx, x, dropped);
        // inference keeps one buffer for all pairs
        let slot = (*slot).min(xa.len() - 1);
        cx.backend.lora(
            x,
            cx.overlay(&pair.a, a),
            cx.overlay(&pair.b, b),
            pair.rank,
            pair.scale,
            dst(&mut xa[slot], n * pair.rank),
            dst(y, len),
        );
    }

    fn dropped<'a, B: Backend>(
        &self,
        cx: &Ctx<'_, B>,
        x: Src<'a, B::Buf>,
        dropped: &'a mut B::Buf,
    ) -> Src<'a, B::Buf> {
        match self.low.as_ref().and_then(|l| l.mask(cx)) {
            None => x,
            Some(mask) => {
                cx.backend.dropout(x, mask, dst(dropped, x.len), false);
                src(dropped, x.len)
            }
        }
    }

    /// Gradients of [`Self::forward`]: of its parameters into `grads`, and of `x` into `dx` (`+=` when `add`). `x` is
    /// read only where [`Self::reads_input`].
    #[expect(clippy::too_many_arguments, reason = "a gradient has its input and three ends")]
    pub(crate) fn backward<B: Backend>(
        &self,
        cx: &Ctx<'_, B>,
        n: usize,
        x: &B::Buf,
        dy: &B::Buf,
        mut dx: Option<(&mut B::Buf, bool)>,
        grads: &mut B::Buf,
        low: &mut LowActs<B::Buf>,
    ) {
        let (b, len) = (cx.backend, n * self.d_in);
        let dy = src(dy, n * self.d_out);
        if let Some(r) = self.w.live() {
            let dw = Dst::new(&mut *grads, r.start, r.len());
            b.linear_dw(src(x, len), dy, self.d_in, self.d_out, self.layout, dw);
        }
        if let Some(db) = self.bias.as_ref().and_then(|p| p.grad(grads)) {
            b.bias_grad(dy, self.d_out, db);
        }
        if let Some((dx, add)) = &mut dx {
            b.linear_dx(dy, self.linear(cx), dst(dx, len), *add);
        }
        let Some(Low { pair, slot, .. }) = &self.low else { return };
        let LowActs { xa, dxa, dropped, ddropped, .. } = low;
        let mask = self.low.as_ref().and_then(|l| l.mask(cx));
        let x = self.dropped(cx, src(x, len), dropped);
        // with dropout the gradient of the dropped input passes the mask once more on its way to `dx`
        let to = match (&mut dx, mask) {
            (None, _) => None,
            (Some((dx, _)), None) => Some(dst(&mut **dx, len)),
            (Some(_), Some(_)) => {
                b.fill(dst(ddropped, len), 0.0);
                Some(dst(ddropped, len))
            }
        };
        b.lora_grad(
            x,
            src(&xa[*slot], n * pair.rank),
            dy,
            Src::new(cx.params, pair.a.start, pair.a.len()),
            Src::new(cx.params, pair.b.start, pair.b.len()),
            pair.rank,
            pair.scale,
            dst(dxa, n * pair.rank),
            grads,
            pair.a.start,
            pair.b.start,
            to,
        );
        if let (Some((dx, _)), Some(mask)) = (dx, mask) {
            b.dropout(src(ddropped, len), mask, dst(dx, len), true);
        }
    }
}
