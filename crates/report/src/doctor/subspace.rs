//! A search in a random subspace of the wrong size.

use super::slope::slope;
use super::{Diagnosis, Finding, Run, Severity};
use crate::format::{count, significant};

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "subspace",
    about: "an evolution strategy has too few candidates for its subspace, or has settled in one that holds nothing better",
    look,
};

/// Candidates per coordinate that an evolution strategy needs to move at all; rates of the mean are of this order.
const NEEDED: f64 = 5.0;

/// With so many a small subspace has been searched.
const PLENTY: f64 = 50.0;

/// A step size that fell to this share of the first has settled.
const SETTLED: f64 = 0.25;

fn look(run: &Run<'_>) -> Option<Finding> {
    let dim = run.summary?.queries.as_ref()?.searched? as f64;
    let sigmas: Vec<f64> = run.rounds.iter().filter_map(|r| r.gauge?.sigma).collect();
    let (first, last) = (*sigmas.first()?, *sigmas.last()?);
    slope(run).filter(super::slope::Slope::may_be_flat)?;
    let candidates: f64 = run
        .rounds
        .iter()
        .filter_map(|r| {
            let held: Vec<u64> = r.clients.iter().filter_map(|c| c.examples).collect();
            let mean = held.iter().sum::<u64>() as f64 / held.len() as f64;
            Some(r.forwards? as f64 / mean).filter(|n| n.is_finite())
        })
        .sum();
    let (signature, advice) = if candidates < NEEDED * dim {
        (
            "The subspace is too large for the queries.",
            "Lower `intrinsic_dim`, or give more candidates: more `num_rounds` or a larger `local_popsize`.",
        )
    } else if candidates >= PLENTY * dim && last < SETTLED * first {
        (
            "The search has settled in a subspace that holds nothing better.",
            "Raise `intrinsic_dim`, or `alpha` for prompts further from where it began; more virtual tokens widen what can be said.",
        )
    } else {
        return None;
    };
    Some(Finding {
        id: DIAGNOSIS.id,
        severity: Severity::Warning,
        signature: signature.to_owned(),
        evidence: vec![
            format!("{} candidates for {} coordinates", count(candidates as u64), count(dim as u64)),
            format!("step size {} at first, {} at the end", significant(first, 3), significant(last, 3)),
            "the loss does not fall with queries".to_owned(),
        ],
        advice: advice.to_owned(),
    })
}
