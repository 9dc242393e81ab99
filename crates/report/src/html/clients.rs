//! Each client: what it has from the federation against what it has alone, on its own test data.

use std::collections::BTreeMap;

use antiphon_core::ClientId;

use super::write::Html;
use super::{Report, number, section};
use crate::format::{count, counted};
use crate::record::Metrics;
use crate::results::{MEASURES, Measure};

/// More rows are cut to the best and the worst.
const MOST: usize = 40;

struct Line {
    client: ClientId,
    name: String,
    federated: f64,
    alone: Option<f64>,
    base: Option<f64>,
    examples: u64,
}

pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    let Some((measure, mut lines)) = lines(report) else { return };
    // the one that gains least first: that is where to look
    let gain = |l: &Line| {
        let from = l.alone.or(l.base).unwrap_or(l.federated);
        if measure.higher { l.federated - from } else { from - l.federated }
    };
    lines.sort_by(|a, b| gain(a).total_cmp(&gain(b)));
    section(h, "clients", "Each client");
    let worse = lines.iter().filter(|l| l.alone.is_some() && gain(l) < 0.0).count();
    let mut note = format!("Test {} on each client's own test data, the smallest gain first.", measure.name);
    if lines.iter().any(|l| l.alone.is_some()) {
        note += &if worse == 0 {
            format!(" All {} do at least as well with the federation as alone.", lines.len())
        } else {
            format!(
                " {} of {} would do better alone.",
                counted(worse as u64, "client"),
                count(lines.len() as u64)
            )
        };
    }
    h.element("p", "note", note);
    h.raw("<p class=\"legend\">");
    for (name, colour, there) in [
        ("federated", "c-fed", true),
        ("alone", "c-alone", lines.iter().any(|l| l.alone.is_some())),
        ("base model", "c-base", lines.iter().any(|l| l.base.is_some())),
    ] {
        if there {
            h.open("span", &[("class", &format_args!("key dot {colour}"))])
                .raw("<i></i>")
                .text(name)
                .close("span");
        }
    }
    h.raw("</p>");

    let cut = lines.len().saturating_sub(MOST);
    let (low, high) = range(&lines, &measure);
    h.raw("<table class=\"dumbbells\"><colgroup><col class=\"name\"><col><col class=\"value\"><col class=\"size\"></colgroup><thead class=\"sr\"><tr><th>client</th><th>range</th><th>federated</th><th>test examples</th></tr></thead><tbody>");
    for (i, line) in lines.iter().enumerate() {
        if cut > 0 && i == MOST / 2 {
            h.raw("<tr><td colspan=\"4\" class=\"note\">")
                .text(format_args!("{} in between", counted(cut as u64, "client")))
                .raw("</td></tr>");
        }
        if cut == 0 || i < MOST / 2 || i >= MOST / 2 + cut {
            row(h, line, &measure, low, high);
        }
    }
    h.raw("</tbody></table></section>");
}

fn lines(report: &Report<'_>) -> Option<(Measure, Vec<Line>)> {
    let s = report.summary;
    let federated = &s.federated.as_ref()?.per_client;
    let measure = *MEASURES.iter().find(|m| federated.values().any(|v| (m.of)(v).is_some()))?;
    let names: BTreeMap<ClientId, &str> =
        s.data.iter().flat_map(|d| &d.clients).map(|c| (c.client, c.name.as_str())).collect();
    let of = |models: Option<&BTreeMap<ClientId, Metrics>>, client| models?.get(&client).and_then(measure.of);
    let lines = federated
        .iter()
        .filter_map(|(&client, m)| {
            Some(Line {
                client,
                name: names.get(&client).map_or_else(|| client.to_string(), |n| (*n).to_owned()),
                federated: (measure.of)(m)?,
                alone: of(s.baselines.local_only.as_ref().map(|l| &l.on_own), client),
                base: of(s.baselines.zero_shot.as_ref().map(|b| &b.eval.per_client), client),
                examples: m.examples,
            })
        })
        .collect();
    Some((measure, lines))
}

fn range(lines: &[Line], measure: &Measure) -> (f64, f64) {
    if measure.name == "accuracy" {
        return (0.0, 1.0);
    }
    let values = lines.iter().flat_map(|l| [Some(l.federated), l.alone, l.base]).flatten();
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let margin = 0.04 * (high - low).max(1e-9);
    (low - margin, high + margin)
}

fn row(h: &mut Html, line: &Line, measure: &Measure, low: f64, high: f64) {
    let at = |v: f64| 100.0 * ((v - low) / (high - low)).clamp(0.0, 1.0);
    let values = [
        ("c-base", "base model", line.base),
        ("c-alone", "alone", line.alone),
        ("c-fed", "federated", Some(line.federated)),
    ];
    let tooltip: Vec<String> =
        values.iter().filter_map(|v| Some(format!("{} {}", v.1, (measure.text)(v.2?)))).collect();
    h.open("tr", &[("title", &format_args!("{} ({}): {}", line.name, line.client, tooltip.join(", ")))]);
    h.element("th", "", &line.name).raw("<td class=\"track\"><div>");
    if let Some(alone) = line.alone.or(line.base) {
        let (a, b) = (at(alone), at(line.federated));
        let better = if measure.higher { b >= a } else { b <= a };
        let class = if better { "link gain" } else { "link loss" };
        h.open(
            "i",
            &[
                ("class", &class),
                ("style", &format_args!("left:{:.1}%;width:{:.1}%", a.min(b), (a - b).abs())),
            ],
        )
        .close("i");
    }
    for (colour, _, value) in values {
        if let Some(value) = value {
            h.open("b", &[("class", &colour), ("style", &format_args!("left:{:.1}%", at(value)))]).close("b");
        }
    }
    h.raw("</div></td>");
    number(h, Some((measure.text)(line.federated)));
    h.element("td", "num note", format_args!("n = {}", count(line.examples))).raw("</tr>");
}
