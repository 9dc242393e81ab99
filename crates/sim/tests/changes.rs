//! Clients that are sent what changed: the same bits as with whole parameters, fewer bytes, and a way out of every loss.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::atomic::AtomicBool;

use antiphon_algo::reducers::median::Median;
use antiphon_algo::servers::fedavg::FedAvg;
use antiphon_algo::{Checked, Local, LocalWork, Plan, WorkError};
use antiphon_core::{ClientId, Purpose, Round, Stream, Weight};
use antiphon_sim::{Config, End, Fault, Faults, Kind, On, Silent, Simulation, Start, VirtualClock};
use common::{config, mean, metrics, schema};
use proptest::prelude::*;

const D: usize = 512;

/// Changes a few coordinates, which ones depends on the round and the client, by what the start says.
struct Few(ClientId);

impl LocalWork for Few {
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        let mut delta = vec![0.0; start.len()];
        let mut s = Stream::keyed(1, Purpose::Test, Some(round), Some(self.0), "");
        for _ in 0..5 {
            let at = s.below(D as u64) as usize;
            delta[at] = start[at] * 0.5 + s.uniform_f32() - 0.7;
        }
        Ok(Local { delta, weight: Weight::ONE, metrics: metrics(&[]) })
    }
}

fn hire(k: ClientId, _: usize) -> Result<Box<dyn LocalWork>, WorkError> {
    Ok(Box::new(Few(k)))
}

fn setup(plan: Checked, history: usize) -> Config {
    let mut c = config(plan, 6, 8);
    c.policy.history = history;
    c.policy.fraction = 0.5;
    c.policy.round_deadline_ms = Some(1000);
    c.policy.round_attempts = 4;
    c.policy.join_deadline_ms = Some(1000);
    c.restarts = 2;
    c
}

fn run(config: Config, faults: Vec<Fault>) -> End {
    let clock = VirtualClock::default();
    let faults = Faults::new(faults, &clock, config.plan.wire_bytes());
    let mut sim =
        Simulation { config, server: Box::new(FedAvg), noise: None, clock: &clock, faults: Some(&faults) };
    let start = Start::fresh(vec![0.0; D]);
    sim.run(start, &hire, &mut Silent, &mut Vec::new(), &AtomicBool::new(false)).unwrap()
}

fn bits(end: &End) -> Vec<u32> {
    end.theta.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn what_changed_costs_less_and_gives_the_same_bits() {
    for plan in [mean(D), Plan { layers: vec![], reducer: Box::new(Median) }.check(&schema(D)).unwrap()] {
        let whole = run(setup(plan.clone(), 0), Vec::new());
        assert!(whole.theta.iter().any(|v| *v != 0.0) || plan.describe() == "median");
        let mut before = whole.traffic;
        for history in [1, 3, 100] {
            let told = run(setup(plan.clone(), history), Vec::new());
            assert_eq!(bits(&told), bits(&whole), "{history}");
            assert_eq!(told.traffic.up_messages, whole.traffic.up_messages);
            assert!(told.traffic.down.payload <= before.down.payload, "{history}");
            // five scalars and a weight
            assert!(told.traffic.up.payload < whole.traffic.up.payload / 50);
            before = told.traffic;
        }
        // with everything kept, only a client's first round is sent whole
        assert!(before.down.payload < whole.traffic.down.payload / 2);
    }
}

/// The same for a run that goes on where another stopped: everybody is sent the whole once.
#[test]
fn a_restarted_coordinator_sends_the_whole() {
    let whole = run(setup(mean(D), 0), Vec::new());
    let clock = VirtualClock::default();
    let part = |rounds: u32, start: Start| {
        let mut config = setup(mean(D), 100);
        config.policy.num_rounds = rounds;
        let mut sim =
            Simulation { config, server: Box::new(FedAvg), noise: None, clock: &clock, faults: None };
        sim.run(start, &hire, &mut Silent, &mut Vec::new(), &AtomicBool::new(false)).unwrap()
    };
    let half = part(4, Start::fresh(vec![0.0; D]));
    let rest = part(8, Start { round: half.next, ..Start::fresh(half.theta) });
    assert_eq!(bits(&rest), bits(&whole));
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let on = prop::sample::select(vec![On::Join, On::Poll, On::Deliver]);
    let kind = prop::sample::select(vec![
        Kind::DropRequest,
        Kind::DropReply,
        Kind::Duplicate,
        Kind::CorruptRequest { bit: 999 },
        Kind::CorruptReply { bit: 4321 },
        Kind::Stale,
        Kind::StaleReply,
        Kind::Crash,
        Kind::CrashAfter,
    ]);
    let fault = (0..6_u64, on, 0..8_u32, kind).prop_map(|(k, on, nth, kind)| Fault {
        client: ClientId(k),
        on,
        nth,
        kind,
    });
    prop::collection::vec(fault, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is lost, doubled, damaged or forgotten on the way changes what travels and never what comes out.
    #[test]
    fn faults_change_no_bit(faults in faults()) {
        let whole = run(setup(mean(D), 0), Vec::new());
        for history in [2, 100] {
            let told = run(setup(mean(D), history), faults.clone());
            // a client that is lost for good takes its part of the sum with it, on either wire
            let same = run(setup(mean(D), 0), faults.clone());
            prop_assert_eq!(bits(&told), bits(&same));
            if faults.is_empty() {
                prop_assert_eq!(bits(&told), bits(&whole));
            }
        }
    }
}
