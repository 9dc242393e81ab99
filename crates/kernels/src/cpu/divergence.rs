//! Kullback-Leibler divergence between two softmaxes over rows of logits.

use super::Isa;
use super::buf::scratch;
use super::math::{exp, ln};
use super::simd::{Kernel, Lanes, Simd, dispatch, vectors};
use super::split::{rows_per_task, split};
use crate::check;
use crate::pool::Pool;

/// Logits whose terms are summed in binary32 before binary64 takes over; part of the bits.
const RUN: usize = 1024;

/// `Σ_rows KL(softmax(teacher) ‖ softmax(student))`; with `coef`, `coef · (softmax(student) - softmax(teacher))` replaces
/// `student`. Rows are added in their order. Equal logits give 0 exactly, and a gradient of 0.
pub(super) fn kl(
    isa: Isa,
    pool: &Pool,
    teacher: &[f32],
    student: &mut [f32],
    classes: usize,
    coef: Option<f32>,
) -> f64 {
    check::same("kl_divergence student", student.len(), teacher.len());
    let m = check::rows("kl_divergence teacher", teacher.len(), classes);
    scratch(m, |kept| {
        let rows = rows_per_task(classes);
        let outputs = [(student, rows * classes), (&mut *kept, rows)];
        split(pool, m.div_ceil(rows), outputs, |i, [student, kept]| {
            let teacher = teacher[i * rows * classes..].chunks_exact(classes);
            for ((q, p), kept) in student.chunks_exact_mut(classes).zip(teacher).zip(kept) {
                *kept = dispatch(isa, Row { p, q, coef });
            }
        });
        kept.iter().map(|k| f64::from(*k)).sum()
    })
}

/// One row: logits of the teacher and of the student.
struct Row<'a> {
    p: &'a [f32],
    q: &'a mut [f32],
    coef: Option<f32>,
}

impl Kernel for Row<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let Self { p, q, coef } = self;
        let (p_max, p_total) = exponentials(s, p);
        let (q_max, q_total) = exponentials(s, q);
        let (p_shift, q_shift) = (s.splat(p_max), s.splat(q_max));
        // Σ p (z_p - z_q), to which the two normalisers are added
        let mut crossed = 0.0;
        for (p, q) in p.chunks(RUN).zip(q.chunks(RUN)) {
            let mut sum = s.splat(0.0);
            for at in vectors(p.len()) {
                let e = exp(s, s.read_or(p, at, f32::NEG_INFINITY) - p_shift);
                let apart = (s.read(p, at) - p_shift) - (s.read(q, at) - q_shift);
                sum = sum + e * apart;
            }
            crossed += f64::from(sum.sum());
        }
        if let Some(coef) = coef {
            let scale = |total: f64| s.splat((f64::from(coef) / total) as f32);
            let (of_p, of_q) = (scale(p_total), scale(q_total));
            for at in vectors(q.len()) {
                let p = exp(s, s.read(p, at) - p_shift) * of_p;
                let q_here = exp(s, s.read(q, at) - q_shift) * of_q;
                (q_here - p).write(q, at);
            }
        }
        (crossed / p_total + (ln(q_total) - ln(p_total))) as f32
    }
}

/// The largest of `z`, and `Σ exp(z - largest)`.
#[inline(always)]
fn exponentials<S: Simd>(s: S, z: &[f32]) -> (f32, f64) {
    let mut largest = s.splat(f32::NEG_INFINITY);
    for at in vectors(z.len()) {
        largest = largest.max(s.read_or(z, at, f32::NEG_INFINITY));
    }
    let max = largest.largest();
    let (shift, mut total) = (s.splat(max), 0.0);
    for run in z.chunks(RUN) {
        let mut sum = s.splat(0.0);
        for at in vectors(run.len()) {
            sum = sum + exp(s, s.read_or(run, at, f32::NEG_INFINITY) - shift);
        }
        total += f64::from(sum.sum());
    }
    (max, total)
}
