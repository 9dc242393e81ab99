//! Steps that the endpoint's own noise hides.

use super::{Diagnosis, Finding, Run, Severity};

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "under_noise",
    about: "one step of a search moves the loss by hardly more than repeated answers of the endpoint differ",
    look,
};

/// Below, a comparison of two candidates on one question is wrong one time in six or more.
const CLEAR: f64 = 3.0;

fn look(run: &Run<'_>) -> Option<Finding> {
    let queries = run.summary?.queries.as_ref()?;
    let (noise, effect) = (queries.noise_floor.filter(|n| *n > 0.0)?, queries.step_effect?);
    (effect < CLEAR * noise).then(|| Finding {
        id: DIAGNOSIS.id,
        severity: if effect <= noise { Severity::Serious } else { Severity::Warning },
        signature: "The search's steps are under the noise of the endpoint.".to_owned(),
        evidence: vec![
            format!("one step moves the loss of a question by {effect:.1e} nats"),
            format!("answers to one repeated question differ by {noise:.1e} nats"),
        ],
        advice: "Take larger steps (`sigma`), average over more questions, or ask an endpoint whose answers repeat (no batching, no \
                 prompt cache, one replica)."
            .to_owned(),
    })
}
