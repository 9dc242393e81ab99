//! The wire form, version 1.
//!
//! ```text
//! prelude, 52 bytes, little-endian
//!    0  4  "ANTP"
//!    4  2  version
//!    6  2  zero
//!    8  4  length of the header
//!   12  8  length of the body
//!   20 32  BLAKE3 of bytes 0..20 and the header
//! header   protobuf (prost derives; no protoc), canonical
//! body     the vector, little-endian, its BLAKE3 in the header; empty for most messages
//! ```
//!
//! Every bit is covered by one of the two digests, so damage on the way is always noticed; the digests are no
//! defence against a malicious sender, who can compute them. Prelude and header are one buffer and the body another, so
//! that a body is never copied to be sent, and a transport may carry it apart from its head.
//!
//! Decoding is strict: lengths are checked before anything is read, hashed or allocated; a header that does
//! not encode back to the same bytes is refused (unknown fields, repeated fields, overlong numbers).

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_algo::Local;
use antiphon_core::{ClientId, Digest, Round, Weight};
use bytes::Bytes;
use prost::Message;

use crate::header as h;
use crate::{Code, Deliver, Down, Ending, Receipt, Rejection, Up, Vector, WaitFor, Work};

/// The only version this build speaks.
pub const VERSION: u16 = 1;

/// Bytes before the header.
pub const PRELUDE: usize = 52;

/// Longest header of a client's message.
pub const MAX_UP_HEADER: usize = 16 * 1024;

/// Longest header of a coordinator's message: a cohort of 100 000.
pub const MAX_DOWN_HEADER: usize = 1024 * 1024;

/// Longest reason or detail, in bytes.
pub const MAX_REASON: usize = 512;

const MAGIC: [u8; 4] = *b"ANTP";

/// One message as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Prelude and header.
    pub head: Bytes,
    /// The vector, or nothing.
    pub body: Bytes,
}

impl Frame {
    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Never true of an encoded message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Head and body in one piece, copied.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.head[..], &self.body[..]].concat()
    }

    /// Splits what [`Frame::to_vec`] joined, without copying.
    pub fn split(bytes: Bytes) -> Result<Self, WireError> {
        let header = Prelude::read(&bytes)?.header;
        let at = PRELUDE.saturating_add(header);
        if at > bytes.len() {
            return Err(WireError::Length { what: "header", declared: header, found: bytes.len() - PRELUDE });
        }
        Ok(Self { head: bytes.slice(..at), body: bytes.slice(at..) })
    }
}

