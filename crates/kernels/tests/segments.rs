//! Attention over arbitrary segments: the CPU against the reference, and each segment against itself alone.

#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

mod suite;

use antiphon_kernels::{AttnShape, Cpu, Reference, Segment};
use proptest::prelude::*;
use suite::attention::Problem;
use suite::{Bench, normal};

/// Any heads, any mask, up to four sequences with caches, and gaps of padding between them.
fn problems() -> impl Strategy<Value = Problem> {
    let heads = (1usize..4, 1usize..4, 1usize..40);
    let masks = (any::<bool>(), prop::option::of(1usize..50));
    // queries, keys beyond them (or missing), padding before
    let sequences = prop::collection::vec((0usize..40, -3isize..300, 0usize..4), 1..5);
    (heads, masks, sequences, 0usize..4).prop_map(
        |((kv_heads, group, head_dim), (causal, window), lengths, tail)| {
            let (mut q_at, mut k_at) = (0, 0);
            let segments: Vec<Segment> = lengths
                .into_iter()
                .map(|(q_len, more, gap)| {
                    let k_len = q_len.saturating_add_signed(more);
                    let s = Segment { q_at: q_at + gap, q_len, k_at: k_at + gap, k_len };
                    (q_at, k_at) = (s.q_at + q_len, s.k_at + k_len);
                    s
                })
                .collect();
            let heads = kv_heads * group;
            let scale = (head_dim as f32).powf(-0.5);
            let shape = AttnShape { heads, kv_heads, head_dim, scale, causal, window };
            Problem { shape, segments, n_q: q_at + tail + 1, n_k: k_at + tail + 1 }
        },
    )
}

fn operands(p: &Problem) -> [Vec<f32>; 4] {
    let [wide, narrow] = p.sizes();
    [("q", wide), ("k", narrow), ("v", narrow), ("dy", wide)].map(|(name, len)| normal(name, len))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn the_cpu_agrees_with_the_reference(p in problems()) {
        let cpu = Cpu::threads(2);
        let found = p.run(&Bench { b: &cpu });
        let truth = p.run(&Bench { b: &Reference });
        for ((name, a), (_, b)) in found.iter().zip(&truth) {
            // a gradient may vanish (one visible key), so the yardstick is the operands' size, which is 1 an element
            let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
            let error = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
            let yardstick = norm(&mut b.iter().copied()).max((b.len() as f64).sqrt());
            prop_assert!(error <= 3e-6 * yardstick, "{name}: {error:e} of {yardstick:e}");
        }
    }

    #[test]
    fn a_segment_has_the_same_bits_alone(p in problems()) {
        let cpu = Cpu::serial();
        let all = operands(&p);
        let whole = p.run_on(&Bench { b: &cpu }, [&all[0], &all[1], &all[2], &all[3]]);
        let (q_width, k_width) = (p.shape.heads * p.shape.head_dim, p.shape.kv_heads * p.shape.head_dim);
        for s in p.segments.iter().filter(|s| s.q_len > 0 && s.k_len > 0) {
            let alone = Problem {
                segments: vec![Segment { q_at: 0, k_at: 0, ..*s }],
                n_q: s.q_len,
                n_k: s.k_len,
                ..p.clone()
            };
            let q_part = |x: &[f32], width: usize| x[s.q_at * width..][..s.q_len * width].to_vec();
            let k_part = |x: &[f32], width: usize| x[s.k_at * width..][..s.k_len * width].to_vec();
            let (q, dy) = (q_part(&all[0], q_width), q_part(&all[3], q_width));
            let (k, v) = (k_part(&all[1], k_width), k_part(&all[2], k_width));
            let single = alone.run_on(&Bench { b: &cpu }, [&q, &k, &v, &dy]);
            for ((name, a), (_, b)) in single.iter().zip(&whole) {
                let (at, width) = match name.as_str() {
                    "y" | "dq" => (s.q_at, q_width),
                    "lse" => (s.q_at, p.shape.heads),
                    _ => (s.k_at, k_width),
                };
                let b = &b[at * width..][..a.len()];
                prop_assert!(a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()), "{name} differs");
            }
        }
    }
}

/// The last row of a causal pass over `n` tokens and one query against a cache of `n` keys see the same numbers.
#[test]
fn generation_continues_what_training_computes() {
    let cpu = Cpu::serial();
    for n in [1, 2, 47, 300] {
        let whole = Problem::packed([4, 2, 20], true, None, &[n], 0);
        let one = Problem::cached([4, 2, 20], None, &[(1, n - 1)]);
        let [q, k, v, dy] = operands(&whole);
        let last = |x: &[f32]| x[(n - 1) * 80..].to_vec();
        let trained = whole.run_on(&Bench { b: &cpu }, [&q, &k, &v, &dy]);
        let generated = one.run_on(&Bench { b: &cpu }, [&last(&q), &k, &v, &last(&dy)]);
        assert_eq!(trained[0].1[(n - 1) * 80..], generated[0].1[..], "{n} tokens");
    }
}
