//! Laws that every registry entry obeys; a new entry is tested the moment it is listed (and must bring a sample of
//! its settings, or the first test fails).

#![allow(clippy::unwrap_used, reason = "a test")]

mod toys;

use antiphon_algo::reducers::sum::{BATCH, Sum};
use antiphon_algo::*;
use antiphon_core::registry::{Entry, build};
use antiphon_core::{ClientId, Noise, Payload, Purpose, Round, Stream, Weight};
use antiphon_testkit::laws::every_entry;
use proptest::prelude::*;
use toys::*;

/// Tables that between them use every setting.
const SAMPLES: &[&str] = &[
    "id = 'weight'\nby = 'examples'",
    "id = 'weight'\nby = 'examples'\ncap = 3.7",
    "id = 'weight'\nby = 'uniform'",
    "id = 'clip'\nl2 = 0.6",
    "id = 'sum'",
    "id = 'median'",
    "id = 'trimmed_mean'\ntrim = 0.2",
    "id = 'fedavg'",
    "id = 'sgdm'\nlearning_rate = 0.7\nmomentum = 0.9",
];

fn samples<T: ?Sized>(list: &[&Entry<T>]) -> Vec<(&'static str, Box<T>)> {
    every_entry(list, SAMPLES).unwrap()
}

fn normals(n: usize, seed: u64) -> Vec<f32> {
    let mut s = Stream::new(seed, Purpose::Test);
    (0..n).map(|_| s.standard_normal() as f32).collect()
}

#[test]
fn descriptions_begin_with_the_id() {
    let first = |text: String| text.split(' ').next().unwrap().to_owned();
    samples(LAYERS).iter().for_each(|(id, l)| assert_eq!(first(l.describe()), *id));
    samples(REDUCERS).iter().for_each(|(id, r)| assert_eq!(first(r.describe()), *id));
    samples(SERVER_STEPS).iter().for_each(|(id, s)| assert_eq!(first(s.describe()), *id));
}

