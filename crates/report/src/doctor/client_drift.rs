//! Clients pull in unrelated directions and their mean leads nowhere.
//!
//! Looks at `alignment`, the norm-weighted mean pairwise cosine of a round's updates
//! ([`crate::UpdateSpread`]): its expectation is 0 for unrelated updates, whatever their number. It falls
//! in healthy runs too, as they converge, so held-out loss must stand still as well.

use super::{Diagnosis, Finding, Run, Severity, median};
use crate::format::{loss, percent, significant};

/// Below this, updates are no more alike than noise: two clients that share a tenth of their variance
/// have 0.1.
const UNRELATED: f64 = 0.05;
/// Rounds needed before a median says anything.
const ROUNDS: usize = 4;
/// A held-out loss that fell by less than this fraction stands still.
const STANDS_STILL: f64 = 0.02;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "client_drift",
    about: "updates of clients disagree beyond what averaging mends, and held-out loss stands still",
    look,
};

fn look(run: &Run<'_>) -> Option<Finding> {
    let spreads: Vec<_> = run
        .rounds
        .iter()
        .filter_map(|r| Some((r, r.spread.as_ref()?, r.spread.as_ref()?.alignment?)))
        .collect();
    if spreads.len() < ROUNDS {
        return None;
    }
    let alignment = median(spreads.iter().map(|s| s.2))?;
    let losses = run.losses();
    let (first, last) = (losses.first()?, losses.last()?);
    let best = losses.iter().skip(1).map(|l| l.1).fold(f64::INFINITY, f64::min);
    if alignment >= UNRELATED || losses.len() < 2 || best < first.1 * (1.0 - STANDS_STILL) {
        return None;
    }
    let mut evidence = vec![
        format!(
            "median alignment of updates {} over rounds {} to {} (1: all equal, 0: unrelated, below 0: opposed)",
            significant(alignment, 2),
            spreads[0].0.round.0,
            spreads[spreads.len() - 1].0.round.0
        ),
        format!(
            "held-out loss {} after round {}, {} after round {}: its best is {} below the first",
            loss(first.1),
            first.0.0,
            loss(last.1),
            last.0.0,
            percent(((first.1 - best) / first.1).max(0.0))
        ),
    ];
    let lengths = spreads.iter().map(|s| s.1).filter(|s| s.mean_norm > 0.0);
    if let Some(share) = median(lengths.map(|s| s.norm_of_mean / s.mean_norm)) {
        evidence.push(format!("the mean update has {} of the length of a client's (median)", percent(share)));
    }
    if let Some(error) = median(run.rounds.iter().filter_map(|r| r.factor_error)) {
        evidence
            .push(format!("averaging LoRA factors errs by {} of the mean product (median)", percent(error)));
    }
    Some(Finding {
        id: DIAGNOSIS.id,
        severity: Severity::Warning,
        signature: "The clients' updates disagree so much that their mean makes no progress.".to_owned(),
        evidence,
        advice:
            "Move less between averages: halve `local_steps` (and double `num_rounds` for the same work), or \
                 halve `learning_rate`; a larger `fraction` averages over more clients."
                .to_owned(),
    })
}
