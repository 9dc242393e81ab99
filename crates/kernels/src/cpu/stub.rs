//! Plain linear maps, until the blocked ones take their place.

use super::Cpu;
use crate::backend::{Backend, Coef, Dst, Layout, Linear, Loss, Mat, Src};

fn weight(w: Mat<'_, Cpu>, f: impl FnOnce(&[f32])) {
    super::vector(w, f);
}

pub(super) fn linear(x: &[f32], map: Linear<'_, Cpu>, y: &mut [f32], add: bool) {
    let (k, o) = (map.d_in, map.d_out);
    let n = crate::check::rows("linear x", x.len(), k);
    crate::check::same("linear y", y.len(), n * o);
    if !add {
        y.fill(0.0);
    }
    if let Some(b) = map.bias {
        weight(b, |b| y.chunks_exact_mut(o).for_each(|row| row.iter_mut().zip(b).for_each(|(y, b)| *y += b)));
    }
    weight(map.w, |w| match map.layout {
        Layout::OutIn => super::buf::scratch(k * o, |t| {
            transpose(w, o, k, t);
            product(x, t, n, k, o, y);
        }),
        Layout::InOut => product(x, w, n, k, o, y),
    });
}

pub(super) fn linear_dx(dy: &[f32], map: Linear<'_, Cpu>, dx: &mut [f32], add: bool) {
    let (k, o) = (map.d_in, map.d_out);
    let n = crate::check::rows("linear dy", dy.len(), o);
    crate::check::same("linear dx", dx.len(), n * k);
    if !add {
        dx.fill(0.0);
    }
    weight(map.w, |w| match map.layout {
        Layout::OutIn => product(dy, w, n, o, k, dx),
        Layout::InOut => super::buf::scratch(k * o, |t| {
            transpose(w, k, o, t);
            product(dy, t, n, o, k, dx);
        }),
    });
}

pub(super) fn linear_dw(x: &[f32], dy: &[f32], k: usize, o: usize, layout: Layout, dw: &mut [f32]) {
    let (a, p, b, q) = match layout {
        Layout::OutIn => (dy, o, x, k),
        Layout::InOut => (x, k, dy, o),
    };
    crate::check::same("linear dw", dw.len(), p * q);
    for (a, b) in a.chunks_exact(p).zip(b.chunks_exact(q)) {
        for (row, &s) in dw.chunks_exact_mut(q).zip(a) {
            row.iter_mut().zip(b).for_each(|(y, &v)| *y = s.mul_add(v, *y));
        }
    }
}

pub(super) fn bias_grad(dy: &[f32], width: usize, db: &mut [f32]) {
    for row in dy.chunks_exact(width) {
        db.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
}

/// `y += a b` for `a: [n, k]`, `b: [k, o]`.
fn product(a: &[f32], b: &[f32], n: usize, k: usize, o: usize, y: &mut [f32]) {
    for i in 0..n {
        let row = &mut y[i * o..][..o];
        for j in 0..k {
            let s = a[i * k + j];
            row.iter_mut().zip(&b[j * o..]).for_each(|(y, &v)| *y = s.mul_add(v, *y));
        }
    }
}

fn transpose(x: &[f32], rows: usize, cols: usize, y: &mut [f32]) {
    for r in 0..rows {
        for c in 0..cols {
            y[c * rows + r] = x[r * cols + c];
        }
    }
}

pub(super) fn lora(x: &[f32], a: &[f32], b: &[f32], r: usize, scale: f32, xa: &mut [f32], y: &mut [f32]) {
    let (k, o) = (a.len() / r, b.len() / r);
    let n = x.len() / k;
    super::buf::scratch(a.len().max(b.len()), |t| {
        xa.fill(0.0);
        transpose(a, r, k, &mut t[..a.len()]);
        product(x, t, n, k, r, xa);
        transpose(b, o, r, &mut t[..b.len()]);
        t[..b.len()].iter_mut().for_each(|v| *v *= scale);
        product(xa, t, n, r, o, y);
    });
}

pub(super) fn lora_grad(
    x: &[f32],
    xa: &[f32],
    dy: &[f32],
    a: &[f32],
    b: &[f32],
    r: usize,
    scale: f32,
    dxa: &mut [f32],
    grads: &mut [f32],
    a_at: usize,
    b_at: usize,
    dx: Option<&mut [f32]>,
) {
    let (k, o) = (a.len() / r, b.len() / r);
    let n = x.len() / k;
    dxa.fill(0.0);
    product(dy, b, n, o, r, dxa);
    dxa.iter_mut().for_each(|v| *v *= scale);
    linear_dw(x, dxa, k, r, Layout::OutIn, &mut grads[a_at..][..a.len()]);
    super::buf::scratch(xa.len(), |t| {
        t.iter_mut().zip(xa).for_each(|(t, v)| *t = scale * v);
        linear_dw(t, dy, r, o, Layout::OutIn, &mut grads[b_at..][..b.len()]);
    });
    if let Some(dx) = dx {
        product(dxa, a, n, r, k, dx);
    }
}

pub(super) fn linear_cross_entropy(
    cpu: &Cpu,
    h: &[f32],
    head: Linear<'_, Cpu>,
    labels: &[u32],
    coef: Coef<'_>,
    scratch: Dst<'_, super::CpuBuf>,
    dh: Option<&mut [f32]>,
    dw: Option<&mut [f32]>,
    nll: Option<&mut [f32]>,
) -> Loss {
    let Dst { buf, at, .. } = scratch;
    let len = labels.len() * head.d_out;
    linear(h, head, &mut buf.values_mut()[at..][..len], false);
    let grad = dh.is_some() || dw.is_some();
    let loss = cpu.cross_entropy(Dst::new(buf, at, len), head.d_out, labels, coef, grad, nll);
    let logits = Src::new(&*buf, at, len);
    if let Some(dh) = dh {
        linear_dx(&logits.buf.values()[at..][..len], head, dh, false);
    }
    if let Some(dw) = dw {
        linear_dw(h, &logits.buf.values()[at..][..len], head.d_in, head.d_out, Layout::OutIn, dw);
    }
    loss
}
