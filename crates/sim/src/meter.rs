//! Bytes, counted where they are sent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use antiphon_protocol::Frame;
use antiphon_protocol::size::Size;

/// What was sent, in both directions. A message that is lost or repeated on the way was still sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Clients to coordinator.
    pub up: Size,
    /// Coordinator to clients.
    pub down: Size,
    /// Messages of clients.
    pub up_messages: u64,
    /// Messages of the coordinator.
    pub down_messages: u64,
}

impl std::ops::Sub for Traffic {
    type Output = Self;
    /// What was sent between two readings of one meter.
    fn sub(self, earlier: Self) -> Self {
        let minus =
            |a: Size, b: Size| Size { payload: a.payload - b.payload, overhead: a.overhead - b.overhead };
        Self {
            up: minus(self.up, earlier.up),
            down: minus(self.down, earlier.down),
            up_messages: self.up_messages - earlier.up_messages,
            down_messages: self.down_messages - earlier.down_messages,
        }
    }
}

/// Counts frames from any thread.
#[derive(Debug, Default)]
pub struct Meter {
    up: Counter,
    down: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    payload: AtomicU64,
    overhead: AtomicU64,
    messages: AtomicU64,
}

impl Counter {
    fn count(&self, f: &Frame) {
        self.payload.fetch_add(f.body().len() as u64, Relaxed);
        self.overhead.fetch_add(f.head().len() as u64, Relaxed);
        self.messages.fetch_add(1, Relaxed);
    }

    fn size(&self) -> Size {
        Size { payload: self.payload.load(Relaxed), overhead: self.overhead.load(Relaxed) }
    }
}

impl Meter {
    /// A client sends `f`.
    pub fn up(&self, f: &Frame) {
        self.up.count(f);
    }

    /// The coordinator sends `f`.
    pub fn down(&self, f: &Frame) {
        self.down.count(f);
    }

    /// Everything so far.
    #[must_use]
    pub fn read(&self) -> Traffic {
        Traffic {
            up: self.up.size(),
            down: self.down.size(),
            up_messages: self.up.messages.load(Relaxed),
            down_messages: self.down.messages.load(Relaxed),
        }
    }
}
