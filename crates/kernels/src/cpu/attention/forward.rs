//! The forward pass: a running maximum and sum for each query (Milakov and Gimelshein 2018, arXiv:1805.02867).

use std::ops::Range;

use super::super::Cpu;
use super::super::buf::scratch;
use super::super::math::{exp, ln};
use super::super::simd::{Kernel, Lanes, Simd, dispatch, vectors};
use super::super::split::Parts;
use super::{Block, Columns, QUERIES, STRIDE, each_head};
use crate::backend::{AttnShape, Segment};
use crate::gemm::Operand;
use crate::gemm::direct::{Right, pack, packed_len, product};

pub(in super::super) fn attention(
    cpu: &Cpu,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    segments: &[Segment],
    shape: AttnShape,
    y: &mut [f32],
    lse: &mut [f32],
) {
    let rows = shape.check(q.len(), k.len(), v.len(), y.len(), lse.len());
    if !Segment::check(segments, rows).every_query {
        y.fill(0.0);
        lse.fill(0.0);
    }
    let (y, lse) = (Parts::new(y), Parts::new(lse));
    each_head(&cpu.pool, segments, true, shape.heads, |segments, head| {
        for &s in segments {
            let task = Task { cpu, q, k, v, shape, head, y: &y, lse: &lse };
            task.run(s);
        }
    });
}

/// One query head.
struct Task<'a> {
    cpu: &'a Cpu,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: AttnShape,
    head: usize,
    y: &'a Parts<'a, f32>,
    lse: &'a Parts<'a, f32>,
}

impl Task<'_> {
    fn run(&self, s: Segment) {
        let d = self.shape.head_dim;
        let keys = Columns::of_keys(self.shape, self.head * self.shape.kv_heads / self.shape.heads);
        let sizes = [packed_len(d, s.k_len), QUERIES * STRIDE, QUERIES * d];
        scratch(sizes.iter().sum(), |all| {
            let (panels, rest) = all.split_at_mut(sizes[0]);
            let (scores, out) = rest.split_at_mut(sizes[1]);
            if s.k_len > 0 {
                pack(self.cpu.isa, &self.k[keys.row(s.k_at)..], keys.stride, d, s.k_len, panels);
            }
            for block in Block::all(s, self.shape) {
                self.block(s, &block, keys, panels, scores, out);
            }
        });
    }

    fn block(
        &self,
        s: Segment,
        block: &Block,
        keys: Columns,
        panels: &[f32],
        scores: &mut [f32],
        out: &mut [f32],
    ) {
        let (isa, d, count) = (self.cpu.isa, self.shape.head_dim, block.rows.len());
        let queries = Columns::of_queries(self.shape, self.head);
        let mut running = [Running { max: f32::NEG_INFINITY, sum: 0.0 }; QUERIES];
        let running = &mut running[..count];
        let rows =
            Operand { rs: queries.stride, ..Operand::rows(&self.q[queries.row(block.rows.start)..], d) };
        for seen in block.key_blocks() {
            let (cols, first) = (seen.len(), seen.start == block.keys.start);
            let right = Right::Packed { data: panels, n: s.k_len };
            // SAFETY: `scores` is ours, and a block of keys fits its rows.
            unsafe {
                product(
                    isa,
                    count,
                    seen.clone(),
                    d,
                    self.shape.scale,
                    rows,
                    right,
                    false,
                    scores.as_mut_ptr(),
                    STRIDE,
                );
            }
            dispatch(isa, Softmax { block, seen: &seen, scores, running, out, d });
            let values = &self.v[keys.row(s.k_at + seen.start)..];
            let p = Operand { rs: STRIDE, ..Operand::rows(scores, cols) };
            let right = Right::Rows { data: values, stride: keys.stride };
            // SAFETY: `out` is ours and holds `count` rows of `d`.
            unsafe { product(isa, count, 0..d, cols, 1.0, p, right, !first, out.as_mut_ptr(), d) };
        }
        for (i, (run, row)) in running.iter().zip(block.rows.clone()).enumerate() {
            // SAFETY: this task alone writes this head of this query.
            let (y, lse) = unsafe {
                (self.y.part(queries.row(row), d), self.lse.part(row * self.shape.heads + self.head, 1))
            };
            if block.visible[i].0 == block.visible[i].1 {
                y.fill(0.0);
                lse[0] = 0.0;
                continue;
            }
            let scale = 1.0 / run.sum;
            y.iter_mut().zip(&out[i * d..]).for_each(|(y, o)| *y = o * scale);
            lse[0] = (f64::from(run.max) + ln(f64::from(run.sum))) as f32;
        }
    }
}

/// Largest score of a query so far, and the sum of exponentials below it.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

/// Turns a block of scores into unnormalised probabilities, and rescales what `out` holds where the maximum rose.
struct Softmax<'a> {
    block: &'a Block,
    seen: &'a Range<usize>,
    scores: &'a mut [f32],
    running: &'a mut [Running],
    out: &'a mut [f32],
    d: usize,
}

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { block, seen, scores, running, out, d } = self;
        let rows = scores.chunks_exact_mut(STRIDE).zip(out.chunks_exact_mut(d)).zip(running);
        for (i, ((row, out), run)) in rows.enumerate() {
            let own = block.seen(i, seen);
            row[..own.start].fill(0.0);
            row[own.end..seen.len()].fill(0.0);
            let row = &mut row[own];
            if row.is_empty() {
                continue;
            }
            let mut largest = s.splat(run.max);
            for at in vectors(row.len()) {
                largest = largest.max(s.read_or(row, at, f32::NEG_INFINITY));
            }
            let max = largest.largest();
            let shift = s.splat(max);
            let mut sum = s.splat(0.0);
            for at in vectors(row.len()) {
                let p = exp(s, s.read_or(row, at, f32::NEG_INFINITY) - shift);
                sum = sum + p;
                p.write(row, at);
            }
            let rescale = exp(s, s.splat(run.max) - shift);
            if seen.start != block.keys.start && max != run.max {
                for at in vectors(d) {
                    (s.read(out, at) * rescale).write(out, at);
                }
            }
            *run = Running { max, sum: run.sum.mul_add(rescale.array()[0], sum.sum()) };
        }
    }
}
