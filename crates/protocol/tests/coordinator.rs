//! The coordinator, event by event.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use antiphon_algo::{Losses, ServerCx};
use antiphon_core::{ClientId, Digest, Millis, Noise, Payload, Round, Weight};
use antiphon_protocol::wire::encode_up;
use antiphon_protocol::*;
use common::*;
use proptest::prelude::*;

fn policy() -> Policy {
    Policy {
        num_rounds: 2,
        fraction: 1.0,
        min_clients: 2,
        round_deadline_ms: Some(100),
        join_deadline_ms: Some(1000),
        round_attempts: 2,
        history: 0,
    }
}

struct World {
    c: Coordinator,
    gate: Gate,
    log: Vec<Record>,
    closings: Vec<Closing>,
    failed: Vec<(u32, u32)>,
    ended: Vec<Ending>,
}

impl World {
    fn new(policy: Policy, clients: &[u64]) -> Self {
        let setup = Setup { plan: mean(), policy, roster: ids(clients), seed: 5, keep_updates: true };
        let c = Coordinator::new(setup, Round(0), theta(0.0), Millis(0)).unwrap();
        Self { c, gate: Gate::new(mean()), log: vec![], closings: vec![], failed: vec![], ended: vec![] }
    }

    fn joined(policy: Policy, clients: &[u64]) -> Self {
        let mut w = Self::new(policy, clients);
        for &k in clients {
            assert_eq!(w.join(k), Down::Accepted(Receipt::Join));
        }
        w
    }

    fn handle(&mut self, now: u64, event: Event) -> Option<Down> {
        let mut reply = None;
        for effect in self.c.handle(Millis(now), event) {
            match effect {
                Effect::Log(r) | Effect::LogUpdate(r, _) => self.log.push(r),
                Effect::Reply(d) => reply = Some(d),
                Effect::Close(c) => self.closings.push(c),
                Effect::RoundFailed { round, attempt } => self.failed.push((round.0, attempt)),
                Effect::Finished(e) => self.ended.push(e),
            }
        }
        reply
    }

    fn say(&mut self, now: u64, from: u64, up: &Up) -> Down {
        let message = self.gate.open(&encode_up(up));
        self.handle(now, Event::Message { from: ClientId(from), message }).unwrap()
    }

    fn join(&mut self, from: u64) -> Down {
        let plan = mean();
        self.say(0, from, &Up::Join { plan: plan.digest(), schema: plan.schema_digest() })
    }

    fn deliver(&mut self, now: u64, from: u64, round: u32, attempt: u32, v: f32) -> Down {
        let base = self.c.theta().digest();
        self.say(now, from, &Up::Deliver(deliver(&mean(), round, attempt, base, v)))
    }

    fn rejected(&mut self, now: u64, from: u64, up: &Up) -> String {
        let before = self.status(from).refused;
        let Down::Rejected(r) = self.say(now, from, up) else { panic!("not rejected") };
        assert_eq!(self.status(from).refused, before + 1);
        r.detail
    }

    fn status(&self, of: u64) -> ClientStatus {
        self.c.clients()[&ClientId(of)].clone()
    }
}

fn is_accepted(d: &Down) -> bool {
    matches!(d, Down::Accepted(Receipt::Update { .. }))
}

#[test]
fn the_first_round_opens_when_all_have_joined() {
    let mut w = World::new(policy(), &[1, 2, 3]);
    assert_eq!(w.c.pending(), ids(&[1, 2, 3]));
    w.join(1);
    w.join(1);
    assert_eq!(w.say(0, 1, &Up::Poll), Down::Wait(WaitFor::Clients { joined: 1, expected: 3 }));
    w.join(3);
    assert!(w.c.open_round().is_none());
    w.join(2);
    assert_eq!(w.c.open_round().unwrap(), (Round(0), 0, &ids(&[1, 2, 3])[..]));
    let joined = w.log.iter().filter(|r| matches!(r.what, What::Joined { .. })).count();
    assert_eq!(joined, 3, "joining twice is joining once");
}

