//! A small federation of quadratic clients, whose every number is known.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test helpers; each test file uses its part"
)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use antiphon_algo::layers::weight::WeightedMean;
use antiphon_algo::reducers::sum::Sum;
use antiphon_algo::servers::fedavg::FedAvg;
use antiphon_algo::{Checked, Layer, LocalWork, Plan, Quadratic, ServerStep, WorkError};
use antiphon_core::schema::TensorSpec;
use antiphon_core::{ClientId, Purpose, Schema, Stream, Weight};
use antiphon_protocol::{Policy, Record};
use antiphon_sim::{Config, End, Observer, SimError, Simulation, Start, VirtualClock};

pub fn schema(d: usize) -> Schema {
    Schema::new(vec![TensorSpec { name: "w".into(), shape: vec![d] }]).unwrap()
}

pub fn plan(layers: Vec<Box<dyn Layer>>, d: usize) -> Checked {
    Plan { layers, reducer: Box::new(Sum) }.check(&schema(d)).unwrap()
}

pub fn mean(d: usize) -> Checked {
    plan(vec![Box::new(WeightedMean::examples())], d)
}

pub fn policy(rounds: u32) -> Policy {
    Policy {
        num_rounds: rounds,
        fraction: 1.0,
        min_clients: 1,
        round_deadline_ms: None,
        join_deadline_ms: None,
        round_attempts: 1,
        history: 0,
    }
}

pub fn config(plan: Checked, clients: u64, rounds: u32) -> Config {
    Config {
        plan,
        policy: policy(rounds),
        roster: (0..clients).map(ClientId).collect(),
        seed: 7,
        workers: 1,
        call_attempts: 4,
        restarts: 0,
        keep_updates: false,
    }
}

/// Client `k`'s quadratic: a target and a weight that depend on nothing but `k`.
pub fn quadratic(k: ClientId, d: usize) -> Quadratic {
    let mut s = Stream::new(k.0, Purpose::Test);
    Quadratic {
        target: (0..d).map(|_| s.uniform_f32() * 10.0 - 5.0).collect(),
        lr: 0.3,
        steps: 3,
        weight: Weight::new(1.0 + k.0 as f64).unwrap(),
    }
}

pub fn quadratics(d: usize) -> impl Fn(ClientId, usize) -> Result<Box<dyn LocalWork>, WorkError> + Sync {
    move |k, _| Ok(Box::new(quadratic(k, d)))
}

/// The weighted mean of the targets: where federated averaging must end.
pub fn mean_target(clients: u64, d: usize) -> Vec<f64> {
    let all: Vec<Quadratic> = (0..clients).map(|k| quadratic(ClientId(k), d)).collect();
    let total: f64 = all.iter().map(|q| q.weight.get()).sum();
    (0..d).map(|j| all.iter().map(|q| q.weight.get() * f64::from(q.target[j])).sum::<f64>() / total).collect()
}

pub struct Run {
    pub end: End,
    pub log: Vec<Record>,
}

pub fn run_with(
    config: Config,
    server: Box<dyn ServerStep>,
    start: Start,
    work: &dyn antiphon_sim::Workforce,
    observer: &mut dyn Observer,
) -> Result<Run, SimError> {
    let clock = VirtualClock::default();
    let mut log = Vec::new();
    let mut sim = Simulation { config, server, noise: None, clock: &clock, faults: None };
    let end = sim.run(start, work, observer, &mut log, &AtomicBool::new(false))?;
    Ok(Run { end, log })
}

pub fn run(config: Config, d: usize) -> Run {
    run_with(config, Box::new(FedAvg), Start::fresh(vec![0.0; d]), &quadratics(d), &mut antiphon_sim::Silent)
        .unwrap()
}

pub fn metrics(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
}
