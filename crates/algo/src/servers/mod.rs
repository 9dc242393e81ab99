//! Every server step, one file each; the file name is the id.

use antiphon_core::Entry;

use crate::{ServerStep, StepError};

pub mod fedavg;
pub mod sgdm;

/// Every server step that a run file may name, in the order of the generated reference.
pub const SERVER_STEPS: &[&Entry<dyn ServerStep>] = &[&fedavg::ENTRY, &sgdm::ENTRY];

/// Refuses an aggregate of another length than `theta`.
fn same_length(
    step: &'static str,
    what: &'static str,
    theta: &[f32],
    other: &[f32],
) -> Result<(), StepError> {
    if theta.len() == other.len() {
        return Ok(());
    }
    Err(StepError::Length { step, what, expected: theta.len(), found: other.len() })
}
