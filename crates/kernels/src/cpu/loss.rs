//! Softmax cross-entropy over rows of logits.

use super::Isa;
use super::buf::scratch;
use super::math::{exp, ln};
use super::simd::{Kernel, Lanes, Simd, dispatch, vectors};
use super::split::{rows_per_task, split};
use crate::backend::{Coef, Loss};
use crate::check;
use crate::pool::Pool;

/// Logits whose exponentials are summed in binary32 before binary64 takes over; part of the bits.
const RUN: usize = 1024;

/// Cross-entropy of `logits: [m, classes]`; with `grad`, `coef · (softmax - onehot)` replaces the logits. Losses are
/// added in the order of rows.
pub(super) fn cross_entropy(
    isa: Isa,
    pool: &Pool,
    logits: &mut [f32],
    classes: usize,
    labels: &[u32],
    coef: Coef<'_>,
    grad: bool,
    nll: Option<&mut [f32]>,
) -> Loss {
    let m = labels.len();
    check::same("cross_entropy logits", logits.len(), m * classes);
    labels.iter().for_each(|&l| check::below("cross_entropy label", l as usize, classes));
    if let Coef::PerRow(c) = coef {
        check::same("cross_entropy coef", c.len(), m);
    }
    if let Some(n) = &nll {
        check::same("cross_entropy nll", n.len(), m);
    }
    scratch(2 * m, |kept| {
        let rows = rows_per_task(classes);
        let outputs = [(logits, rows * classes), (&mut *kept, 2 * rows)];
        split(pool, m.div_ceil(rows), outputs, |i, [logits, kept]| {
            let of_row = logits.chunks_exact_mut(classes).zip(kept.as_chunks_mut::<2>().0);
            for (row, (z, [nll, correct])) in (i * rows..).zip(of_row) {
                let coef = grad.then(|| coef.at(row));
                let here = dispatch(isa, Row { z, label: labels[row] as usize, coef });
                (*nll, *correct) = (here.0, f32::from(u8::from(here.1)));
            }
        });
        let kept = kept.as_chunks::<2>().0;
        if let Some(nll) = nll {
            nll.iter_mut().zip(kept).for_each(|(n, k)| *n = k[0]);
        }
        Loss {
            nll: kept.iter().map(|k| f64::from(k[0])).sum(),
            correct: kept.iter().map(|k| k[1] as u64).sum(),
            rows: m as u64,
        }
    })
}

/// One row: its loss, and whether the label is the first largest logit.
struct Row<'a> {
    z: &'a mut [f32],
    label: usize,
    /// Of the gradient, if there is to be one.
    coef: Option<f32>,
}

impl Kernel for Row<'_> {
    type Out = (f32, bool);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, bool) {
        let Self { z, label, coef } = self;
        let mut largest = s.splat(f32::NEG_INFINITY);
        for at in vectors(z.len()) {
            largest = largest.max(s.read_or(z, at, f32::NEG_INFINITY));
        }
        let max = largest.largest();
        let of_label = z[label];
        let correct = of_label == max && !z[..label].contains(&max);
        let shift = s.splat(max);
        let mut total = 0.0;
        for run in z.chunks_mut(RUN) {
            let mut sum = s.splat(0.0);
            for at in vectors(run.len()) {
                let e = exp(s, s.read_or(run, at, f32::NEG_INFINITY) - shift);
                sum = sum + e;
                if coef.is_some() {
                    e.write(run, at);
                }
            }
            total += f64::from(sum.sum());
        }
        if let Some(coef) = coef {
            let scale = s.splat((f64::from(coef) / total) as f32);
            for at in vectors(z.len()) {
                (s.read(z, at) * scale).write(z, at);
            }
            z[label] -= coef;
        }
        ((ln(total) - (f64::from(of_label) - f64::from(max))) as f32, correct)
    }
}
