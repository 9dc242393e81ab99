//! Plans that cannot work are refused before round 0, with the reason; those that can, do what they say.

#![allow(clippy::unwrap_used, reason = "a test")]

mod toys;

use antiphon_algo::layers::clip::Clip;
use antiphon_algo::layers::weight::{By, Settings, WeightedMean};
use antiphon_algo::reducers::sum::Sum;
use antiphon_algo::*;
use antiphon_core::{ClientId, Payload, Weight};
use toys::*;

fn clip(l2: f64) -> Box<dyn Layer> {
    Box::new(Clip::new(l2).unwrap())
}

fn weight(cap: Option<f64>) -> Box<dyn Layer> {
    Box::new(WeightedMean::from_settings(Settings { by: By::Examples, cap }).unwrap())
}

fn uniform() -> Box<dyn Layer> {
    Box::new(WeightedMean::uniform())
}

fn gaussian() -> Box<dyn Layer> {
    Box::new(Gaussian(0.5))
}

fn fixed() -> Box<dyn Layer> {
    Box::new(FixedPoint(24))
}

fn mask() -> Box<dyn Layer> {
    Box::new(Mask)
}

#[test]
fn plans_that_cannot_work_are_refused_with_what_would() {
    let refusal = |p: Plan| p.check(&schema(3)).unwrap_err();
    let cases = [
        ("noise without a sensitivity", plan(vec![gaussian()], Sum), "gaussian"),
        (
            "uncapped example counts destroy it",
            plan(vec![clip(1.0), weight(None), gaussian()], Sum),
            "gaussian",
        ),
        ("a mask over reals", plan(vec![clip(1.0), mask()], Sum), "mask"),
        ("a ring that may wrap", plan(vec![fixed()], Sum), "fixed_point"),
        ("clipping in the ring", plan(vec![clip(1.0), fixed(), clip(1.0)], Sum), "clip"),
        ("weights in the ring", plan(vec![clip(1.0), fixed(), weight(None)], Sum), "weight"),
        ("a sum of index lists", plan(vec![Box::new(TopK(2))], Sum), "sum"),
        ("a mask over index lists", plan(vec![Box::new(TopK(2)), mask()], Sum), "mask"),
        ("a median of masked vectors", plan(vec![clip(1.0), fixed(), mask()], Median), "median"),
        ("a median of ring words", plan(vec![clip(1.0), fixed()], Median), "median"),
        ("a median of weighted vectors", plan(vec![weight(None)], Median), "median"),
        ("two weightings", plan(vec![weight(None), uniform()], Sum), "weight"),
    ];
    for (why, plan, stage) in cases {
        let e = refusal(plan);
        assert_eq!(e.stage, stage, "{why}");
        assert!(!e.remedy.is_empty() && e.to_string().contains(e.remedy), "{why}");
    }
    assert_eq!(
        refusal(plan(vec![clip(1.0), weight(None), gaussian()], Sum)).to_string(),
        "`gaussian` needs real coordinates with an l2 bound, but receives 4 real coordinates without an l2 bound, \
         multiplied by a weight; put `clip` before it, and cap the weights"
    );
}

#[test]
fn the_same_plans_with_the_remedy_are_accepted() {
    for p in [
        plan(vec![clip(1.0), gaussian()], Sum),
        plan(vec![clip(1.0), weight(Some(10.0)), gaussian()], Sum),
        plan(vec![clip(1.0), uniform(), gaussian()], Sum),
        plan(vec![clip(1.0), weight(Some(10.0)), fixed(), mask()], Sum),
        plan(vec![], Median),
        plan(vec![weight(None), clip(1.0)], Sum),
    ] {
        let text = p.describe();
        assert!(p.check(&schema(3)).is_ok(), "{text}");
    }
}

#[test]
fn the_contract_at_the_wire_is_the_promise_of_the_last_layer() {
    let p = plan(vec![clip(2.0), weight(Some(10.0))], Sum).check(&schema(5)).unwrap();
    assert_eq!((p.wire().len, p.wire_bytes(), p.wire().carrier), (6, 24, Carrier::Real));
    let bound = p.wire().l2.unwrap();
    assert!(bound >= 10.0 * 5f64.sqrt() && bound < 10.0 * 5f64.sqrt() * 1.000_001);
    let ring = plan(vec![clip(2.0), fixed()], Sum).check(&schema(5)).unwrap();
    assert_eq!((ring.wire_bytes(), ring.wire().carrier), (40, Carrier::Ring));
}