/// Bytes that are no message, or a message that breaks a rule of the format.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Not even a prelude.
    #[error("{found} bytes, but a message has at least {PRELUDE}")]
    Short {
        /// Bytes there are.
        found: usize,
    },
    /// Not of this protocol.
    #[error("not a message of antiphon: it begins with {found:02x?}")]
    Magic {
        /// The first bytes.
        found: [u8; 4],
    },
    /// Of another version.
    #[error(
        "wire version {found}, but this build speaks version {VERSION}; both sides must run the same release"
    )]
    Version {
        /// Of the message.
        found: u16,
    },
    /// Bits that version 1 does not use.
    #[error("reserved bytes hold {found:#06x}, expected 0")]
    Reserved {
        /// What they hold.
        found: u16,
    },
    /// A declared length that is not the real one.
    #[error("the {what} is {found} bytes long, but {declared} were declared")]
    Length {
        /// `header` or `body`.
        what: &'static str,
        /// In the prelude.
        declared: usize,
        /// There are.
        found: usize,
    },
    /// A header longer than any message needs.
    #[error("a header of {found} bytes, at most {limit} are allowed")]
    HeaderLimit {
        /// Allowed.
        limit: usize,
        /// Declared.
        found: usize,
    },
    /// Bytes changed on the way.
    #[error("the {what} does not match its digest")]
    Digest {
        /// `header` or `body`.
        what: &'static str,
    },
    /// Not protobuf, or not of the expected form.
    #[error("the header cannot be read: {0}")]
    Header(#[from] prost::DecodeError),
    /// Readable, but not as this version writes it.
    #[error("the header is not in canonical form")]
    NotCanonical,
    /// A required item is missing or has the wrong length.
    #[error("`{field}` is missing or malformed")]
    Field {
        /// Which.
        field: &'static str,
    },
    /// A number outside its list.
    #[error("`{field} = {found}` is unknown in version {VERSION}")]
    Choice {
        /// Which.
        field: &'static str,
        /// What it holds.
        found: u32,
    },
    /// A body of another length than the run's schema and plan imply.
    #[error("a body of {found} bytes, expected {expected}")]
    Body {
        /// Of the schema and plan; zero for messages without one.
        expected: usize,
        /// Declared and there.
        found: usize,
    },
    /// A weight that is none.
    #[error("a weight of {found}, expected a finite positive number")]
    Weight {
        /// What it holds.
        found: f64,
    },
    /// Too many metrics.
    #[error("{found} metrics, at most {limit} are allowed")]
    Metrics {
        /// Allowed.
        limit: usize,
        /// There are.
        found: usize,
    },
    /// A metric that is not finite.
    #[error("metric number {index} is {found}, expected a finite number")]
    Metric {
        /// Zero-based.
        index: usize,
        /// What it holds.
        found: f64,
    },
    /// A metric name that is empty, long, not in ascending order, or not made of `a-z 0-9 _ - . / @`.
    #[error("the name of metric number {index} is not allowed")]
    MetricName {
        /// Zero-based.
        index: usize,
    },
    /// A text that is too long or not printable.
    #[error("`{field}` is a text of {found} bytes; expected at most {MAX_REASON}, printable")]
    Text {
        /// Which.
        field: &'static str,
        /// Its length.
        found: usize,
    },
    /// A cohort that is empty or not in ascending order.
    #[error("the cohort is not a list of clients in ascending order")]
    Cohort,
}

impl WireError {
    /// Whether the bytes may have been damaged on the way, so that sending them again may help. Otherwise
    /// the digests were right and the sender itself broke a rule.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Short { .. }
                | Self::Magic { .. }
                | Self::Version { .. }
                | Self::Reserved { .. }
                | Self::Length { .. }
                | Self::HeaderLimit { .. }
                | Self::Digest { .. }
        )
    }
}

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

struct Prelude {
    header: usize,
    body: u64,
    digest: [u8; 32],
}

impl Prelude {
    fn read(bytes: &[u8]) -> Result<Self, WireError> {
        let Some((p, _)) = bytes.split_first_chunk::<PRELUDE>() else {
            return Err(WireError::Short { found: bytes.len() });
        };
        let word = |at: usize| u32::from_le_bytes([p[at], p[at + 1], p[at + 2], p[at + 3]]);
        if p[..4] != MAGIC {
            return Err(WireError::Magic { found: [p[0], p[1], p[2], p[3]] });
        }
        let version = u16::from_le_bytes([p[4], p[5]]);
        if version != VERSION {
            return Err(WireError::Version { found: version });
        }
        let reserved = u16::from_le_bytes([p[6], p[7]]);
        if reserved != 0 {
            return Err(WireError::Reserved { found: reserved });
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&p[20..]);
        Ok(Self { header: word(8) as usize, body: u64::from(word(12)) | u64::from(word(16)) << 32, digest })
    }
}

fn seal(header: &impl Message, body: Bytes) -> Frame {
    let len = header.encoded_len();
    let mut head = Vec::with_capacity(PRELUDE + len);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&[0, 0]);
    head.extend_from_slice(&(len as u32).to_le_bytes());
    head.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let header = header.encode_to_vec();
    let digest = head_digest(&head, &header);
    head.extend_from_slice(&digest);
    head.extend_from_slice(&header);
    Frame { head: head.into(), body }
}

fn head_digest(prelude: &[u8], header: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(prelude).update(header).finalize().as_bytes()
}

