//! What coordinator and clients say to each other, and what they do about it.
//!
//! ```text
//! client            coordinator
//!   Join      -->                 plan and schema digests must agree
//!             <--   Accepted
//!   Poll      -->
//!             <--   Work          round, cohort, theta
//!   Deliver   -->                 update, weight, metrics
//!             <--   Accepted      an accepted update is never lost and never counted twice
//! ```
//!
//! Both sides are pure state machines: [`Coordinator::handle`]`(now, event) -> effects`, and [`Client`]. A run
//! is its list of events: the same events give the same effects. [`Gate`] stands before the coordinator and
//! turns bytes from a peer into a checked message or a [`Refusal`]; it needs no state, so any thread may run it.
//! One malformed, NaN, oversized, stale or duplicate message changes nothing but its sender's status.
//!
//! Who sent a message is told by the [`Link`] that carried it (an authenticated connection), never by a field
//! of the message.
//!
//! Deliberately missing: sockets, clocks, threads, async, retries over real time (a link's business), and
//! any knowledge of models.

pub mod client;
pub mod coordinator;
mod digest;
pub mod event;
pub mod frame;
pub mod gate;
mod header;
pub mod link;
pub mod message;
pub mod patch;
pub mod phase;
mod policy;
pub mod record;
pub mod refusal;
pub mod size;
pub mod status;
pub mod vector;
pub mod wire;

pub use client::{Client, ClientError, Rest, Session, Step, run_session};
pub use coordinator::Coordinator;
pub use event::{Closing, Contribution, Effect, Event, Setup};
pub use frame::{Frame, VERSION, WireError};
pub use gate::{Delivered, Gate, Inbound};
pub use link::{Link, LinkError, Log, LogError};
pub use message::{Changed, Deliver, Down, Ending, Receipt, Rejection, Up, WaitFor, Work};
pub use patch::Patch;
pub use policy::{Policy, PolicyError};
pub use record::{Record, What};
pub use refusal::{Code, Refusal};
pub use status::ClientStatus;
pub use vector::Vector;