#[test]
fn a_bound_holds_in_binary32_and_not_only_on_paper() {
    // 0.1 is rounded up, so both coordinates are longer than the cap says
    let layer = weight(Some(0.1));
    let up = Contract { l2: Some(1.0), ..plan(vec![], Sum).check(&schema(1)).unwrap().wire().clone() };
    let x = layer.client(Payload::Real(vec![1.0]), &up, &client(0, 5.0, &[ClientId(0)]), &mut State::new());
    let norm = x.unwrap().into_real().unwrap().iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    assert!(norm > 0.1 * 2f64.sqrt() && norm <= layer.contract(&up).unwrap().l2.unwrap());
}

#[test]
fn digests_tell_plans_apart_by_every_setting_and_by_order() {
    let digest = |p: Plan| p.check(&schema(2)).unwrap().digest();
    let all = [
        digest(plan(vec![], Sum)),
        digest(plan(vec![], Median)),
        digest(plan(vec![weight(None)], Sum)),
        digest(plan(vec![weight(Some(3.0))], Sum)),
        digest(plan(vec![weight(Some(4.0))], Sum)),
        digest(plan(vec![uniform()], Sum)),
        digest(plan(vec![clip(1.0), uniform()], Sum)),
        digest(plan(vec![uniform(), clip(1.0)], Sum)),
    ];
    for (i, a) in all.iter().enumerate() {
        assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
    }
    assert_eq!(digest(plan(vec![weight(None)], Sum)), all[2]);
}

#[test]
fn a_weighted_mean_is_that_of_hand() {
    let p = plan(vec![weight(None)], Sum).check(&schema(2)).unwrap();
    assert_eq!(round(&p, &[(1.0, vec![0.0, 8.0]), (3.0, vec![4.0, 0.0])]).unwrap(), [3.0, 2.0]);
    let capped = plan(vec![weight(Some(1.0))], Sum).check(&schema(2)).unwrap();
    assert_eq!(round(&capped, &[(1.0, vec![0.0, 8.0]), (1e9, vec![4.0, 0.0])]).unwrap(), [2.0, 4.0]);
    assert_eq!(p.counts(Weight::new(7.0).unwrap()), 7.0);
    assert_eq!(capped.counts(Weight::new(7.0).unwrap()), 1.0);
}

#[test]
fn noise_is_calibrated_to_the_bound_that_clients_enforce() {
    let p = plan(vec![clip(2.0), gaussian()], Sum).check(&schema(2)).unwrap();
    assert_eq!(round(&p, &[(1.0, vec![0.0, 0.0])]).unwrap(), [1.0, 1.0]); // sigma = 0.5 * 2
    assert_eq!(p.privacy().map(|e| e.noise_multiplier).collect::<Vec<_>>(), [0.5]);
}

#[test]
fn masks_cancel_and_the_mean_is_exact_to_the_rounding() {
    let p = plan(vec![clip(5.0), weight(Some(10.0)), fixed(), mask()], Sum).check(&schema(2)).unwrap();
    let y = round(&p, &[(1.0, vec![3.0, 4.0]), (3.0, vec![30.0, 40.0])]).unwrap();
    assert!((y[0] - 3.0).abs() < 1e-5 && (y[1] - 4.0).abs() < 1e-5, "{y:?}");
    let cohort = [ClientId(0), ClientId(1)];
    let x = p.encode(vec![3.0, 4.0], &client(0, 1.0, &cohort), &mut p.slots()).unwrap();
    let Payload::Ring(words) = x else { panic!("not masked") };
    assert!(words.iter().all(|w| *w > 1 << 40 && *w < !0 - (1 << 40)), "a masked word looks like a value");
}