/// The header of `frame`, all lengths and its own digest checked; the body is not read.
fn open<H: Message + Default>(frame: &Frame, limit: usize) -> Result<H, WireError> {
    let prelude = Prelude::read(&frame.head)?;
    if prelude.header > limit {
        return Err(WireError::HeaderLimit { limit, found: prelude.header });
    }
    let header = frame.head.slice(PRELUDE..);
    if header.len() != prelude.header {
        return Err(WireError::Length { what: "header", declared: prelude.header, found: header.len() });
    }
    if frame.body.len() as u64 != prelude.body {
        let declared = usize::try_from(prelude.body).unwrap_or(usize::MAX);
        return Err(WireError::Length { what: "body", declared, found: frame.body.len() });
    }
    if head_digest(&frame.head[..20], &header) != prelude.digest {
        return Err(WireError::Digest { what: "header" });
    }
    let decoded = H::decode(header.clone())?;
    if decoded.encode_to_vec() != header {
        return Err(WireError::NotCanonical);
    }
    Ok(decoded)
}

fn bytes_of(d: Digest) -> Bytes {
    Bytes::copy_from_slice(&d.0)
}

/// A client's message as bytes.
#[must_use]
pub fn encode_up(m: &Up) -> Frame {
    let mut body = Bytes::new();
    let header = match m {
        Up::Join { plan, schema } => {
            h::UpBody::Join(h::Join { plan: bytes_of(*plan), schema: bytes_of(*schema) })
        }
        Up::Poll => h::UpBody::Poll(h::Empty {}),
        Up::Deliver(d) => {
            body = d.update.bytes().clone();
            h::UpBody::Deliver(h::Deliver {
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
    let mut body = Bytes::new();
    let header = match m {
        Down::Work(w) => {
            body = w.theta.bytes().clone();
            h::DownBody::Work(h::Work {
                round: Some(w.round.0),
                attempt: Some(w.attempt),
                plan: bytes_of(w.plan),
                schema: bytes_of(w.schema),
                theta: bytes_of(w.theta.digest()),
                cohort: w.cohort.iter().map(|c| c.0).collect(),
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
/// an update's bytes while they are being hashed (see [`Vector::verified`]); they count only if this returns `Ok`.
pub fn decode_up(frame: &Frame, update_bytes: usize, look: impl FnMut(&[u8])) -> Result<Up, WireError> {
    let body = open::<h::Up>(frame, MAX_UP_HEADER)?.body.ok_or(WireError::Field { field: "message" })?;
    let expected = if matches!(body, h::UpBody::Deliver(_)) { update_bytes } else { 0 };
    body_length(frame, expected)?;
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
                update: vector(frame, digest("update", &d.update)?, look)?,
            })
        }
    })
}

/// Reads a coordinator's message. `theta_bytes`: the length of the parameters under the run's schema. `known`:
/// parameters verified before; where the message shares their memory they are not hashed again.
pub fn decode_down(frame: &Frame, theta_bytes: usize, known: Option<&Vector>) -> Result<Down, WireError> {
    let body = open::<h::Down>(frame, MAX_DOWN_HEADER)?.body.ok_or(WireError::Field { field: "message" })?;
    let expected = if matches!(body, h::DownBody::Work(_)) { theta_bytes } else { 0 };
    body_length(frame, expected)?;
    Ok(match body {
        h::DownBody::Work(w) => {
            if w.cohort.is_empty() || !w.cohort.is_sorted_by(|a, b| a < b) {
                return Err(WireError::Cohort);
            }
            Down::Work(Work {
                round: round(w.round)?,
                attempt: attempt(w.attempt)?,
                plan: digest("plan", &w.plan)?,
                schema: digest("schema", &w.schema)?,
                cohort: w.cohort.into_iter().map(ClientId).collect::<Arc<[_]>>(),
                theta: match (known, digest("theta", &w.theta)?) {
                    (Some(v), d) if v.digest() == d && v.shares(&frame.body) => v.clone(),
                    (_, d) => vector(frame, d, |_| ())?,
                },
            })
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
    if frame.body.len() == expected {
        return Ok(());
    }
    Err(WireError::Body { expected, found: frame.body.len() })
}

fn vector(frame: &Frame, digest: Digest, look: impl FnMut(&[u8])) -> Result<Vector, WireError> {
    Vector::verified(frame.body.clone(), digest, look).ok_or(WireError::Digest { what: "body" })
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
