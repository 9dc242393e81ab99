//! A whole federation in one process: every message encoded, carried, decoded and counted as across machines.
//!
//! [`Simulation`] drives the round machine of `antiphon-protocol` with clients on worker threads. The bits of the result depend on
//! the plan, the seed and the clients, never on the number of workers or on who finishes first.
//! [`faults`] makes the wire lose, delay, repeat, damage and replay messages from a list of operations.
//!
//! Deliberately missing: any network, any knowledge of models, and a scheduler of simulated time other than
//! the clients' own order: time moves only where a fault or a deadline moves it.

pub mod clock;
pub mod config;
pub mod faults;
mod floor;
pub mod meter;
pub mod observer;
pub mod simulation;
pub mod wire;

pub use clock::{Clock, VirtualClock, WallClock};
pub use config::{Config, End, SimError, Start, Workforce};
pub use faults::{Fault, Faults, Kind, On};
pub use meter::{Meter, Traffic};
pub use observer::{ClientDone, Observer, Outcome, RoundClosed, RoundFailed, RoundStarted, Silent};
pub use simulation::Simulation;
pub use wire::{Framed, Server, Wire};
