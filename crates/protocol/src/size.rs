//! Bytes of each message, exactly: what `antiphon plan` predicts before anything runs.
//!
//! A message is a fixed prelude, a header and a body. Headers use fixed-width numbers, so their length depends
//! only on the number of clients in the cohort and on the metrics reported, never on a value.

use antiphon_algo::{Checked, Losses};
use antiphon_core::{Digest, Round, Weight};

use crate::patch::index_bytes;
use crate::wire::{encode_down, encode_up};
use crate::{Deliver, Down, Receipt, Up, Vector, Work};

/// Bytes of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The vector: parameters or update.
    pub payload: u64,
    /// Prelude and header.
    pub overhead: u64,
}

impl Size {
    /// All of it.
    #[must_use]
    pub fn total(self) -> u64 {
        self.payload + self.overhead
    }
}

impl std::ops::Add for Size {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self { payload: self.payload + rhs.payload, overhead: self.overhead + rhs.overhead }
    }
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl std::ops::Mul<u64> for Size {
    type Output = Self;
    fn mul(self, n: u64) -> Self {
        Self { payload: self.payload * n, overhead: self.overhead * n }
    }
}

const ANY: Digest = Digest([0; 32]);

fn up(m: Up, payload: usize) -> Size {
    Size { payload: payload as u64, overhead: encode_up(&m).head().len() as u64 }
}

fn down(m: Down, payload: usize) -> Size {
    Size { payload: payload as u64, overhead: encode_down(&m).head().len() as u64 }
}

/// A `Join`.
#[must_use]
pub fn join() -> Size {
    up(Up::Join { plan: ANY, schema: ANY }, 0)
}

/// A `Poll`.
#[must_use]
pub fn poll() -> Size {
    up(Up::Poll, 0)
}

/// The answer to a `Join`.
#[must_use]
pub fn joined() -> Size {
    down(Down::Accepted(Receipt::Join), 0)
}

/// The answer to a `Deliver`.
#[must_use]
pub fn accepted() -> Size {
    down(Down::Accepted(Receipt::Update { round: Round(0), attempt: 0, digest: ANY }), 0)
}

/// A `Work` for a cohort of `clients`: the `d` parameters in binary32.
#[must_use]
pub fn work(plan: &Checked, clients: usize) -> Size {
    work_with(plan, clients, None)
}

/// The same after a round whose clients reported their losses to each other.
#[must_use]
pub fn work_telling(plan: &Checked, clients: usize) -> Size {
    work_with(plan, clients, Some(Losses { mean: 0.0, greatest: 0.0 }))
}

fn work_with(plan: &Checked, clients: usize, losses: Option<Losses>) -> Size {
    let cohort = (0..clients as u64).map(antiphon_core::ClientId).collect();
    let theta = Vector::from_reals(&[]);
    down(
        Down::Work(Work { round: Round(0), attempt: 0, plan: ANY, schema: ANY, cohort, theta, losses }),
        4 * plan.schema().dim(),
    )
}

/// A `Deliver` that reports the named metrics.
#[must_use]
pub fn deliver<'a>(plan: &Checked, metrics: impl IntoIterator<Item = &'a str>) -> Size {
    let metrics = metrics.into_iter().map(|name| (name.to_owned(), 0.0)).collect();
    up(
        Up::Deliver(Deliver {
            round: Round(0),
            attempt: 0,
            plan: ANY,
            schema: ANY,
            base: ANY,
            weight: Weight::ONE,
            metrics,
            update: Vector::from_reals(&[]),
        }),
        plan.wire_bytes(),
    )
}

/// A `Deliver` of which at most `sent` coordinates are not zero, at most.
#[must_use]
pub fn deliver_sparse<'a>(plan: &Checked, sent: usize, metrics: impl IntoIterator<Item = &'a str>) -> Size {
    shorter(deliver(plan, metrics), sent, plan.wire_bytes() / 4)
}

/// A `Work` for a client that has parameters of which at most `changed` coordinates have changed, at most.
#[must_use]
pub fn work_changed(plan: &Checked, clients: usize, changed: usize) -> Size {
    // the digest of what it has
    let base = Size { payload: 0, overhead: 2 + 32 };
    shorter(work(plan, clients), changed, plan.schema().dim()) + base
}

/// `whole` with `told` of its `dim` coordinates and their index, if that is shorter.
fn shorter(whole: Size, told: usize, dim: usize) -> Size {
    let (payload, index) = (4 * told as u64, index_bytes(told, dim) as u64);
    // tag and length of the index, and a byte more in the length of the message around it
    let header = 1 + 3 + 2;
    if payload + index >= whole.payload {
        return Size { overhead: whole.overhead + header, ..whole };
    }
    Size { payload, overhead: whole.overhead + header + index }
}

/// Bytes of one undisturbed round of `clients`: every client polls, works and delivers once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundSize {
    /// Clients to coordinator.
    pub up: Size,
    /// Coordinator to clients.
    pub down: Size,
}

/// [`RoundSize`] for a cohort of `clients` that report the named metrics.
#[must_use]
pub fn round<'a>(plan: &Checked, clients: usize, metrics: impl IntoIterator<Item = &'a str>) -> RoundSize {
    let n = clients as u64;
    RoundSize { up: (poll() + deliver(plan, metrics)) * n, down: (work(plan, clients) + accepted()) * n }
}
