//! A client for whom the federated model never gets better while it does for the others.

use std::collections::BTreeMap;

use antiphon_core::{ClientId, Round};

use super::{Diagnosis, Finding, Run, Severity, median, name_clients};
use crate::format::{loss, percent};
use crate::record::Evaluation;

/// Evaluations of a client before it can be called stuck.
const EVALUATIONS: usize = 3;
/// The others improved at least this much, or nobody is left behind.
const OTHERS: f64 = 0.05;
/// A client that improved less than this fraction never improved.
const STUCK: f64 = 0.005;
/// A client that began below this share of the median client's loss has nothing left to learn.
const KNOWN: f64 = 0.1;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "stuck_client",
    about: "a client whose own held-out loss never falls while the median client's does",
    look,
};

/// What the run did for `client` as a fraction of the base model's loss on that client's held-out data, where both were
/// measured. The curve begins after the first round, and all that there is to learn may be learnt in it.
fn gain_over_base(run: &Run<'_>, client: ClientId) -> Option<f64> {
    let summary = run.summary?;
    let after = summary.federated.as_ref()?;
    let before = &summary.baselines.zero_shot.as_ref()?.eval;
    let loss = |e: &Evaluation| e.per_client.get(&client)?.loss;
    (before.split == after.split).then(|| Some(1.0 - loss(after)? / loss(before)?))?
}

fn look(run: &Run<'_>) -> Option<Finding> {
    let mut curves: BTreeMap<ClientId, Vec<(Round, f64)>> = BTreeMap::new();
    for (round, eval) in run.rounds.iter().filter_map(|r| Some((r.round, r.eval.as_ref()?))) {
        for (client, metrics) in &eval.per_client {
            if let Some(loss) = metrics.loss {
                curves.entry(*client).or_default().push((round, loss));
            }
        }
    }
    curves.retain(|_, c| c.len() >= EVALUATIONS);
    // the best it ever was, against where it began
    let gain = |curve: &[(Round, f64)]| {
        let best = curve[1..].iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
        (curve[0].1 - best) / curve[0].1
    };
    let typical = median(curves.values().map(|c| gain(c)))?;
    let known = KNOWN * median(curves.values().map(|c| c[0].1))?;
    let stuck: Vec<ClientId> = curves
        .iter()
        .filter(|(_, c)| c[0].1 > known)
        .filter(|(id, c)| gain(c) < STUCK && gain_over_base(run, **id).is_none_or(|g| g < STUCK))
        .map(|(id, _)| *id)
        .collect();
    if typical < OTHERS || stuck.is_empty() {
        return None;
    }
    let mut evidence = vec![format!(
        "the median client's own held-out loss fell by {} ({} clients)",
        percent(typical),
        curves.len()
    )];
    for client in stuck.iter().take(5) {
        let curve = &curves[client];
        let (first, last) = (curve[0], curve[curve.len() - 1]);
        let part = run.rounds.iter().filter(|r| r.cohort.contains(client)).count();
        evidence.push(format!(
            "{client}: {} after round {}, {} after round {}; it took part in {part} of {} rounds",
            loss(first.1),
            first.0.0,
            loss(last.1),
            last.0.0,
            run.rounds.len()
        ));
    }
    Some(Finding {
        id: DIAGNOSIS.id,
        severity: Severity::Warning,
        signature: format!("The federated model never improves for {}.", name_clients(&stuck, 5)),
        evidence,
        advice: "Look at its data: other labels, another language, wrong columns? If its data are right and rare, \
                 weigh clients with `by = \"uniform\"`, or ask it more often with a larger `fraction`."
            .to_owned(),
    })
}
