//! Faults of the wire, from a list of operations.
//!
//! Whatever passes here is as if it had left the process: every digest is checked again at the other end. Each fault strikes one client at the n-th message of one kind that it sends, so that a list of faults is a
//! test case that can be written down, shrunk and kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use antiphon_core::ClientId;
use antiphon_protocol::wire::decode_up;
use antiphon_protocol::{Frame, LinkError, Up};
use bytes::Bytes;

use crate::{VirtualClock, Wire};

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose message.
    pub client: ClientId,
    /// Which kind of message.
    pub on: On,
    /// Which message of that kind, counted from zero over the whole run; messages sent again count anew.
    pub nth: u32,
    /// What happens.
    pub kind: Kind,
}

/// Which kind of message a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    /// A `Join`.
    Join,
    /// A `Poll`.
    Poll,
    /// A `Deliver`.
    Deliver,
    /// A `Failed`.
    Failed,
}

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request never arrives.
    DropRequest,
    /// The request arrives; its answer does not.
    DropReply,
    /// The request arrives this much later.
    Delay {
        /// By the virtual clock.
        ms: u64,
    },
    /// The request arrives twice; the second answer is the one that comes back.
    Duplicate,
    /// One bit of the request changes, counted from the frame's first and taken modulo its length.
    CorruptRequest {
        /// Which.
        bit: u64,
    },
    /// One bit of the answer changes.
    CorruptReply {
        /// Which.
        bit: u64,
    },
    /// The client's previous message of the same kind arrives once more, before this one.
    Stale,
    /// The answer to the client's previous message of the same kind comes back instead of this one's.
    StaleReply,
    /// The client dies before the request leaves, losing what it held in memory.
    Crash,
    /// The client dies after the request arrived.
    CrashAfter,
}

/// A list of faults and the memory that they need.
#[derive(Debug)]
pub struct Faults<'a> {
    list: Vec<Fault>,
    clock: &'a VirtualClock,
    update_bytes: usize,
    memory: Mutex<BTreeMap<(ClientId, On), Memory>>,
}

#[derive(Debug, Default)]
struct Memory {
    sent: u32,
    request: Option<Frame>,
    reply: Option<Frame>,
}

impl<'a> Faults<'a> {
    /// Faults for a run whose updates have `update_bytes` bytes. Delays move `clock`.
    #[must_use]
    pub fn new(list: Vec<Fault>, clock: &'a VirtualClock, update_bytes: usize) -> Self {
        Self { list, clock, update_bytes, memory: Mutex::default() }
    }

    /// One exchange over `inner`, with whatever befalls it.
    pub fn strike(&self, inner: &mut dyn Wire, from: ClientId, frame: Frame) -> Result<Frame, LinkError> {
        let frame = carried(&frame);
        let on = match decode_up(&frame, self.update_bytes, |_| ()) {
            Ok(Up::Join { .. }) => On::Join,
            Ok(Up::Deliver(_)) => On::Deliver,
            Ok(Up::Failed { .. }) => On::Failed,
            // a client of ours sends nothing unreadable
            Ok(Up::Poll) | Err(_) => On::Poll,
        };
        let (nth, old_request, old_reply) = self.remember(from, on, |m| {
            m.sent += 1;
            (m.sent - 1, m.request.replace(frame.clone()), m.reply.clone())
        });
        let kind = self.list.iter().find(|f| (f.client, f.on, f.nth) == (from, on, nth)).map(|f| f.kind);
        let dead = || LinkError::Closed("the client crashed".into());
        let answer = match kind {
            Some(Kind::DropRequest) => return Err(LinkError::Lost),
            Some(Kind::Crash) => return Err(dead()),
            Some(Kind::CorruptRequest { bit }) => inner.exchange(from, flip(&frame, bit))?,
            Some(Kind::Delay { ms }) => {
                self.clock.advance(ms);
                inner.exchange(from, frame)?
            }
            Some(Kind::Duplicate) => {
                inner.exchange(from, frame.clone())?;
                inner.exchange(from, frame)?
            }
            Some(Kind::Stale) => {
                if let Some(old) = old_request {
                    inner.exchange(from, old)?;
                }
                inner.exchange(from, frame)?
            }
            _ => inner.exchange(from, frame)?,
        };
        let answer = carried(&answer);
        self.remember(from, on, |m| m.reply = Some(answer.clone()));
        match kind {
            Some(Kind::DropReply) => Err(LinkError::Lost),
            Some(Kind::CrashAfter) => Err(dead()),
            Some(Kind::CorruptReply { bit }) => Ok(flip(&answer, bit)),
            Some(Kind::StaleReply) => Ok(old_reply.unwrap_or(answer)),
            _ => Ok(answer),
        }
    }

    fn remember<T>(&self, from: ClientId, on: On, f: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        f(memory.entry((from, on)).or_default())
    }
}

/// `frame` with one bit changed; copies what it changes.
#[must_use]
pub fn flip(frame: &Frame, bit: u64) -> Frame {
    let at = (bit / 8) as usize % frame.len();
    let flip_in = |part: &Bytes, at: usize| {
        let mut copy = part.to_vec();
        copy[at] ^= 1 << (bit % 8);
        Bytes::from(copy)
    };
    let (head, body) = (frame.head(), frame.body());
    match at.checked_sub(head.len()) {
        None => Frame::new(flip_in(head, at), body.clone()),
        Some(at) => Frame::new(head.clone(), flip_in(body, at)),
    }
}

/// `frame` as it comes out of a network: without what only this process knows of it.
fn carried(frame: &Frame) -> Frame {
    Frame::new(frame.head().clone(), frame.body().clone())
}
