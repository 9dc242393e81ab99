//! The reference backend: every block as its formula reads, in binary64 loops. Slow on purpose; the suite
//! compares other backends with it, and finite differences check its gradients.
//!
//! Deliberately missing: threads, blocking, reuse of work, any care for memory.

mod attention;
mod linear;
mod loss;
mod noise;
mod norm;
mod optim;
mod pointwise;
mod rows;

#[cfg(test)]
pub(crate) use pointwise::erfc;

use std::borrow::Cow;

use crate::backend::{
    AdamW, AttnShape, Backend, BackendError, Coef, Dropout, Dst, FrozenData, Gelu, Layout, Linear, Loss, Mat,
    Noise, Segment, Sgd, Src,
};

/// Binary64 on the host, in loops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// A buffer of binary64 numbers. `upload` and `download` convert; [`RefBuf::values`] does not.
#[derive(Clone, Debug)]
pub struct RefBuf(Vec<f64>);

impl RefBuf {
    /// The numbers.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The numbers, writable, for finite differences.
    pub fn values_mut(&mut self) -> &mut [f64] {
        &mut self.0
    }
}

/// A frozen tensor widened to binary64.
#[derive(Debug)]
pub struct RefFrozen(Vec<f64>);

impl<'a> Src<'a, RefBuf> {
    fn get(self) -> &'a [f64] {
        &self.buf.0[self.at..][..self.len]
    }
}

impl<'a> Dst<'a, RefBuf> {
    fn get(self) -> &'a mut [f64] {
        &mut self.buf.0[self.at..][..self.len]
    }
}

fn values<'a>(m: Mat<'a, Reference>) -> Cow<'a, [f64]> {
    match m {
        Mat::Frozen(f) => Cow::Borrowed(&f.0),
        Mat::Live(s) => Cow::Borrowed(s.get()),
        Mat::Noisy(s, noise) => {
            Cow::Owned(s.get().iter().enumerate().map(|(i, w)| w + noise::at(&noise, i)).collect())
        }
    }
}

/// The weight of `map` as `[d_out, d_in]`.
fn out_in<'a>(map: Linear<'a, Reference>) -> Cow<'a, [f64]> {
    let w = values(map.w);
    crate::check::same("linear weight", w.len(), map.d_in * map.d_out);
    match map.layout {
        Layout::OutIn => w,
        Layout::InOut => Cow::Owned(linear::transpose(&w, map.d_in, map.d_out)),
    }
}

/// `y = v` or `y += v`.
fn put(y: &mut f64, v: f64, add: bool) {
    *y = if add { *y + v } else { v };
}

impl Backend for Reference {
    type Buf = RefBuf;
    type Frozen = RefFrozen;

