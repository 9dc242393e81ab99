//! RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4) and LayerNorm (Ba et al. 2016,
//! arXiv:1607.06450, equation 3).

use crate::check;

pub(super) fn rms_norm(x: &[f64], w: &[f64], width: usize, eps: f64, y: &mut [f64], inv: &mut [f64]) {
    let n = check::rows("rms_norm x", x.len(), width);
    check::same("rms_norm w", w.len(), width);
    check::same("rms_norm y", y.len(), x.len());
    check::same("rms_norm inv", inv.len(), n);
    for i in 0..n {
        let row = &x[i * width..][..width];
        let mean_square = row.iter().map(|v| v * v).sum::<f64>() / width as f64;
        inv[i] = 1.0 / (mean_square + eps).sqrt();
        for c in 0..width {
            y[i * width + c] = row[c] * inv[i] * w[c];
        }
    }
}

/// With `x̂ = x · inv` and `g = dy ⊙ w`: `dx = inv (g - x̂ mean(g ⊙ x̂))`, `dw = Σ dy ⊙ x̂`.
pub(super) fn rms_norm_grad(
    x: &[f64],
    w: &[f64],
    width: usize,
    inv: &[f64],
    dy: &[f64],
    dx: &mut [f64],
    add: bool,
    mut dw: Option<&mut [f64]>,
) {
    check::same("rms_norm w", w.len(), width);
    check::same("rms_norm inv", inv.len(), check::rows("rms_norm x", x.len(), width));
    check::same("rms_norm dy", dy.len(), x.len());
    check::same("rms_norm dx", dx.len(), x.len());
    for (i, &inv) in inv.iter().enumerate() {
        let at = i * width;
        let hat = |c: usize| x[at + c] * inv;
        let mean = (0..width).map(|c| dy[at + c] * w[c] * hat(c)).sum::<f64>() / width as f64;
        for c in 0..width {
            super::put(&mut dx[at + c], inv * (dy[at + c] * w[c] - hat(c) * mean), add);
            if let Some(dw) = dw.as_deref_mut() {
                dw[c] += dy[at + c] * hat(c);
            }
        }
    }
}

pub(super) fn layer_norm(
    x: &[f64],
    w: &[f64],
    b: &[f64],
    width: usize,
    eps: f64,
    y: &mut [f64],
    stats: &mut [f64],
) {
    let n = check::rows("layer_norm x", x.len(), width);
    check::same("layer_norm w", w.len(), width);
    check::same("layer_norm b", b.len(), width);
    check::same("layer_norm y", y.len(), x.len());
    check::same("layer_norm stats", stats.len(), 2 * n);
    for i in 0..n {
        let row = &x[i * width..][..width];
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / width as f64;
        let inv = 1.0 / (variance + eps).sqrt();
        stats[2 * i] = mean;
        stats[2 * i + 1] = inv;
        for c in 0..width {
            y[i * width + c] = (row[c] - mean) * inv * w[c] + b[c];
        }
    }
}

/// With `x̂ = (x - mean) inv` and `g = dy ⊙ w`: `dx = inv (g - mean(g) - x̂ mean(g ⊙ x̂))`, `dw = Σ dy ⊙ x̂`,
/// `db = Σ dy`.
pub(super) fn layer_norm_grad(
    x: &[f64],
    w: &[f64],
    width: usize,
    stats: &[f64],
    dy: &[f64],
    dx: &mut [f64],
    add: bool,
    mut dwb: Option<(&mut [f64], usize, usize)>,
) {
    let n = check::rows("layer_norm x", x.len(), width);
    check::same("layer_norm w", w.len(), width);
    check::same("layer_norm stats", stats.len(), 2 * n);
    check::same("layer_norm dy", dy.len(), x.len());
    check::same("layer_norm dx", dx.len(), x.len());
    for i in 0..n {
        let at = i * width;
        let (mean, inv) = (stats[2 * i], stats[2 * i + 1]);
        let hat = |c: usize| (x[at + c] - mean) * inv;
        let g = |c: usize| dy[at + c] * w[c];
        let mean_g = (0..width).map(g).sum::<f64>() / width as f64;
        let mean_gx = (0..width).map(|c| g(c) * hat(c)).sum::<f64>() / width as f64;
        for c in 0..width {
            super::put(&mut dx[at + c], inv * (g(c) - mean_g - hat(c) * mean_gx), add);
            if let Some((grads, w_at, b_at)) = &mut dwb {
                grads[*w_at + c] += dy[at + c] * hat(c);
                grads[*b_at + c] += dy[at + c];
            }
        }
    }
}