#[test]
fn the_first_round_opens_with_enough_clients_at_the_deadline_or_the_run_ends() {
    let mut w = World::new(policy(), &[1, 2, 3]);
    w.join(1);
    w.join(2);
    w.handle(999, Event::Tick);
    assert!(w.c.open_round().is_none());
    assert_eq!(w.c.wake(), Some(Millis(1000)));
    w.handle(1000, Event::Tick);
    assert_eq!(w.c.open_round().unwrap().2, ids(&[1, 2]));
    // a late joiner takes part from the next round on
    w.join(3);
    assert_eq!(w.say(1001, 3, &Up::Poll), Down::Wait(WaitFor::Unselected { round: Round(0) }));

    let mut w = World::new(policy(), &[1, 2, 3]);
    w.join(1);
    w.handle(1000, Event::Tick);
    assert_eq!(w.ended, [Ending::TooFewClients]);
    assert_eq!(w.join(2), Down::Done(Ending::TooFewClients));
}

#[test]
fn a_round_closes_when_all_have_answered_and_the_next_begins_from_the_new_parameters() {
    let mut w = World::joined(policy(), &[1, 2]);
    let Down::Work(work) = w.say(1, 2, &Up::Poll) else { panic!() };
    assert_eq!((work.round, work.attempt, &work.cohort[..]), (Round(0), 0, &ids(&[1, 2])[..]));
    assert_eq!((work.plan, work.schema, work.theta), (mean().digest(), mean().schema_digest(), theta(0.0)));
    assert!(is_accepted(&w.deliver(2, 2, 0, 0, 4.0)));
    assert_eq!(
        w.say(3, 2, &Up::Poll),
        Down::Wait(WaitFor::Others { round: Round(0), answered: 1, cohort: 2 })
    );
    assert_eq!(w.c.pending(), ids(&[1]));
    assert!(w.closings.is_empty());
    assert!(is_accepted(&w.deliver(4, 1, 0, 0, 2.0)));
    assert_eq!(w.say(5, 1, &Up::Poll), Down::Wait(WaitFor::Aggregation { round: Round(0) }));

    let closing = w.closings.pop().unwrap();
    let who: Vec<_> = closing.contributions.iter().map(|c| (c.client.0, c.weight.get())).collect();
    assert_eq!(who, [(1, 2.0), (2, 2.0)]);
    assert_eq!(closing.contributions[0].metrics, metrics(&[("train_loss", 0.5)]));
    assert!(closing.contributions.iter().all(|c| c.update.is_some()));
    let norms: Vec<f64> = closing.contributions.iter().map(|c| c.norm.unwrap() / 3f64.sqrt()).collect();
    assert!((norms[0] - 2.0).abs() < 1e-6 && (norms[1] - 4.0).abs() < 1e-6, "{norms:?}");
    struct NoNoise;
    impl Noise for NoNoise {
        fn standard_normal(&mut self) -> f64 {
            0.0
        }
    }
    let mut cx = ServerCx { round: Round(0), accepted: 2, noise: &mut NoNoise, threads: 1 };
    assert_eq!(closing.tally.close(&mut cx, &mut mean().slots()).unwrap(), [3.0; D]);

    w.handle(6, Event::Applied { theta: theta(-3.0) });
    let Down::Work(work) = w.say(7, 1, &Up::Poll) else { panic!() };
    assert_eq!((work.round, work.theta), (Round(1), theta(-3.0)));
    for k in [1, 2] {
        w.deliver(8, k, 1, 0, 0.0);
    }
    w.handle(9, Event::Applied { theta: theta(-4.0) });
    assert_eq!(w.ended, [Ending::Completed]);
    assert_eq!(w.say(10, 1, &Up::Poll), Down::Done(Ending::Completed));
    assert_eq!(w.c.theta(), &theta(-4.0));
}

