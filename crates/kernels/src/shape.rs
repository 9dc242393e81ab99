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
