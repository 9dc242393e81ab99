//! Whole runs against closed forms; threads, resuming and bytes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

use antiphon_algo::layers::weight::WeightedMean;
use antiphon_algo::reducers::sum::Sum;
use antiphon_algo::servers::fedavg::FedAvg;
use antiphon_algo::servers::sgdm::{Settings, Sgdm};
use antiphon_algo::{
    ClientCx, Contract, Layer, LayerError, Local, LocalWork, Losses, Mismatch, Plan, ServerCx, ServerStep,
    State, WorkError,
};
use antiphon_core::schema::TensorSpec;
use antiphon_core::{ClientId, Noise, Payload, Purpose, Round, Schema, Stream, Weight};
use antiphon_protocol::{Ending, Log, LogError, Record, Vector, What, size};
use antiphon_sim::{ClientDone, Observer, Outcome, RoundClosed, SimError, Simulation, Start, VirtualClock};
use common::*;

#[test]
fn fedavg_contracts_to_the_weighted_mean_of_the_targets() {
    let d = 5;
    let r = run(config(mean(d), 4, 30), d);
    assert_eq!((r.end.ending, r.end.next), (Some(Ending::Completed), Round(30)));
    for (t, want) in r.end.theta.iter().zip(mean_target(4, d)) {
        assert!((f64::from(*t) - want).abs() < 1e-5, "{t} {want}");
    }
}

#[test]
fn every_round_covers_the_reach_of_the_clients() {
    // theta_r - mean = (1 - reach)^r (theta_0 - mean)
    let (d, rounds) = (3, 4);
    let r = run(config(mean(d), 3, rounds), d);
    let left = f64::from(1.0 - quadratic(ClientId(0), d).reach()).powi(rounds as i32);
    for (t, m) in r.end.theta.iter().zip(mean_target(3, d)) {
        assert!((f64::from(*t) - m * (1.0 - left)).abs() < 1e-5);
    }
}

#[test]
fn momentum_follows_its_recurrence() {
    let (d, rounds, lr, mu) = (3, 12, 0.5_f64, 0.8_f64);
    let server = Sgdm::from_settings(Settings { learning_rate: lr as f32, momentum: mu as f32 }).unwrap();
    let r = run_with(
        config(mean(d), 3, rounds),
        Box::new(server),
        Start::fresh(vec![0.0; d]),
        &quadratics(d),
        &mut antiphon_sim::Silent,
    )
    .unwrap();
    let reach = f64::from(quadratic(ClientId(0), d).reach());
    for (t, target) in r.end.theta.iter().zip(mean_target(3, d)) {
        let (mut theta, mut m) = (0.0, 0.0);
        for _ in 0..rounds {
            m = mu * m + reach * (theta - target);
            theta -= lr * m;
        }
        assert!((f64::from(*t) - theta).abs() < 1e-4, "{t} {theta}");
    }
}

/// Small updates among large ones that cancel, so that a sum in f64 depends on the order of additions.
struct Wild(ClientId);

