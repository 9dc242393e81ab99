//! An alignment that learns the public set by heart: nearer on what it was trained on, not nearer on what it never saw.

use super::{Diagnosis, Finding, Run, Severity};
use crate::alignment::Alignment;
use crate::format::{counted, significant};

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "overfitted_alignment",
    about: "aligning brings the emulator nearer to the model on the public data it is trained on, and not on other public data",
    look,
};

/// How many times farther unseen data may be: an alignment that generalises ends near 1.
const APART: f64 = 2.0;

fn look(run: &Run<'_>) -> Option<Finding> {
    let aligned = run.summary?.off_site.as_ref()?.aligned.as_ref()?;
    let distilled = aligned.distilled.iter().map(|a| ("the distillation".to_owned(), *a));
    let later = run
        .rounds
        .iter()
        .filter_map(|r| Some((format!("the alignment after round {}", r.round.0 + 1), r.alignment?)));
    // the last one speaks for the run
    let (which, a) = distilled.chain(later).last()?;
    let Alignment { before, after, trained_on, .. } = a;
    let ((name, before), (_, unseen), (_, seen)) = (before.main(), after.main(), trained_on.main());
    let gap = unseen / seen;
    if !gap.is_finite() || gap < APART {
        return None;
    }
    let worse = unseen >= before;
    Some(Finding {
        id: DIAGNOSIS.id,
        severity: if worse { Severity::Serious } else { Severity::Warning },
        signature: if worse {
            "The alignment learns the public set by heart and makes the emulator worse elsewhere."
        } else {
            "The alignment fits the public set better than anything else."
        }
        .to_owned(),
        evidence: vec![
            format!(
                "{which}: {name} to the model {} on the public data it was trained on, {} on public data it never saw \
                 ({} before it)",
                significant(seen, 3),
                significant(unseen, 3),
                significant(before, 3)
            ),
            format!("{} to align on", counted(aligned.public, "public sequence")),
        ],
        advice: "Give it more public data (a larger `emulator.public.share`, or another `path`), or fewer `steps` or a lower \
                 `learning_rate`."
            .to_owned(),
    })
}
