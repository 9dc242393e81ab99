//! Blocks that move rows and columns: gathers, pooling, embedding. They are bound by memory.

use super::split::{Parts, rows_per_task, split};
use super::{Cpu, noise};
use crate::backend::{FrozenData, Mat, Segment};
use crate::check;

/// Columns of one task where tasks must not share rows.
const COLUMNS: usize = 256;
/// Elements below which splitting by columns is not worth a task.
const SMALL: usize = 1 << 15;

/// `y (+)= x` over one row.
#[inline(always)]
fn put(y: &mut [f32], x: &[f32], add: bool) {
    if add {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
    } else {
        y.copy_from_slice(x);
    }
}

/// `y[to[i]] (+)= x[from[i]]` for `i` in order. Rows of `y` may repeat, so tasks share
/// out columns.
fn scatter(
    cpu: &Cpu,
    pairs: impl Iterator<Item = (usize, usize)> + Clone + Sync,
    x: &[f32],
    y: &mut [f32],
    width: usize,
    add: bool,
) {
    let columns = if x.len() < SMALL { width } else { COLUMNS };
    let y = Parts::new(y);
    cpu.pool.run(width.div_ceil(columns), &|task| {
        let first = task * columns;
        let count = columns.min(width - first);
        for (from, to) in pairs.clone() {
            // SAFETY: this task alone touches these columns, and holds one row's part at a time.
            let row = unsafe { y.part(to * width + first, count) };
            put(row, &x[from * width + first..][..count], add);
        }
    });
}

pub(super) fn rows(cpu: &Cpu, x: &[f32], from: &[u32], y: &mut [f32], to: &[u32], width: usize, add: bool) {
    check::same("rows: to", to.len(), from.len());
    check::rows("rows x", x.len(), width);
    check::rows("rows y", y.len(), width);
    let pairs = from.iter().zip(to).map(|(&f, &t)| (f as usize, t as usize));
    scatter(cpu, pairs, x, y, width, add);
}

pub(super) fn columns(
    cpu: &Cpu,
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
    assert!(
        x_col + cols <= x_width && y_col + cols <= y_width,
        "columns {x_col}+{cols} of {x_width} to {y_col}+{cols} of {y_width}"
    );
    let rows = rows_per_task(y_width);
    split(&cpu.pool, n.div_ceil(rows), [(y, rows * y_width)], |i, [y]| {
        for (x, y) in x[i * rows * x_width..].chunks_exact(x_width).zip(y.chunks_exact_mut(y_width)) {
            put(&mut y[y_col..][..cols], &x[x_col..][..cols], add);
        }
    });
}

pub(super) fn mean_pool(x: &[f32], segments: &[Segment], width: usize, y: &mut [f32]) {
    check::same("mean_pool y", y.len(), segments.len() * width);
    for (s, y) in segments.iter().zip(y.chunks_exact_mut(width)) {
        y.fill(0.0);
        for row in x[s.q_at * width..][..s.q_len * width].chunks_exact(width) {
            put(y, row, true);
        }
        if s.q_len > 0 {
            y.iter_mut().for_each(|v| *v /= s.q_len as f32);
        }
    }
}

pub(super) fn mean_pool_grad(dy: &[f32], segments: &[Segment], width: usize, dx: &mut [f32]) {
    check::same("mean_pool dy", dy.len(), segments.len() * width);
    dx.fill(0.0);
    for (s, g) in segments.iter().zip(dy.chunks_exact(width)) {
        for row in dx[s.q_at * width..][..s.q_len * width].chunks_exact_mut(width) {
            row.iter_mut().zip(g).for_each(|(d, g)| *d = g / s.q_len as f32);
        }
    }
}

pub(super) fn embedding(cpu: &Cpu, ids: &[u32], table: Mat<'_, Cpu>, width: usize, y: &mut [f32], add: bool) {
    let total = match table {
        Mat::Frozen(d) => d.len(),
        Mat::Live(s) | Mat::Noisy(s, _) => s.len,
    };
    let vocab = check::rows("embedding table", total, width);
    check::same("embedding y", y.len(), ids.len() * width);
    let rows = rows_per_task(width);
    split(&cpu.pool, ids.len().div_ceil(rows), [(y, rows * width)], |i, [y]| {
        for (&id, y) in ids[i * rows..].iter().zip(y.chunks_exact_mut(width)) {
            if id == u32::MAX {
                if !add {
                    y.fill(0.0);
                }
                continue;
            }
            check::below("embedding id", id as usize, vocab);
            let at = id as usize * width;
            match table {
                Mat::Live(s) => put(y, &s.get()[at..][..width], add),
                Mat::Frozen(d) => widen_row(d, at, y, add),
                Mat::Noisy(s, noise) => {
                    put(y, &s.get()[at..][..width], add);
                    noise::add(cpu.isa, noise.skip(at), y);
                }
            }
        }
    });
}

/// `y (+)=` elements `at ..` of a frozen tensor.
fn widen_row(d: &FrozenData, at: usize, y: &mut [f32], add: bool) {
    if !add {
        return d.widen(at, y);
    }
    let mut wide = [0.0; 256];
    for (i, y) in y.chunks_mut(wide.len()).enumerate() {
        let wide = &mut wide[..y.len()];
        d.widen(at + i * 256, wide);
        put(y, wide, true);
    }
}

pub(super) fn embedding_grad(cpu: &Cpu, ids: &[u32], dy: &[f32], width: usize, dtable: &mut [f32]) {
    let vocab = check::rows("embedding dtable", dtable.len(), width);
    check::same("embedding dy", dy.len(), ids.len() * width);
    let pairs = ids.iter().enumerate().filter(|&(_, &id)| id != u32::MAX).map(|(i, &id)| (i, id as usize));
    pairs.clone().for_each(|(_, id)| check::below("embedding id", id, vocab));
    scatter(cpu, pairs, dy, dtable, width, true);
}