impl LocalWork for Wild {
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        let mut s = Stream::keyed(1, Purpose::Test, Some(round), Some(self.0), "");
        let one = |s: &mut Stream| match s.below(4) {
            0 => 2f32.powi(60),
            1 => -2f32.powi(60),
            _ => s.standard_normal() as f32,
        };
        let delta = start.iter().map(|_| one(&mut s)).collect();
        Ok(Local { delta, weight: Weight::ONE, metrics: BTreeMap::new() })
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_workers() {
    let d = 5000;
    let work = |k: ClientId, _: usize| -> Result<Box<dyn LocalWork>, WorkError> { Ok(Box::new(Wild(k))) };
    let bits = |workers| {
        let mut c = config(mean(d), 40, 3);
        c.workers = workers;
        c.policy.fraction = 0.6;
        let start = Start::fresh(vec![0.0; d]);
        let r = run_with(c, Box::new(FedAvg), start, &work, &mut antiphon_sim::Silent).unwrap();
        r.end.theta.iter().map(|t| t.to_bits()).collect::<Vec<_>>()
    };
    let one = bits(1);
    assert_eq!(one, bits(2));
    assert_eq!(one, bits(4));
}

/// Keeps a checkpoint per round.
#[derive(Default)]
struct Keep(Vec<Start>);

impl Observer for Keep {
    fn round_closed(&mut self, r: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.0.push(Start {
            round: r.round.next(),
            theta: r.theta.to_vec(),
            server: r.server.state(),
            slots: r.slots.clone(),
            client_slots: r.client_slots.clone(),
            losses: Losses::of(r.contributions.iter().map(|c| &c.metrics)),
        });
        Ok(())
    }
}

#[test]
fn a_run_resumed_from_any_checkpoint_ends_with_the_same_bits() {
    let d = 7;
    let momentum = || -> Box<dyn ServerStep> {
        Box::new(Sgdm::from_settings(Settings { learning_rate: 0.7, momentum: 0.6 }).unwrap())
    };
    let mut c = config(mean(d), 6, 5);
    c.policy.fraction = 0.5;
    let mut keep = Keep::default();
    let whole =
        run_with(c.clone(), momentum(), Start::fresh(vec![1.0; d]), &quadratics(d), &mut keep).unwrap();
    assert_eq!(keep.0.len(), 5);
    for start in keep.0 {
        let rest = run_with(c.clone(), momentum(), start, &quadratics(d), &mut antiphon_sim::Silent).unwrap();
        assert_eq!(rest.end.theta, whole.end.theta);
        assert_eq!(rest.end.next, Round(5));
    }
}

#[test]
fn bytes_on_the_wire_are_those_predicted() {
    #[derive(Default)]
    struct Rounds(Vec<antiphon_sim::Traffic>);
    impl Observer for Rounds {
        fn round_closed(&mut self, r: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
            self.0.push(r.traffic);
            Ok(())
        }
    }
    let (d, clients) = (1000, 200);
    let plan = mean(d);
    let mut c = config(plan.clone(), clients, 3);
    c.policy.fraction = 0.8;
    let mut seen = Rounds::default();
    let r = run_with(c, Box::new(FedAvg), Start::fresh(vec![0.0; d]), &quadratics(d), &mut seen).unwrap();
    let predicted = size::round(&plan, 160, ["train_loss"]);
    assert_eq!(seen.0.len(), 3);
    for t in seen.0 {
        assert_eq!((t.up, t.down), (predicted.up, predicted.down));
    }
    assert_eq!(predicted.up.payload, 160 * 4 * (1000 + 1));
    assert_eq!(predicted.down.payload, 160 * 4 * 1000);
    assert_eq!(r.end.traffic.up, predicted.up * 3 + size::join() * clients);
    assert_eq!(r.end.traffic.down, predicted.down * 3 + size::joined() * clients);
}

/// A client that sends what it is told to.
struct Says(Result<Local, &'static str>);

impl LocalWork for Says {
    fn run(&mut self, _: &[f32], _: Round) -> Result<Local, WorkError> {
        self.0.clone().map_err(|e| WorkError::Other(e.into()))
    }
}

#[test]
fn one_bad_client_in_ten_changes_nothing_but_its_own_status() {
    #[derive(Default)]
    struct Statuses(BTreeMap<ClientId, antiphon_protocol::ClientStatus>, Vec<(ClientId, Outcome)>);
    impl Observer for Statuses {
        fn client_done(&mut self, d: &ClientDone<'_>) {
            self.1.push((d.client, d.outcome.clone()));
        }
        fn round_closed(&mut self, r: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
            self.0 = r.clients.clone();
            Ok(())
        }
    }
    let d = 6;
    let bad = ClientId(3);
    let honest = {
        let mut c = config(mean(d), 10, 2);
        c.roster.retain(|&k| k != bad);
        run(c, d).end.theta
    };
    let local = |delta: Vec<f32>, weight: f64, loss: f64| Local {
        delta,
        weight: Weight::new(weight).unwrap(),
        metrics: metrics(&[("train_loss", loss)]),
    };
    let with = |i: usize, v: f32| {
        let mut x = vec![0.5; d];
        x[i] = v;
        x
    };
    let cases: Vec<(&str, Result<Local, &'static str>)> = vec![
        ("not a finite number", Ok(local(with(4, f32::NAN), 2.0, 1.0))),
        ("not a finite number", Ok(local(with(0, f32::INFINITY), 2.0, 1.0))),
        ("not a finite number", Ok(local(with(0, f32::MAX), 1e9, 1.0))),
        ("coordinates", Ok(local(vec![0.0; d + 1], 2.0, 1.0))),
        ("coordinates", Ok(local(vec![], 2.0, 1.0))),
        ("train_loss", Ok(local(with(0, 0.1), 2.0, f64::NAN))),
        ("out of cheese", Err("out of cheese\n\u{7}")),
    ];
    for (why, what) in cases {
        let work = |k: ClientId, _: usize| -> Result<Box<dyn LocalWork>, WorkError> {
            Ok(if k == bad { Box::new(Says(what.clone())) } else { Box::new(quadratic(k, d)) })
        };
        let mut seen = Statuses::default();
        let r =
            run_with(config(mean(d), 10, 2), Box::new(FedAvg), Start::fresh(vec![0.0; d]), &work, &mut seen)
                .unwrap();
        assert_eq!(r.end.theta, honest, "{why}");
        assert_eq!(r.end.ending, Some(Ending::Completed));
        for (id, s) in &seen.0 {
            let expected = if *id == bad { 0 } else { 2 };
            assert_eq!((s.accepted, s.selected, s.timed_out), (expected, 2, 0), "{why}: {id}");
            assert_eq!(s.last_trouble.is_some(), *id == bad, "{why}: {id}");
        }
        let Outcome::GaveUp { reason } = &seen.1.iter().find(|(id, _)| *id == bad).unwrap().1 else {
            panic!("{why}")
        };
        assert!(reason.contains(why), "{why}: {reason}");
    }
}

#[test]
fn stopping_between_clients_abandons_the_round_and_resumes_to_the_same_bits() {
    struct StopAt<'a>(usize, &'a AtomicBool, Keep);
    impl Observer for StopAt<'_> {
        fn client_done(&mut self, _: &ClientDone<'_>) {
            self.0 = self.0.saturating_sub(1);
            if self.0 == 0 {
                self.1.store(true, Ordering::SeqCst);
            }
        }
        fn round_closed(&mut self, r: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
            self.2.round_closed(r)
        }
    }
    let d = 4;
    let whole = run(config(mean(d), 5, 4), d).end.theta;
    for at in 1..20 {
        let (stop, clock, mut log) = (AtomicBool::new(false), VirtualClock::default(), Vec::new());
        let mut observer = StopAt(at, &stop, Keep::default());
        let mut sim = Simulation {
            config: config(mean(d), 5, 4),
            server: Box::new(FedAvg),
            noise: None,
            clock: &clock,
            faults: None,
        };
        let end =
            sim.run(Start::fresh(vec![0.0; d]), &quadratics(d), &mut observer, &mut log, &stop).unwrap();
        assert_eq!((end.ending, end.next), (None, Round(at as u32 / 5)), "{at}");
        let start = observer.2.0.pop().unwrap_or_else(|| Start::fresh(vec![0.0; d]));
        let rest = run_with(
            config(mean(d), 5, 4),
            Box::new(FedAvg),
            start,
            &quadratics(d),
            &mut antiphon_sim::Silent,
        )
        .unwrap();
        assert_eq!(rest.end.theta, whole, "{at}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_before_the_round_is_recorded_as_closed() {
    struct Full;
    impl Observer for Full {
        fn round_closed(&mut self, _: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
            Err("no space left on device".into())
        }
    }
    let clock = VirtualClock::default();
    let mut log = Vec::new();
    let mut sim = Simulation {
        config: config(mean(2), 2, 2),
        server: Box::new(FedAvg),
        noise: None,
        clock: &clock,
        faults: None,
    };
    let end =
        sim.run(Start::fresh(vec![0.0; 2]), &quadratics(2), &mut Full, &mut log, &AtomicBool::new(false));
    let Err(e @ SimError::Persist { .. }) = end else { panic!("{end:?}") };
    assert_eq!(e.to_string(), "round 0 could not be persisted: no space left on device");
    assert!(log.iter().any(|r| matches!(r.what, What::Closing { .. })));
    assert!(!log.iter().any(|r| matches!(r.what, What::Closed { .. })));
}

#[test]
fn too_few_answers_fail_the_round_as_often_as_the_policy_allows() {
    let work = |k: ClientId, _: usize| -> Result<Box<dyn LocalWork>, WorkError> {
        if k.0 < 3 { Err(WorkError::NoData) } else { Ok(Box::new(quadratic(k, 2))) }
    };
    let mut c = config(mean(2), 5, 1);
    c.policy.min_clients = 3;
    c.policy.round_attempts = 2;
    let r =
        run_with(c, Box::new(FedAvg), Start::fresh(vec![0.25; 2]), &work, &mut antiphon_sim::Silent).unwrap();
    assert_eq!(r.end.ending, Some(Ending::RoundFailed));
    assert_eq!(r.end.theta, [0.25; 2]);
    let failed: Vec<_> = r
        .log
        .iter()
        .filter_map(|r| match r.what {
            What::RoundFailed { attempt, accepted, needed, .. } => Some((attempt, accepted, needed)),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [(0, 2, 3), (1, 2, 3)]);
}

/// Goes where it is told to.
struct Goes(Vec<f32>, f64);

impl LocalWork for Goes {
    fn run(&mut self, start: &[f32], _: Round) -> Result<Local, WorkError> {
        let delta = start.iter().zip(&self.0).map(|(s, t)| s - t).collect();
        let weight = Weight::new(self.1).unwrap();
        Ok(Local { delta, weight, metrics: BTreeMap::new() })
    }
}

#[test]
fn the_factor_error_of_a_round_is_that_of_the_clients_models() {
    #[derive(Default)]
    struct Errors(Vec<Option<antiphon_algo::FactorError>>, Vec<Vec<(f64, Vec<f32>)>>);
    impl Observer for Errors {
        fn round_closed(&mut self, r: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
            self.0.push(r.factor_error(2));
            self.1.push(r.updates().flatten().collect());
            Ok(())
        }
    }
    let tensor = |name: &str, shape: &[usize]| TensorSpec { name: name.into(), shape: shape.into() };
    let schema =
        Schema::new(vec![tensor("m.lora_A.weight", &[1, 2]), tensor("m.lora_B.weight", &[3, 1])]).unwrap();
    let layers: Vec<Box<dyn Layer>> = vec![Box::new(WeightedMean::examples())];
    let plan = Plan { layers, reducer: Box::new(Sum) }.check(&schema).unwrap();
    // products of (1, 0) x (1, 0, 0)' and (0, 1) x (0, 1, 0)', weights 1 and 3
    let models = [vec![1.0, 0.0, 1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0, 1.0, 0.0]];
    let run = |keep: bool| {
        let mut c = config(plan.clone(), 2, 1);
        c.keep_updates = keep;
        let models = models.clone();
        let work = move |k: ClientId, _: usize| -> Result<Box<dyn LocalWork>, WorkError> {
            Ok(Box::new(Goes(models[k.0 as usize].clone(), 1.0 + 2.0 * k.0 as f64)))
        };
        let mut seen = Errors::default();
        let start = Start::fresh(vec![0.5; 5]);
        run_with(c, Box::new(FedAvg), start, &work, &mut seen).unwrap();
        seen
    };
    assert_eq!(run(false).0, [None], "without the updates there is nothing to measure");
    let seen = run(true);
    let error = seen.0[0].as_ref().unwrap();
    // mean of products: diag(1/4, 3/4), norm^2 10/16; product of means: (1/4, 3/4) x (1/4, 3/4)'
    let off = 3.0 / 16.0;
    let expected = ((4.0 * off * off) / (10.0 / 16.0_f64)).sqrt();
    assert!((error.overall - expected).abs() < 1e-6, "{} {expected}", error.overall);
    assert_eq!(error.modules.len(), 1);
    let counts: Vec<f64> = seen.1[0].iter().map(|(w, _)| *w).collect();
    assert_eq!(counts, [1.0, 3.0]);
    assert_eq!(seen.1[0][1].1, [0.5, -0.5, 0.5, -0.5, 0.5]);
}

#[test]
fn an_update_that_cannot_be_written_down_is_not_acknowledged() {
    struct Disk(Vec<Record>, usize);
    impl Log for Disk {
        fn append(&mut self, record: &Record) -> Result<(), LogError> {
            self.0.push(record.clone());
            Ok(())
        }
        fn append_update(&mut self, record: &Record, update: &Vector) -> Result<(), LogError> {
            let What::Accepted { digest, bytes, .. } = &record.what else { panic!("not an update") };
            assert_eq!((*digest, *bytes), (update.digest(), update.bytes().len() as u64));
            self.1 = self.1.checked_sub(1).ok_or_else(|| LogError("no space left on device".into()))?;
            self.append(record)
        }
    }
    #[derive(Default)]
    struct Acked(usize);
    impl Observer for Acked {
        fn client_done(&mut self, d: &ClientDone<'_>) {
            self.0 += usize::from(*d.outcome == Outcome::Accepted);
        }
    }
    let clock = VirtualClock::default();
    let (mut log, mut acked) = (Disk(Vec::new(), 7), Acked::default());
    let mut sim = Simulation {
        config: config(mean(2), 5, 3),
        server: Box::new(FedAvg),
        noise: None,
        clock: &clock,
        faults: None,
    };
    let stop = AtomicBool::new(false);
    let end = sim.run(Start::fresh(vec![0.0; 2]), &quadratics(2), &mut acked, &mut log, &stop);
    assert_eq!(end.unwrap_err().to_string(), "the event log cannot be written: no space left on device");
    let written = log.0.iter().filter(|r| matches!(r.what, What::Accepted { .. })).count();
    assert_eq!((acked.0, written), (7, 7));
}

/// A layer with memory on both sides: counts what a client has encoded, and what the server has summed.
#[derive(Debug)]
struct Counts;

impl Layer for Counts {
    fn describe(&self) -> String {
        "counts".into()
    }
    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch> {
        Ok(up.clone())
    }
    fn client(
        &self,
        x: Payload,
        _: &Contract,
        _: &ClientCx<'_>,
        slot: &mut State,
    ) -> Result<Payload, LayerError> {
        slot.entry("n".into()).or_insert_with(|| vec![0.0])[0] += 1.0;
        Ok(x)
    }
    fn sum(
        &self,
        y: Payload,
        _: &Contract,
        cx: &mut ServerCx<'_>,
        slot: &mut State,
    ) -> Result<Payload, LayerError> {
        slot.entry("n".into()).or_insert_with(|| vec![0.0])[0] += cx.accepted as f32;
        Ok(y)
    }
}

#[test]
fn layer_memory_advances_only_with_what_was_accepted_and_is_part_of_a_checkpoint() {
    /// Sends a NaN in round 1.
    struct Once(f32);
    impl LocalWork for Once {
        fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
            let v = if round.0 == 1 { self.0 } else { 0.5 };
            Ok(Local { delta: vec![v; start.len()], weight: Weight::ONE, metrics: BTreeMap::new() })
        }
    }
    let work = |k: ClientId, _: usize| -> Result<Box<dyn LocalWork>, WorkError> {
        Ok(Box::new(Once(if k.0 == 2 { f32::NAN } else { 0.5 })))
    };
    let config = || config(plan(vec![Box::new(Counts)], 2), 3, 3);
    let mut keep = Keep::default();
    run_with(config(), Box::new(FedAvg), Start::fresh(vec![0.0; 2]), &work, &mut keep).unwrap();
    let count = |s: &antiphon_algo::Slots| s.0[0]["n"][0];
    let counts = |c: &Start| {
        let clients: Vec<f32> = c.client_slots.values().map(count).collect();
        (clients, count(&c.slots))
    };
    let all: Vec<_> = keep.0.iter().map(counts).collect();
    assert_eq!(all[0], (vec![1.0, 1.0, 1.0], 3.0));
    assert_eq!(all[1], (vec![2.0, 2.0, 1.0], 5.0));
    assert_eq!(all[2], (vec![3.0, 3.0, 2.0], 8.0));
    let mut rest = Keep::default();
    run_with(config(), Box::new(FedAvg), keep.0[0].clone(), &work, &mut rest).unwrap();
    assert_eq!(rest.0, keep.0[1..]);
}
