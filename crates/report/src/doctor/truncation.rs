//! The length limit cuts off what the model should learn.

use super::{Diagnosis, Finding, Run, Severity};
use crate::format::{count, percent};

/// Below this, what is lost is the tail of a few long examples.
const LOST: f64 = 0.01;
/// Above this, the model learns answers without their ends.
const MUCH: f64 = 0.1;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "truncation",
    about: "labelled tokens are cut off by the length limit, or examples are left without any",
    look,
};

fn look(run: &Run<'_>) -> Option<Finding> {
    let t = run.summary?.truncation?;
    let part = |n: u64, of: u64| if of == 0 { 0.0 } else { n as f64 / of as f64 };
    let (lost, emptied) = (part(t.labels_lost, t.labels), part(t.emptied, t.examples));
    (lost > LOST || emptied > LOST).then(|| Finding {
        id: DIAGNOSIS.id,
        severity: if lost > MUCH || emptied > MUCH { Severity::Serious } else { Severity::Warning },
        signature: "The length limit cuts off part of what the model should learn.".to_owned(),
        evidence: vec![
            format!(
                "{} of {} labelled tokens are beyond {} tokens ({})",
                count(t.labels_lost),
                count(t.labels),
                t.max_tokens,
                percent(lost)
            ),
            format!(
                "{} of {} examples are cut, {} have no labelled token left",
                count(t.truncated),
                count(t.examples),
                count(t.emptied)
            ),
        ],
        advice: "Raise `sequence_len` if the model's positions and the memory allow, or shorten the prompts."
            .to_owned(),
    })
}
