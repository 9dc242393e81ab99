//! Blocks that move rows and columns: gathers, pooling, embedding.

use super::Cpu;
use crate::backend::{Mat, Segment};
use crate::check;

pub(super) fn rows(x: &[f32], from: &[u32], y: &mut [f32], to: &[u32], width: usize, add: bool) {
    check::same("rows: to", to.len(), from.len());
    for (&f, &t) in from.iter().zip(to) {
        for c in 0..width {
            super::put(&mut y[t as usize * width + c], x[f as usize * width + c], add);
        }
    }
}

pub(super) fn columns(
    x: &[f32],
    x_width: usize,
    x_col: usize,
    y: &mut [f32],
    y_width: usize,
    y_col: usize,
    cols: usize,
    add: bool,
) {
    let n = check::rows("columns x", x.len(), x_width);
    check::same("columns y", y.len(), n * y_width);
    assert!(x_col + cols <= x_width && y_col + cols <= y_width, "columns beyond the width");
    for i in 0..n {
        for c in 0..cols {
            super::put(&mut y[i * y_width + y_col + c], x[i * x_width + x_col + c], add);
        }
    }
}

pub(super) fn mean_pool(x: &[f32], segments: &[Segment], width: usize, y: &mut [f32]) {
    check::same("mean_pool y", y.len(), segments.len() * width);
    y.fill(0.0);
    for (s, out) in segments.iter().zip(y.chunks_exact_mut(width)) {
        for i in s.q_at..s.q_at + s.q_len {
            for c in 0..width {
                out[c] += x[i * width + c] / s.q_len as f32;
            }
        }
    }
}

pub(super) fn mean_pool_grad(dy: &[f32], segments: &[Segment], width: usize, dx: &mut [f32]) {
    check::same("mean_pool dy", dy.len(), segments.len() * width);
    dx.fill(0.0);
    for (s, g) in segments.iter().zip(dy.chunks_exact(width)) {
        for i in s.q_at..s.q_at + s.q_len {
            for c in 0..width {
                dx[i * width + c] = g[c] / s.q_len as f32;
            }
        }
    }
}

pub(super) fn embedding(ids: &[u32], table: Mat<'_, Cpu>, width: usize, y: &mut [f32], add: bool) {
    let total = match table {
        Mat::Frozen(d) => d.len(),
        Mat::Live(s) => s.len,
    };
    let vocab = check::rows("embedding table", total, width);
    check::same("embedding y", y.len(), ids.len() * width);
    super::buf::scratch(width, |row| {
        for (&id, out) in ids.iter().zip(y.chunks_exact_mut(width)) {
            if id == u32::MAX {
                row.fill(0.0);
            } else {
                check::below("embedding id", id as usize, vocab);
                match table {
                    Mat::Frozen(d) => d.widen(id as usize * width, row),
                    Mat::Live(s) => row.copy_from_slice(&s.get()[id as usize * width..][..width]),
                }
            }
            out.iter_mut().zip(&*row).for_each(|(y, &v)| super::put(y, v, add));
        }
    });
}

pub(super) fn embedding_grad(ids: &[u32], dy: &[f32], width: usize, dtable: &mut [f32]) {
    let vocab = check::rows("embedding dtable", dtable.len(), width);
    check::same("embedding dy", dy.len(), ids.len() * width);
    for (i, &id) in ids.iter().enumerate().filter(|&(_, &id)| id != u32::MAX) {
        check::below("embedding id", id as usize, vocab);
        for c in 0..width {
            dtable[id as usize * width + c] += dy[i * width + c];
        }
    }
}
