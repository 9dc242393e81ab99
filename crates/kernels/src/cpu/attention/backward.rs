//! The gradient, recomputing probabilities from the log-sum-exp (arXiv:2205.14135, section 3.1 and appendix B.4).
//!
//! With `P = exp(S - lse)`, `D = rowsum(dY ⊙ Y)`: `dV = P^T dY`, `dS = scale · P ⊙ (dY V^T - D)`, `dQ = dS K`,
//! `dK = dS^T Q`. A task is one key head, which takes its query heads in order.

use std::ops::Range;

use super::super::Cpu;
use super::super::buf::scratch;
use super::super::math::exp;
use super::super::simd::{Kernel, Lanes, Simd, dispatch, vectors};
use super::super::split::Parts;
use super::{Block, Columns, QUERIES, STRIDE, each_head};
use crate::backend::{AttnShape, Segment};
use crate::check;
use crate::gemm::Operand;
use crate::gemm::direct::{Right, pack, packed_len, product};

/// What the forward pass read and kept, and the gradient of its output.
#[derive(Clone, Copy)]
pub(in super::super) struct Kept<'a> {
    pub(in super::super) q: &'a [f32],
    pub(in super::super) k: &'a [f32],
    pub(in super::super) v: &'a [f32],
    pub(in super::super) y: &'a [f32],
    pub(in super::super) lse: &'a [f32],
    pub(in super::super) dy: &'a [f32],
}

/// Where the gradients go.
pub(in super::super) struct Grads<'a> {
    pub(in super::super) dq: &'a mut [f32],
    pub(in super::super) dk: &'a mut [f32],
    pub(in super::super) dv: &'a mut [f32],
}

pub(in super::super) fn attention_grad(
    cpu: &Cpu,
    kept: Kept<'_>,
    segments: &[Segment],
    shape: AttnShape,
    to: Grads<'_>,
) {
    let Kept { q, k, v, y, lse, dy } = kept;
    let rows = shape.check(q.len(), k.len(), v.len(), y.len(), lse.len());
    check::same("attention dy", dy.len(), y.len());
    check::same("attention dq", to.dq.len(), q.len());
    check::same("attention dk", to.dk.len(), k.len());
    check::same("attention dv", to.dv.len(), v.len());
    let cover = Segment::check(segments, rows);
    if !cover.every_query {
        to.dq.fill(0.0);
    }
    // where every key has one segment, its task clears it while it is in the cache
    let clear = cover.every_key && cover.keys_apart;
    if !clear {
        to.dk.fill(0.0);
        to.dv.fill(0.0);
    }
    let (dq, dk, dv) = (Parts::new(to.dq), Parts::new(to.dk), Parts::new(to.dv));
    each_head(&cpu.pool, segments, cover.keys_apart, shape.kv_heads, |segments, kv_head| {
        for &s in segments {
            Task { cpu, kept, shape, kv_head, s, dq: &dq, dk: &dk, dv: &dv }.run(clear);
        }
    });
}

/// One key head of one segment.
struct Task<'a> {
    cpu: &'a Cpu,
    kept: Kept<'a>,
    shape: AttnShape,
    kv_head: usize,
    s: Segment,
    dq: &'a Parts<'a, f32>,
    dk: &'a Parts<'a, f32>,
    dv: &'a Parts<'a, f32>,
}

/// A task's scratch.
struct Scratch<'a> {
    /// `K^T` in panels.
    keys: &'a [f32],
    /// `V^T` in panels.
    values: &'a [f32],
    /// Scores, then `P`.
    p: &'a mut [f32],
    /// `dY V^T`, then `dS`.
    ds: &'a mut [f32],
}

