//! A search that pays for queries and gets nothing for them.

use super::slope::{asked, slope};
use super::{Diagnosis, Finding, Run, Severity};
use crate::format::{count, significant};

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "query_cost",
    about: "a search asks on and its loss does not fall: the slope per thousand queries may be zero",
    look,
};

fn look(run: &Run<'_>) -> Option<Finding> {
    let slope = slope(run).filter(super::slope::Slope::may_be_flat)?;
    let asked = asked(run.rounds)?.last().copied()? as u64;
    let better = run.summary.and_then(|s| {
        let (ours, base) = (&s.federated.as_ref()?.global, &s.baselines.zero_shot.as_ref()?.eval.global);
        match (ours.loss, base.loss) {
            (Some(ours), Some(base)) => Some(ours < base),
            _ => Some(ours.accuracy? > base.accuracy?),
        }
    });
    // what was gained early was gained
    let severity = if better == Some(true) { Severity::Note } else { Severity::Warning };
    let by_text = run.summary.and_then(|s| s.queries.as_ref()).is_some_and(|q| q.access == "text");
    let (of, unit) = match (slope.held_out, by_text) {
        (true, _) => ("held-out loss", "nats"),
        (false, false) => ("loss of what clients tried, each against its own mean", "nats"),
        (false, true) => {
            ("share of wrong answers under what clients tried, each against its own mean", "of 1")
        }
    };
    let number = |x: f64| significant(x, 2);
    Some(Finding {
        id: DIAGNOSIS.id,
        severity,
        signature: "Queries were spent and the loss did not fall.".to_owned(),
        evidence: vec![
            format!(
                "{of}: {} {unit} per thousand queries, 95 % between {} and {} ({} points)",
                number(slope.per_thousand),
                number(slope.low),
                number(slope.high),
                slope.points
            ),
            format!("{} examples were asked about", count(asked)),
        ],
        advice: "Stop earlier: fewer `num_rounds` would have found as much. If the loss never fell, take larger steps (`learning_rate`, \
                 `sigma`), more `samples` for each, or other `candidates`; random search beside it shows what luck is worth."
            .to_owned(),
    })
}
