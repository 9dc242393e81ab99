//! An emulator that is no longer near the model: the adapter that it was aligned with has moved on.

use super::{Diagnosis, Finding, Run, Severity};
use crate::alignment::Distance;
use crate::format::significant;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "drifted_emulator",
    about: "the emulator was near the model with the adapter that it was aligned with, and is not with the one that followed",
    look,
};

/// Growth that is worth a word. A divergence moves by some tens of percent as an adapter learns, whoever aligned it.
const GROWN: f64 = 1.5;

fn look(run: &Run<'_>) -> Option<Finding> {
    let aligned = run.summary?.off_site.as_ref()?.aligned.as_ref()?;
    // where each stretch without an alignment began and how it ended
    let mut from: Option<(String, Distance)> =
        aligned.distilled.map(|d| ("the distillation".to_owned(), d.after));
    let mut worst: Option<(f64, [String; 2], [Distance; 2])> = None;
    let mut ended = |from: &Option<(String, Distance)>, at: String, now: Distance| {
        let Some((since, then)) = from else { return };
        let ((_, before), (_, after)) = (then.main(), now.main());
        let growth = after / before;
        if growth.is_finite() && worst.as_ref().is_none_or(|w| growth > w.0) {
            worst = Some((growth, [since.clone(), at], [*then, now]));
        }
    };
    for r in run.rounds {
        if let Some(a) = r.alignment {
            let at = format!("round {}", r.round.0 + 1);
            ended(&from, at.clone(), a.before);
            from = Some((format!("the alignment after {at}"), a.after));
        }
    }
    ended(&from, "the last round".to_owned(), aligned.last);
    let (growth, [since, until], [then, now]) = worst?;
    if growth < GROWN {
        return None;
    }
    let (name, number) = now.main();
    let advice = if aligned.alignments == 0 {
        "Align again between rounds ([emulator.align] with `align_every`), as FedBiOT does: the emulator was aligned with the \
         first adapter alone. Or keep the adapter nearer to it: `train.proximal`, or fewer local steps."
    } else {
        "Align more often (a smaller `align_every`) or longer (more `steps`), or let the adapter move less between two \
         alignments: `train.proximal`, or fewer local steps."
    };
    Some(Finding {
        id: DIAGNOSIS.id,
        severity: Severity::Warning,
        signature: "The emulator drifts away from the model as the adapter learns.".to_owned(),
        evidence: vec![format!(
            "{name} to the model on public data: {} after {since}, {} at {until} ({} times)",
            significant(then.main().1, 3),
            significant(number, 3),
            significant(growth, 2)
        )],
        advice: advice.to_owned(),
    })
}
