//! Behaviour under faults, from lists of operations.
//!
//! The data make every fault visible. In round `r` client `k` sends an update that is 1 at coordinate `r K + k` and 0
//! elsewhere, and the plan is a plain sum, so after a run coordinate `r K + k` of `-theta` says how often that
//! update was counted: 0 is an update that did not count, 2 would be one counted twice, and anything else would be
//! an update mixed up or damaged.
//!
//! What is a failure: a coordinate that is neither 0 nor 1; an update that its client saw accepted and that is not in
//! the sum; an update in the sum that the log does not name, or the other way round; a run that neither ends nor says why.
//! What is not: an update that is missing because its messages were lost more often than the client repeats them, came
//! late, or because its client died once too often.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::atomic::AtomicBool;

use antiphon_algo::servers::fedavg::FedAvg;
use antiphon_algo::{Local, LocalWork, WorkError};
use antiphon_core::{ClientId, Round, Weight};
use antiphon_protocol::{ClientStatus, Ending, What};
use antiphon_sim::{
    ClientDone, Config, Fault, Faults, Kind, Observer, On, Outcome, RoundClosed, Simulation, Start,
    VirtualClock,
};
use common::{config, metrics, plan};
use proptest::prelude::*;

const CLIENTS: usize = 4;
const ROUNDS: usize = 3;
const D: usize = CLIENTS * ROUNDS;

struct OneHot(ClientId);

impl LocalWork for OneHot {
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        let mut delta = vec![0.0; start.len()];
        delta[round.0 as usize * CLIENTS + self.0.0 as usize] = 1.0;
        Ok(Local { delta, weight: Weight::ONE, metrics: metrics(&[("round", round.0.into())]) })
    }
}

fn hire(k: ClientId, _: usize) -> Result<Box<dyn LocalWork>, WorkError> {
    Ok(Box::new(OneHot(k)))
}

/// What the clients saw, and the statuses at the last close.
#[derive(Default)]
struct Seen {
    accepted: BTreeSet<(Round, ClientId)>,
    clients: BTreeMap<ClientId, ClientStatus>,
}

impl Observer for Seen {
    fn client_done(&mut self, d: &ClientDone<'_>) {
        if *d.outcome == Outcome::Accepted {
            self.accepted.insert((d.round, d.client));
        }
    }
    fn round_closed(&mut self, r: &RoundClosed<'_>) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.clients = r.clients.clone();
        Ok(())
    }
}

struct After {
    /// `counts[r][k]`: how often the update of client `k` in round `r` was counted.
    counts: Vec<Vec<u32>>,
    clients: BTreeMap<ClientId, ClientStatus>,
    ending: Ending,
}

fn faulty_config(workers: usize) -> Config {
    let mut c = config(plan(vec![], D), CLIENTS as u64, ROUNDS as u32);
    c.workers = workers;
    c.restarts = 1;
    c.policy.round_deadline_ms = Some(1000);
    c.policy.join_deadline_ms = Some(1000);
    c
}

