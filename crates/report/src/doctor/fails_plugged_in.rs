//! Off-site tuning that works where clients see it and nowhere else: the adapter suits the emulator, not the model.

use super::{Diagnosis, Finding, Run, Severity};
use crate::format::{loss, percent, significant};
use crate::record::Metrics;

pub(super) const DIAGNOSIS: Diagnosis = Diagnosis {
    id: "fails_plugged_in",
    about: "the adapter improves the emulator that it was trained on, and not the whole model that it is plugged into",
    look,
};

fn look(run: &Run<'_>) -> Option<Finding> {
    let o = run.summary?.off_site.as_ref()?;
    // accuracy where there is one: it is what the user asked for
    let by_accuracy = o.plugged_in.accuracy.is_some();
    let number = |m: &Metrics| if by_accuracy { m.accuracy } else { m.loss };
    let text = |x: f64| if by_accuracy { percent(x) } else { loss(x) };
    let better = |a: f64, b: f64| if by_accuracy { a > b } else { a < b };
    let [before, after, zero, plugged] =
        [&o.emulator_zero_shot, &o.emulator_tuned, &o.zero_shot, &o.plugged_in].map(number);
    let (before, after, zero, plugged) = (before?, after?, zero?, plugged?);
    if !better(after, before) {
        // then nothing was learnt, which is another signature
        return None;
    }
    let (severity, signature) = if !better(plugged, zero) {
        (Severity::Serious, "The adapter works on the emulator and fails in the whole model.")
    } else if better(after, plugged) {
        (Severity::Warning, "The adapter works better on the emulator than in the whole model.")
    } else {
        return None;
    };
    let name = if by_accuracy { "accuracy" } else { "loss" };
    let distance = o.aligned.as_ref().map(|a| {
        let (name, last) = a.last.main();
        let first = a.distilled.map(|d| d.after.main().1);
        let first = first.map(|d| format!(", {} when it was distilled", significant(d, 3)));
        format!(
            "{name} of emulator and model on public data with this adapter in both: {}{}",
            significant(last, 3),
            first.unwrap_or_default()
        )
    });
    Some(Finding {
        id: DIAGNOSIS.id,
        severity,
        signature: signature.to_owned(),
        evidence: vec![
            format!("emulator: test {name} {} before, {} after", text(before), text(after)),
            format!("whole model: test {name} {} before, {} with the adapter", text(zero), text(plugged)),
            format!("the emulator keeps {} of {} layers", o.kept.len(), o.layers),
        ]
        .into_iter()
        .chain(distance)
        .collect(),
        advice: "Drop fewer layers (a smaller `drop_rate`), or train more of them (`adapter_bottom`, `adapter_top`): what \
                 the adapter learnt answers a middle that the whole model does not have. Fewer steps help too: the \
                 longer it trains, the more it fits the emulator. An emulator that is nearer to the model ([emulator.distill], \
                 [emulator.align]) carries more over."
            .to_owned(),
    })
}
