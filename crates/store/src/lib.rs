//! The run directory: what a run leaves on disk, and how it goes on after it was stopped.
//!
//! ```text
//! run.toml            the resolved run file; exists exactly when creation is complete
//! run.lock            held by the process that works on the run
//! events.sqlite       append-only log, each row chained to the one before by BLAKE3
//! metrics.jsonl       one record a line, one line a closed round
//! deliveries.bin      what clients sent, round by round, for runs that can be audited
//! blobs/<digest>      content-addressed vectors and states
//! rounds/00012/       checkpoint.json: which blobs are the state after round 12
//! latest/             the newest exported model, in the layout other programs load
//! clients/7/          that client's log
//! report.html, summary.json
//! ```
//!
//! What survives. Everything a call of this crate returned `Ok` for survives the death of the process
//! (`kill -9`): it is in the page cache, behind atomic renames and committed transactions, and a
//! [`RunDir::resume`] continues after the last closed round. Power loss is another matter: without
//! durable mode the last rounds may be gone, and resume goes back to the newest checkpoint whose every
//! byte is intact; in durable mode files and directories are fsynced before the row that names them
//! commits with `synchronous = FULL`, so nothing acknowledged is lost. `latest/` is fsynced always.
//!
//! Deliberately missing: models, messages and clocks. This crate stores bytes, `f32` vectors and JSON
//! that others give meaning to, and time is an argument.

mod blob;
mod checkpoint;
mod deliveries;
mod diff;
mod disk;
mod error;
mod history;
mod layout;
mod lock;
mod log;
mod metrics;
mod publish;
mod run;
mod snapshot;

pub use blob::BlobRef;
pub use checkpoint::{Checkpoint, Restored};
pub use deliveries::read_deliveries;
pub use diff::{Change, diff};
pub use disk::Failpoint;
pub use error::StoreError;
pub use layout::Layout;
pub use log::{Event, LogHead};
pub use metrics::{read_metrics, read_rounds};
pub use publish::verify_latest;
pub use run::{Resume, RunDir, Settings, StoredUpdate};
pub use snapshot::Snapshot;
