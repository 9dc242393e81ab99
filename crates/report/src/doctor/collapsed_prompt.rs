//! A distribution over prompts that decided itself before it had learnt anything.

use super::{Diagnosis, Finding, Run, Severity};
use crate::format::{loss, percent};

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "collapsed_prompt",
    about: "the distribution over prompts collapsed in the first half of a run, and nothing better was found after",
    look,
};

/// Of the uniform distribution's entropy: one candidate has nearly all the probability.
const DECIDED: f64 = 0.05;

/// A relative gain below is none.
const GAIN: f64 = 0.01;

fn look(run: &Run<'_>) -> Option<Finding> {
    let entropy = |i: usize| run.rounds.get(i).and_then(|r| r.gauge?.entropy);
    // a search that begins with one prompt cannot collapse
    entropy(0).filter(|e| *e > DECIDED)?;
    let at = (0..run.rounds.len()).find(|&i| entropy(i).is_some_and(|e| e <= DECIDED))?;
    let rounds = run.rounds.len();
    if 2 * (at + 1) > rounds {
        return None;
    }
    let of = |i: usize| run.rounds[i].eval.as_ref().and_then(|e| e.global.loss).filter(|l| l.is_finite());
    let before = (0..=at).rev().find_map(of).or_else(|| (at..rounds).find_map(of))?;
    let after = (at + 1..rounds).filter_map(of).reduce(f64::min)?;
    (after > before * (1.0 - GAIN)).then(|| Finding {
        id: DIAGNOSIS.id,
        severity: Severity::Warning,
        signature: "The distribution over prompts collapsed early.".to_owned(),
        evidence: vec![
            format!(
                "entropy fell to {} of the uniform distribution's in round {} of {rounds}",
                percent(entropy(at).unwrap_or(0.0)),
                run.rounds[at].round.0 + 1
            ),
            format!("held-out loss {} then, {} at best after", loss(before), loss(after)),
        ],
        advice: "Lower `learning_rate` or take more `samples`, so that chance decides less; `weight_decay` and `token_edits` keep \
                 positions open. If the prompt is good, stop here: `num_rounds` may be halved."
            .to_owned(),
    })
}