#[test]
fn a_client_half_that_did_not_do_its_part_is_caught() {
    let weighted = plan(vec![weight(Some(5.0))], Sum).check(&schema(2)).unwrap();
    let w = |x: f64| Weight::new(x).unwrap();
    let admit = |p: &Checked, x: Vec<f32>, weight: f64| p.admit(Payload::Real(x), w(weight)).map(|_| ());
    assert_eq!(admit(&weighted, vec![2.0, 4.0, 2.0], 2.0), Ok(()));
    // says 2 examples, counts as 1000
    assert_eq!(
        admit(&weighted, vec![2.0, 4.0, 1000.0], 2.0),
        Err(LayerError::Weight { declared: 2.0, found: 1000.0 })
    );
    // ignores the cap
    assert_eq!(
        admit(&weighted, vec![2.0, 4.0, 1000.0], 1000.0),
        Err(LayerError::Weight { declared: 5.0, found: 1000.0 })
    );
    let clipped = plan(vec![clip(1.0)], Sum).check(&schema(2)).unwrap();
    assert_eq!(admit(&clipped, vec![3.0, 4.0], 1.0), Err(LayerError::Norm { bound: 1.0, found: 5.0 }));
    for bad in [f32::NAN, f32::INFINITY] {
        for p in [&clipped, &plan(vec![], Sum).check(&schema(2)).unwrap()] {
            let e = admit(p, vec![0.0, bad], 1.0).unwrap_err();
            assert!(matches!(e, LayerError::NotFinite { index: 1, .. }), "{e}");
        }
    }
    let short = admit(&weighted, vec![1.0, 1.0], 1.0);
    assert_eq!(short, Err(LayerError::Length { layer: "wire", expected: 3, found: 2 }));
    let ring = weighted.admit(Payload::Ring(vec![1, 2, 3]), w(1.0)).unwrap_err();
    assert!(matches!(ring, LayerError::Carrier { .. }));
}

#[test]
fn layer_memory_is_kept_apart_by_side() {
    let p = plan(vec![weight(None), Box::new(Counts)], Sum).check(&schema(1)).unwrap();
    let (mut mine, mut servers) = (p.slots(), p.slots());
    let cohort = [ClientId(0), ClientId(1)];
    for _ in 0..3 {
        let mut tally = p.open(&cohort);
        for id in cohort {
            let cx = client(id.0, 1.0, &cohort);
            let mut other = p.slots();
            let slots = if id.0 == 0 { &mut mine } else { &mut other };
            let x = p.encode(vec![1.0], &cx, slots).unwrap();
            tally.accept(id, p.admit(x, cx.weight).unwrap()).unwrap();
        }
        let mut cx =
            ServerCx { round: antiphon_core::Round(0), accepted: 2, noise: &mut Always(0.0), threads: 1 };
        tally.close(&mut cx, &mut servers).unwrap();
    }
    assert_eq!(mine.0[1]["client"], [3.0]);
    assert_eq!(servers.0[1]["server"], [6.0]);
    assert!(mine.0[0].is_empty() && !mine.is_empty() && p.slots().is_empty());
}

#[test]
fn one_client_alone_is_its_own_update() {
    let p = plan(vec![clip(100.0), weight(None)], Sum).check(&schema(2)).unwrap();
    let cx = client(0, 7.0, &[ClientId(0)]);
    let x = p.encode(vec![1.5, -2.0], &cx, &mut p.slots()).unwrap();
    let x = p.admit(x, cx.weight).unwrap();
    assert_eq!(p.alone(&x).unwrap(), [1.5, -2.0]);
    assert!((x.norm().unwrap() - 2.5).abs() < 1e-6);
    let noisy = plan(vec![clip(1.0), gaussian()], Sum).check(&schema(1)).unwrap();
    let x = noisy.admit(Payload::Real(vec![0.5]), Weight::ONE).unwrap();
    assert_eq!((noisy.alone(&x), x.norm()), (None, None));
    let zero = plan(vec![weight(None)], Sum).check(&schema(2)).unwrap();
    let x = zero.encode(vec![0.0; 2], &client(0, 1e5, &[ClientId(0)]), &mut zero.slots()).unwrap();
    assert_eq!(zero.admit(x, Weight::new(1e5).unwrap()).unwrap().norm(), Some(0.0));
}
