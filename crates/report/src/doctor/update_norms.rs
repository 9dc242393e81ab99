//! Updates that explode or vanish.
//!
//! Compares medians of quarters of the run, since one cohort may differ from the next. Growth alone is
//! no signature (a learning rate that warms up grows its updates), nor is a decline (schedules end
//! low): exploding needs a loss that rose, vanishing a thousandth over the whole second half.

use super::{Diagnosis, Finding, Run, Severity, median};
use crate::format::{loss, percent, significant};
use crate::record::{ClientRecord, RoundRecord};

/// Growth from the smallest quarter to the last.
const EXPLODED: f64 = 10.0;
/// By how much the loss then lies above its best.
const ROSE: f64 = 0.1;
/// The second half against the first quarter.
const VANISHED: f64 = 1e-3;
/// Rounds needed before a quarter says anything.
const ROUNDS: usize = 4;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "update_norms",
    about: "client updates grow tenfold while the loss rises, or shrink to nothing",
    look,
};

fn norms(rounds: &[RoundRecord]) -> impl Iterator<Item = f64> {
    rounds
        .iter()
        .flat_map(|r| &r.clients)
        .filter(|c| c.status.counted())
        .filter_map(|c: &ClientRecord| c.update_norm)
}

fn look(run: &Run<'_>) -> Option<Finding> {
    let n = run.rounds.len();
    if n < ROUNDS {
        return None;
    }
    let quarter = |i: usize| median(norms(&run.rounds[i * n / 4..(i + 1) * n / 4]));
    let (first, last) = (quarter(0)?, quarter(3)?);
    let second_half = median(norms(&run.rounds[n / 2..]))?;
    let span = |from: usize, to: usize| {
        format!("rounds {} to {}", run.rounds[from].round.0, run.rounds[to - 1].round.0)
    };
    if second_half <= VANISHED * first {
        return Some(Finding {
            id: DIAGNOSIS.id,
            severity: Severity::Warning,
            signature: "The clients' updates vanish: training has stopped before the run has.".to_owned(),
            evidence: vec![format!(
                "median update norm {} in {}, {} in {}",
                significant(first, 3),
                span(0, n / 4),
                significant(second_half, 3),
                span(n / 2, n)
            )],
            advice:
                "Look at the schedule over rounds: it may end too early. Otherwise save the rounds, or raise \
                     `learning_rate`."
                    .to_owned(),
        });
    }
    let smallest = (0..3).filter_map(quarter).fold(f64::INFINITY, f64::min);
    let held_out: Vec<f64> = run.losses().iter().map(|l| l.1).collect();
    let training: Vec<f64> = run.rounds.iter().filter_map(|r| r.train_loss).collect();
    let (name, curve) = if held_out.len() >= 2 { ("held-out", held_out) } else { ("training", training) };
    let best = curve.iter().copied().fold(f64::INFINITY, f64::min);
    let end = *curve.last()?;
    (last >= EXPLODED * smallest && end > best * (1.0 + ROSE)).then(|| Finding {
        id: DIAGNOSIS.id,
        severity: Severity::Serious,
        signature: "The clients' updates explode and the model gets worse.".to_owned(),
        evidence: vec![
            format!(
                "median update norm {} in {}, {} in the quarter where it was smallest",
                significant(last, 3),
                span(3 * n / 4, n),
                significant(smallest, 3)
            ),
            format!(
                "{name} loss {} at its best, {} at the end: {} above",
                loss(best),
                loss(end),
                percent(end / best - 1.0)
            ),
        ],
        advice:
            "Lower `learning_rate` by a factor of three; set `max_grad_norm`, or a `clip` layer that bounds \
                 each update."
                .to_owned(),
    })
}
