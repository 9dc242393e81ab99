//! Training loss falls while held-out loss rises.

use super::{Diagnosis, Finding, Run, Severity, median};
use crate::format::{loss, percent};

/// A held-out loss this far above its best has turned.
const TURNED: f64 = 0.02;
/// And this many times its median change between evaluations, since the best of many noisy ones lies
/// below their level by chance.
const NOISE: f64 = 3.0;
/// Evaluations after the best one, so that one bad round is no signature.
const AFTER: usize = 2;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "over_fitting",
    about: "training loss still falls, held-out loss has turned and rises",
    look,
};

fn look(run: &Run<'_>) -> Option<Finding> {
    if run.summary.is_some_and(|s| s.run.chosen.is_some_and(|c| c.loss.is_some())) {
        // the model that is handed out is that of the best round
        return None;
    }
    let losses = run.losses();
    let (at, best) =
        losses.iter().enumerate().min_by(|a, b| a.1.1.total_cmp(&b.1.1)).map(|(i, l)| (i, *l))?;
    let after = &losses[at + 1..];
    let last = *losses.last()?;
    let noise = median(losses.windows(2).map(|w| (w[1].1 - w[0].1).abs()))?;
    let rise = last.1 - best.1;
    if after.len() < AFTER || rise < TURNED * best.1 || rise < NOISE * noise {
        return None;
    }
    let train = |from: u32, to: u32| {
        let within = run.rounds.iter().filter(|r| (from..=to).contains(&r.round.0));
        let values: Vec<f64> = within.filter_map(|r| r.train_loss).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    // cohorts differ in difficulty: compare means over as many rounds as lie between evaluations
    let gap = last.0.0.saturating_sub(losses[losses.len() - 2].0.0).max(1);
    let then = train(best.0.0.saturating_sub(gap - 1), best.0.0)?;
    let now = train(last.0.0.saturating_sub(gap - 1), last.0.0)?;
    (now < then).then(|| Finding {
        id: DIAGNOSIS.id,
        severity: Severity::Warning,
        signature: "The model fits the clients' training data better and new data worse.".to_owned(),
        evidence: vec![
            format!(
                "held-out loss {} after round {} (its best), {} after round {}: {} above",
                loss(best.1),
                best.0.0,
                loss(last.1),
                last.0.0,
                percent(last.1 / best.1 - 1.0)
            ),
            format!("training loss {} then, {} now", loss(then), loss(now)),
        ],
        advice: advice(run, best.0.0 + 1),
    })
}

/// What to change, by the keys that the run has.
fn advice(run: &Run<'_>, rounds: u32) -> String {
    let searched =
        run.rounds.iter().any(|r| r.spent.is_some()) || run.summary.is_some_and(|s| s.queries.is_some());
    let less = if searched {
        "search over fewer dimensions or tokens, or on more examples of each client"
    } else {
        "train less per round (`local_steps`, `learning_rate`) or less freely (`lora_r`, `lora_dropout`)"
    };
    format!("Stop earlier (`num_rounds = {rounds}`), keep the best round (`eval.select = \"best\"`), {less}.")
}