/// Runs the federation under `faults` and checks everything that must hold whatever they are.
fn run(faults: &[Fault], workers: usize) -> After {
    let clock = VirtualClock::default();
    let config = faulty_config(workers);
    let faults = Faults::new(faults.to_vec(), &clock, config.plan.wire_bytes());
    let (mut seen, mut log) = (Seen::default(), Vec::new());
    let mut sim =
        Simulation { config, server: Box::new(FedAvg), noise: None, clock: &clock, faults: Some(&faults) };
    let end =
        sim.run(Start::fresh(vec![0.0; D]), &hire, &mut seen, &mut log, &AtomicBool::new(false)).unwrap();

    let mut closed = BTreeSet::new();
    let mut logged = BTreeSet::new();
    for r in &log {
        match &r.what {
            What::Closed { round, .. } => assert!(closed.insert(*round), "{round} closed twice"),
            What::Accepted { round, client, .. } => {
                assert!(logged.insert((*round, *client)), "{client} accepted twice in {round}");
            }
            _ => {}
        }
    }
    let mut counts = vec![vec![0; CLIENTS]; ROUNDS];
    for (i, t) in end.theta.iter().enumerate() {
        let (r, k) = (i / CLIENTS, i % CLIENTS);
        let key = (Round(r as u32), ClientId(k as u64));
        let count = -t;
        assert!(count == 0.0 || count == 1.0, "{} of {} counts {count}", key.1, key.0);
        let counted = count == 1.0;
        assert_eq!(
            counted,
            logged.contains(&key) && closed.contains(&key.0),
            "sum and log disagree on {key:?}"
        );
        assert!(counted || !seen.accepted.contains(&key), "{key:?} was acknowledged and is lost");
        counts[r][k] = u32::from(counted);
    }
    After { counts, clients: seen.clients, ending: end.ending.unwrap() }
}

fn fault(client: u64, on: On, nth: u32, kind: Kind) -> Fault {
    Fault { client: ClientId(client), on, nth, kind }
}

/// Every update counted once.
fn all() -> Vec<Vec<u32>> {
    vec![vec![1; CLIENTS]; ROUNDS]
}

/// Every update counted but that of `client` in `round`.
fn all_but(round: usize, client: usize) -> Vec<Vec<u32>> {
    let mut c = all();
    c[round][client] = 0;
    c
}

#[test]
fn without_faults_everything_counts_once() {
    for workers in [1, 3] {
        let r = run(&[], workers);
        assert_eq!((r.counts, r.ending), (all(), Ending::Completed));
        assert!(r.clients.values().all(|s| (s.accepted, s.refused, s.repeated) == (3, 0, 0)));
    }
}

#[test]
fn lost_damaged_and_repeated_messages_cost_nothing_but_another_try() {
    let kinds = [
        Kind::DropRequest,
        Kind::DropReply,
        Kind::Delay { ms: 999 },
        Kind::Duplicate,
        Kind::CorruptRequest { bit: 700 },
        Kind::CorruptReply { bit: 300 },
        Kind::Stale,
        Kind::StaleReply,
        Kind::Crash,
        Kind::CrashAfter,
    ];
    let mut ran = 0;
    for kind in kinds {
        for (on, nth) in [
            (On::Poll, 0),
            (On::Poll, 1),
            (On::Poll, 2),
            (On::Deliver, 0),
            (On::Deliver, 1),
            (On::Deliver, 2),
        ] {
            let r = run(&[fault(2, on, nth, kind)], 1);
            assert_eq!(r.counts, all(), "{kind:?} on {on:?} {nth}");
            let others = r.clients.iter().filter(|(id, _)| id.0 != 2);
            assert!(others.into_iter().all(|(_, s)| (s.accepted, s.refused, s.repeated) == (3, 0, 0)));
            ran += 1;
        }
    }
    assert_eq!(ran, 60);
}

#[test]
fn each_fault_leaves_its_trace_in_its_senders_status_alone() {
    let status = |kind, nth| {
        let r = run(&[fault(1, On::Deliver, nth, kind)], 1);
        assert_eq!(r.counts, all());
        let s = &r.clients[&ClientId(1)];
        (s.accepted, s.refused, s.repeated)
    };
    assert_eq!(status(Kind::DropRequest, 1), (3, 0, 0));
    assert_eq!(status(Kind::DropReply, 1), (3, 0, 1), "accepted, and again when it asks again");
    assert_eq!(status(Kind::Duplicate, 1), (3, 0, 1));
    assert_eq!(status(Kind::Stale, 1), (3, 0, 1), "the update of the round before, told that it counts");
    assert_eq!(status(Kind::CorruptRequest { bit: 9 }, 1), (3, 1, 0));
    assert_eq!(status(Kind::CorruptReply { bit: 9 }, 1), (3, 0, 1));
    assert_eq!(status(Kind::StaleReply, 1), (3, 0, 1), "an old receipt does not count as this one");
}