#[test]
fn the_deadline_closes_a_round_with_enough_answers_and_the_late_are_told() {
    let mut w = World::joined(policy(), &[1, 2, 3]);
    w.deliver(1, 1, 0, 0, 1.0);
    w.deliver(2, 3, 0, 0, 1.0);
    w.handle(99, Event::Tick);
    assert!(w.closings.is_empty());
    // a message at the deadline is late
    let Down::Rejected(r) = w.deliver(100, 2, 0, 0, 1.0) else { panic!() };
    assert_eq!(r.code, Code::Outdated);
    assert_eq!(w.closings[0].contributions.len(), 2);
    let s = w.status(2);
    assert_eq!((s.timed_out, s.refused, s.accepted), (1, 1, 0));
    assert!(w.log.iter().any(|r| matches!(r.what, What::TimedOut { client: ClientId(2), .. })));
    w.handle(101, Event::Applied { theta: theta(1.0) });
    // and a straggler's update is refused as stale in the next round
    let late = Up::Deliver(deliver(&mean(), 0, 0, theta(0.0).digest(), 1.0));
    assert!(w.rejected(102, 2, &late).contains("round 0 (attempt 0), but the run is at round 1"));
}

#[test]
fn too_few_answers_open_another_attempt_and_then_end_the_run() {
    let mut w = World::joined(policy(), &[1, 2, 3]);
    w.deliver(1, 1, 0, 0, 1.0);
    w.handle(100, Event::Tick);
    assert_eq!(w.failed, [(0, 0)]);
    assert_eq!(w.c.open_round().unwrap().1, 1);
    assert_eq!(w.c.wake(), Some(Millis(200)));
    // what was made for the first attempt does not count in the second
    let old = Up::Deliver(deliver(&mean(), 0, 0, theta(0.0).digest(), 2.0));
    assert!(w.rejected(101, 2, &old).contains("attempt"));
    w.handle(200, Event::Tick);
    assert_eq!((&w.failed[..], &w.ended[..]), (&[(0, 0), (0, 1)][..], &[Ending::RoundFailed][..]));
    assert!(w.closings.is_empty());
}

#[test]
fn what_clients_report_as_their_loss_comes_with_the_next_round() {
    let mut w = World::joined(policy(), &[1, 2]);
    let told = |w: &mut World| {
        let Down::Work(work) = w.say(2, 1, &Up::Poll) else { panic!() };
        work.losses
    };
    assert_eq!(told(&mut w), None);
    for (k, loss) in [(1, 0.5), (2, 1.5)] {
        let base = w.c.theta().digest();
        let own = deliver(&mean(), 0, 0, base, 1.0);
        let own = Deliver { metrics: metrics(&[("shared_loss", loss), ("train_loss", 9.0)]), ..own };
        assert!(is_accepted(&w.say(1, k, &Up::Deliver(own))));
    }
    w.handle(2, Event::Applied { theta: theta(-3.0) });
    let losses = Some(Losses { mean: 1.0, greatest: 0.5 });
    assert_eq!(told(&mut w), losses);
    // a restarted one is told what its checkpoint holds
    let setup = Setup { plan: mean(), policy: policy(), roster: ids(&[1, 2]), seed: 5, keep_updates: false };
    let mut c = Coordinator::new(setup, Round(1), theta(-3.0), Millis(0)).unwrap().after(losses);
    for k in [1, 2] {
        c.handle(Millis(0), Event::Message { from: ClientId(k), message: Ok(Inbound::Join) });
    }
    let effects = c.handle(Millis(0), Event::Message { from: ClientId(1), message: Ok(Inbound::Poll) });
    let said = effects.iter().any(|e| matches!(e, Effect::Reply(Down::Work(w)) if w.losses == losses));
    assert!(said, "{effects:?}");
}

#[test]
fn an_aggregate_that_cannot_be_used_is_a_failed_attempt() {
    let mut w = World::joined(policy(), &[1, 2]);
    for k in [1, 2] {
        w.deliver(1, k, 0, 0, 1.0);
    }
    w.handle(2, Event::Unusable);
    assert_eq!((&w.failed[..], w.c.open_round().unwrap().1), (&[(0, 0)][..], 1));
}

