//! Averaging LoRA's factors is far from averaging its products.

use super::{Diagnosis, Finding, Run, Severity, median};
use crate::format::percent;

/// The mean of products is then more than half lost: the server's model is not what clients agreed on.
const LARGE: f64 = 0.5;
/// Rounds needed before a median says anything.
const ROUNDS: usize = 3;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "factor_averaging",
    about: "mean(B)·mean(A) is far from mean(BA): averaging the factors loses most of the update",
    look,
};

fn look(run: &Run<'_>) -> Option<Finding> {
    let errors: Vec<_> = run.rounds.iter().filter_map(|r| Some((r.round.0, r.factor_error?))).collect();
    let typical = median(errors.iter().map(|e| e.1))?;
    let worst = errors.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a })?;
    (errors.len() >= ROUNDS && typical > LARGE).then(|| Finding {
        id: DIAGNOSIS.id,
        severity: Severity::Warning,
        signature: "Averaging the LoRA factors loses most of what the clients learned.".to_owned(),
        evidence: vec![format!(
            "‖mean(BA) − mean(B)·mean(A)‖ / ‖mean(BA)‖: median {} over {} rounds, largest {} in round {}",
            percent(typical),
            errors.len(),
            percent(worst.1),
            worst.0
        )],
        advice: "Fewer `local_steps` or a lower `learning_rate` keep the clients' factors close; a method without \
                 factors (`full`, `prompt`) has no such error."
            .to_owned(),
    })
}
