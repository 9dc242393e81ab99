//! Softmax attention without a matrix of probabilities (Dao et al. 2022, arXiv:2205.14135; Dao 2023, arXiv:2307.08691).
//!
//! A task is one head of one segment. It lays out the keys once as panels of `K^T`, and runs over blocks of [`QUERIES`]
//! queries and [`KEYS`] keys: scores by a small product in the cache, a row-wise softmax, a small product with the
//! values. Blocks that no query may see are not visited. Block bounds depend on the segment alone, so the bits do not
//! depend on the batch around it, on threads, or on the instruction set.
//!
//! Deliberately missing: a path for one query that reads keys without laying them out, splitting one head's queries
//! among threads.

mod backward;
mod forward;

pub(super) use backward::{Grads, Kept, attention_grad};
pub(super) use forward::attention;

use std::ops::Range;

use crate::backend::{AttnShape, Segment};
use crate::pool::Pool;

/// Queries of a block.
const QUERIES: usize = 16;
/// Keys of a block, at most.
const KEYS: usize = 256;
/// Row stride of a block of scores: not a power of two, whose rows would meet in few sets of the cache.
const STRIDE: usize = KEYS + 16;

/// A block of queries of one segment.
struct Block {
    /// Query rows.
    rows: Range<usize>,
    /// Keys of the segment that some query of the block sees.
    keys: Range<usize>,
    /// Keys that each query sees.
    visible: [(usize, usize); QUERIES],
}

impl Block {
    /// The blocks of a segment, in order.
    fn all(s: Segment, shape: AttnShape) -> impl Iterator<Item = Self> {
        (0..s.q_len).step_by(QUERIES).map(move |first| {
            let count = QUERIES.min(s.q_len - first);
            let mut visible = [(0, 0); QUERIES];
            for (i, v) in visible[..count].iter_mut().enumerate() {
                *v = s.visible(first + i, shape);
            }
            // both ends only grow from query to query
            let keys = visible[0].0..visible[count - 1].1;
            Self { rows: s.q_at + first..s.q_at + first + count, keys, visible }
        })
    }

    /// Ranges of at most [`KEYS`] keys.
    fn key_blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let keys = self.keys.clone();
        keys.clone().step_by(KEYS).map(move |first| first..keys.end.min(first + KEYS))
    }

    /// Columns of `keys` that the block's query `i` sees, counted from its first.
    fn seen(&self, i: usize, keys: &Range<usize>) -> Range<usize> {
        let (first, end) = self.visible[i];
        let (first, end) = (first.clamp(keys.start, keys.end), end.clamp(keys.start, keys.end));
        first - keys.start..end.max(first) - keys.start
    }
}

/// Where a head lies in a row, and how far rows are apart.
#[derive(Clone, Copy)]
struct Columns {
    at: usize,
    stride: usize,
}

impl Columns {
    fn of_queries(shape: AttnShape, head: usize) -> Self {
        Self { at: head * shape.head_dim, stride: shape.heads * shape.head_dim }
    }

    fn of_keys(shape: AttnShape, kv_head: usize) -> Self {
        Self { at: kv_head * shape.head_dim, stride: shape.kv_heads * shape.head_dim }
    }

    /// First element of `row`.
    fn row(self, row: usize) -> usize {
        row * self.stride + self.at
    }
}

/// Runs `task(segments, head)` for all: segments on their own where they share nothing, otherwise one after another.
fn each_head(
    pool: &Pool,
    segments: &[Segment],
    apart: bool,
    heads: usize,
    task: impl Fn(&[Segment], usize) + Sync,
) {
    if apart {
        pool.run(segments.len() * heads, &|i| task(&segments[i / heads..][..1], i % heads));
    } else {
        pool.run(heads, &|head| task(segments, head));
    }
}