#[test]
fn every_refusal_says_why_and_changes_nothing_but_its_senders_status() {
    let mut w = World::joined(policy(), &[1, 2, 3]);
    w.deliver(1, 1, 0, 0, 1.0);
    let base = theta(0.0).digest();
    let good = |v| deliver(&mean(), 0, 0, base, v);
    let others = |w: &World| (w.status(1), w.status(3), w.c.pending(), w.c.open_round().map(|o| (o.0, o.1)));
    let before = others(&w);
    let with = |change: &dyn Fn(&mut Deliver)| {
        let mut d = good(1.0);
        change(&mut d);
        Up::Deliver(d)
    };
    let cases: Vec<(Up, &str)> = vec![
        (with(&|d| d.round = Round(1)), "has not begun"),
        (with(&|d| d.attempt = 1), "has not begun"),
        (with(&|d| d.base = Digest::of(b"x")), "made from parameters"),
        (with(&|d| d.plan = Digest::of(b"x")), "this run uses plan"),
        (with(&|d| d.schema = Digest::of(b"x")), "this run trains schema"),
        (with(&|d| d.update = Vector::from_reals(&[1.0; 9])), "36 bytes, expected 16"),
        (with(&|d| d.metrics = metrics(&[("x", f64::NAN)])), "metric number 0"),
        (with(&|d| d.round = Round(9)), "has not begun"),
        (Up::Failed { round: Round(4), attempt: 0, reason: String::new() }, "has not begun"),
        (Up::Join { plan: Digest::of(b"x"), schema: mean().schema_digest() }, "plan"),
    ];
    let mut refused = 0;
    for (up, why) in cases {
        let said = w.rejected(2, 2, &up);
        assert!(said.contains(why), "{said}");
        refused += 1;
        assert_eq!(others(&w), before, "{why}");
        assert_eq!(w.status(2).last_trouble.as_deref(), Some(&said[..]));
    }
    // bytes that are no message
    let down =
        w.handle(2, Event::Message { from: ClientId(2), message: Err(WireError::Short { found: 3 }.into()) });
    assert!(matches!(down, Some(Down::Rejected(Rejection { code: Code::Resend, .. }))));
    refused += 1;
    assert_eq!((w.status(2).refused, w.status(2).accepted), (refused, 0));
    assert_eq!(others(&w), before);
    // and none of it keeps the client from delivering
    assert!(is_accepted(&w.deliver(3, 2, 0, 0, 1.0)));
    // strangers have no status
    let Down::Rejected(r) = w.join(77) else { panic!() };
    assert_eq!((r.code, w.c.clients().len()), (Code::Excluded, 3));
    let mut fresh = World::new(policy(), &[1, 2]);
    let Down::Rejected(r) = fresh.say(0, 1, &Up::Poll) else { panic!() };
    assert_eq!(r.code, Code::Rejoin);
}

#[test]
fn an_update_that_cannot_be_used_puts_its_client_out_of_that_round_only() {
    let mut w = World::joined(policy(), &[1, 2, 3]);
    let base = theta(0.0).digest();
    let nan = |round| {
        let mut d = deliver(&mean(), round, 0, base, 1.0);
        d.update = Vector::from_payload(Payload::Real(vec![f32::NAN, 0.0, 0.0, 2.0]));
        Up::Deliver(d)
    };
    assert!(w.rejected(1, 2, &nan(5)).contains("not a finite number"));
    assert_eq!(w.c.pending(), ids(&[1, 2, 3]), "of another round");
    let Down::Rejected(r) = w.say(1, 2, &nan(0)) else { panic!() };
    assert_eq!(r.code, Code::Unusable);
    assert_eq!(w.c.pending(), ids(&[1, 3]), "the others need not wait for it");
    for k in [1, 3] {
        w.deliver(2, k, 0, 0, 1.0);
    }
    let who: Vec<_> = w.closings[0].contributions.iter().map(|c| c.client).collect();
    assert_eq!(who, ids(&[1, 3]));
}

