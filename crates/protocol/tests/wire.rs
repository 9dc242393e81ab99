//! The wire form: what is written is read back, and nothing else is.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use antiphon_algo::Losses;
use antiphon_core::{ClientId, Digest, Payload, Round, Weight};
use antiphon_protocol::frame::PRELUDE;
use antiphon_protocol::wire::{
    MAX_REASON, decode_down, decode_up, encode_down, encode_up, encode_up_with, printable,
};
use antiphon_protocol::*;
use bytes::Bytes;
use common::*;
use proptest::prelude::*;

const UPDATE: usize = 16;
const THETA: usize = 12;

fn up(frame: &Frame) -> Result<Up, WireError> {
    decode_up(frame, UPDATE, |_| ())
}

fn down(frame: &Frame) -> Result<Down, WireError> {
    decode_down(frame, THETA)
}

fn digests() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn vectors(n: usize) -> impl Strategy<Value = Vector> {
    prop::collection::vec(any::<f32>(), n).prop_map(|v| Vector::from_payload(Payload::Real(v)))
}

fn reasons() -> impl Strategy<Value = String> {
    "\\PC{0,40}".prop_map(|s| printable(&s))
}

fn ups() -> impl Strategy<Value = Up> {
    let metrics = prop::collection::btree_map("[a-z0-9_./@-]{1,64}", -1e300..1e300_f64, 0..65);
    let deliver =
        (any::<(u32, u32)>(), digests(), digests(), digests(), 1e-300..1e300_f64, metrics, vectors(4))
            .prop_map(|((round, attempt), plan, schema, base, weight, metrics, update)| {
                Up::Deliver(Deliver {
                    round: Round(round),
                    attempt,
                    plan,
                    schema,
                    base,
                    weight: Weight::new(weight).unwrap(),
                    metrics,
                    update,
                })
            });
    prop_oneof![
        (digests(), digests()).prop_map(|(plan, schema)| Up::Join { plan, schema }),
        Just(Up::Poll),
        deliver,
        (any::<u32>(), any::<u32>(), reasons()).prop_map(|(r, attempt, reason)| Up::Failed {
            round: Round(r),
            attempt,
            reason
        }),
    ]
}

fn downs() -> impl Strategy<Value = Down> {
    let round = || any::<u32>().prop_map(Round);
    let work = (
        (round(), any::<u32>()),
        digests(),
        digests(),
        prop::collection::btree_set(any::<u64>(), 1..20),
        vectors(3),
        prop::option::of((-1e9..1e9_f64, 0.0..1e9_f64)),
    )
        .prop_map(|((round, attempt), plan, schema, cohort, theta, losses)| {
            let cohort = cohort.into_iter().map(ClientId).collect();
            let losses = losses.map(|(mean, greatest)| Losses { mean, greatest });
            Down::Work(Work { round, attempt, plan, schema, cohort, theta, losses })
        });
    let wait = prop_oneof![
        any::<(u32, u32)>().prop_map(|(joined, expected)| WaitFor::Clients { joined, expected }),
        round().prop_map(|round| WaitFor::Unselected { round }),
        (round(), any::<(u32, u32)>()).prop_map(|(round, (answered, cohort))| WaitFor::Others {
            round,
            answered,
            cohort
        }),
        round().prop_map(|round| WaitFor::Aggregation { round }),
    ];
    let receipt = prop_oneof![
        Just(Receipt::Join),
        (round(), any::<u32>(), digests()).prop_map(|(round, attempt, digest)| Receipt::Update {
            round,
            attempt,
            digest
        }),
        (round(), any::<u32>()).prop_map(|(round, attempt)| Receipt::Failure { round, attempt }),
    ];
    let codes = prop::sample::select(vec![
        Code::Resend,
        Code::Outdated,
        Code::Unusable,
        Code::Rejoin,
        Code::Excluded,
    ]);
    let endings = prop::sample::select(vec![
        Ending::Completed,
        Ending::TooFewClients,
        Ending::RoundFailed,
        Ending::Stopped,
    ]);
    prop_oneof![
        work,
        wait.prop_map(Down::Wait),
        receipt.prop_map(Down::Accepted),
        (codes, reasons()).prop_map(|(code, detail)| Down::Rejected(Rejection { code, detail })),
        endings.prop_map(Down::Done),
    ]
}

