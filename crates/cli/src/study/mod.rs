//! A study: a grid over run-file keys × seeds, each cell an ordinary run directory made by an ordinary `antiphon run`.
//!
//! A cell runs in a process of its own, so that its peak memory is its own and what kills it kills nothing else. Everything
//! that a study knows is in its cells: a second start reads those that have ended, resumes those that have not, and refuses
//! those that were made by other settings.

mod cells;
mod file;
mod launch;
mod variants;

pub(crate) use cells::{Planned, State, Work, gather, plan};
pub(crate) use file::StudyFile;
pub(crate) use launch::{Launcher, Notice};
