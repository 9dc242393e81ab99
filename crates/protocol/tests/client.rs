//! The client, answer by answer.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use antiphon_core::{ClientId, Digest, Payload, Round, Weight};
use antiphon_protocol::*;
use common::*;

fn lost() -> Result<Down, LinkError> {
    Err(LinkError::Lost)
}

fn work(round: u32) -> Work {
    let plan = mean();
    Work {
        round: Round(round),
        attempt: 0,
        plan: plan.digest(),
        schema: plan.schema_digest(),
        cohort: ids(&[1, 2]).into(),
        theta: theta(0.5),
        losses: None,
    }
}

/// A client that has joined and asked for work.
fn polling() -> Client {
    let mut c = Client::new(ClientId(1), mean(), 3);
    assert!(matches!(c.begin(), Step::Call(Up::Join { .. })));
    assert_eq!(c.answered(Ok(Down::Accepted(Receipt::Join))).unwrap(), Step::Rest(Rest::Joined));
    assert_eq!(c.begin(), Step::Call(Up::Poll));
    c
}

fn update() -> Vector {
    Vector::from_payload(Payload::Real(vec![1.0, 2.0, 3.0, 2.0]))
}

/// A client that is delivering, and its message.
fn delivering() -> (Client, Deliver) {
    let mut c = polling();
    assert_eq!(c.answered(Ok(Down::Work(work(3)))).unwrap(), Step::Train(work(3)));
    let Step::Call(Up::Deliver(d)) = c.trained(update(), Weight::ONE, metrics(&[("loss", 1.0)])) else {
        panic!()
    };
    (c, d)
}

fn rejected(code: Code) -> Result<Down, LinkError> {
    Ok(Down::Rejected(Rejection { code, detail: "why".into() }))
}

#[test]
fn a_round_from_poll_to_receipt() {
    let (mut c, d) = delivering();
    assert_eq!((d.round, d.attempt, d.base), (Round(3), 0, theta(0.5).digest()));
    assert_eq!((d.plan, d.schema), (mean().digest(), mean().schema_digest()));
    let receipt = Receipt::Update { round: Round(3), attempt: 0, digest: update().digest() };
    let step = c.answered(Ok(Down::Accepted(receipt))).unwrap();
    assert_eq!(step, Step::Rest(Rest::Accepted { round: Round(3), attempt: 0 }));
    assert_eq!(c.begin(), Step::Call(Up::Poll));
    let over = c.answered(Ok(Down::Done(Ending::Completed))).unwrap();
    assert_eq!(over, Step::Stop(Ending::Completed));
    assert_eq!(c.begin(), Step::Stop(Ending::Completed));
}

#[test]
fn a_call_is_repeated_with_the_same_message_and_not_for_ever() {
    let (mut c, d) = delivering();
    for _ in 0..2 {
        assert_eq!(c.answered(lost()).unwrap(), Step::Call(Up::Deliver(d.clone())));
    }
    let e = c.answered(rejected(Code::Resend)).unwrap_err();
    assert_eq!(e.to_string(), "client 1 got no usable answer in 3 attempts: why");
}

#[test]
fn an_answer_to_another_call_is_not_taken_for_this_one() {
    let stale = [
        Down::Accepted(Receipt::Join),
        Down::Accepted(Receipt::Failure { round: Round(3), attempt: 0 }),
        Down::Accepted(Receipt::Update { round: Round(2), attempt: 0, digest: update().digest() }),
        Down::Accepted(Receipt::Update { round: Round(3), attempt: 1, digest: update().digest() }),
        Down::Accepted(Receipt::Update { round: Round(3), attempt: 0, digest: Digest::of(b"") }),
        Down::Wait(WaitFor::Unselected { round: Round(3) }),
        Down::Work(work(3)),
    ];
    for old in stale {
        let (mut c, d) = delivering();
        assert_eq!(c.answered(Ok(old.clone())).unwrap(), Step::Call(Up::Deliver(d)), "{old:?}");
    }
    // work of a round that it has seen the end of
    let (mut c, d) = delivering();
    let receipt = Receipt::Update { round: d.round, attempt: 0, digest: d.update.digest() };
    c.answered(Ok(Down::Accepted(receipt))).unwrap();
    c.begin();
    assert_eq!(c.answered(Ok(Down::Work(work(2)))).unwrap(), Step::Call(Up::Poll));
}

#[test]
fn work_that_is_not_its_own_is_declined_with_the_reason() {
    type Change = fn(&mut Work);
    let cases: [(&str, Change); 3] = [
        ("plan", |w| w.plan = Digest::of(b"x")),
        ("schema", |w| w.schema = Digest::of(b"x")),
        ("cohort", |w| w.cohort = ids(&[2]).into()),
    ];
    for (why, change) in cases {
        let mut c = polling();
        let mut w = work(0);
        change(&mut w);
        let Step::Call(Up::Failed { round, reason, .. }) = c.answered(Ok(Down::Work(w))).unwrap() else {
            panic!("{why}")
        };
        assert!(round == Round(0) && reason.contains(why), "{reason}");
        let step = c.answered(Ok(Down::Accepted(Receipt::Failure { round, attempt: 0 }))).unwrap();
        assert_eq!(step, Step::Rest(Rest::GaveUp { round, reason }));
    }
}

