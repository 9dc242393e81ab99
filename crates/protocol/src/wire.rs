//! Messages to headers and back. What a frame looks like is told in [`crate::frame`].
//!
//! Everything that the format leaves to the sender is checked here: digests are 32 bytes, weights and metrics finite, names
//! and texts short and printable, lists in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_algo::{Local, Losses};
use antiphon_core::{ClientId, Digest, Round, Weight};
use bytes::Bytes;

use crate::frame::{Body, open, seal};
use crate::header as h;
use crate::patch::{applied, changes, runs};
use crate::{
    Changed, Code, Deliver, Down, Ending, Frame, Patch, Receipt, Rejection, Up, Vector, WaitFor, WireError,
    Work,
};

/// Longest header of a client's message.
pub const MAX_UP_HEADER: usize = 16 * 1024;

/// Longest header of a coordinator's message: a cohort of 100 000.
pub const MAX_DOWN_HEADER: usize = 1024 * 1024;

/// Longest reason or detail, in bytes.
pub const MAX_REASON: usize = 512;

/// `text` without control characters, cut to [`MAX_REASON`] bytes at a character.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > MAX_REASON {
            break;
        }
        out.push(c);
    }
    out
}

fn bytes_of(d: Digest) -> Bytes {
    Bytes::copy_from_slice(&d.0)
}

/// A client's message as bytes, an update whole.
#[must_use]
pub fn encode_up(m: &Up) -> Frame {
    encode_up_with(m, false)
}

/// A client's message as bytes; of an update only what is not zero, where `sparse` and shorter.
#[must_use]
pub fn encode_up_with(m: &Up, sparse: bool) -> Frame {
    let mut body = None;
    let header = match m {
        Up::Join { plan, schema } => {
            h::UpBody::Join(h::Join { plan: bytes_of(*plan), schema: bytes_of(*schema) })
        }
        Up::Poll => h::UpBody::Poll(h::Empty {}),
        Up::Deliver(d) => {
            let dense = d.update.bytes();
            let told = if sparse { changes(&vec![0; dense.len()], dense) } else { None };
            let index = match told {
                Some((index, words)) => {
                    body = Some(Body::Words(words.into()));
                    Some(index.into())
                }
                None => {
                    body = Some(Body::Whole(d.update.clone()));
                    None
                }
            };
            h::UpBody::Deliver(h::Deliver {
                index,
                round: Some(d.round.0),
                attempt: Some(d.attempt),
                plan: bytes_of(d.plan),
                schema: bytes_of(d.schema),
                base: bytes_of(d.base),
                update: bytes_of(d.update.digest()),
                weight: Some(d.weight.get()),
                metrics: d
                    .metrics
                    .iter()
                    .map(|(name, value)| h::Metric { name: name.clone(), value: Some(*value) })
                    .collect(),
            })
        }
        Up::Failed { round, attempt, reason } => h::UpBody::Failed(h::Failed {
            round: Some(round.0),
            attempt: Some(*attempt),
            reason: reason.clone(),
        }),
    };
    seal(&h::Up { body: Some(header) }, body)
}

/// A coordinator's message as bytes.
#[must_use]
pub fn encode_down(m: &Down) -> Frame {
    let mut body = None;
    let header = match m {
        Down::Work(w) => {
            body = Some(Body::Whole(w.theta.clone()));
            h::DownBody::Work(h::Work {
                base: None,
                index: None,
                round: Some(w.round.0),
                attempt: Some(w.attempt),
                plan: bytes_of(w.plan),
                schema: bytes_of(w.schema),
                theta: bytes_of(w.theta.digest()),
                cohort: w.cohort.iter().map(|c| c.0).collect(),
                mean_loss: w.losses.map(|l| l.mean),
                greatest_deviation: w.losses.map(|l| l.greatest),
            })
        }
        Down::Changed(c) => {
            body = Some(Body::Words(c.theta.words.clone()));
            h::DownBody::Work(h::Work {
                round: Some(c.round.0),
                attempt: Some(c.attempt),
                plan: bytes_of(c.plan),
                schema: bytes_of(c.schema),
                theta: bytes_of(c.theta.digest),
                cohort: c.cohort.iter().map(|c| c.0).collect(),
                base: Some(bytes_of(c.theta.base)),
                index: Some(c.theta.index.clone()),
                mean_loss: c.losses.map(|l| l.mean),
                greatest_deviation: c.losses.map(|l| l.greatest),
            })
        }
        Down::Wait(w) => h::DownBody::Wait(wait_header(*w)),
        Down::Accepted(r) => h::DownBody::Accepted(receipt_header(*r)),
        Down::Rejected(r) => {
            h::DownBody::Rejected(h::Rejected { code: Some(code_number(r.code)), detail: r.detail.clone() })
        }
        Down::Done(e) => h::DownBody::Done(h::Done { ending: Some(ending_number(*e)) }),
    };
    seal(&h::Down { body: Some(header) }, body)
}

