//! Softmax cross-entropy, and the divergence of two softmaxes.

use crate::backend::{Coef, Loss};
use crate::check;

/// `nll = log Σ exp(z) - z[label]`; `∂/∂z = softmax(z) - e_label`.
pub(super) fn cross_entropy(
    logits: &mut [f64],
    classes: usize,
    labels: &[u32],
    coef: Coef<'_>,
    grad: bool,
    mut nll: Option<&mut [f32]>,
) -> Loss {
    check::same("cross_entropy logits", logits.len(), labels.len() * classes);
    if let Some(n) = &nll {
        check::same("cross_entropy nll", n.len(), labels.len());
    }
    if let Coef::PerRow(c) = coef {
        check::same("cross_entropy coef", c.len(), labels.len());
    }
    let mut loss = Loss { rows: labels.len() as u64, ..Loss::default() };
    for (i, &label) in labels.iter().enumerate() {
        check::below("cross_entropy label", label as usize, classes);
        let row = &mut logits[i * classes..][..classes];
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let lse = max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        let here = lse - row[label as usize];
        loss.nll += here;
        loss.correct += u64::from(row.iter().position(|&z| z == max) == Some(label as usize));
        if let Some(n) = nll.as_deref_mut() {
            n[i] = here as f32;
        }
        if grad {
            let c = f64::from(coef.at(i));
            row.iter_mut().for_each(|z| *z = c * (*z - lse).exp());
            row[label as usize] -= c;
        }
    }
    loss
}

/// `Σ_rows Σ_i p_i (log p_i - log q_i)` of `p = softmax(teacher)`, `q = softmax(student)`; `∂/∂student = q - p`.
pub(super) fn kl_divergence(teacher: &[f64], student: &mut [f64], classes: usize, coef: Option<f32>) -> f64 {
    check::same("kl_divergence student", student.len(), teacher.len());
    check::same("kl_divergence classes", teacher.len() % classes, 0);
    let lse = |row: &[f64]| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + row.iter().map(|z| (z - max).exp()).sum::<f64>().ln()
    };
    let mut total = 0.0;
    for (t, s) in teacher.chunks_exact(classes).zip(student.chunks_exact_mut(classes)) {
        let (of_t, of_s) = (lse(t), lse(s));
        for (&t, s) in t.iter().zip(s) {
            let p = (t - of_t).exp();
            total += p * ((t - of_t) - (*s - of_s));
            if let Some(coef) = coef {
                *s = f64::from(coef) * ((*s - of_s).exp() - p);
            }
        }
    }
    total
}
