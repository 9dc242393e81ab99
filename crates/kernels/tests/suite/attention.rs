//! Cases of attention: grouped heads, windows, packing, padding, caches.

use antiphon_kernels::{AttnShape, Backend, Segment};

use super::cases::{case, out};
use super::{Bench, Case, Outputs, below, normal};

/// One attention: shape, segments, rows of queries and of keys.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) shape: AttnShape,
    pub(crate) segments: Vec<Segment>,
    pub(crate) n_q: usize,
    pub(crate) n_k: usize,
}

impl Problem {
    /// Sequences that attend to themselves, one after another, with `padding` rows at the end.
    pub(crate) fn packed(
        heads: [usize; 3],
        causal: bool,
        window: Option<usize>,
        lengths: &[usize],
        padding: usize,
    ) -> Self {
        let mut at = 0;
        let segments = lengths.iter().map(|&len| {
            at += len;
            Segment::square(at - len, len)
        });
        let segments = segments.collect();
        Self { shape: shape(heads, causal, window), segments, n_q: at + padding, n_k: at + padding }
    }

    /// `cached` keys before the queries of each sequence.
    pub(crate) fn cached(heads: [usize; 3], window: Option<usize>, lengths: &[(usize, usize)]) -> Self {
        let (mut q_at, mut k_at) = (0, 0);
        let segments = lengths.iter().map(|&(q_len, cached)| {
            let s = Segment { q_at, q_len, k_at, k_len: q_len + cached };
            q_at += q_len;
            k_at += s.k_len;
            s
        });
        let segments = segments.collect();
        Self { shape: shape(heads, true, window), segments, n_q: q_at, n_k: k_at }
    }

    /// Elements of queries, and of keys.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        let s = self.shape;
        [self.n_q * s.heads * s.head_dim, self.n_k * s.kv_heads * s.head_dim]
    }

    /// Output, log-sum-exp and all gradients on random operands.
    pub(crate) fn run<B: Backend>(&self, t: &Bench<'_, B>) -> Outputs {
        let [wide, narrow] = self.sizes();
        let operands = [("q", wide), ("k", narrow), ("v", narrow), ("dy", wide)];
        let [q, k, v, dy] = operands.map(|(name, len)| normal(name, len));
        self.run_on(t, [&q, &k, &v, &dy])
    }

    /// Output, log-sum-exp and all gradients on `[q, k, v, dy]`.
    pub(crate) fn run_on<B: Backend>(&self, t: &Bench<'_, B>, operands: [&[f32]; 4]) -> Outputs {
        let (s, [wide, narrow]) = (self.shape, self.sizes());
        let [q, k, v, dy] = operands.map(|x| t.put(x));
        let (mut y, mut lse) = (t.random("y", wide), t.random("lse", self.n_q * s.heads));
        t.b.attention(q.src(), k.src(), v.src(), &self.segments, s, y.dst(), lse.dst());
        let (mut dq, mut dk, mut dv) = (t.random("dq", wide), t.random("dk", narrow), t.random("dv", narrow));
        t.b.attention_grad(
            q.src(),
            k.src(),
            v.src(),
            y.src(),
            lse.src(),
            dy.src(),
            &self.segments,
            s,
            dq.dst(),
            dk.dst(),
            dv.dst(),
        );
        out([
            ("y", t.read(&y)),
            ("lse", t.read(&lse)),
            ("dq", t.read(&dq)),
            ("dk", t.read(&dk)),
            ("dv", t.read(&dv)),
        ])
    }
}

fn shape([heads, kv_heads, head_dim]: [usize; 3], causal: bool, window: Option<usize>) -> AttnShape {
    AttnShape { heads, kv_heads, head_dim, scale: (head_dim as f32).powf(-0.5), causal, window }
}

pub(crate) fn problems() -> Vec<Problem> {
    let mut all = vec![
        Problem::packed([6, 6, 48], true, None, &[128, 77, 1], 0),
        Problem::packed([4, 2, 32], false, None, &[33, 64, 5], 7),
        Problem::packed([6, 2, 64], true, None, &[40, 91], 3),
        Problem::packed([6, 1, 20], true, Some(9), &[70, 8], 2),
        Problem::packed([2, 2, 33], true, Some(1), &[17], 0),
        Problem::packed([1, 1, 4], false, None, &[1, 2, 3], 1),
        Problem::packed([2, 1, 128], true, None, &[600], 0),
        Problem::packed([2, 2, 16], false, None, &[530], 5),
        Problem::packed([3, 3, 16], true, Some(300), &[700], 0),
        Problem::cached([4, 2, 48], None, &[(1, 130), (1, 0), (1, 517)]),
        Problem::cached([4, 4, 32], Some(40), &[(7, 60), (20, 3)]),
        Problem::cached([2, 1, 24], None, &[(19, 300)]),
    ];
    // fewer keys than queries: the first queries see nothing
    all.push(Problem {
        segments: vec![Segment { q_at: 1, q_len: 20, k_at: 2, k_len: 13 }],
        n_q: 23,
        n_k: 16,
        ..Problem::packed([4, 2, 16], true, None, &[1], 0)
    });
    // segments out of order, and two that read the same keys
    all.push(Problem {
        segments: vec![
            Segment { q_at: 30, q_len: 10, k_at: 0, k_len: 25 },
            Segment { q_at: 0, q_len: 30, k_at: 0, k_len: 30 },
        ],
        n_q: 40,
        n_k: 30,
        ..Problem::packed([4, 2, 16], true, None, &[1], 0)
    });
    all
}

pub(crate) fn cases<B: Backend>() -> Vec<Case<B>> {
    let mut all: Vec<Case<B>> = Vec::new();
    for p in problems() {
        let lengths: Vec<_> = p.segments.iter().map(|s| (s.q_len, s.k_len)).collect();
        all.push(case(format!("attention {:?} {lengths:?}", p.shape), move |t: &Bench<'_, B>| p.run(t)));
    }
    for (n, heads, head_dim) in [(1, 1, 2), (9, 3, 20), (130, 6, 48)] {
        all.push(case(format!("rope {n} {heads}x{head_dim}"), move |t: &Bench<'_, B>| {
            let positions = below("positions", n, 40);
            let table = t.random("table", 40 * head_dim);
            let (mut x, mut z) = (t.random("x", n * heads * head_dim), t.random("x", n * heads * head_dim));
            t.b.rope(x.dst(), heads, head_dim, &positions, table.src(), false);
            t.b.rope(z.dst(), heads, head_dim, &positions, table.src(), true);
            out([("forward", t.read(&x)), ("inverse", t.read(&z))])
        }));
    }
    all
}
