//! Linear maps and their low-rank overlays.

use crate::check;

/// `[rows, cols]` to `[cols, rows]`.
pub(super) fn transpose(x: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    check::same("transpose", x.len(), rows * cols);
    (0..rows * cols).map(|i| x[(i % rows) * cols + i / rows]).collect()
}

/// `y (+)= x W^T + b`; `w: [d_out, d_in]`.
pub(super) fn linear(
    x: &[f64],
    w: &[f64],
    bias: Option<&[f64]>,
    d_in: usize,
    d_out: usize,
    y: &mut [f64],
    add: bool,
) {
    let n = check::rows("linear x", x.len(), d_in);
    check::same("linear y", y.len(), n * d_out);
    check::same("linear weight", w.len(), d_out * d_in);
    if let Some(b) = bias {
        check::same("linear bias", b.len(), d_out);
    }
    for i in 0..n {
        for o in 0..d_out {
            let mut s = bias.map_or(0.0, |b| b[o]);
            for j in 0..d_in {
                s += x[i * d_in + j] * w[o * d_in + j];
            }
            super::put(&mut y[i * d_out + o], s, add);
        }
    }
}

/// `out += a^T b` for `a: [n, p]`, `b: [n, q]`.
pub(super) fn outer(a: &[f64], p: usize, b: &[f64], q: usize, out: &mut [f64]) {
    let n = check::rows("outer product", a.len(), p);
    check::same("outer product", b.len(), n * q);
    check::same("outer product", out.len(), p * q);
    for i in 0..n {
        for r in 0..p {
            for c in 0..q {
                out[r * q + c] += a[i * p + r] * b[i * q + c];
            }
        }
    }
}

/// `db += Σ_rows dy`.
pub(super) fn column_sums(dy: &[f64], width: usize, db: &mut [f64]) {
    check::rows("bias_grad dy", dy.len(), width);
    check::same("bias_grad db", db.len(), width);
    for row in dy.chunks_exact(width) {
        db.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
}

/// `xa = x A^T`, `y += scale · xa B^T`.
pub(super) fn lora(x: &[f64], a: &[f64], b: &[f64], rank: usize, scale: f64, xa: &mut [f64], y: &mut [f64]) {
    let (d_in, d_out) = (check::rows("lora a", a.len(), rank), check::rows("lora b", b.len(), rank));
    linear(x, a, None, d_in, rank, xa, false);
    let scaled: Vec<f64> = xa.iter().map(|v| scale * v).collect();
    linear(&scaled, b, None, rank, d_out, y, true);
}

/// `dxa = scale · dy B`.
pub(super) fn lora_inner_grad(dy: &[f64], b: &[f64], rank: usize, scale: f64, dxa: &mut [f64]) {
    let d_out = check::rows("lora b", b.len(), rank);
    linear(dy, &transpose(b, d_out, rank), None, d_out, rank, dxa, false);
    dxa.iter_mut().for_each(|v| *v *= scale);
}
