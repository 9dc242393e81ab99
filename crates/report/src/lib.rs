//! What a run measured, what that means, and how it looks.
//!
//! [`RoundRecord`] (one line of `metrics.jsonl`) and [`Summary`] (`summary.json`) are the documented,
//! stable record of a run; everything else in this crate is a pure function of them.
//!
//! Deliberately missing: clocks, files and models. The caller measures, reads and writes.

pub mod alignment;
pub mod doctor;
pub mod format;
pub mod html;
pub mod record;
pub mod results;
pub mod spread;
pub mod study;
pub mod summary;
pub mod terminal;

pub use alignment::{Aligned, Alignment, Distance};
pub use record::{
    ClientRecord, ClientStatus, Evaluation, Gauge, Metrics, RoundRecord, Spent, Split, Traffic, Waypoint,
};
pub use spread::UpdateSpread;
pub use summary::{
    Baseline, Baselines, Calibrated, ChosenRound, ClientData, Comparison, DataReport, Fitted, LocalOnly,
    OffSite, Queries, RunFacts, SUMMARY_SCHEMA, Summary, Truncation,
};
