//! Arithmetic of the seam's small types that every backend shares.

use crate::backend::{AttnShape, Coef, Segment};
use crate::check;

impl Segment {
    /// Keys `first..end` of this segment that query `i` sees. Empty when the query stands before every key.
    #[must_use]
    pub fn visible(&self, i: usize, shape: AttnShape) -> (usize, usize) {
        // one past the query's own position
        let own = (i + 1 + self.k_len).saturating_sub(self.q_len);
        let end = if shape.causal || shape.window.is_some() { own.min(self.k_len) } else { self.k_len };
        let first = shape.window.map_or(0, |w| own.saturating_sub(w));
        (first.min(end), end)
    }

    /// Checks that segments lie within `(query rows, key rows)` and that no query is in two of them; says what they cover.
    #[track_caller]
    pub(crate) fn check(segments: &[Self], (n_q, n_k): (usize, usize)) -> Cover {
        let (mut queries, mut keys) = (0, 0);
        for (i, s) in segments.iter().enumerate() {
            assert!(
                s.q_at + s.q_len <= n_q && s.k_at + s.k_len <= n_k,
                "segment {i} {s:?} beyond {n_q} queries or {n_k} keys"
            );
            queries += s.q_len;
            keys += s.k_len;
            // in order, as they nearly always are, a look at the one before is enough
            let before = i.checked_sub(1).map(|j| segments[j]);
            if before.is_some_and(|b| b.q_at + b.q_len > s.q_at || b.k_at + b.k_len > s.k_at) {
                return Self::check_unordered(segments, (n_q, n_k));
            }
        }
        Cover { every_query: queries == n_q, every_key: keys == n_k, keys_apart: true }
    }

    /// [`Segment::check`] by comparing all pairs.
    #[track_caller]
    fn check_unordered(segments: &[Self], (n_q, n_k): (usize, usize)) -> Cover {
        let meet = |a: usize, a_len: usize, b: usize, b_len: usize| a < b + b_len && b < a + a_len;
        let mut keys_apart = true;
        for (i, a) in segments.iter().enumerate() {
            assert!(
                a.q_at + a.q_len <= n_q && a.k_at + a.k_len <= n_k,
                "segment {i} {a:?} beyond {n_q} queries or {n_k} keys"
            );
            for b in &segments[..i] {
                assert!(!meet(a.q_at, a.q_len, b.q_at, b.q_len), "segments {b:?} and {a:?} share queries");
                keys_apart &= !meet(a.k_at, a.k_len, b.k_at, b.k_len);
            }
        }
        let total = |len: fn(&Self) -> usize| segments.iter().map(len).sum::<usize>();
        Cover {
            every_query: total(|s| s.q_len) == n_q,
            every_key: keys_apart && total(|s| s.k_len) == n_k,
            keys_apart,
        }
    }
}

/// What segments cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cover {
    /// No query row is padding.
    pub(crate) every_query: bool,
    /// Every key row belongs to a segment.
    pub(crate) every_key: bool,
    /// No key row belongs to two segments.
    pub(crate) keys_apart: bool,
}

impl AttnShape {
    /// Checks the lengths of an attention's operands against one another; returns query and key rows.
    #[track_caller]
    pub(crate) fn check(&self, q: usize, k: usize, v: usize, y: usize, lse: usize) -> (usize, usize) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "attention: {} query heads over {} key heads",
            self.heads,
            self.kv_heads
        );
        let n_q = check::rows("attention q", q, self.heads * self.head_dim);
        let n_k = check::rows("attention k", k, self.kv_heads * self.head_dim);
        check::same("attention v", v, k);
        check::same("attention y", y, q);
        check::same("attention lse", lse, n_q * self.heads);
        (n_q, n_k)
    }
}

impl Coef<'_> {
    /// The coefficient of row `i`.
    #[must_use]
    #[inline]
    pub fn at(&self, i: usize) -> f32 {
        match self {
            Self::Uniform(c) => *c,
            Self::PerRow(c) => c[i],
        }
    }
}
