//! The language-model head and its cross-entropy in one, over chunks of rows.
//!
//! For each chunk: logits `z = h W^T + b` into scratch, `nll = log Σ exp(z) - z[label]`, the gradient
//! `∂nll/∂z = softmax(z) - e_label` times the row's coefficient over the logits themselves, then `dh = dz W` and
//! `dW += dz^T h`. A chunk of logits is some 32 MB whatever the vocabulary, and it is written and read while it lies in
//! the last-level cache, or close to it.

mod noisy;

use super::{Cpu, Isa, linear, loss};
use crate::backend::{Coef, Layout, Linear, Loss, Mat};
use crate::check;
use crate::pool::Pool;

/// Elements of a chunk of logits, at most, unless [`LEAST`] rows are more.
const CHUNK: usize = 8 << 20;
/// Rows below which packing the head is not amortised.
const LEAST: usize = 64;

/// Rows of a chunk. It depends on the vocabulary alone, so that the bits of sums over chunks do not depend on the batch
/// or the machine.
fn chunk_rows(vocab: usize) -> usize {
    (CHUNK / vocab.max(1) / 8 * 8).max(LEAST)
}

/// Elements of scratch for `m` rows.
pub(super) fn scratch(m: usize, vocab: usize) -> usize {
    m.min(chunk_rows(vocab)) * vocab
}

/// See [`crate::Backend::linear_cross_entropy`].
pub(super) fn linear_cross_entropy(
    pool: &Pool,
    h: &[f32],
    head: Linear<'_, Cpu>,
    labels: &[u32],
    coef: Coef<'_>,
    logits: &mut [f32],
    mut dh: Option<&mut [f32]>,
    mut dw: Option<&mut [f32]>,
    mut nll: Option<&mut [f32]>,
) -> Loss {
    let (m, d, vocab) = (labels.len(), head.d_in, head.d_out);
    check::same("head h", h.len(), m * d);
    if let Some(dh) = &dh {
        check::same("head dh", dh.len(), m * d);
    }
    if let Some(nll) = &nll {
        check::same("head nll", nll.len(), m);
    }
    let needed = scratch(m, vocab);
    assert!(logits.len() >= needed, "head scratch: {} elements where {needed} are needed", logits.len());
    if let Mat::Noisy(w, noise) = head.w {
        assert!(dh.is_none() && dw.is_none(), "a gradient through a perturbed head");
        return noisy::cross_entropy(pool, h, head, (w.get(), noise), labels, logits, nll);
    }
    let mut total = Loss::default();
    let step = chunk_rows(vocab);
    for first in (0..m).step_by(step) {
        let rows = first..m.min(first + step);
        let (h, logits) = (&h[rows.start * d..rows.end * d], &mut logits[..rows.len() * vocab]);
        linear::linear(pool, h, head, logits, false);
        let coef = match coef {
            Coef::Uniform(c) => Coef::Uniform(c),
            Coef::PerRow(c) => Coef::PerRow(&c[rows.clone()]),
        };
        let grad = dh.is_some() || dw.is_some();
        let nll = nll.as_deref_mut().map(|nll| &mut nll[rows.clone()]);
        let labels = &labels[rows.clone()];
        let part = loss::cross_entropy(Isa::detect(), pool, logits, vocab, labels, coef, grad, nll);
        total.nll += part.nll;
        total.correct += part.correct;
        total.rows += part.rows;
        if let Some(dh) = dh.as_deref_mut() {
            linear::linear_dx(pool, logits, head, &mut dh[rows.start * d..rows.end * d], false);
        }
        if let Some(dw) = dw.as_deref_mut() {
            linear::linear_dw(pool, h, logits, d, vocab, Layout::OutIn, dw);
        }
    }
    total
}