impl Task<'_> {
    fn run(&self, clear: bool) {
        let (isa, s, d) = (self.cpu.isa, self.s, self.shape.head_dim);
        let keys = Columns::of_keys(self.shape, self.kv_head);
        if clear {
            for row in s.k_at..s.k_at + s.k_len {
                for g in [self.dk, self.dv] {
                    // SAFETY: this task alone writes this head of this key.
                    unsafe { g.part(keys.row(row), d) }.fill(0.0);
                }
            }
        }
        if s.k_len == 0 {
            // no key, no gradient; the queries' own must still be written
            return self.clear_queries();
        }
        let panels = packed_len(d, s.k_len);
        scratch(2 * panels + 2 * QUERIES * STRIDE, |all| {
            let (packed, rest) = all.split_at_mut(2 * panels);
            let (of_keys, of_values) = packed.split_at_mut(panels);
            let (p, ds) = rest.split_at_mut(QUERIES * STRIDE);
            pack(isa, &self.kept.k[keys.row(s.k_at)..], keys.stride, d, s.k_len, of_keys);
            pack(isa, &self.kept.v[keys.row(s.k_at)..], keys.stride, d, s.k_len, of_values);
            let mut scratch = Scratch { keys: of_keys, values: of_values, p, ds };
            let group = self.shape.heads / self.shape.kv_heads;
            for head in self.kv_head * group..(self.kv_head + 1) * group {
                for block in Block::all(s, self.shape) {
                    self.block(head, &block, &mut scratch);
                }
            }
        });
    }

    fn clear_queries(&self) {
        let group = self.shape.heads / self.shape.kv_heads;
        let queries = Columns::of_queries(self.shape, self.kv_head * group);
        for row in self.s.q_at..self.s.q_at + self.s.q_len {
            // SAFETY: this task alone writes these heads of this query.
            unsafe { self.dq.part(queries.row(row), group * self.shape.head_dim) }.fill(0.0);
        }
    }

    fn block(&self, head: usize, block: &Block, scratch: &mut Scratch<'_>) {
        let Kept { q, k, y, lse, dy, .. } = self.kept;
        let (isa, shape, d, count) = (self.cpu.isa, self.shape, self.shape.head_dim, block.rows.len());
        let (queries, keys) = (Columns::of_queries(shape, head), Columns::of_keys(shape, self.kv_head));
        let at = queries.row(block.rows.start);
        let of_rows = |x| Operand { rs: queries.stride, ..Operand::rows(x, d) };
        let (q_rows, dy_rows) = (&q[at..], &dy[at..]);
        let dq = self.dq.element(at);
        if block.keys.is_empty() {
            for row in block.rows.clone() {
                // SAFETY: this task alone writes this head of this query.
                unsafe { self.dq.part(queries.row(row), d) }.fill(0.0);
            }
        }
        for seen in block.key_blocks() {
            let cols = seen.len();
            let panels = |data| Right::Packed { data, n: self.s.k_len };
            let (p, ds) = (scratch.p.as_mut_ptr(), scratch.ds.as_mut_ptr());
            let (scores, values) = (panels(scratch.keys), panels(scratch.values));
            // SAFETY: the blocks of scores are ours, and a block of keys fits their rows.
            unsafe {
                product(isa, count, seen.clone(), d, shape.scale, of_rows(q_rows), scores, false, p, STRIDE);
                product(isa, count, seen.clone(), d, 1.0, of_rows(dy_rows), values, false, ds, STRIDE);
            }
            let rows = Rows { y: &y[at..], dy: dy_rows, stride: queries.stride, d };
            let lse = &lse[block.rows.start * shape.heads + head..];
            let (p, ds) = (&mut *scratch.p, &mut *scratch.ds);
            dispatch(
                isa,
                Softmax { block, seen: &seen, rows, lse, heads: shape.heads, scale: shape.scale, p, ds },
            );
            let first = keys.row(self.s.k_at + seen.start);
            let (dk, dv) = (self.dk.element(first), self.dv.element(first));
            let turned = |x| Operand { rs: 1, cs: STRIDE, ..Operand::rows(x, cols) };
            let right = |data| Right::Rows { data, stride: queries.stride };
            let to_dq = Operand { rs: STRIDE, ..Operand::rows(ds, cols) };
            let k_rows = Right::Rows { data: &k[first..], stride: keys.stride };
            let add = seen.start != block.keys.start;
            // SAFETY: this task alone touches this head of these keys and queries, which lie within the segment.
            unsafe {
                product(isa, cols, 0..d, count, 1.0, turned(p), right(dy_rows), true, dv, keys.stride);
                product(isa, cols, 0..d, count, 1.0, turned(ds), right(q_rows), true, dk, keys.stride);
                product(isa, count, 0..d, cols, 1.0, to_dq, k_rows, add, dq, queries.stride);
            }
        }
    }
}

/// Rows of the output and its gradient.
struct Rows<'a> {
    y: &'a [f32],
    dy: &'a [f32],
    stride: usize,
    d: usize,
}

/// Turns scores into probabilities and `dY V^T` into `dS`; zeros where a query does not see.
struct Softmax<'a> {
    block: &'a Block,
    seen: &'a Range<usize>,
    rows: Rows<'a>,
    lse: &'a [f32],
    heads: usize,
    scale: f32,
    p: &'a mut [f32],
    ds: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { block, seen, rows, lse, heads, scale, p, ds } = self;
        let scale = s.splat(scale);
        let both = p.chunks_exact_mut(STRIDE).zip(ds.chunks_exact_mut(STRIDE)).take(block.rows.len());
        for (i, (p, ds)) in both.enumerate() {
            let own = block.seen(i, seen);
            for x in [&mut *p, &mut *ds] {
                x[..own.start].fill(0.0);
                x[own.end..seen.len()].fill(0.0);
            }
            let (y, dy) = (&rows.y[i * rows.stride..][..rows.d], &rows.dy[i * rows.stride..][..rows.d]);
            let mut dot = s.splat(0.0);
            for at in vectors(rows.d) {
                dot = s.read(y, at).mul_add(s.read(dy, at), dot);
            }
            let (shift, delta) = (s.splat(lse[i * heads]), s.splat(dot.sum()));
            let (p, ds) = (&mut p[own.clone()], &mut ds[own]);
            for at in vectors(p.len()) {
                let e = exp(s, s.read(p, at) - shift);
                e.write(p, at);
                ((s.read(ds, at) - delta) * e * scale).write(ds, at);
            }
        }
    }
}