    fn name(&self) -> &'static str {
        "reference"
    }
    fn profile(&self) -> String {
        "binary64-loops".to_owned()
    }

    fn alloc(&self, len: usize) -> Result<RefBuf, BackendError> {
        let mut v = Vec::new();
        v.try_reserve_exact(len).map_err(|_| BackendError::Memory {
            bytes: len.saturating_mul(size_of::<f64>()),
            device: "reference",
        })?;
        v.resize(len, 0.0);
        Ok(RefBuf(v))
    }
    fn len(&self, buf: &RefBuf) -> usize {
        buf.0.len()
    }
    fn upload(&self, host: &[f32], dst: Dst<'_, RefBuf>) -> Result<(), BackendError> {
        if host.len() != dst.len {
            return Err(BackendError::Length { from: host.len(), to: dst.len });
        }
        dst.get().iter_mut().zip(host).for_each(|(y, &x)| *y = f64::from(x));
        Ok(())
    }
    fn download(&self, src: Src<'_, RefBuf>, host: &mut [f32]) -> Result<(), BackendError> {
        if host.len() != src.len {
            return Err(BackendError::Length { from: src.len, to: host.len() });
        }
        host.iter_mut().zip(src.get()).for_each(|(y, &x)| *y = x as f32);
        Ok(())
    }
    fn freeze(&self, data: FrozenData) -> Result<RefFrozen, BackendError> {
        data.check()?;
        let mut narrow = vec![0.0; data.len()];
        data.widen(0, &mut narrow);
        Ok(RefFrozen(narrow.into_iter().map(f64::from).collect()))
    }
    fn thaw(&self, src: &RefFrozen, dst: Dst<'_, RefBuf>) {
        crate::check::same("thaw", dst.len, src.0.len());
        dst.get().copy_from_slice(&src.0);
    }

    fn fill(&self, y: Dst<'_, RefBuf>, value: f32) {
        y.get().fill(f64::from(value));
    }
    fn axpy(&self, alpha: f32, x: Src<'_, RefBuf>, y: Dst<'_, RefBuf>, add: bool) {
        pointwise::map1(x.get(), y.get(), add, |x| f64::from(alpha) * x);
    }
    fn scale(&self, alpha: f32, y: Dst<'_, RefBuf>) {
        y.get().iter_mut().for_each(|y| *y *= f64::from(alpha));
    }
    fn add_noise(&self, noise: Noise, y: Dst<'_, RefBuf>) {
        y.get().iter_mut().enumerate().for_each(|(i, y)| *y += noise::at(&noise, i));
    }
    fn sum_squares(&self, x: Src<'_, RefBuf>) -> f64 {
        x.get().iter().map(|x| x * x).sum()
    }
    fn dropout(&self, x: Src<'_, RefBuf>, mask: Dropout, y: Dst<'_, RefBuf>, add: bool) {
        pointwise::dropout(x.get(), mask, y.get(), add);
    }
    fn tanh(&self, x: Src<'_, RefBuf>, y: Dst<'_, RefBuf>) {
        pointwise::map1(x.get(), y.get(), false, f64::tanh);
    }
    fn tanh_grad(&self, y: Src<'_, RefBuf>, dy: Src<'_, RefBuf>, dx: Dst<'_, RefBuf>, add: bool) {
        pointwise::map2(y.get(), dy.get(), dx.get(), add, |y, dy| dy * (1.0 - y * y));
    }
    fn gelu(&self, kind: Gelu, x: Src<'_, RefBuf>, y: Dst<'_, RefBuf>) {
        pointwise::map1(x.get(), y.get(), false, |x| pointwise::gelu(kind, x));
    }
    fn gelu_grad(&self, kind: Gelu, x: Src<'_, RefBuf>, dy: Src<'_, RefBuf>, dx: Dst<'_, RefBuf>) {
        pointwise::map2(x.get(), dy.get(), dx.get(), false, |x, dy| dy * pointwise::gelu_slope(kind, x));
    }
    fn swiglu(&self, gate: Src<'_, RefBuf>, up: Src<'_, RefBuf>, y: Dst<'_, RefBuf>) {
        pointwise::map2(gate.get(), up.get(), y.get(), false, |g, u| g * pointwise::sigmoid(g) * u);
    }
    fn swiglu_grad(
        &self,
        gate: Src<'_, RefBuf>,
        up: Src<'_, RefBuf>,
        dy: Src<'_, RefBuf>,
        dgate: Dst<'_, RefBuf>,
        dup: Dst<'_, RefBuf>,
    ) {
        pointwise::swiglu_grad(gate.get(), up.get(), dy.get(), dgate.get(), dup.get());
    }

    fn rows(
        &self,
        x: Src<'_, RefBuf>,
        from: &[u32],
        y: Dst<'_, RefBuf>,
        to: &[u32],
        width: usize,
        add: bool,
    ) {
        rows::rows(x.get(), from, y.get(), to, width, add);
    }
    fn columns(
        &self,
        x: Src<'_, RefBuf>,
        x_width: usize,
        x_col: usize,
        y: Dst<'_, RefBuf>,
        y_width: usize,
        y_col: usize,
        cols: usize,
        add: bool,
    ) {
        rows::columns(x.get(), x_width, x_col, y.get(), y_width, y_col, cols, add);
    }
    fn mean_pool(&self, x: Src<'_, RefBuf>, segments: &[Segment], width: usize, y: Dst<'_, RefBuf>) {
        rows::mean_pool(x.get(), segments, width, y.get());
    }
    fn mean_pool_grad(&self, dy: Src<'_, RefBuf>, segments: &[Segment], width: usize, dx: Dst<'_, RefBuf>) {
        rows::mean_pool_grad(dy.get(), segments, width, dx.get());
    }

    fn embedding(&self, ids: &[u32], table: Mat<'_, Self>, width: usize, y: Dst<'_, RefBuf>, add: bool) {
        rows::embedding(ids, &values(table), width, y.get(), add);
    }
    fn embedding_grad(&self, ids: &[u32], dy: Src<'_, RefBuf>, width: usize, dtable: Dst<'_, RefBuf>) {
        rows::embedding_grad(ids, dy.get(), width, dtable.get());
    }

    fn linear(&self, x: Src<'_, RefBuf>, map: Linear<'_, Self>, y: Dst<'_, RefBuf>, add: bool) {
        let bias = map.bias.map(values);
        linear::linear(x.get(), &out_in(map), bias.as_deref(), map.d_in, map.d_out, y.get(), add);
    }
    fn linear_dx(&self, dy: Src<'_, RefBuf>, map: Linear<'_, Self>, dx: Dst<'_, RefBuf>, add: bool) {
        // dy W is the linear map of the transposed weight
        let wt = linear::transpose(&out_in(map), map.d_out, map.d_in);
        linear::linear(dy.get(), &wt, None, map.d_out, map.d_in, dx.get(), add);
    }
    fn linear_dw(
        &self,
        x: Src<'_, RefBuf>,
        dy: Src<'_, RefBuf>,
        d_in: usize,
        d_out: usize,
        layout: Layout,
        dw: Dst<'_, RefBuf>,
    ) {
        match layout {
            Layout::OutIn => linear::outer(dy.get(), d_out, x.get(), d_in, dw.get()),
            Layout::InOut => linear::outer(x.get(), d_in, dy.get(), d_out, dw.get()),
        }
    }
    fn bias_grad(&self, dy: Src<'_, RefBuf>, width: usize, db: Dst<'_, RefBuf>) {
        linear::column_sums(dy.get(), width, db.get());
    }
    fn lora(
        &self,
        x: Src<'_, RefBuf>,
        a: Src<'_, RefBuf>,
        b: Src<'_, RefBuf>,
        rank: usize,
        scale: f32,
        xa: Dst<'_, RefBuf>,
        y: Dst<'_, RefBuf>,
    ) {
        linear::lora(x.get(), a.get(), b.get(), rank, f64::from(scale), xa.get(), y.get());
    }
    fn lora_grad(
        &self,
        x: Src<'_, RefBuf>,
        xa: Src<'_, RefBuf>,
        dy: Src<'_, RefBuf>,
        a: Src<'_, RefBuf>,
        b: Src<'_, RefBuf>,
        rank: usize,
        scale: f32,
        dxa: Dst<'_, RefBuf>,
        grads: &mut RefBuf,
        a_at: usize,
        b_at: usize,
        dx: Option<Dst<'_, RefBuf>>,
    ) {
        let (a, b, dy) = (a.get(), b.get(), dy.get());
        let dxa = dxa.get();
        linear::lora_inner_grad(dy, b, rank, f64::from(scale), dxa);
        linear::outer(dxa, rank, x.get(), a.len() / rank, &mut grads.0[a_at..][..a.len()]);
        let scaled: Vec<f64> = xa.get().iter().map(|v| f64::from(scale) * v).collect();
        linear::outer(dy, b.len() / rank, &scaled, rank, &mut grads.0[b_at..][..b.len()]);
        if let Some(dx) = dx {
            let at = linear::transpose(a, rank, a.len() / rank);
            linear::linear(dxa, &at, None, rank, a.len() / rank, dx.get(), true);
        }
    }

    fn rms_norm(
        &self,
        x: Src<'_, RefBuf>,
        w: Mat<'_, Self>,
        width: usize,
        eps: f32,
        y: Dst<'_, RefBuf>,
        inv: Dst<'_, RefBuf>,
    ) {
        norm::rms_norm(x.get(), &values(w), width, f64::from(eps), y.get(), inv.get());
    }
    fn rms_norm_grad(
        &self,
        x: Src<'_, RefBuf>,
        w: Mat<'_, Self>,
        width: usize,
        inv: Src<'_, RefBuf>,
        dy: Src<'_, RefBuf>,
        dx: Dst<'_, RefBuf>,
        add: bool,
        dw: Option<Dst<'_, RefBuf>>,
    ) {
        let dw = dw.map(|d| d.get());
        norm::rms_norm_grad(x.get(), &values(w), width, inv.get(), dy.get(), dx.get(), add, dw);
    }
    fn layer_norm(
        &self,
        x: Src<'_, RefBuf>,
        w: Mat<'_, Self>,
        b: Mat<'_, Self>,
        width: usize,
        eps: f32,
        y: Dst<'_, RefBuf>,
        stats: Dst<'_, RefBuf>,
    ) {
        norm::layer_norm(x.get(), &values(w), &values(b), width, f64::from(eps), y.get(), stats.get());
    }
    fn layer_norm_grad(
        &self,
        x: Src<'_, RefBuf>,
        w: Mat<'_, Self>,
        width: usize,
        stats: Src<'_, RefBuf>,
        dy: Src<'_, RefBuf>,
        dx: Dst<'_, RefBuf>,
        add: bool,
        dwb: Option<(&mut RefBuf, usize, usize)>,
    ) {
        let dwb = dwb.map(|(buf, w_at, b_at)| (buf.0.as_mut_slice(), w_at, b_at));
        norm::layer_norm_grad(x.get(), &values(w), width, stats.get(), dy.get(), dx.get(), add, dwb);
    }

    fn rope(
        &self,
        x: Dst<'_, RefBuf>,
        heads: usize,
        head_dim: usize,
        positions: &[u32],
        table: Src<'_, RefBuf>,
        inverse: bool,
    ) {
        attention::rope(x.get(), heads, head_dim, positions, table.get(), inverse);
    }
    fn attention(
        &self,
        q: Src<'_, RefBuf>,
        k: Src<'_, RefBuf>,
        v: Src<'_, RefBuf>,
        segments: &[Segment],
        shape: AttnShape,
        y: Dst<'_, RefBuf>,
        lse: Dst<'_, RefBuf>,
    ) {
        attention::attention(q.get(), k.get(), v.get(), segments, shape, y.get(), lse.get());
    }
    fn attention_grad(
        &self,
        q: Src<'_, RefBuf>,
        k: Src<'_, RefBuf>,
        v: Src<'_, RefBuf>,
        y: Src<'_, RefBuf>,
        lse: Src<'_, RefBuf>,
        dy: Src<'_, RefBuf>,
        segments: &[Segment],
        shape: AttnShape,
        dq: Dst<'_, RefBuf>,
        dk: Dst<'_, RefBuf>,
        dv: Dst<'_, RefBuf>,
    ) {
        let kept = attention::Kept { y: y.get(), lse: lse.get(), dy: dy.get() };
        let grads = attention::Grads { dq: dq.get(), dk: dk.get(), dv: dv.get() };
        attention::attention_grad(q.get(), k.get(), v.get(), kept, segments, shape, grads);
    }

    fn linear_cross_entropy_scratch(&self, m: usize, vocab: usize) -> usize {
        m * vocab
    }
    fn linear_cross_entropy(
        &self,
        h: Src<'_, RefBuf>,
        head: Linear<'_, Self>,
        labels: &[u32],
        coef: Coef<'_>,
        scratch: Dst<'_, RefBuf>,
        dh: Option<Dst<'_, RefBuf>>,
        dw: Option<Dst<'_, RefBuf>>,
        nll: Option<&mut [f32]>,
    ) -> Loss {
        let (d_in, vocab) = (head.d_in, head.d_out);
        let (h, w) = (h.get(), out_in(head));
        let logits = &mut scratch.get()[..labels.len() * vocab];
        linear::linear(h, &w, head.bias.map(values).as_deref(), d_in, vocab, logits, false);
        let loss = loss::cross_entropy(logits, vocab, labels, coef, dh.is_some() || dw.is_some(), nll);
        if let Some(dh) = dh {
            let wt = linear::transpose(&w, vocab, d_in);
            linear::linear(logits, &wt, None, vocab, d_in, dh.get(), false);
        }
        if let Some(dw) = dw {
            linear::outer(logits, vocab, h, d_in, dw.get());
        }
        loss
    }
    fn cross_entropy(
        &self,
        logits: Dst<'_, RefBuf>,
        classes: usize,
        labels: &[u32],
        coef: Coef<'_>,
        grad: bool,
        nll: Option<&mut [f32]>,
    ) -> Loss {
        loss::cross_entropy(logits.get(), classes, labels, coef, grad, nll)
    }
    fn kl_divergence(
        &self,
        teacher: Src<'_, RefBuf>,
        student: Dst<'_, RefBuf>,
        classes: usize,
        coef: Option<f32>,
    ) -> f64 {
        loss::kl_divergence(teacher.get(), student.get(), classes, coef)
    }

    fn adamw(
        &self,
        theta: Dst<'_, RefBuf>,
        grad: Src<'_, RefBuf>,
        m: Dst<'_, RefBuf>,
        v: Dst<'_, RefBuf>,
        hyper: AdamW,
    ) {
        optim::adamw(theta.get(), grad.get(), m.get(), v.get(), hyper);
    }
    fn sgd(
        &self,
        theta: Dst<'_, RefBuf>,
        grad: Src<'_, RefBuf>,
        momentum: Option<(Dst<'_, RefBuf>, bool)>,
        hyper: Sgd,
    ) {
        optim::sgd(theta.get(), grad.get(), momentum.map(|(b, first)| (b.get(), first)), hyper);
    }
}
