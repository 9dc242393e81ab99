//! Rotary embedding, half-split (arXiv:2104.09864, equation 34).

use super::Cpu;
use super::simd::{Kernel, Lanes, Simd, dispatch, vectors};
use super::split::{rows_per_task, split};
use crate::check;

pub(super) fn rope(
    cpu: &Cpu,
    x: &mut [f32],
    heads: usize,
    head_dim: usize,
    positions: &[u32],
    table: &[f32],
    inverse: bool,
) {
    let width = heads * head_dim;
    check::same("rope x", x.len(), positions.len() * width);
    assert!(head_dim.is_multiple_of(2), "rope turns pairs, and a head has {head_dim} columns");
    let max = check::rows("rope table", table.len(), head_dim);
    positions.iter().for_each(|&p| check::below("rope position", p as usize, max));
    let rows = rows_per_task(width);
    split(&cpu.pool, positions.len().div_ceil(rows), [(x, rows * width)], |i, [x]| {
        let positions = &positions[i * rows..][..x.len() / width];
        dispatch(
            cpu.isa,
            Rope { x, width, head_dim, positions, table, sign: if inverse { -1.0 } else { 1.0 } },
        );
    });
}

struct Rope<'a> {
    x: &'a mut [f32],
    width: usize,
    head_dim: usize,
    positions: &'a [u32],
    table: &'a [f32],
    /// Of the sines.
    sign: f32,
}

impl Kernel for Rope<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let sign = s.splat(self.sign);
        for (row, &p) in self.x.chunks_exact_mut(self.width).zip(self.positions) {
            let turn = &self.table[p as usize * self.head_dim..][..self.head_dim];
            let (cosines, sines) = turn.split_at(self.head_dim / 2);
            for head in row.chunks_exact_mut(self.head_dim) {
                let (low, high) = head.split_at_mut(cosines.len());
                for at in vectors(cosines.len()) {
                    let (c, t) = (s.read(cosines, at), sign * s.read(sines, at));
                    let (a, b) = (s.read(low, at), s.read(high, at));
                    (a * c - b * t).write(low, at);
                    (b * c + a * t).write(high, at);
                }
            }
        }
    }
}
