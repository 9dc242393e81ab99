//! The CPU backend: binary32, vectorised, parallel over rows or heads.
//!
//! **Bits.** A result depends on shapes and numbers alone. Rows, heads and columns go to whichever thread is free, but a
//! sum is always cut at places fixed by the shape and its parts are added in order (`norm`, `loss`, `elementwise`);
//! within a part it runs in sixteen lanes that are folded by halves, in one register or in an array (`simd`); `exp`,
//! `tanh` and their like are polynomials of our own (`math`), because libraries differ.
//!
//! **Memory.** Blocks work in `buf::scratch`, which each thread keeps, and allocate nothing after their first use.
//!
//! Deliberately missing: binary16 arithmetic, prefetching of mapped weights, NUMA.

mod attention;
mod buf;
mod divergence;
mod dropout;
mod elementwise;
mod embedding;
mod head_loss;
mod linear;
mod loss;
mod math;
pub(crate) mod noise;
mod norm;
mod optim;
mod rope;
pub(crate) mod simd;
mod split;

use crate::backend::{
    AdamW, AttnShape, Backend, BackendError, Coef, Dropout, Dst, FrozenData, Gelu, Layout, Linear, Loss, Mat,
    Noise, Segment, Sgd, Src,
};
use crate::pool::Pool;
use elementwise::{Axpy, GeluGrad, GeluOf, Scale, SwiGlu, SwiGluGrad, Tanh, TanhGrad, apply};

pub use crate::gemm::Isa;
pub use buf::CpuBuf;

/// Binary32 on the host.
#[derive(Debug)]
pub struct Cpu {
    pool: Pool,
    isa: Isa,
}

impl Cpu {
    /// One thread, the caller's: for many clients at once, one on each core.
    #[must_use]
    pub fn serial() -> Self {
        Self::threads(1)
    }

    /// `threads` threads, the caller's included, share each block.
    #[must_use]
    pub fn threads(threads: usize) -> Self {
        Self { pool: Pool::new(threads), isa: Isa::detect() }
    }

    /// The same on a given instruction set, or on plain Rust where the processor lacks it; for tests and
    /// measurements, since the bits are the same. Linear maps stay on the fastest set: [`crate::gemm`] has its own choice.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa: if isa.available() { isa } else { Isa::Portable }, ..self }
    }

    /// The threads that share each block.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl<'a> Src<'a, CpuBuf> {
    pub(crate) fn get(self) -> &'a [f32] {
        &self.buf.values()[self.at..][..self.len]
    }
}

impl<'a> Dst<'a, CpuBuf> {
    pub(crate) fn get(self) -> &'a mut [f32] {
        &mut self.buf.values_mut()[self.at..][..self.len]
    }
}

/// Calls `f` with a parameter as binary32: as it lies in memory where that is possible, else widened.
pub(crate) fn vector<R>(m: Mat<'_, Cpu>, f: impl FnOnce(&[f32]) -> R) -> R {
    match m {
        Mat::Live(s) => f(s.get()),
        Mat::Noisy(s, noise) => buf::scratch(s.len, |seen| {
            seen.copy_from_slice(s.get());
            noise::add(Isa::detect(), noise, seen);
            f(seen)
        }),
        Mat::Frozen(d) => match d.as_f32(0, d.len()) {
            Some(values) => f(values),
            None => buf::scratch(d.len(), |wide| {
                d.widen(0, wide);
                f(wide)
            }),
        },
    }
}

impl Backend for Cpu {
    type Buf = CpuBuf;
    type Frozen = FrozenData;

