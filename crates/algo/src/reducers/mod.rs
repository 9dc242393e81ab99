//! Every reducer, one file each; the file name is the id.

use antiphon_core::Entry;

use crate::Reducer;

pub mod median;
mod ordered;
pub mod sum;
pub mod trimmed_mean;

/// Every reducer that a run file may name, in the order of the generated reference.
pub const REDUCERS: &[&Entry<dyn Reducer>] = &[&sum::ENTRY, &median::ENTRY, &trimmed_mean::ENTRY];
