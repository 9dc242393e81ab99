//! Arguments of blocks that are no tensors, with the arithmetic that every backend shares.

use crate::check;

/// One sequence of a batch: its queries, and the keys they may see. Rows outside every segment are padding:
/// attention writes zeros there and reads nothing.
///
/// Keys are aligned to the end: query `i` stands at position `i + k_len - q_len` among the keys, which is
/// `i` in training and the end of the cache in generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First query row.
    pub q_at: usize,
    /// Number of queries.
    pub q_len: usize,
    /// First key row.
    pub k_at: usize,
    /// Number of keys.
    pub k_len: usize,
}

impl Segment {
    /// A sequence that attends to itself: rows `at .. at + len`.
    #[must_use]
    pub fn square(at: usize, len: usize) -> Self {
        Self { q_at: at, q_len: len, k_at: at, k_len: len }
    }

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

/// What an attention block needs to know. Query head `h` reads key head `h / (heads / kv_heads)` (GQA,
/// arXiv:2305.13245).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttnShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplies `q k^T`; usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A query sees keys up to its own position.
    pub causal: bool,
    /// A query sees only the last `window` keys up to its own (Mistral's sliding window): positions
    /// `p - window < j <= p`.
    pub window: Option<usize>,
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

/// Which GELU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `x Φ(x)` by the error function (BERT's `gelu`).
    Erf,
    /// `0.5 x (1 + tanh(sqrt(2/π)(x + 0.044715 x³)))` (GPT-2's `gelu_new`).
    Tanh,
}

/// A counter-based dropout mask: element `i` is kept when word `i` of the Philox stream under `key` with
/// high counter `high` is at least `p · 2^32`, and scaled by `1 / (1 - p)`. Gradient = the same call on the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Philox key, from `antiphon_core::Stream::key`.
    pub key: [u32; 2],
    /// High half of the counter: step and layer.
    pub high: u64,
    /// Probability of dropping, `0 <= p < 1`.
    pub p: f32,
}

/// The distribution of the numbers of a [`Noise`]: mean 0, variance 1, independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// N(0, 1), by Box and Muller 1958 in binary32: at most 6.6 in magnitude.
    Gaussian,
    /// ±1 with equal probability.
    Rademacher,
}

/// A perturbation `scale · z` of one tensor, made where it is needed and never stored: `z_i` is a function of `key`, `high`
/// and `i` alone, through words `4 ⌊i/4⌋ ..` of the Philox stream under `key` with high counter `high`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Philox key, from `antiphon_core::Stream::key`.
    pub key: [u32; 2],
    /// High half of the counter: the seed of the direction.
    pub high: u64,
    /// How `z` is distributed.
    pub law: Law,
    /// Multiplies `z`.
    pub scale: f32,
    /// Index in the tensor of the first element at hand.
    pub first: u64,
}

impl Noise {
    /// The same from `elements` further on.
    #[must_use]
    pub fn skip(self, elements: usize) -> Self {
        Self { first: self.first + elements as u64, ..self }
    }
}

/// The weight of each row's loss in the objective.
#[derive(Clone, Copy, Debug)]
pub enum Coef<'a> {
    /// The same for every row; `1/m` for a mean.
    Uniform(f32),
    /// One per row.
    PerRow(&'a [f32]),
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

/// What a cross-entropy saw, summed over rows without the coefficients.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum of negative log-likelihoods, nats.
    pub nll: f64,
    /// Rows whose label is the argmax (the first among equals).
    pub correct: u64,
    /// Rows.
    pub rows: u64,
}

/// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, Algorithm 2, in the form of PyTorch).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled: `θ ← θ (1 - lr · weight_decay)` first.
    pub weight_decay: f32,
    /// One-based step, for bias correction.
    pub step: u64,
}

impl AdamW {
    /// The decays as they were written: 0.999, not the binary32 nearest to it, whose distance from 1 is off by a part in
    /// 80,000. PyTorch computes `1 - beta` from the former.
    pub(crate) fn betas(&self) -> (f64, f64) {
        (as_written(self.beta1), as_written(self.beta2))
    }
}

/// The number of at most seven decimals that rounds to `x`, where there is one.
fn as_written(x: f32) -> f64 {
    let decimal = (f64::from(x) * 1e7).round() / 1e7;
    if decimal as f32 == x { decimal } else { f64::from(x) }
}

/// Stochastic gradient descent with PyTorch's momentum: `b ← momentum · b + g` (`b = g` at the first step), `θ ← θ - lr · b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate of this step.
    pub lr: f32,
    /// `0` for plain descent, which touches no buffer.
    pub momentum: f32,
    /// Added to the gradient: `g ← g + weight_decay · θ`.
    pub weight_decay: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_as_written() {
        for x in [0.9, 0.999, 0.95, 0.9999999, 0.0, 0.98] {
            assert_eq!(as_written(x as f32), x);
        }
        let odd = 1.0 / 3.0;
        assert_eq!(as_written(odd as f32) as f32, odd as f32);
    }

    #[test]
    fn cover_of_segments() {
        let at = |q_at, q_len, k_at, k_len| Segment { q_at, q_len, k_at, k_len };
        let cover = |s: &[Segment]| {
            let c = Segment::check(s, (10, 12));
            (c.every_query, c.every_key, c.keys_apart)
        };
        assert_eq!(cover(&[at(0, 4, 0, 5), at(4, 6, 5, 7)]), (true, true, true));
        assert_eq!(cover(&[at(4, 6, 5, 7), at(0, 4, 0, 5)]), (true, true, true));
        assert_eq!(cover(&[at(0, 4, 0, 5), at(5, 5, 5, 7)]), (false, true, true));
        assert_eq!(cover(&[at(0, 4, 0, 6), at(4, 6, 5, 7)]), (true, false, false));
        assert_eq!(cover(&[]), (false, false, true));
    }

    #[test]
    #[should_panic(expected = "share queries")]
    fn segments_that_share_queries_are_refused() {
        Segment::check(&[Segment::square(0, 4), Segment::square(3, 2)], (10, 10));
    }

    #[test]
    #[should_panic(expected = "beyond 10 queries or 10 keys")]
    fn segments_beyond_the_rows_are_refused() {
        Segment::check(&[Segment::square(8, 3)], (10, 10));
    }
}
