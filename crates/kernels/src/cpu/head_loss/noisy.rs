//! The head and its cross-entropy under a perturbation, forward alone.
//!
//! Blocks of columns on the outside, rows within: each weight of the head is perturbed once, however many rows there are,
//! where chunks of rows would perturb the whole head for each. A row keeps a running `log Σ exp` (Milakov and Gimelshein
//! 2018, arXiv:1805.02867, algorithm 3) whose reference moves only when a block's largest logit leaves it far behind.

use super::super::buf::scratch;
use super::super::math::{exp, ln};
use super::super::simd::{Kernel, LANES, Lanes, Simd, dispatch, vectors};
use super::super::split::split;
use super::super::vector;
use super::{Cpu, Isa};
use crate::backend::{Layout, Linear, Loss, Noise};
use crate::gemm::{Operand, gemm_noisy};
use crate::pool::Pool;

/// Columns of a block; part of the bits.
pub(super) const COLUMNS: usize = 4096;
/// A block's largest logit this far above the reference moves it: `e^40` is still far from the largest binary32.
const FAR: f32 = 40.0;
/// Rows of a task.
const ROWS: usize = 8;
/// Numbers that a row keeps: see [`Row`].
const KEPT: usize = 5;

/// [`super::linear_cross_entropy`] without gradients, of the weight `w` of `head` under `noise`.
pub(super) fn cross_entropy(
    pool: &Pool,
    h: &[f32],
    head: Linear<'_, Cpu>,
    (w, noise): (&[f32], Noise),
    labels: &[u32],
    logits: &mut [f32],
    nll: Option<&mut [f32]>,
) -> Loss {
    assert!(head.layout == Layout::OutIn, "a head lies by rows of the vocabulary");
    let part = Part { pool, d: head.d_in, vocab: head.d_out, w, noise };
    match head.bias {
        None => part.rows(h, None, labels, logits, nll),
        Some(bias) => vector(bias, |bias| part.rows(h, Some(bias), labels, logits, nll)),
    }
}

struct Part<'a> {
    pool: &'a Pool,
    d: usize,
    vocab: usize,
    w: &'a [f32],
    noise: Noise,
}

impl Part<'_> {
    fn rows(
        &self,
        h: &[f32],
        bias: Option<&[f32]>,
        labels: &[u32],
        logits: &mut [f32],
        mut nll: Option<&mut [f32]>,
    ) -> Loss {
        let columns = COLUMNS.min(self.vocab);
        // rows do not meet, so their number in a chunk changes no bits
        let rows = (logits.len() / columns).max(1);
        let mut loss = Loss::default();
        for (chunk, labels) in labels.chunks(rows).enumerate() {
            let h = &h[chunk * rows * self.d..][..labels.len() * self.d];
            scratch(labels.len() * KEPT, |kept| {
                for row in kept.as_chunks_mut::<KEPT>().0 {
                    *row = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0, 0.0];
                }
                for first in (0..self.vocab).step_by(columns) {
                    let count = columns.min(self.vocab - first);
                    let z = &mut logits[..labels.len() * count];
                    self.logits(h, (first, count), bias, z);
                    self.absorb(z, (first, count), labels, kept);
                }
                for (i, &[reference, total, _, of_label, correct]) in
                    kept.as_chunks::<KEPT>().0.iter().enumerate()
                {
                    let row = (ln(f64::from(total)) - (f64::from(of_label) - f64::from(reference))) as f32;
                    loss.nll += f64::from(row);
                    loss.correct += correct as u64;
                    loss.rows += 1;
                    if let Some(nll) = nll.as_deref_mut() {
                        nll[chunk * rows + i] = row;
                    }
                }
            });
        }
        loss
    }

    /// Columns `first .. first + count` of the logits of `h`.
    fn logits(&self, h: &[f32], (first, count): (usize, usize), bias: Option<&[f32]>, z: &mut [f32]) {
        let (d, m) = (self.d, z.len() / count);
        let w = Operand::rows(&self.w[first * d..][..count * d], d).t();
        let bias = bias.map(|b| &b[first..][..count]);
        let noise = self.noise.skip(first * d);
        gemm_noisy(self.pool, m, count, d, Operand::rows(h, d), (w, noise), bias, false, z, count);
    }

    /// Takes a block of logits into what the rows keep.
    fn absorb(&self, z: &mut [f32], (first, count): (usize, usize), labels: &[u32], kept: &mut [f32]) {
        let isa = Isa::detect();
        let outputs = [(z, ROWS * count), (kept, ROWS * KEPT)];
        split(self.pool, labels.len().div_ceil(ROWS), outputs, |i, [z, kept]| {
            let rows = z.chunks_exact(count).zip(kept.as_chunks_mut::<KEPT>().0);
            for ((z, kept), &label) in rows.zip(&labels[i * ROWS..]) {
                let label = (label as usize).checked_sub(first).filter(|&l| l < count);
                dispatch(isa, Row { z, label, kept });
            }
        });
    }
}

/// A block of a row's logits.
struct Row<'a> {
    z: &'a [f32],
    /// Where the label stands, if it is in this block.
    label: Option<usize>,
    /// The reference, `Σ exp(z - reference)`, the largest logit, the label's, and 1 where that is the first largest.
    kept: &'a mut [f32; KEPT],
}

impl Kernel for Row<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { z, label, kept: [reference, total, largest, of_label, correct] } = self;
        let mut top = s.splat(f32::NEG_INFINITY);
        for at in vectors(z.len()) {
            top = top.max(s.read_or(z, at, f32::NEG_INFINITY));
        }
        let top = top.largest();
        if let Some(label) = label {
            *of_label = z[label];
        }
        if top > *largest {
            let first = label.is_some_and(|l| z[l] == top && !z[..l].contains(&top));
            (*largest, *correct) = (top, f32::from(u8::from(first)));
        }
        if top > *reference + FAR {
            let shrink = exp(s, s.load(&[*reference - top; LANES])).array()[0];
            (*reference, *total) = (top, *total * shrink);
        }
        let shift = s.splat(*reference);
        let mut sum = s.splat(0.0);
        for at in vectors(z.len()) {
            sum = sum + exp(s, s.read_or(z, at, f32::NEG_INFINITY) - shift);
        }
        *total += sum.sum();
    }
}