    fn name(&self) -> &'static str {
        "cpu"
    }
    fn profile(&self) -> String {
        format!("{}-lanes{}", crate::gemm::profile(), simd::LANES)
    }

    fn alloc(&self, len: usize) -> Result<CpuBuf, BackendError> {
        CpuBuf::zeros(len)
    }
    fn len(&self, buf: &CpuBuf) -> usize {
        buf.values().len()
    }
    fn upload(&self, host: &[f32], dst: Dst<'_, CpuBuf>) -> Result<(), BackendError> {
        if host.len() != dst.len {
            return Err(BackendError::Length { from: host.len(), to: dst.len });
        }
        dst.get().copy_from_slice(host);
        Ok(())
    }
    fn download(&self, src: Src<'_, CpuBuf>, host: &mut [f32]) -> Result<(), BackendError> {
        if host.len() != src.len {
            return Err(BackendError::Length { from: src.len, to: host.len() });
        }
        host.copy_from_slice(src.get());
        Ok(())
    }
    fn freeze(&self, data: FrozenData) -> Result<FrozenData, BackendError> {
        data.check()?;
        Ok(data)
    }
    fn thaw(&self, src: &FrozenData, dst: Dst<'_, CpuBuf>) {
        crate::check::same("thaw", dst.len, src.len());
        src.widen(0, dst.get());
    }

    fn fill(&self, y: Dst<'_, CpuBuf>, value: f32) {
        y.get().fill(value);
    }
    fn axpy(&self, alpha: f32, x: Src<'_, CpuBuf>, y: Dst<'_, CpuBuf>, add: bool) {
        let op = Axpy { alpha, add };
        apply(self, "axpy", op, [x.get()], [y.get()]);
    }
    fn scale(&self, alpha: f32, y: Dst<'_, CpuBuf>) {
        apply(self, "scale", Scale(alpha), [], [y.get()]);
    }
    fn add_noise(&self, noise: Noise, y: Dst<'_, CpuBuf>) {
        noise::add_noise(self, noise, y.get());
    }
    fn sum_squares(&self, x: Src<'_, CpuBuf>) -> f64 {
        elementwise::sum_squares(self, x.get())
    }
    fn dropout(&self, x: Src<'_, CpuBuf>, mask: Dropout, y: Dst<'_, CpuBuf>, add: bool) {
        dropout::dropout(self, x.get(), mask, y.get(), add);
    }
    fn tanh(&self, x: Src<'_, CpuBuf>, y: Dst<'_, CpuBuf>) {
        apply(self, "tanh", Tanh, [x.get()], [y.get()]);
    }
    fn tanh_grad(&self, y: Src<'_, CpuBuf>, dy: Src<'_, CpuBuf>, dx: Dst<'_, CpuBuf>, add: bool) {
        apply(self, "tanh_grad", TanhGrad { add }, [y.get(), dy.get()], [dx.get()]);
    }
    fn gelu(&self, kind: Gelu, x: Src<'_, CpuBuf>, y: Dst<'_, CpuBuf>) {
        apply(self, "gelu", GeluOf(kind), [x.get()], [y.get()]);
    }
    fn gelu_grad(&self, kind: Gelu, x: Src<'_, CpuBuf>, dy: Src<'_, CpuBuf>, dx: Dst<'_, CpuBuf>) {
        apply(self, "gelu_grad", GeluGrad(kind), [x.get(), dy.get()], [dx.get()]);
    }
    fn swiglu(&self, gate: Src<'_, CpuBuf>, up: Src<'_, CpuBuf>, y: Dst<'_, CpuBuf>) {
        apply(self, "swiglu", SwiGlu, [gate.get(), up.get()], [y.get()]);
    }
    fn swiglu_grad(
        &self,
        gate: Src<'_, CpuBuf>,
        up: Src<'_, CpuBuf>,
        dy: Src<'_, CpuBuf>,
        dgate: Dst<'_, CpuBuf>,
        dup: Dst<'_, CpuBuf>,
    ) {
        let inputs = [gate.get(), up.get(), dy.get()];
        apply(self, "swiglu_grad", SwiGluGrad, inputs, [dgate.get(), dup.get()]);
    }

    fn rows(
        &self,
        x: Src<'_, CpuBuf>,
        from: &[u32],
        y: Dst<'_, CpuBuf>,
        to: &[u32],
        width: usize,
        add: bool,
    ) {
        embedding::rows(self, x.get(), from, y.get(), to, width, add);
    }
    fn columns(
        &self,
        x: Src<'_, CpuBuf>,
        x_width: usize,
        x_col: usize,
        y: Dst<'_, CpuBuf>,
        y_width: usize,
        y_col: usize,
        cols: usize,
        add: bool,
    ) {
        embedding::columns(self, x.get(), x_width, x_col, y.get(), y_width, y_col, cols, add);
    }
    fn mean_pool(&self, x: Src<'_, CpuBuf>, segments: &[Segment], width: usize, y: Dst<'_, CpuBuf>) {
        embedding::mean_pool(x.get(), segments, width, y.get());
    }
    fn mean_pool_grad(&self, dy: Src<'_, CpuBuf>, segments: &[Segment], width: usize, dx: Dst<'_, CpuBuf>) {
        embedding::mean_pool_grad(dy.get(), segments, width, dx.get());
    }

    fn embedding(&self, ids: &[u32], table: Mat<'_, Self>, width: usize, y: Dst<'_, CpuBuf>, add: bool) {
        embedding::embedding(self, ids, table, width, y.get(), add);
    }
    fn embedding_grad(&self, ids: &[u32], dy: Src<'_, CpuBuf>, width: usize, dtable: Dst<'_, CpuBuf>) {
        embedding::embedding_grad(self, ids, dy.get(), width, dtable.get());
    }

    fn linear(&self, x: Src<'_, CpuBuf>, map: Linear<'_, Self>, y: Dst<'_, CpuBuf>, add: bool) {
        linear::linear(&self.pool, x.get(), map, y.get(), add);
    }
    fn linear_dx(&self, dy: Src<'_, CpuBuf>, map: Linear<'_, Self>, dx: Dst<'_, CpuBuf>, add: bool) {
        linear::linear_dx(&self.pool, dy.get(), map, dx.get(), add);
    }
    fn linear_dw(
        &self,
        x: Src<'_, CpuBuf>,
        dy: Src<'_, CpuBuf>,
        d_in: usize,
        d_out: usize,
        layout: Layout,
        dw: Dst<'_, CpuBuf>,
    ) {
        linear::linear_dw(&self.pool, x.get(), dy.get(), d_in, d_out, layout, dw.get());
    }
    fn bias_grad(&self, dy: Src<'_, CpuBuf>, width: usize, db: Dst<'_, CpuBuf>) {
        linear::bias_grad(dy.get(), width, db.get());
    }
    fn lora(
        &self,
        x: Src<'_, CpuBuf>,
        a: Src<'_, CpuBuf>,
        b: Src<'_, CpuBuf>,
        rank: usize,
        scale: f32,
        xa: Dst<'_, CpuBuf>,
        y: Dst<'_, CpuBuf>,
    ) {
        linear::lora(&self.pool, x.get(), a.get(), b.get(), rank, scale, xa.get(), y.get());
    }
    fn lora_grad(
        &self,
        x: Src<'_, CpuBuf>,
        xa: Src<'_, CpuBuf>,
        dy: Src<'_, CpuBuf>,
        a: Src<'_, CpuBuf>,
        b: Src<'_, CpuBuf>,
        rank: usize,
        scale: f32,
        dxa: Dst<'_, CpuBuf>,
        grads: &mut CpuBuf,
        a_at: usize,
        b_at: usize,
        dx: Option<Dst<'_, CpuBuf>>,
    ) {
        let (x, xa, dy, a, b) = (x.get(), xa.get(), dy.get(), a.get(), b.get());
        let grads = grads.values_mut();
        linear::lora_grad(
            &self.pool,
            x,
            xa,
            dy,
            a,
            b,
            rank,
            scale,
            dxa.get(),
            grads,
            a_at,
            b_at,
            dx.map(|d| d.get()),
        );
    }

    fn rms_norm(
        &self,
        x: Src<'_, CpuBuf>,
        w: Mat<'_, Self>,
        width: usize,
        eps: f32,
        y: Dst<'_, CpuBuf>,
        inv: Dst<'_, CpuBuf>,
    ) {
        vector(w, |w| norm::rms_norm(self, x.get(), w, width, eps, y.get(), inv.get()));
    }
    fn rms_norm_grad(
        &self,
        x: Src<'_, CpuBuf>,
        w: Mat<'_, Self>,
        width: usize,
        inv: Src<'_, CpuBuf>,
        dy: Src<'_, CpuBuf>,
        dx: Dst<'_, CpuBuf>,
        add: bool,
        dw: Option<Dst<'_, CpuBuf>>,
    ) {
        let dw = dw.map(|d| d.get());
        vector(w, |w| norm::rms_norm_grad(self, x.get(), w, width, inv.get(), dy.get(), dx.get(), add, dw));
    }
    fn layer_norm(
        &self,
        x: Src<'_, CpuBuf>,
        w: Mat<'_, Self>,
        b: Mat<'_, Self>,
        width: usize,
        eps: f32,
        y: Dst<'_, CpuBuf>,
        stats: Dst<'_, CpuBuf>,
    ) {
        vector(w, |w| vector(b, |b| norm::layer_norm(self, x.get(), w, b, width, eps, y.get(), stats.get())));
    }
    fn layer_norm_grad(
        &self,
        x: Src<'_, CpuBuf>,
        w: Mat<'_, Self>,
        width: usize,
        stats: Src<'_, CpuBuf>,
        dy: Src<'_, CpuBuf>,
        dx: Dst<'_, CpuBuf>,
        add: bool,
        dwb: Option<(&mut CpuBuf, usize, usize)>,
    ) {
        let dwb = dwb.map(|(buf, w_at, b_at)| (buf.values_mut(), w_at, b_at));
        vector(w, |w| {
            norm::layer_norm_grad(self, x.get(), w, width, stats.get(), dy.get(), dx.get(), add, dwb)
        });
    }

    fn rope(
        &self,
        x: Dst<'_, CpuBuf>,
        heads: usize,
        head_dim: usize,
        positions: &[u32],
        table: Src<'_, CpuBuf>,
        inverse: bool,
    ) {
        rope::rope(self, x.get(), heads, head_dim, positions, table.get(), inverse);
    }
    fn attention(
        &self,
        q: Src<'_, CpuBuf>,
        k: Src<'_, CpuBuf>,
        v: Src<'_, CpuBuf>,
        segments: &[Segment],
        shape: AttnShape,
        y: Dst<'_, CpuBuf>,
        lse: Dst<'_, CpuBuf>,
    ) {
        attention::attention(self, q.get(), k.get(), v.get(), segments, shape, y.get(), lse.get());
    }
    fn attention_grad(
        &self,
        q: Src<'_, CpuBuf>,
        k: Src<'_, CpuBuf>,
        v: Src<'_, CpuBuf>,
        y: Src<'_, CpuBuf>,
        lse: Src<'_, CpuBuf>,
        dy: Src<'_, CpuBuf>,
        segments: &[Segment],
        shape: AttnShape,
        dq: Dst<'_, CpuBuf>,
        dk: Dst<'_, CpuBuf>,
        dv: Dst<'_, CpuBuf>,
    ) {
        let (q, k, v, y, lse, dy) = (q.get(), k.get(), v.get(), y.get(), lse.get(), dy.get());
        let kept = attention::Kept { q, k, v, y, lse, dy };
        let grads = attention::Grads { dq: dq.get(), dk: dk.get(), dv: dv.get() };
        attention::attention_grad(self, kept, segments, shape, grads);
    }

    fn linear_cross_entropy_scratch(&self, m: usize, vocab: usize) -> usize {
        head_loss::scratch(m, vocab)
    }
    fn linear_cross_entropy(
        &self,
        h: Src<'_, CpuBuf>,
        head: Linear<'_, Self>,
        labels: &[u32],
        coef: Coef<'_>,
        scratch: Dst<'_, CpuBuf>,
        dh: Option<Dst<'_, CpuBuf>>,
        dw: Option<Dst<'_, CpuBuf>>,
        nll: Option<&mut [f32]>,
    ) -> Loss {
        let (dh, dw) = (dh.map(|d| d.get()), dw.map(|d| d.get()));
        head_loss::linear_cross_entropy(&self.pool, h.get(), head, labels, coef, scratch.get(), dh, dw, nll)
    }
    fn cross_entropy(
        &self,
        logits: Dst<'_, CpuBuf>,
        classes: usize,
        labels: &[u32],
        coef: Coef<'_>,
        grad: bool,
        nll: Option<&mut [f32]>,
    ) -> Loss {
        loss::cross_entropy(self.isa, &self.pool, logits.get(), classes, labels, coef, grad, nll)
    }
    fn kl_divergence(
        &self,
        teacher: Src<'_, CpuBuf>,
        student: Dst<'_, CpuBuf>,
        classes: usize,
        coef: Option<f32>,
    ) -> f64 {
        divergence::kl(self.isa, &self.pool, teacher.get(), student.get(), classes, coef)
    }

    fn adamw(
        &self,
        theta: Dst<'_, CpuBuf>,
        grad: Src<'_, CpuBuf>,
        m: Dst<'_, CpuBuf>,
        v: Dst<'_, CpuBuf>,
        hyper: AdamW,
    ) {
        optim::adamw(self, theta.get(), grad.get(), m.get(), v.get(), hyper);
    }
    fn sgd(
        &self,
        theta: Dst<'_, CpuBuf>,
        grad: Src<'_, CpuBuf>,
        momentum: Option<(Dst<'_, CpuBuf>, bool)>,
        hyper: Sgd,
    ) {
        optim::sgd(self, theta.get(), grad.get(), momentum.map(|(b, first)| (b.get(), first)), hyper);
    }
}
