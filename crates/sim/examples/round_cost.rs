//! What a round costs beside training: 10 clients without local steps, every message encoded, hashed and
//! decoded. Prints milliseconds per round (median and fastest of those after the first).
//!
//! `cargo run --release -p antiphon-sim --example round_cost -- SCALARS WORKERS ROUNDS`
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example")]

use std::error::Error;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use antiphon_algo::layers::weight::WeightedMean;
use antiphon_algo::reducers::sum::Sum;
use antiphon_algo::servers::fedavg::FedAvg;
use antiphon_algo::{Local, LocalWork, Plan, WorkError};
use antiphon_core::schema::TensorSpec;
use antiphon_core::{ClientId, Millis, Round, Schema, Weight};
use antiphon_protocol::Policy;
use antiphon_sim::{Config, Observer, RoundClosed, Simulation, Start, WallClock};

struct Idle(ClientId);

impl LocalWork for Idle {
    fn run(&mut self, start: &[f32], _: Round) -> Result<Local, WorkError> {
        let delta = start.iter().map(|s| s * 1e-3).collect();
        let weight = Weight::new(1.0 + self.0.0 as f64).unwrap();
        Ok(Local { delta, weight, metrics: [("train_loss".to_owned(), 1.0)].into() })
    }
}

#[derive(Default)]
struct Times(Vec<f64>, Option<Instant>);

impl Observer for Times {
    fn round_closed(&mut self, _: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        let now = Instant::now();
        if let Some(last) = self.1.replace(now) {
            self.0.push((now - last).as_secs_f64() * 1e3);
        }
        Ok(())
    }
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let [d, workers, rounds] = args[..] else { panic!("SCALARS WORKERS ROUNDS") };
    let schema = Schema::new(vec![TensorSpec { name: "w".into(), shape: vec![d] }]).unwrap();
    let plan = Plan { layers: vec![Box::new(WeightedMean::examples())], reducer: Box::new(Sum) };
    let clock = WallClock::starting_at(Millis(0));
    let mut sim = Simulation {
        config: Config {
            plan: plan.check(&schema).unwrap(),
            policy: Policy {
                num_rounds: rounds as u32,
                fraction: 1.0,
                min_clients: 1,
                round_deadline_ms: None,
                join_deadline_ms: None,
                round_attempts: 1,
                history: 0,
            },
            roster: (0..10).map(ClientId).collect(),
            seed: 0,
            workers,
            call_attempts: 1,
            restarts: 0,
            keep_updates: false,
        },
        server: Box::new(FedAvg),
        noise: None,
        clock: &clock,
        faults: None,
    };
    let work = |id: ClientId, _: usize| -> Result<Box<dyn LocalWork>, WorkError> { Ok(Box::new(Idle(id))) };
    let mut times = Times::default();
    let theta = (0..d).map(|i| (i % 97) as f32).collect();
    sim.run(Start::fresh(theta), &work, &mut times, &mut Vec::new(), &AtomicBool::new(false)).unwrap();
    times.0.sort_by(f64::total_cmp);
    println!(
        "{d} scalars, {workers} workers: median {:.2} ms, fastest {:.2} ms",
        times.0[times.0.len() / 2],
        times.0[0]
    );
}