/// Small numbers among large ones that cancel, so that a sum in f64 depends on the order of additions.
fn wild(n: usize, seed: u64) -> Vec<f32> {
    let mut s = Stream::new(seed, Purpose::Test);
    let one = |s: &mut Stream| match s.below(4) {
        0 => 2f32.powi(60),
        1 => -2f32.powi(60),
        _ => s.standard_normal() as f32,
    };
    (0..n).map(|_| one(&mut s)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Carrier, length and norm of what leaves a client are as promised, and the server agrees.
    #[test]
    fn every_layer_keeps_its_contract(
        d in 1_usize..70,
        seed in 0_u64..1000,
        log_scale in -30_i32..30,
        weight in prop_oneof![1e-3..10.0_f64, 1.0..1e6_f64],
        clipped in any::<bool>(),
    ) {
        let x: Vec<f32> = normals(d, seed).iter().map(|v| v * 2f32.powi(log_scale)).collect();
        let mut ran = 0;
        for (id, layer) in samples(LAYERS) {
            let mut layers = Vec::new();
            if clipped {
                layers.push(build("layer", LAYERS, &"id = 'clip'\nl2 = 2.5".parse().unwrap()).unwrap());
            }
            layers.push(layer);
            let p = plan(layers, Sum).check(&schema(d)).unwrap();
            let cohort = [ClientId(4)];
            let cx = client(4, weight, &cohort);
            let y = p.encode(x.clone(), &cx, &mut p.slots()).unwrap();
            prop_assert_eq!(y.len(), p.wire().len, "{}", &id);
            if let (Payload::Real(y), Some(bound)) = (&y, p.wire().l2) {
                let norm = y.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                prop_assert!(norm <= bound, "{}: {} > {}", &id, norm, bound);
            }
            prop_assert!(p.admit(y, cx.weight).is_ok(), "{}", &id);
            ran += 1;
        }
        prop_assert!(ran >= LAYERS.len());
    }

    /// Any order of arrival, any number of threads, skipped clients: the same bits as adding in order.
    #[test]
    fn a_tally_depends_on_clients_and_not_on_who_came_first(
        clients in 1_usize..(3 * BATCH),
        d in 1_usize..40,
        seed in 0_u64..1000,
        threads in 1_usize..5,
    ) {
        let plan = plan(vec![], Sum).check(&schema(d)).unwrap();
        let cohort: Vec<ClientId> = (0..clients as u64).map(|k| ClientId(3 * k + 1)).collect();
        let mut s = Stream::new(seed, Purpose::Test);
        let absent: Vec<bool> = (0..clients).map(|_| s.below(4) == 0).collect();
        let xs: Vec<Vec<f32>> = (0..clients).map(|k| wild(d, seed + 1000 * k as u64)).collect();
        let run = |order: &[usize], say_absent: bool, threads: usize| {
            let mut tally = plan.open(&cohort);
            for &k in order {
                if !absent[k] {
                    let bytes: Vec<u8> = xs[k].iter().flat_map(|v| v.to_le_bytes()).collect();
                    // half of them still in their message
                    let x = if k % 2 == 0 { Payload::Real(xs[k].clone()) } else { Payload::RealBytes(bytes.into()) };
                    tally.accept(cohort[k], plan.admit(x, Weight::ONE).unwrap()).unwrap();
                } else if say_absent {
                    tally.skip(cohort[k]).unwrap();
                }
            }
            let accepted = tally.accepted();
            let mut cx = ServerCx { round: Round(0), accepted, noise: &mut Always(0.0), threads };
            tally.close(&mut cx, &mut plan.slots())
        };
        let straight: Vec<usize> = (0..clients).collect();
        let mut shuffled = straight.clone();
        s.shuffle(&mut shuffled);
        let want = run(&straight, true, 1);
        prop_assert_eq!(&run(&shuffled, true, threads), &want);
        prop_assert_eq!(&run(&shuffled, false, threads), &want);
        match want {
            Ok(y) => for (j, y) in y.iter().enumerate() {
                let sum: f64 = (0..clients).filter(|&k| !absent[k]).fold(0.0, |s, k| s + f64::from(xs[k][j]));
                prop_assert_eq!(*y, sum as f32);
            },
            Err(e) => {
                prop_assert_eq!(e, RoundError::Reduce(ReduceError::Empty));
                prop_assert!(absent.iter().all(|a| *a));
            }
        }
    }

    /// Merging partial results is adding their rows; on dyadic numbers, where sums are exact, to the bit.
    #[test]
    fn partial_results_merge(
        parts in prop::collection::vec(0_usize..(BATCH + 3), 1..4),
        d in 1_usize..20,
        seed in 0_u64..1000,
    ) {
        let total: usize = parts.iter().sum();
        let mut s = Stream::new(seed, Purpose::Test);
        let rows: Vec<Vec<f32>> =
            (0..total).map(|_| (0..d).map(|_| s.below(1 << 12) as f32 * 0.125 - 200.0).collect()).collect();
        let up = plan(vec![], Sum).check(&schema(d)).unwrap().wire().clone();
        for (id, reducer) in samples(REDUCERS) {
            let mut whole = reducer.start(&up);
            let mut merged = reducer.start(&up);
            let mut at = 0;
            for &n in &parts {
                let mut part = reducer.start(&up);
                for row in &rows[at..at + n] {
                    part.add(Payload::Real(row.clone())).unwrap();
                    whole.add(Payload::Real(row.clone())).unwrap();
                }
                merged.merge(part).unwrap();
                at += n;
            }
            prop_assert_eq!(merged.finish(2), whole.finish(1), "{}", id);
        }
    }
}

#[test]
fn every_reducer_refuses_an_empty_round_and_rows_of_another_shape() {
    let up = plan(vec![], Sum).check(&schema(2)).unwrap().wire().clone();
    for (id, reducer) in samples(REDUCERS) {
        assert_eq!(reducer.start(&up).finish(1), Err(ReduceError::Empty), "{id}");
        let mut acc = reducer.start(&up);
        acc.add(Payload::Real(vec![1.0, 2.0])).unwrap();
        assert_eq!(
            acc.add(Payload::Real(vec![0.0; 3])),
            Err(ReduceError::Length { expected: 2, found: 3 }),
            "{id}"
        );
        let ring = acc.add(Payload::Ring(vec![0; 2]));
        assert_eq!(ring, Err(ReduceError::Carrier { expected: Carrier::Real, found: Carrier::Ring }), "{id}");
        let other = Contract { len: 5, ..up.clone() };
        assert_eq!(acc.merge(reducer.start(&other)), Err(ReduceError::Merge), "{id}");
        assert_eq!(acc.finish(1), Ok(Payload::Real(vec![1.0, 2.0])), "{id}: refusals change nothing");
    }
}

#[test]
fn sums_over_the_ring_wrap() {
    let up = Contract {
        carrier: Carrier::Ring,
        len: 2,
        summable: true,
        l2: None,
        view: View::SumOnly,
        weighted: false,
    };
    let mut acc = Sum.start(&up);
    acc.add(Payload::Ring(vec![u64::MAX, 5])).unwrap();
    let mut part = Sum.start(&up);
    part.add(Payload::Ring(vec![3, 6])).unwrap();
    acc.merge(part).unwrap();
    assert_eq!(acc.finish(1), Ok(Payload::Ring(vec![2, 11])));
}

#[test]
fn a_tally_takes_each_client_once_and_no_stranger() {
    let plan = plan(vec![], Sum).check(&schema(1)).unwrap();
    let x = || plan.admit(Payload::Real(vec![1.0]), Weight::ONE).unwrap();
    let mut tally = plan.open(&[ClientId(1), ClientId(2), ClientId(3)]);
    tally.accept(ClientId(2), x()).unwrap();
    tally.skip(ClientId(1)).unwrap();
    for id in [ClientId(1), ClientId(2)] {
        assert_eq!(tally.accept(id, x()), Err(TallyError::Twice(id)));
        assert_eq!(tally.skip(id), Err(TallyError::Twice(id)));
    }
    assert_eq!(tally.accept(ClientId(9), x()), Err(TallyError::Stranger(ClientId(9))));
    assert_eq!(tally.accepted(), 1);
}

#[test]
fn every_server_step_continues_from_its_state_with_the_same_bits() {
    let d = 5000;
    for (id, mut one) in samples(SERVER_STEPS) {
        let table = SAMPLES.iter().find(|t| t.contains(&format!("'{id}'"))).unwrap().parse().unwrap();
        let (mut theta, mut again) = (normals(d, 1), normals(d, 1));
        let mut two = server_step(&table).unwrap();
        for r in 0..4 {
            let delta = normals(d, 10 + r);
            one.step(&mut theta, &delta, 1).unwrap();
            // a crash after every round, and another number of threads
            let mut fresh = server_step(&table).unwrap();
            fresh.load(two.state()).unwrap();
            two = fresh;
            two.step(&mut again, &delta, 3).unwrap();
        }
        assert_eq!(theta, again, "{id}");
        assert_eq!(one.state(), two.state(), "{id}");
    }
}

#[test]
fn every_server_step_descends_and_leaves_everything_alone_on_an_error() {
    for (id, mut step) in samples(SERVER_STEPS) {
        let mut theta = vec![1.0, 2.0];
        step.step(&mut theta, &[0.0, 0.0], 1).unwrap();
        assert_eq!(theta, [1.0, 2.0], "{id}: nothing to descend along");
        let state = step.state();
        let e = step.step(&mut theta, &[1.0; 3], 1).unwrap_err();
        assert!(matches!(e, StepError::Length { expected: 2, found: 3, .. }), "{id}");
        assert_eq!((&theta[..], &step.state()), (&[1.0, 2.0][..], &state), "{id}");
        step.step(&mut theta, &[0.5, -0.5], 1).unwrap();
        assert!(theta[0] < 1.0 && theta[1] > 2.0, "{id}: descends along delta");
        let foreign = State::from([("second_moment".to_owned(), vec![0.0; 2])]);
        assert!(matches!(step.load(foreign), Err(StepError::Unknown { .. })), "{id}");
    }
}

#[test]
fn momentum_of_a_constant_gradient_is_the_geometric_sum() {
    let (lr, mu, g, n) = (0.5_f64, 0.8_f64, 3.0, 12);
    let mut step = server_step(&"id = 'sgdm'\nlearning_rate = 0.5\nmomentum = 0.8".parse().unwrap()).unwrap();
    let mut theta = [0.0_f32];
    for _ in 0..n {
        step.step(&mut theta, &[g as f32], 1).unwrap();
    }
    // m_k = g (1 - mu^k) / (1 - mu); theta = -lr sum_k m_k
    let m = g * (1.0 - mu.powi(n)) / (1.0 - mu);
    let theta_n = -lr * g / (1.0 - mu) * (f64::from(n) - mu * (1.0 - mu.powi(n)) / (1.0 - mu));
    assert!((f64::from(step.state()["momentum"][0]) - m).abs() < 1e-4);
    assert!((f64::from(theta[0]) - theta_n).abs() < 1e-3, "{} {theta_n}", theta[0]);
}
