//! How far an emulator is from the model that it stands for, beside the five numbers: a table, and curves where it is aligned
//! between rounds.

use super::chart::{Chart, Series, Unit};
use super::write::Html;
use super::{Report, number};
use crate::alignment::Distance;
use crate::format::{bytes, counted, significant};

/// A distance and its name.
type Column = (&'static str, fn(&Distance) -> Option<f64>);

const COLUMNS: [Column; 3] =
    [("hidden states", |d| Some(d.hidden)), ("KL, nats", |d| d.kl), ("loss, nats", |d| d.loss)];

/// Nothing where nothing was aligned.
pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    let Some(o) = &report.summary.off_site else { return };
    let Some(a) = &o.aligned else { return };
    let first = a.distilled.iter().flat_map(|d| [("before distillation", d.before), ("distilled", d.after)]);
    let last = report.rounds.iter().rev().find_map(|r| r.alignment.as_ref());
    let again = last.iter().flat_map(|l| [("before the last alignment", l.before), ("after it", l.after)]);
    let rows: Vec<(&str, Distance)> =
        first.chain(again).chain([("at the end, with the final adapter", a.last)]).collect();
    let columns: Vec<&Column> =
        COLUMNS.iter().filter(|(_, of)| rows.iter().any(|(_, d)| of(d).is_some())).collect();
    h.raw("<h3>Emulator and model</h3>");
    h.open("p", &[("class", &"note")])
        .text(format_args!(
            "Apart on {} that nobody trained on, with one adapter in both. Hidden states: mean squared difference in units of \
             the model's mean square; KL of the next token from the model's to the emulator's.{}",
            counted(a.held_out, "public sequence"),
            if a.alignments > 0 {
                format!(
                    " {} between rounds; their changes took {} to all clients together.",
                    counted(a.alignments, "alignment"),
                    bytes(o.sent_changes as f64)
                )
            } else {
                String::new()
            }
        ))
        .close("p");
    h.raw("<div class=\"wide\"><table><thead><tr><th></th>");
    for (name, _) in &columns {
        h.element("th", "num", name);
    }
    h.raw("</tr></thead><tbody>");
    for (name, d) in &rows {
        h.raw("<tr>").element("th", "", name);
        for (_, of) in &columns {
            number(h, of(d).map(|v| significant(v, 3)));
        }
        h.raw("</tr>");
    }
    h.raw("</tbody></table></div>");
}

/// Distances over the rounds; none where nothing is aligned between them.
pub(super) fn charts(report: &Report<'_>) -> Vec<Chart> {
    let titles = [("Emulator: hidden states", COLUMNS[0].1), ("Emulator: KL to the model", COLUMNS[1].1)];
    let of = |(title, of): (&'static str, fn(&Distance) -> Option<f64>)| {
        let note =
            "On public data that nobody trained on, with the round's adapter in both models.".to_owned();
        let mut chart = Chart::new(title, note, Unit::Plain);
        let series = |name: &'static str, colour, dashed, pick: fn(&crate::Alignment) -> Distance| {
            let point = |r: &crate::RoundRecord| {
                let at = of(&pick(r.alignment.as_ref()?)).filter(|v| v.is_finite())?;
                Some((f64::from(r.round.0), at))
            };
            Series {
                name: name.into(),
                colour,
                points: report.rounds.iter().filter_map(point).collect(),
                dashed,
            }
        };
        chart.lines.push(series("before aligning", "c-train", true, |a| a.before));
        chart.lines.push(series("after", "c-fed", false, |a| a.after));
        chart.from_zero = true;
        chart
    };
    titles.into_iter().map(of).collect()
}