/// Reads a client's message. `update_bytes`: the length of an update under the run's schema and plan. `look` sees
/// an update's bytes while they are being hashed (see [`crate::Vector::verified`]); they count only if this returns `Ok`.
pub fn decode_up(frame: &Frame, update_bytes: usize, look: impl FnMut(&[u8])) -> Result<Up, WireError> {
    let body = open::<h::Up>(frame, MAX_UP_HEADER)?.body.ok_or(WireError::Field { field: "message" })?;
    match &body {
        // what there is must be what the index counts, and the index fit the vector, before anything is made of it
        h::UpBody::Deliver(h::Deliver { index: Some(index), .. }) => {
            runs(index, update_bytes / 4, frame.body().len())?;
        }
        h::UpBody::Deliver(_) => body_length(frame, update_bytes)?,
        _ => body_length(frame, 0)?,
    }
    Ok(match body {
        h::UpBody::Join(j) => {
            Up::Join { plan: digest("plan", &j.plan)?, schema: digest("schema", &j.schema)? }
        }
        h::UpBody::Poll(h::Empty {}) => Up::Poll,
        h::UpBody::Failed(f) => Up::Failed {
            round: round(f.round)?,
            attempt: attempt(f.attempt)?,
            reason: text("reason", f.reason)?,
        },
        h::UpBody::Deliver(d) => {
            let weight = d.weight.ok_or(WireError::Field { field: "weight" })?;
            Up::Deliver(Deliver {
                round: round(d.round)?,
                attempt: attempt(d.attempt)?,
                plan: digest("plan", &d.plan)?,
                schema: digest("schema", &d.schema)?,
                base: digest("base", &d.base)?,
                weight: Weight::new(weight).map_err(|_| WireError::Weight { found: weight })?,
                metrics: metrics(d.metrics)?,
                update: match &d.index {
                    None => frame.vector(digest("update", &d.update)?, look)?,
                    Some(index) => {
                        let dense = applied(&vec![0; update_bytes], index, frame.body())?;
                        Vector::verified(dense.into(), digest("update", &d.update)?, look)
                            .ok_or(WireError::Digest { what: "body" })?
                    }
                },
            })
        }
    })
}

/// Reads a coordinator's message. `theta_bytes`: the length of the parameters under the run's schema.
pub fn decode_down(frame: &Frame, theta_bytes: usize) -> Result<Down, WireError> {
    let body = open::<h::Down>(frame, MAX_DOWN_HEADER)?.body.ok_or(WireError::Field { field: "message" })?;
    match &body {
        h::DownBody::Work(h::Work { index: Some(index), .. }) => {
            runs(index, theta_bytes / 4, frame.body().len())?;
        }
        h::DownBody::Work(_) => body_length(frame, theta_bytes)?,
        _ => body_length(frame, 0)?,
    }
    Ok(match body {
        h::DownBody::Work(w) => {
            if w.cohort.is_empty() || !w.cohort.is_sorted_by(|a, b| a < b) {
                return Err(WireError::Cohort);
            }
            let (round, attempt) = (round(w.round)?, attempt(w.attempt)?);
            let (plan, schema) = (digest("plan", &w.plan)?, digest("schema", &w.schema)?);
            let cohort = w.cohort.into_iter().map(ClientId).collect::<Arc<[_]>>();
            let theta = digest("theta", &w.theta)?;
            let losses = losses(w.mean_loss, w.greatest_deviation)?;
            match (w.base, w.index) {
                (None, None) => {
                    let theta = frame.vector(theta, |_| ())?;
                    Down::Work(Work { round, attempt, plan, schema, cohort, theta, losses })
                }
                (Some(base), Some(index)) => {
                    let (base, words) = (digest("base", &base)?, frame.body().clone());
                    let theta = Patch { base, digest: theta, index, words };
                    Down::Changed(Changed { round, attempt, plan, schema, cohort, theta, losses })
                }
                _ => return Err(WireError::Field { field: "base" }),
            }
        }
        h::DownBody::Wait(w) => Down::Wait(wait(&w)?),
        h::DownBody::Accepted(a) => Down::Accepted(receipt(&a)?),
        h::DownBody::Rejected(r) => Down::Rejected(Rejection {
            code: code(r.code.ok_or(WireError::Field { field: "code" })?)?,
            detail: text("detail", r.detail)?,
        }),
        h::DownBody::Done(d) => Down::Done(ending(d.ending.ok_or(WireError::Field { field: "ending" })?)?),
    })
}

fn body_length(frame: &Frame, expected: usize) -> Result<(), WireError> {
    if frame.body().len() == expected {
        return Ok(());
    }
    Err(WireError::Body { expected, found: frame.body().len() })
}

fn digest(field: &'static str, bytes: &Bytes) -> Result<Digest, WireError> {
    <[u8; 32]>::try_from(&bytes[..]).map(Digest).map_err(|_| WireError::Field { field })
}

fn round(x: Option<u32>) -> Result<Round, WireError> {
    x.map(Round).ok_or(WireError::Field { field: "round" })
}

fn attempt(x: Option<u32>) -> Result<u32, WireError> {
    x.ok_or(WireError::Field { field: "attempt" })
}

