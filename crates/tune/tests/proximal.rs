//! The pull to the round's beginning acts on live parameters: its gradient is that of `ε ‖θ - θ_t‖²`, not zero.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use antiphon_algo::LocalWork;
use antiphon_core::{Round, Stream};
use antiphon_data::Sequence;
use antiphon_kernels::Reference;
use antiphon_tune::HeldOut;
use common::world::{FULL, LORA, Setup, client, sequences};

/// Every example in each step, plain SGD at rate 0.5, so that a step is half the gradient.
fn steps(count: u32, proximal: f64) -> String {
    format!(
        "learning_rate=0.5\nmicro_batch_size=6\nlocal_steps={count}\nmax_grad_norm=0\nproximal={proximal}"
    )
}

fn end(method: &'static str, set: &Arc<[Sequence]>, count: u32, proximal: f64) -> (Vec<f32>, Vec<f32>) {
    let setup = Setup::lm(method, "id='sgd'", &steps(count, proximal));
    let (tuning, start) = setup.build(Reference, std::slice::from_ref(set));
    let delta = (&mut &client(&tuning, 1, set)).run(&start, Round(0)).unwrap().delta;
    let end = start.iter().zip(&delta).map(|(s, d)| s - d).collect();
    (start, end)
}

#[test]
fn its_gradient_is_a_finite_difference() {
    const PULL: f64 = 0.8;
    let set: Arc<[_]> = sequences(6, 5, 0);
    for method in [LORA, FULL] {
        // the first step begins where the round did: nothing pulls yet
        let (start, first) = end(method, &set, 1, PULL);
        assert_eq!(first, end(method, &set, 1, 0.0).1);
        let (_, second) = end(method, &set, 2, PULL);
        // both steps together have the bits of a round; the second alone is a gradient at `first`
        let exact: Vec<f64> =
            first.iter().zip(&second).map(|(a, b)| (f64::from(*a) - f64::from(*b)) / 0.5).collect();
        let (tuning, _) =
            Setup::lm(method, "id='sgd'", &steps(1, 0.0)).build(Reference, std::slice::from_ref(&set));
        let held = HeldOut { sequences: &set, bytes: None, label_words: None };
        let loss = |theta: &[f32]| {
            let apart: f64 =
                theta.iter().zip(&start).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            tuning.evaluate(theta, held).unwrap().loss().unwrap() + PULL * apart
        };
        let mut stream = Stream::new(3, antiphon_core::Purpose::Test);
        for _ in 0..6 {
            let eps = 1e-2_f32;
            let v: Vec<f32> = first.iter().map(|_| stream.uniform_f32() - 0.5).collect();
            let at =
                |sign: f32| loss(&first.iter().zip(&v).map(|(x, v)| x + sign * eps * v).collect::<Vec<_>>());
            let estimate = (at(1.0) - at(-1.0)) / (2.0 * f64::from(eps));
            let slope: f64 = exact.iter().zip(&v).map(|(g, v)| g * f64::from(*v)).sum();
            let pull: f64 = 2.0
                * PULL
                * first.iter().zip(&start).zip(&v).map(|((a, b), v)| f64::from((a - b) * v)).sum::<f64>();
            let scale = slope.abs().max(0.05);
            assert!((slope - estimate).abs() < 2e-2 * scale, "{method}: {slope} {estimate}");
            // what the released program computed: the same without the pull
            assert!(pull.abs() > 1e-4, "the direction does not see the pull");
        }
        assert_ne!(second, end(method, &set, 2, 0.0).1);
    }
}

#[test]
fn a_strong_pull_keeps_the_end_near_the_beginning() {
    let set: Arc<[_]> = sequences(6, 5, 0);
    let moved = |pull| {
        let (start, end) = end(LORA, &set, 12, pull);
        start.iter().zip(&end).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let (free, weak, strong) = (moved(0.0), moved(0.05), moved(0.5));
    assert!(free > weak && weak > strong && strong > 0.0, "{free} {weak} {strong}");
}