#[test]
fn a_delivery_sent_again_is_accepted_again_and_counted_once() {
    let mut w = World::joined(policy(), &[1, 2]);
    let base = theta(0.0).digest();
    let first = w.deliver(1, 1, 0, 0, 1.0);
    assert_eq!(w.deliver(1, 1, 0, 0, 1.0), first);
    // something else instead
    let other = Up::Deliver(deliver(&mean(), 0, 0, base, 2.0));
    assert!(w.rejected(1, 1, &other).contains("has answered round 0 already"));
    let mut heavier = deliver(&mean(), 0, 0, base, 1.0);
    heavier.weight = Weight::new(3.0).unwrap();
    assert!(matches!(w.say(1, 1, &Up::Deliver(heavier)), Down::Rejected(_)));
    assert_eq!(
        w.rejected(1, 1, &Up::Failed { round: Round(0), attempt: 0, reason: "no".into() }),
        "client 1 has answered round 0 already"
    );
    w.deliver(2, 2, 0, 0, 1.0);
    // the answer was lost and the round has closed, and even the next has begun
    assert_eq!(w.say(3, 1, &Up::Deliver(deliver(&mean(), 0, 0, base, 1.0))), first);
    w.handle(4, Event::Applied { theta: theta(1.0) });
    assert_eq!(w.say(5, 1, &Up::Deliver(deliver(&mean(), 0, 0, base, 1.0))), first);
    let s = w.status(1);
    assert_eq!((s.accepted, s.repeated), (1, 3));
    let logged = w.log.iter().filter(|r| matches!(r.what, What::Accepted { .. })).count();
    assert_eq!((logged, w.closings.len(), w.closings[0].contributions.len()), (2, 1, 2));
}

#[test]
fn a_client_that_gives_up_is_not_waited_for() {
    let mut w = World::joined(policy(), &[1, 2, 3]);
    let up = Up::Failed { round: Round(0), attempt: 0, reason: "out of memory".into() };
    let receipt = Down::Accepted(Receipt::Failure { round: Round(0), attempt: 0 });
    assert_eq!(w.say(1, 2, &up), receipt);
    assert_eq!(w.say(1, 2, &up), receipt, "saying it again changes nothing");
    let s = w.status(2);
    assert_eq!((s.failed, s.last_trouble.as_deref()), (1, Some("out of memory")));
    assert!(matches!(w.deliver(1, 2, 0, 0, 1.0), Down::Rejected(_)));
    w.deliver(2, 1, 0, 0, 1.0);
    w.deliver(2, 3, 0, 0, 1.0);
    assert_eq!(w.closings[0].contributions.len(), 2);
}

#[test]
fn records_come_before_the_replies_that_depend_on_them() {
    let setup = Setup { plan: mean(), policy: policy(), roster: ids(&[1, 2]), seed: 5, keep_updates: false };
    let mut c = Coordinator::new(setup, Round(0), theta(0.0), Millis(0)).unwrap();
    let gate = Gate::new(mean());
    let plan = mean();
    for k in [1, 2] {
        let join = Up::Join { plan: plan.digest(), schema: plan.schema_digest() };
        c.handle(Millis(0), Event::Message { from: ClientId(k), message: gate.open(&encode_up(&join)) });
    }
    let up = Up::Deliver(deliver(&plan, 0, 0, theta(0.0).digest(), 1.0));
    let effects =
        c.handle(Millis(1), Event::Message { from: ClientId(1), message: gate.open(&encode_up(&up)) });
    let at = |f: &dyn Fn(&Effect) -> bool| effects.iter().position(f).unwrap();
    let Up::Deliver(Deliver { update: sent, .. }) = up else { panic!() };
    let logged =
        at(&|e| matches!(e, Effect::LogUpdate(Record { what: What::Accepted { .. }, .. }, u) if *u == sent));
    assert!(logged < at(&|e| matches!(e, Effect::Reply(_))));
}

#[test]
fn sampling_is_uniform_fixed_by_the_seed_and_new_at_every_round() {
    let cohorts = |seed: u64, rounds: u32| -> Vec<Vec<ClientId>> {
        let policy = Policy { num_rounds: rounds, fraction: 0.3, min_clients: 1, ..policy() };
        let roster: Vec<u64> = (0..10).collect();
        let setup = Setup { plan: mean(), policy, roster: ids(&roster), seed, keep_updates: false };
        let mut c = Coordinator::new(setup, Round(0), theta(0.0), Millis(0)).unwrap();
        for k in roster {
            c.handle(Millis(0), Event::Message { from: ClientId(k), message: Ok(Inbound::Join) });
        }
        let mut out = Vec::new();
        while let Some((round, attempt, cohort)) = c.open_round() {
            let cohort = cohort.to_vec();
            for &from in &cohort {
                let d = deliver(&mean(), round.0, attempt, theta(0.0).digest(), 0.0);
                let message = Gate::new(mean()).open(&encode_up(&Up::Deliver(d)));
                c.handle(Millis(0), Event::Message { from, message });
            }
            out.push(cohort);
            c.handle(Millis(0), Event::Applied { theta: theta(0.0) });
        }
        out
    };
    let all = cohorts(1, 600);
    assert_eq!(all.len(), 600);
    assert_eq!(cohorts(1, 3), all[..3], "a prefix of a longer run");
    assert_ne!(cohorts(2, 3), all[..3]);
    let mut counts = BTreeMap::<ClientId, i32>::new();
    for cohort in &all {
        assert_eq!(cohort.len(), 3);
        cohort.iter().for_each(|id| *counts.entry(*id).or_default() += 1);
    }
    // each of 10 clients is drawn in 180 of 600 rounds on average, standard deviation 11.2
    assert!(counts.values().all(|n| (n - 180).abs() < 56), "{counts:?}");
}

