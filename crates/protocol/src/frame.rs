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
//! body     the vector, little-endian, its BLAKE3 in the header; empty for most messages. Where the header has an index, the
//!          words in which the vector differs from one that the receiver has (see [`crate::patch`])
//! ```
//!
//! Every bit is covered by one of the two digests, so damage on the way is always noticed; the digests are no
//! defence against a malicious sender, who can compute them. Prelude and header are one buffer and the body another, so
//! that a body is never copied to be sent, and a transport may carry it apart from its head.
//!
//! Decoding is strict: lengths are checked before anything is read, hashed or allocated; a header that does
//! not encode back to the same bytes is refused (unknown fields, repeated fields, overlong numbers).

use antiphon_core::Digest;
use bytes::Bytes;
use prost::Message;

use crate::Vector;
use crate::vector::BLOCK;
use crate::wire::MAX_REASON;

/// The only version this build speaks.
pub const VERSION: u16 = 1;

/// Bytes before the header.
pub const PRELUDE: usize = 52;

const MAGIC: [u8; 4] = *b"ANTP";

/// One message as bytes.
#[derive(Clone, Debug)]
pub struct Frame {
    head: Bytes,
    body: Bytes,
    /// The body as this process made it, if it did. Its bytes cannot have changed since they were hashed, so a frame that
    /// never left the process is not hashed a second time; one that did comes back without.
    made: Option<Vector>,
}

/// Of the bytes alone.
impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head && self.body == other.body
    }
}

impl Frame {
    /// A frame that came in two pieces.
    #[must_use]
    pub fn new(head: Bytes, body: Bytes) -> Self {
        Self { head, body, made: None }
    }

    /// Prelude and header.
    #[must_use]
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The vector, or nothing.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body as a vector of `digest`, hashed unless it was made here; `look` as in [`Vector::verified`].
    pub(crate) fn vector(&self, digest: Digest, look: impl FnMut(&[u8])) -> Result<Vector, WireError> {
        match &self.made {
            Some(v) if v.digest() == digest => {
                v.bytes().chunks(BLOCK).for_each(look);
                Ok(v.clone())
            }
            _ => Vector::verified(self.body.clone(), digest, look).ok_or(WireError::Digest { what: "body" }),
        }
    }

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
        Ok(Self::new(bytes.slice(..at), bytes.slice(at..)))
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
    /// An index of changed words that breaks a rule.
    #[error("the index of changed words cannot be used: {reason}")]
    Index {
        /// Which rule.
        reason: &'static str,
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

/// What follows a header.
pub(crate) enum Body {
    /// A vector, whole.
    Whole(Vector),
    /// Words of one.
    Words(Bytes),
}

pub(crate) fn seal(header: &impl Message, body: Option<Body>) -> Frame {
    let (body, made) = match body {
        None => (Bytes::new(), None),
        Some(Body::Whole(v)) => (v.bytes().clone(), Some(v)),
        Some(Body::Words(words)) => (words, None),
    };
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
    Frame { head: head.into(), body, made }
}

fn head_digest(prelude: &[u8], header: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(prelude).update(header).finalize().as_bytes()
}

/// The header of `frame`, all lengths and its own digest checked; the body is not read.
pub(crate) fn open<H: Message + Default>(frame: &Frame, limit: usize) -> Result<H, WireError> {
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
