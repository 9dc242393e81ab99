//! The federation did not pay: the federated model is no better than what there was without it.

use super::{Diagnosis, Finding, Run, Severity};
use crate::format::{loss, percent};
use crate::record::Metrics;
use crate::summary::LocalOnly;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "no_gain",
    about: "on test data the federated model is no better than the base model or the mean client alone, or its loss is \
            no number",
    look,
};

fn look(run: &Run<'_>) -> Option<Finding> {
    let summary = run.summary?;
    let federated = &summary.federated.as_ref()?.global;
    // an oracle may give answers that have no loss: texts, or labels that it does not name
    let computed = summary.queries.is_none();
    let no_number = federated.loss.map_or(computed, |l| !l.is_finite());
    if federated.examples > 0 && no_number {
        return Some(Finding {
            id: DIAGNOSIS.id,
            severity: Severity::Serious,
            signature: "The federated model's loss is no number: it computes NaN or infinity.".to_owned(),
            evidence: vec![format!(
                "test loss on the union of all clients ({} examples) is not finite",
                federated.examples
            )],
            advice: "Lower `learning_rate` tenfold, or set `max_grad_norm`; see that `lora_alpha` and the base model's \
                     weights are of ordinary size."
                .to_owned(),
        });
    }
    // accuracy where there is one: it is what the user asked for
    let by_accuracy = federated.accuracy.is_some();
    let number = |m: &Metrics| if by_accuracy { m.accuracy } else { m.loss };
    let name = if by_accuracy { "accuracy" } else { "loss" };
    let text = |x: f64| if by_accuracy { percent(x) } else { loss(x) };
    let ours = number(federated)?;
    // of running text the likeliest token may stay the same while the whole distribution gets better
    let lower_loss = |other: Option<f64>| {
        federated.perplexity.is_some() && federated.loss.zip(other).is_some_and(|(ours, other)| ours < other)
    };
    let no_better = |(other, other_loss): (f64, Option<f64>)| {
        !lower_loss(other_loss) && if by_accuracy { ours <= other } else { ours >= other }
    };
    let base = summary.baselines.zero_shot.as_ref().map(|b| &b.eval.global);
    let base = base.and_then(|m| Some((number(m)?, m.loss)));
    let mean = |number: &dyn Fn(&Metrics) -> Option<f64>, largest: bool| {
        let alone = &summary.baselines.local_only.as_ref()?.on_union;
        LocalOnly::mean_and_worst(alone, number, largest).map(|(mean, _)| mean)
    };
    let alone = mean(&number, by_accuracy).map(|m| (m, mean(&|m| m.loss, false)));
    let on = format!("test {name} on the union of all clients ({} examples)", federated.examples);
    let mut evidence = vec![format!("federated: {on} {}", text(ours))];
    let mut worse_than = Vec::new();
    for (who, value) in [("the base model as it was", base), ("the mean client alone", alone)] {
        if let Some((value, _)) = value.filter(|v| no_better(*v)) {
            evidence.push(format!("{who}: {}", text(value)));
            worse_than.push(who);
        }
    }
    let severity = if base.is_some_and(no_better) { Severity::Serious } else { Severity::Warning };
    (!worse_than.is_empty()).then(|| Finding {
        id: DIAGNOSIS.id,
        severity,
        signature: format!("The federated model is no better than {}.", worse_than.join(" or ")),
        evidence,
        advice: if summary.queries.is_some() {
            "If the loss was still falling at the end, give it more `num_rounds`; if it never fell, more examples a client, other \
             `candidates` or larger steps; `eval.select = \"best\"` ends with the best round."
        } else {
            "If the loss was still falling at the end, give it more `num_rounds`; if it never fell, try three \
             times and a third of `learning_rate`; if clients alone do better on the union, their data may be \
             so alike that there is nothing to share."
        }
        .to_owned(),
    })
}