/// A frame whose lengths and header digest are right, whatever its header says.
fn sealed(header: &[u8], body: &[u8]) -> Frame {
    let mut head = b"ANTP\x01\0\0\0".to_vec();
    head.extend((header.len() as u32).to_le_bytes());
    head.extend((body.len() as u64).to_le_bytes());
    let digest = Digest::of(&[&head, header].concat());
    head.extend(digest.0);
    head.extend(header);
    Frame::new(head.into(), Bytes::copy_from_slice(body))
}

/// The header bytes of an encoded message.
fn header_of(frame: &Frame) -> Vec<u8> {
    frame.head()[PRELUDE..].to_vec()
}

fn flipped(frame: &Frame, bit: usize) -> Frame {
    let mut bytes = frame.to_vec();
    let at = bit / 8 % bytes.len();
    bytes[at] ^= 1 << (bit % 8);
    let body = bytes.split_off(frame.head().len());
    Frame::new(bytes.into(), body.into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_is_read_back(u in ups(), d in downs()) {
        let (fu, fd) = (encode_up(&u), encode_down(&d));
        prop_assert_eq!(up(&fu), Ok(u));
        prop_assert_eq!(down(&fd), Ok(d));
        for f in [fu, fd] {
            prop_assert_eq!(Frame::split(f.to_vec().into()), Ok(f));
        }
    }

    #[test]
    fn one_changed_bit_is_always_noticed(u in ups(), d in downs(), bit in any::<usize>()) {
        let (fu, fd) = (encode_up(&u), encode_down(&d));
        prop_assert!(up(&flipped(&fu, bit)).is_err());
        prop_assert!(down(&flipped(&fd, bit)).is_err());
        // as one piece, where a changed length moves the boundary
        if let Ok(f) = Frame::split(flipped(&fu, bit).to_vec().into()) {
            prop_assert!(up(&f).is_err());
        }
    }

    #[test]
    fn what_is_cut_or_lengthened_is_refused(u in ups(), d in downs(), cut in any::<prop::sample::Index>()) {
        for (bytes, is_up) in [(encode_up(&u).to_vec(), true), (encode_down(&d).to_vec(), false)] {
            let read = |b: &[u8]| {
                let f = Frame::split(Bytes::copy_from_slice(b))?;
                if is_up { up(&f).map(|_| ()) } else { down(&f).map(|_| ()) }
            };
            prop_assert_eq!(read(&bytes), Ok(()));
            prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
            prop_assert!(read(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        head in prop::collection::vec(any::<u8>(), 0..200),
        body in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let raw = Frame::new(head.clone().into(), body.clone().into());
        prop_assert!(up(&raw).is_err());
        prop_assert!(down(&raw).is_err());
        let _ = Frame::split(head.clone().into());
        // behind a good prelude
        let _ = up(&sealed(&head, &body));
        let _ = down(&sealed(&head, &body));
    }

    /// A header that differs from a good one in one byte, under a right digest, as only its sender can make it: read
    /// as something else, or refused, but never with two readings of one meaning.
    #[test]
    fn a_forged_header_is_refused_or_canonical(u in ups(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let frame = encode_up(&u);
        let mut header = header_of(&frame);
        if header.is_empty() { return Ok(()); }
        let i = at.index(header.len());
        header[i] = value;
        let forged = sealed(&header, frame.body());
        if let Ok(m) = up(&forged) {
            prop_assert_eq!(encode_up(&m), forged);
        }
    }
}

#[test]
fn other_versions_and_protocols_are_refused_by_name() {
    let bytes = encode_up(&Up::Poll).to_vec();
    let with = |at: usize, v: u8| {
        let mut b = bytes.clone();
        b[at] = v;
        Frame::split(b.into()).unwrap_err()
    };
    assert_eq!(with(4, 2), WireError::Version { found: 2 });
    assert_eq!(
        with(4, 2).to_string(),
        "wire version 2, but this build speaks version 1; both sides must run the same release"
    );
    assert_eq!(with(0, b'X'), WireError::Magic { found: *b"XNTP" });
    assert_eq!(with(6, 1), WireError::Reserved { found: 1 });
    assert_eq!(Frame::split(Bytes::from_static(b"ANTP")), Err(WireError::Short { found: 4 }));
    // a declared length of 4 GiB is refused without being allocated
    assert!(matches!(with(11, 0xff), WireError::Length { what: "header", .. }));
}

#[test]
fn bodies_have_the_length_that_the_plan_implies_and_no_other() {
    let mut d = deliver(&mean(), 0, 0, Digest::of(b""), 1.0);
    assert!(up(&encode_up(&Up::Deliver(d.clone()))).is_ok());
    for n in [0, 3, 5, 1000] {
        d.update = Vector::from_payload(Payload::Real(vec![1.0; n]));
        let mut read = 0;
        let e = decode_up(&encode_up(&Up::Deliver(d.clone())), UPDATE, |piece| read += piece.len());
        assert_eq!(e, Err(WireError::Body { expected: UPDATE, found: 4 * n }));
        assert_eq!(read, 0, "refused unread");
        assert!(!e.unwrap_err().is_damage());
    }
    let poll = header_of(&encode_up(&Up::Poll));
    assert_eq!(up(&sealed(&poll, b"x")), Err(WireError::Body { expected: 0, found: 1 }));
}

#[test]
fn every_rule_of_the_header_is_enforced() {
    let good = deliver(&mean(), 0, 0, Digest::of(b""), 1.0);
    let refused = |change: &dyn Fn(&mut Deliver)| {
        let mut d = good.clone();
        change(&mut d);
        let e = up(&encode_up(&Up::Deliver(d))).unwrap_err();
        assert!(!e.is_damage(), "{e}: sending it again would not help");
        e
    };
    let metric = |name: &str, v: f64| refused(&|d| d.metrics = metrics(&[(name, v)]));
    assert!(matches!(metric("loss", f64::NAN), WireError::Metric { index: 0, found } if found.is_nan()));
    assert_eq!(metric("loss", f64::INFINITY), WireError::Metric { index: 0, found: f64::INFINITY });
    for name in ["", "Loss", "a b", "é", "a\n", &"x".repeat(65)] {
        assert_eq!(metric(name, 1.0), WireError::MetricName { index: 0 }, "{name}");
    }
    let many = refused(&|d| d.metrics = (0..65).map(|i| (format!("m{i}"), 0.0)).collect());
    assert_eq!(many, WireError::Metrics { limit: 64, found: 65 });

    let failed = |reason: String| up(&encode_up(&Up::Failed { round: Round(0), attempt: 0, reason }));
    assert!(failed("x".repeat(MAX_REASON)).is_ok());
    assert_eq!(
        failed("x".repeat(MAX_REASON + 1)),
        Err(WireError::Text { field: "reason", found: MAX_REASON + 1 })
    );
    assert_eq!(failed("a\u{1b}[2J".into()), Err(WireError::Text { field: "reason", found: 5 }));
    let long = failed("x".repeat(20_000)).unwrap_err();
    assert!(matches!(long, WireError::HeaderLimit { .. }));

    // weights: field 7, wire type 1, is the last 9 bytes but for the metrics
    let frame = encode_up(&Up::Deliver(Deliver { metrics: metrics(&[]), ..good.clone() }));
    let header = header_of(&frame);
    let at = header.len() - 8;
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut h = header.clone();
        h[at..].copy_from_slice(&f64::to_le_bytes(bad));
        let e = up(&sealed(&h, frame.body())).unwrap_err();
        assert!(matches!(e, WireError::Weight { .. }), "{bad}: {e}");
    }
}

#[test]
fn unknown_repeated_and_missing_fields_are_refused() {
    let poll = header_of(&encode_up(&Up::Poll));
    // field 15, varint 1
    assert_eq!(up(&sealed(&[&poll[..], &[0x78, 1]].concat(), &[])), Err(WireError::NotCanonical));
    // the same field twice
    assert_eq!(up(&sealed(&[&poll[..], &poll[..]].concat(), &[])), Err(WireError::NotCanonical));
    assert_eq!(up(&sealed(&[], &[])), Err(WireError::Field { field: "message" }));
    // a Join without digests: field 1, length 0
    assert_eq!(up(&sealed(&[0x0a, 0], &[])), Err(WireError::Field { field: "plan" }));
    // a cohort out of order
    let work = Work {
        round: Round(0),
        attempt: 0,
        plan: Digest::of(b""),
        schema: Digest::of(b""),
        cohort: ids(&[2, 1]).into(),
        theta: theta(0.0),
        losses: None,
    };
    assert_eq!(down(&encode_down(&Down::Work(work.clone()))), Err(WireError::Cohort));
    for (mean, greatest) in [(f64::NAN, 0.0), (0.0, f64::INFINITY), (1.0, -0.5)] {
        let cohort: std::sync::Arc<[ClientId]> = ids(&[1]).into();
        let told = Work { losses: Some(Losses { mean, greatest }), cohort, ..work.clone() };
        assert_eq!(down(&encode_down(&Down::Work(told))), Err(WireError::Field { field: "losses" }));
    }
    let empty = Work { cohort: [].into(), ..work };
    assert_eq!(down(&encode_down(&Down::Work(empty))), Err(WireError::Cohort));
}

#[test]
fn a_body_is_hashed_unless_it_never_left_the_process() {
    let theta = theta(1.0);
    let work = Down::Work(Work {
        round: Round(0),
        attempt: 0,
        plan: Digest::of(b""),
        schema: Digest::of(b""),
        cohort: ids(&[1]).into(),
        theta: theta.clone(),
        losses: None,
    });
    let frame = encode_down(&work);
    assert_eq!(down(&frame), Ok(work.clone()));
    assert_eq!(down(&Frame::new(frame.head().clone(), frame.body().clone())), Ok(work));
    // other bytes under the same head
    let mut body = frame.body().to_vec();
    body[0] ^= 1;
    let forged = Frame::new(frame.head().clone(), body.into());
    assert_eq!(down(&forged), Err(WireError::Digest { what: "body" }));
}

/// Version 1 is these bytes. A change here is a new version.
#[test]
fn version_1_is_pinned() {
    let frames = [
        encode_up(&Up::Join { plan: Digest([1; 32]), schema: Digest([2; 32]) }),
        encode_up(&Up::Poll),
        encode_up(&Up::Deliver(Deliver {
            plan: Digest([1; 32]),
            schema: Digest([2; 32]),
            ..deliver(&mean(), 3, 1, Digest([4; 32]), 1.0)
        })),
        encode_up(&Up::Failed { round: Round(1), attempt: 0, reason: "because".into() }),
        encode_down(&Down::Work(Work {
            round: Round(3),
            attempt: 1,
            plan: Digest([1; 32]),
            schema: Digest([2; 32]),
            cohort: ids(&[1, 2, 9]).into(),
            theta: theta(0.5),
            losses: None,
        })),
        encode_down(&Down::Wait(WaitFor::Others { round: Round(3), answered: 1, cohort: 2 })),
        encode_down(&Down::Accepted(Receipt::Update {
            round: Round(3),
            attempt: 1,
            digest: Digest([5; 32]),
        })),
        encode_down(&Down::Rejected(Rejection { code: Code::Outdated, detail: "late".into() })),
        encode_down(&Down::Done(Ending::Completed)),
    ];
    let lengths: Vec<usize> = frames.iter().map(|f| f.head().len()).collect();
    assert_eq!(lengths, PINNED_LENGTHS);
    let all: Vec<u8> = frames.iter().flat_map(Frame::to_vec).collect();
    assert_eq!(Digest::of(&all).to_hex(), PINNED);
}

const PINNED_LENGTHS: [usize; 9] = [122, 54, 233, 73, 193, 74, 103, 65, 59];
const PINNED: &str = "c8db56b305af6486435892cae61cfb482f3f6495f75dc8b72b788001a9330701";

/// An update of which a few coordinates are not zero travels as those, and is the same update.
#[test]
fn zeros_need_not_travel() {
    let mut x = vec![0.0_f32; 4096];
    (x[7], x[8], x[4000]) = (1.5, -2.0, f32::MIN_POSITIVE);
    let update = Vector::from_reals(&x);
    let m = Up::Deliver(Deliver { update: update.clone(), ..deliver(&mean(), 3, 1, Digest([4; 32]), 1.0) });
    let (whole, told) = (encode_up(&m), encode_up_with(&m, true));
    assert_eq!((whole.body().len(), told.body().len()), (4 * 4096, 12));
    assert!(told.head().len() <= whole.head().len() + 8);
    let mut seen = 0;
    assert_eq!(decode_up(&told, 4 * 4096, |piece| seen += piece.len()), Ok(m.clone()));
    assert_eq!(seen, 4 * 4096, "who looks sees the whole vector");
    // nothing to save: the same bytes as ever
    let full = Up::Deliver(Deliver {
        update: Vector::from_reals(&[1.0; 4]),
        ..deliver(&mean(), 0, 0, Digest([4; 32]), 1.0)
    });
    assert_eq!(encode_up_with(&full, true), encode_up(&full));
    // minus zero is no zero
    let odd = Up::Deliver(Deliver {
        update: Vector::from_reals(&[-0.0, 0.0, 0.0, 0.0]),
        ..deliver(&mean(), 0, 0, Digest([4; 32]), 1.0)
    });
    assert_eq!(encode_up_with(&odd, true).body().len(), 4);
    assert_eq!(up(&encode_up_with(&odd, true)), Ok(odd));
}

/// What a hostile sender may put into an index: it is refused before a vector is made, or makes the vector that the digest names.
#[test]
fn forged_indices_are_refused() {
    let mut x = vec![0.0_f32; 4096];
    (x[7], x[4000]) = (1.5, 2.0);
    let m = Up::Deliver(Deliver {
        update: Vector::from_reals(&x),
        ..deliver(&mean(), 3, 1, Digest([4; 32]), 1.0)
    });
    let frame = encode_up_with(&m, true);
    let read = |f: &Frame| decode_up(f, 4 * 4096, |_| ());
    // of another length than the index counts
    for n in [0, 4, 7, 12, 4 * 4096] {
        let e = read(&Frame::new(frame.head().clone(), vec![1; n].into())).unwrap_err();
        assert!(matches!(e, WireError::Length { what: "body", .. }), "{n}: {e}");
        let e = read(&sealed(&header_of(&frame), &vec![1; n])).unwrap_err();
        assert!(matches!(e, WireError::Index { .. }), "{n}: {e}");
    }
    // zeros, and other words, under the right index
    let e = read(&sealed(&header_of(&frame), &[0; 8])).unwrap_err();
    assert!(matches!(e, WireError::Index { .. }) && !e.is_damage(), "{e}");
    assert_eq!(read(&sealed(&header_of(&frame), &[1; 8])), Err(WireError::Digest { what: "body" }));
    // any byte of the header changed by its sender
    let header = header_of(&frame);
    for i in 0..header.len() {
        for value in [0, 1, 0x7f, 0xff, header[i] ^ 1] {
            let mut h = header.clone();
            h[i] = value;
            if let Ok(found) = read(&sealed(&h, frame.body())) {
                assert_eq!(encode_up_with(&found, true), sealed(&h, frame.body()));
            }
        }
    }
    // a vector of another length than the plan's
    assert!(matches!(decode_up(&frame, 4 * 4000, |_| ()), Err(WireError::Index { .. })));
    // an index on a message without a vector, an index without its base
    let poll = [&header_of(&encode_up(&Up::Poll))[..], &[0x4a, 0]].concat();
    assert_eq!(up(&sealed(&poll, b"")), Err(WireError::NotCanonical));
}

#[test]
fn changes_are_written_and_read_back() {
    let old: Vec<f32> = (0..300).map(|i| i as f32).collect();
    let mut new = old.clone();
    (new[4], new[5], new[250]) = (-1.0, -2.0, 0.0);
    let (old, new) = (Vector::from_reals(&old), Vector::from_reals(&new));
    let changed = Changed {
        round: Round(3),
        attempt: 1,
        plan: Digest([1; 32]),
        schema: Digest([2; 32]),
        cohort: ids(&[1, 2, 9]).into(),
        theta: Patch::between(&old, &new).unwrap(),
        losses: Some(Losses { mean: 0.5, greatest: 0.25 }),
    };
    let frame = encode_down(&Down::Changed(changed.clone()));
    assert_eq!(frame.body().len(), 12);
    assert_eq!(decode_down(&frame, 1200), Ok(Down::Changed(changed.clone())));
    assert!(matches!(decode_down(&frame, 1196), Ok(Down::Changed(_))), "fits, and will not have the digest");
    assert!(matches!(decode_down(&frame, 400), Err(WireError::Index { .. })));
    let work = changed.resolve(&old).unwrap();
    assert_eq!((work.round, work.theta, work.losses), (Round(3), new.clone(), changed.losses));
    assert_eq!(changed.resolve(&new), None);
    for bit in 0..8 * frame.len() {
        match decode_down(&flipped(&frame, bit), 1200) {
            Err(_) => {}
            // the body is checked where the vector is put together
            Ok(Down::Changed(c)) => assert_eq!(c.resolve(&old), None),
            Ok(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(Patch::between(&old, &Vector::from_reals(&[1.0; 300])), None);
}