#[test]
fn an_update_that_comes_late_does_not_count_and_harms_nobody() {
    let r = run(&[fault(3, On::Deliver, 1, Kind::Delay { ms: 1000 })], 1);
    assert_eq!((r.counts, r.ending), (all_but(1, 3), Ending::Completed));
    let s = &r.clients[&ClientId(3)];
    assert_eq!((s.accepted, s.timed_out, s.refused), (2, 1, 1));
}

#[test]
fn a_client_that_dies_too_often_misses_the_round_and_is_back_in_the_next() {
    let r = run(&[fault(0, On::Deliver, 0, Kind::Crash), fault(0, On::Deliver, 1, Kind::Crash)], 1);
    assert_eq!((r.counts, r.ending), (all_but(0, 0), Ending::Completed));
    assert_eq!(r.clients[&ClientId(0)].timed_out, 1);
}

#[test]
fn a_client_that_never_joins_is_left_out() {
    let drop = |nth| fault(2, On::Join, nth, Kind::DropRequest);
    let r = run(&[drop(0), drop(1), drop(2), drop(3)], 1);
    let want: Vec<Vec<u32>> = vec![vec![1, 1, 0, 1]; ROUNDS];
    assert_eq!((r.counts, r.ending), (want, Ending::Completed));
}

/// Not one of the bits of a delivery, its receipt or the broadcast can change without being noticed.
#[test]
fn every_single_bit_is_guarded() {
    let mut ran = 0;
    for (on, bits) in [(On::Deliver, 8 * (240 + 4 * D)), (On::Poll, 8 * (230 + 4 * D))] {
        for bit in (0..bits as u64).step_by(3) {
            for kind in [Kind::CorruptRequest { bit }, Kind::CorruptReply { bit }] {
                assert_eq!(run(&[fault(1, on, 0, kind)], 1).counts, all(), "{kind:?} on {on:?}");
                ran += 1;
            }
        }
    }
    assert!(ran > 2000, "{ran}");
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![
        Just(Kind::DropRequest),
        Just(Kind::DropReply),
        (0_u64..1500).prop_map(|ms| Kind::Delay { ms }),
        Just(Kind::Duplicate),
        any::<u64>().prop_map(|bit| Kind::CorruptRequest { bit }),
        any::<u64>().prop_map(|bit| Kind::CorruptReply { bit }),
        Just(Kind::Stale),
        Just(Kind::StaleReply),
        Just(Kind::Crash),
        Just(Kind::CrashAfter),
    ];
    let on = prop::sample::select(vec![On::Join, On::Poll, On::Deliver, On::Deliver, On::Failed]);
    (0..CLIENTS as u64, on, 0_u32..6, kind).prop_map(|(client, on, nth, kind)| fault(client, on, nth, kind))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_list_of_faults_breaks_the_promises(
        faults in prop::collection::vec(any_fault(), 0..12),
        workers in 1_usize..4,
    ) {
        run(&faults, workers);
    }
}

/// Counter-examples that were found, kept as they were found.
mod reproductions {
    use super::*;

    /// The old answer to a poll sent a client back to a round that was over; the receipt for that round's update,
    /// which counts, was taken for one of the round that was open.
    #[test]
    fn work_of_a_round_that_is_over() {
        let r = run(&[fault(0, On::Poll, 1, Kind::StaleReply)], 1);
        assert_eq!(r.counts, all());
    }

    /// The same after a crash, when the client no longer knows which rounds it has done.
    #[test]
    fn work_of_a_round_that_is_over_after_a_crash() {
        let r = run(&[fault(0, On::Poll, 1, Kind::Crash), fault(0, On::Poll, 2, Kind::StaleReply)], 1);
        assert_eq!(r.counts, all());
    }
}