#[test]
fn each_attempt_at_a_round_draws_its_own_cohort() {
    let policy = Policy { fraction: 0.3, round_attempts: 6, num_rounds: 1, ..policy() };
    let roster: Vec<u64> = (0..10).collect();
    let mut w = World::joined(policy, &roster);
    let mut cohorts = Vec::new();
    for attempt in 0..6 {
        cohorts.push(w.c.open_round().unwrap().2.to_vec());
        w.handle(100 * (attempt + 1), Event::Tick);
    }
    assert_eq!(w.ended, [Ending::RoundFailed]);
    assert!(cohorts[1..].iter().any(|c| *c != cohorts[0]), "{cohorts:?}");
}

#[test]
fn cohort_sizes_round_and_never_fall_below_the_minimum() {
    let p = |fraction, min_clients| Policy { fraction, min_clients, ..policy() };
    assert_eq!(p(0.29, 1).cohort_size(100), 29);
    assert_eq!(p(0.1, 1).cohort_size(30), 3);
    assert_eq!(p(0.01, 2).cohort_size(30), 2);
    assert_eq!(p(1.0, 1).cohort_size(7), 7);
    assert_eq!(p(0.5, 9).check(8), Err(PolicyError::MinClients { min_clients: 9, clients: 8 }));
    for bad in [0.0, -0.1, 1.1, f64::NAN] {
        assert!(p(bad, 1).check(8).is_err(), "{bad}");
    }
    assert!(p(1.0, 0).check(8).is_err());
}

#[test]
fn stopping_ends_the_run_for_everyone() {
    let mut w = World::joined(policy(), &[1, 2]);
    w.handle(1, Event::Stop);
    w.handle(1, Event::Stop);
    assert_eq!(w.ended, [Ending::Stopped]);
    assert_eq!(w.say(2, 1, &Up::Poll), Down::Done(Ending::Stopped));
    assert!(matches!(w.deliver(2, 1, 0, 0, 1.0), Down::Rejected(_)));
}

#[test]
fn a_restarted_coordinator_goes_on_where_the_checkpoint_left_off() {
    let setup = Setup { plan: mean(), policy: policy(), roster: ids(&[1, 2]), seed: 5, keep_updates: false };
    let mut c = Coordinator::new(setup.clone(), Round(1), theta(7.0), Millis(50)).unwrap();
    for k in [1, 2] {
        c.handle(Millis(50), Event::Message { from: ClientId(k), message: Ok(Inbound::Join) });
    }
    assert_eq!(c.open_round().unwrap().0, Round(1));
    // and with nothing left to do it is over
    let mut c = Coordinator::new(setup.clone(), Round(2), theta(7.0), Millis(50)).unwrap();
    c.handle(Millis(50), Event::Tick);
    assert_eq!(c.ending(), Some(Ending::Completed));
    let short = Coordinator::new(setup, Round(0), Vector::from_reals(&[0.0]), Millis(0)).unwrap_err();
    assert_eq!(short, PolicyError::Theta { expected: 12, found: 4 });
}

#[derive(Clone, Debug)]
enum Act {
    Join(u64),
    Poll(u64),
    Deliver(u64, u32, u32, i8),
    Failed(u64, u32, u32),
    Damaged(u64),
    Tick,
    Applied,
    Unusable,
}