#[test]
fn what_the_coordinator_would_refuse_is_reported_as_failure() {
    for bad in [metrics(&[("loss", f64::NAN)]), metrics(&[("Bad Name\n", 1.0)])] {
        let mut c = polling();
        c.answered(Ok(Down::Work(work(0)))).unwrap();
        let Step::Call(Up::Failed { reason, .. }) = c.trained(update(), Weight::ONE, bad) else { panic!() };
        assert!(reason.contains("metric") && !reason.contains('\n'), "{reason}");
    }
    let mut c = polling();
    c.answered(Ok(Down::Work(work(0)))).unwrap();
    let Step::Call(Up::Failed { reason, .. }) = c.gave_up(&format!("a\nb{}", "x".repeat(9000))) else {
        panic!()
    };
    assert!(reason.starts_with("a bx") && reason.len() <= wire::MAX_REASON);
}

#[test]
fn each_rejection_has_its_own_consequence() {
    let (mut c, _) = delivering();
    assert!(matches!(c.answered(rejected(Code::Excluded)), Err(ClientError::Excluded { .. })));
    let (mut c, _) = delivering();
    let step = c.answered(rejected(Code::Outdated)).unwrap();
    assert_eq!(step, Step::Rest(Rest::GaveUp { round: Round(3), reason: "why".into() }));
    let (mut c, _) = delivering();
    let step = c.answered(rejected(Code::Unusable)).unwrap();
    assert_eq!(step, Step::Call(Up::Failed { round: Round(3), attempt: 0, reason: "why".into() }));
    // what went wrong is not lost because the report of it comes late
    for late in [Code::Outdated, Code::Unusable] {
        let mut c = polling();
        c.answered(Ok(Down::Work(work(0)))).unwrap();
        c.gave_up("the disk is full");
        let step = c.answered(rejected(late)).unwrap();
        assert_eq!(step, Step::Rest(Rest::GaveUp { round: Round(0), reason: "the disk is full".into() }));
    }
    // a coordinator that was restarted knows nobody
    let mut c = polling();
    assert!(matches!(c.answered(rejected(Code::Rejoin)).unwrap(), Step::Call(Up::Join { .. })));
    assert_eq!(c.answered(Ok(Down::Accepted(Receipt::Join))).unwrap(), Step::Rest(Rest::Joined));
}

#[test]
fn a_round_that_a_restarted_coordinator_repeats_is_worked_on_again() {
    let (mut c, d) = delivering();
    let receipt = Receipt::Update { round: d.round, attempt: 0, digest: d.update.digest() };
    c.answered(Ok(Down::Accepted(receipt))).unwrap();
    c.begin();
    c.answered(rejected(Code::Rejoin)).unwrap();
    c.answered(Ok(Down::Accepted(Receipt::Join))).unwrap();
    assert_eq!(c.begin(), Step::Call(Up::Poll));
    assert_eq!(c.answered(Ok(Down::Work(work(3)))).unwrap(), Step::Train(work(3)));
}

/// A client that keeps parameters puts changes together; one that has not what was changed joins anew, for the whole.
#[test]
fn changes_are_put_together_or_asked_for_whole() {
    let many = |v: f32| Vector::from_reals(&[&[v][..], &[0.5; 2]].concat());
    let task = |round: u32, from: &Vector, to: &Vector| {
        let Work { plan, schema, cohort, losses, .. } = work(round);
        let theta = Patch::between(from, to).unwrap();
        Down::Changed(Changed { round: Round(round), attempt: 0, plan, schema, cohort, theta, losses })
    };
    let mut c = Client::new(ClientId(1), mean(), 3).remembering();
    c.begin();
    c.answered(Ok(Down::Accepted(Receipt::Join))).unwrap();
    c.begin();
    let first = Work { theta: many(1.0), ..work(3) };
    c.answered(Ok(Down::Work(first))).unwrap();
    c.trained(update(), Weight::ONE, metrics(&[]));
    let receipt = Receipt::Update { round: Round(3), attempt: 0, digest: update().digest() };
    c.answered(Ok(Down::Accepted(receipt))).unwrap();
    c.begin();
    // round 4 is lost after it was received: the coordinator still knows only of round 3
    let Step::Train(w) = c.answered(Ok(task(4, &many(1.0), &many(2.0)))).unwrap() else { panic!() };
    assert_eq!(w.theta, many(2.0));
    c.gave_up("no");
    c.answered(Ok(Down::Accepted(Receipt::Failure { round: Round(4), attempt: 0 }))).unwrap();
    c.begin();
    let Step::Train(w) = c.answered(Ok(task(5, &many(1.0), &many(3.0)))).unwrap() else { panic!() };
    assert_eq!(w.theta, many(3.0));
    c.gave_up("no");
    c.answered(Ok(Down::Accepted(Receipt::Failure { round: Round(5), attempt: 0 }))).unwrap();
    c.begin();
    let step = c.answered(Ok(task(6, &many(7.0), &many(8.0)))).unwrap();
    assert!(matches!(step, Step::Call(Up::Join { .. })), "{step:?}");
    c.answered(Ok(Down::Accepted(Receipt::Join))).unwrap();
    assert_eq!(c.begin(), Step::Call(Up::Poll));
    let whole = Work { theta: many(8.0), ..work(6) };
    assert_eq!(c.answered(Ok(Down::Work(whole.clone()))).unwrap(), Step::Train(whole));
}
