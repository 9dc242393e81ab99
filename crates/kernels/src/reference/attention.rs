//! Rotary embedding (Su et al. 2021, arXiv:2104.09864, equation 34, half-split) and softmax attention
//! (Vaswani et al. 2017, arXiv:1706.03762, equation 1) over segments.

use crate::backend::{AttnShape, Segment};
use crate::check;

pub(super) fn rope(
    x: &mut [f64],
    heads: usize,
    head_dim: usize,
    positions: &[u32],
    table: &[f64],
    inverse: bool,
) {
    check::same("rope x", x.len(), positions.len() * heads * head_dim);
    let max = check::rows("rope table", table.len(), head_dim);
    let half = head_dim / 2;
    for (i, &p) in positions.iter().enumerate() {
        check::below("rope position", p as usize, max);
        let row = &table[p as usize * head_dim..][..head_dim];
        for h in 0..heads {
            let at = (i * heads + h) * head_dim;
            for j in 0..half {
                let (c, s) = (row[j], if inverse { -row[half + j] } else { row[half + j] });
                let (a, b) = (x[at + j], x[at + half + j]);
                x[at + j] = a * c - b * s;
                x[at + half + j] = b * c + a * s;
            }
        }
    }
}

/// One row of probabilities, with what it takes to find its inputs.
struct Row {
    /// Query row.
    q: usize,
    /// First visible key row.
    k: usize,
    /// Scaled scores of the visible keys.
    scores: Vec<f64>,
}

/// Calls `f` for each query row and head that has a visible key.
fn each_row(q: &[f64], k: &[f64], segments: &[Segment], s: AttnShape, mut f: impl FnMut(usize, Row)) {
    let group = s.heads / s.kv_heads;
    let d = s.head_dim;
    for seg in segments {
        for h in 0..s.heads {
            for i in 0..seg.q_len {
                let (first, end) = seg.visible(i, s);
                if first == end {
                    continue;
                }
                let row = seg.q_at + i;
                let scores = (first..end).map(|j| {
                    let (qa, ka) = ((row * s.heads + h) * d, ((seg.k_at + j) * s.kv_heads + h / group) * d);
                    f64::from(s.scale) * (0..d).map(|c| q[qa + c] * k[ka + c]).sum::<f64>()
                });
                f(h, Row { q: row, k: seg.k_at + first, scores: scores.collect() });
            }
        }
    }
}

pub(super) fn attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    segments: &[Segment],
    s: AttnShape,
    y: &mut [f64],
    lse: &mut [f64],
) {
    Segment::check(segments, s.check(q.len(), k.len(), v.len(), y.len(), lse.len()));
    let (group, d) = (s.heads / s.kv_heads, s.head_dim);
    y.fill(0.0);
    lse.fill(0.0);
    each_row(q, k, segments, s, |h, row| {
        let max = row.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.scores.iter().map(|x| (x - max).exp()).sum();
        lse[row.q * s.heads + h] = max + total.ln();
        for (j, x) in row.scores.iter().enumerate() {
            let p = (x - max).exp() / total;
            for c in 0..d {
                y[(row.q * s.heads + h) * d + c] += p * v[((row.k + j) * s.kv_heads + h / group) * d + c];
            }
        }
    });
}

/// What the forward pass kept, and the gradient of its output.
pub(super) struct Kept<'a> {
    pub(super) y: &'a [f64],
    pub(super) lse: &'a [f64],
    pub(super) dy: &'a [f64],
}

/// Where the gradients go.
pub(super) struct Grads<'a> {
    pub(super) dq: &'a mut [f64],
    pub(super) dk: &'a mut [f64],
    pub(super) dv: &'a mut [f64],
}

/// With `P = exp(S - lse)`: `dV = P^T dY`, `dS = P ⊙ (dY V^T - rowsum(dY ⊙ Y))`, `dQ = scale · dS K`,
/// `dK = scale · dS^T Q`.
pub(super) fn attention_grad(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    kept: Kept<'_>,
    segments: &[Segment],
    s: AttnShape,
    to: Grads<'_>,
) {
    let Kept { y, lse, dy } = kept;
    let Grads { dq, dk, dv } = to;
    Segment::check(segments, s.check(q.len(), k.len(), v.len(), y.len(), lse.len()));
    check::same("attention dy", dy.len(), y.len());
    check::same("attention dq", dq.len(), q.len());
    check::same("attention dk", dk.len(), k.len());
    check::same("attention dv", dv.len(), v.len());
    let (group, d) = (s.heads / s.kv_heads, s.head_dim);
    for g in [&mut *dq, &mut *dk, &mut *dv] {
        g.fill(0.0);
    }
    each_row(q, k, segments, s, |h, row| {
        let qa = (row.q * s.heads + h) * d;
        let delta: f64 = (0..d).map(|c| dy[qa + c] * y[qa + c]).sum();
        for (j, x) in row.scores.iter().enumerate() {
            let p = (x - lse[row.q * s.heads + h]).exp();
            let ka = ((row.k + j) * s.kv_heads + h / group) * d;
            let dp: f64 = (0..d).map(|c| dy[qa + c] * v[ka + c]).sum();
            let ds = f64::from(s.scale) * p * (dp - delta);
            for c in 0..d {
                dv[ka + c] += p * dy[qa + c];
                dq[qa + c] += ds * k[ka + c];
                dk[ka + c] += ds * q[qa + c];
            }
        }
    });
}