fn acts() -> impl Strategy<Value = Vec<(u64, Act)>> {
    let k = || 0_u64..6;
    let act = prop_oneof![
        3 => k().prop_map(Act::Join),
        2 => k().prop_map(Act::Poll),
        6 => (k(), 0_u32..3, 0_u32..2, -1_i8..3).prop_map(|(k, r, a, v)| Act::Deliver(k, r, a, v)),
        1 => (k(), 0_u32..3, 0_u32..2).prop_map(|(k, r, a)| Act::Failed(k, r, a)),
        1 => k().prop_map(Act::Damaged),
        1 => Just(Act::Tick),
        2 => Just(Act::Applied),
        1 => Just(Act::Unusable),
    ];
    prop::collection::vec((0_u64..40, act), 0..80)
}

/// Runs `acts` on a coordinator of clients 0 to 4 (client 5 is a stranger) and checks what must always hold.
fn play(acts: &[(u64, Act)]) -> Vec<String> {
    let policy = Policy { fraction: 0.8, num_rounds: 3, ..policy() };
    let setup = Setup {
        plan: mean(),
        policy: policy.clone(),
        roster: ids(&[0, 1, 2, 3, 4]),
        seed: 3,
        keep_updates: false,
    };
    let mut c = Coordinator::new(setup, Round(0), theta(0.0), Millis(0)).unwrap();
    let gate = Gate::new(mean());
    let (mut now, mut history) = (0, Vec::new());
    let mut counted = BTreeMap::<(Round, u32), Vec<ClientId>>::new();
    let mut closed = Vec::new();
    for (wait, act) in acts {
        now += wait;
        let say = |from: &u64, up: &Up| Event::Message {
            from: ClientId(*from),
            message: gate.open(&encode_up(up)),
        };
        let event = match act {
            Act::Join(k) => say(k, &Up::Join { plan: mean().digest(), schema: mean().schema_digest() }),
            Act::Poll(k) => say(k, &Up::Poll),
            Act::Deliver(k, r, a, v) => {
                let v = if *v < 0 { f32::NAN } else { f32::from(*v) };
                say(k, &Up::Deliver(deliver(&mean(), *r, *a, c.theta().digest(), v)))
            }
            Act::Failed(k, r, a) => {
                say(k, &Up::Failed { round: Round(*r), attempt: *a, reason: "no".into() })
            }
            Act::Damaged(k) => {
                Event::Message { from: ClientId(*k), message: Err(WireError::Digest { what: "body" }.into()) }
            }
            Act::Tick => Event::Tick,
            Act::Applied => Event::Applied { theta: theta(now as f32) },
            Act::Unusable => Event::Unusable,
        };
        let is_message = matches!(event, Event::Message { .. });
        let effects = c.handle(Millis(now), event);
        let replies = effects.iter().filter(|e| matches!(e, Effect::Reply(_))).count();
        assert_eq!(replies, usize::from(is_message), "one reply a message");
        for e in &effects {
            match e {
                Effect::LogUpdate(Record { what: What::Accepted { round, attempt, client, .. }, .. }, _) => {
                    let who = counted.entry((*round, *attempt)).or_default();
                    assert!(!who.contains(client), "{client} counted twice in {round}");
                    who.push(*client);
                }
                Effect::Close(closing) => {
                    let mut who = counted.get(&(closing.round, closing.attempt)).cloned().unwrap_or_default();
                    who.sort_unstable();
                    let mine: Vec<_> = closing.contributions.iter().map(|c| c.client).collect();
                    assert_eq!(mine, who, "exactly the acknowledged updates are in the sum");
                    assert_eq!(closing.tally.accepted(), who.len());
                    assert!(who.len() >= policy.min_clients);
                    closed.push((closing.round, closing.attempt));
                }
                _ => {}
            }
        }
        history.push(format!("{effects:?}"));
    }
    assert!(
        closed.is_sorted() && closed.len() == closed.iter().collect::<std::collections::BTreeSet<_>>().len()
    );
    assert_eq!(c.clients().len(), 5, "a stranger leaves no trace");
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_events_keep_the_invariants_and_replaying_them_gives_the_same_effects(acts in acts()) {
        prop_assert_eq!(play(&acts), play(&acts));
    }
}