fn text(field: &'static str, s: String) -> Result<String, WireError> {
    if s.len() > MAX_REASON || s.chars().any(char::is_control) {
        return Err(WireError::Text { field, found: s.len() });
    }
    Ok(s)
}

fn losses(mean: Option<f64>, greatest: Option<f64>) -> Result<Option<Losses>, WireError> {
    match (mean, greatest) {
        (None, None) => Ok(None),
        (Some(mean), Some(greatest)) if mean.is_finite() && greatest.is_finite() && greatest >= 0.0 => {
            Ok(Some(Losses { mean, greatest }))
        }
        _ => Err(WireError::Field { field: "losses" }),
    }
}

fn metrics(list: Vec<h::Metric>) -> Result<BTreeMap<String, f64>, WireError> {
    let limit = Local::MAX_METRICS;
    if list.len() > limit {
        return Err(WireError::Metrics { limit, found: list.len() });
    }
    let mut out = BTreeMap::new();
    for (index, m) in list.into_iter().enumerate() {
        let ascending = out.last_key_value().is_none_or(|(last, _)| *last < m.name);
        if !ascending || !metric_name(&m.name) {
            return Err(WireError::MetricName { index });
        }
        let found = m.value.ok_or(WireError::Field { field: "value" })?;
        if !found.is_finite() {
            return Err(WireError::Metric { index, found });
        }
        out.insert(m.name, found);
    }
    Ok(out)
}

/// Whether a metric may be called that.
#[must_use]
pub fn metric_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-./@".contains(&b);
    (1..=Local::MAX_METRIC_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

fn receipt_header(r: Receipt) -> h::Accepted {
    let (what, round, digest) = match r {
        Receipt::Join => (1, None, None),
        Receipt::Update { round, attempt, digest } => (2, Some((round.0, attempt)), Some(bytes_of(digest))),
        Receipt::Failure { round, attempt } => (3, Some((round.0, attempt)), None),
    };
    h::Accepted { what: Some(what), round: round.map(|r| r.0), attempt: round.map(|r| r.1), digest }
}

fn receipt(a: &h::Accepted) -> Result<Receipt, WireError> {
    match (a.what, a.round, a.attempt, &a.digest) {
        (Some(1), None, None, None) => Ok(Receipt::Join),
        (Some(2), Some(r), Some(attempt), Some(d)) => {
            Ok(Receipt::Update { round: Round(r), attempt, digest: digest("digest", d)? })
        }
        (Some(3), Some(r), Some(attempt), None) => Ok(Receipt::Failure { round: Round(r), attempt }),
        (Some(found), ..) if !(1..=3).contains(&found) => Err(WireError::Choice { field: "receipt", found }),
        _ => Err(WireError::Field { field: "receipt" }),
    }
}

fn wait_header(w: WaitFor) -> h::Wait {
    let (reason, round, have, want) = match w {
        WaitFor::Clients { joined, expected } => (1, None, Some(joined), Some(expected)),
        WaitFor::Unselected { round } => (2, Some(round.0), None, None),
        WaitFor::Others { round, answered, cohort } => (3, Some(round.0), Some(answered), Some(cohort)),
        WaitFor::Aggregation { round } => (4, Some(round.0), None, None),
    };
    h::Wait { reason: Some(reason), round, have, want }
}

fn wait(w: &h::Wait) -> Result<WaitFor, WireError> {
    match (w.reason, w.round, w.have, w.want) {
        (Some(1), None, Some(joined), Some(expected)) => Ok(WaitFor::Clients { joined, expected }),
        (Some(2), Some(r), None, None) => Ok(WaitFor::Unselected { round: Round(r) }),
        (Some(3), Some(r), Some(answered), Some(cohort)) => {
            Ok(WaitFor::Others { round: Round(r), answered, cohort })
        }
        (Some(4), Some(r), None, None) => Ok(WaitFor::Aggregation { round: Round(r) }),
        (Some(found), ..) if !(1..=4).contains(&found) => Err(WireError::Choice { field: "wait", found }),
        _ => Err(WireError::Field { field: "wait" }),
    }
}

fn code_number(c: Code) -> u32 {
    match c {
        Code::Resend => 1,
        Code::Outdated => 2,
        Code::Unusable => 3,
        Code::Excluded => 4,
        Code::Rejoin => 5,
    }
}

fn code(found: u32) -> Result<Code, WireError> {
    [Code::Resend, Code::Outdated, Code::Unusable, Code::Excluded, Code::Rejoin]
        .into_iter()
        .find(|&c| code_number(c) == found)
        .ok_or(WireError::Choice { field: "code", found })
}

fn ending_number(e: Ending) -> u32 {
    match e {
        Ending::Completed => 1,
        Ending::TooFewClients => 2,
        Ending::RoundFailed => 3,
        Ending::Stopped => 4,
    }
}

fn ending(found: u32) -> Result<Ending, WireError> {
    [Ending::Completed, Ending::TooFewClients, Ending::RoundFailed, Ending::Stopped]
        .into_iter()
        .find(|&e| ending_number(e) == found)
        .ok_or(WireError::Choice { field: "ending", found })
}
