//! The end of a run in plain text: aligned, without colour, at most 80 columns unless names are long.

use std::fmt::Write;

use crate::doctor::{Finding, Severity};
use crate::format;
use crate::results::{Results, Who};
use crate::summary::{Calibrated, Summary};

/// The table, the costs and the findings.
#[must_use]
pub fn summary(summary: &Summary, findings: &[Finding]) -> String {
    let mut out = String::new();
    if let Some(results) = Results::of(summary) {
        out += &table(&results);
        out.push('\n');
    }
    let t = summary.traffic;
    let mut facts = vec![("rounds", rounds(summary))];
    if let Some(chosen) = summary.run.chosen {
        facts.push(("kept", chosen.to_string()));
    }
    facts.extend([
        ("sent", format!("{} up, {} down", format::bytes(t.up as f64), format::bytes(t.down as f64))),
        ("time", format::seconds(summary.wall_seconds)),
    ]);
    if let Some(gaps) = off_site(summary) {
        facts.push(("gaps", gaps));
    }
    if let Some(a) = summary.off_site.as_ref().and_then(|o| o.aligned.as_ref()) {
        let began = a.distilled.map_or_else(String::new, |d| format!("; before distillation {}", d.before));
        let on = format::counted(a.held_out, "public sequence");
        facts.push(("apart", format!("{} at the end on {on} never trained on{began}", a.last)));
    }
    if let Some(q) = &summary.queries {
        let budget = q.budget.map(|b| format!(" of {}", format::count(b))).unwrap_or_default();
        let what = format!("{}{budget} examples with {} access", format::count(q.examples), q.access);
        facts.push(("asked", what));
    }
    if let Some(c) = &summary.calibrated {
        facts.push(("labels", labels(c)));
    }
    if let Some(rss) = summary.peak_rss_bytes {
        facts.push(("memory", format!("{} at its peak", format::bytes(rss as f64))));
    }
    for (name, value) in facts {
        // writing to a String cannot fail
        let _ = writeln!(out, "{name:<8}{value}");
    }
    out += &self::findings(findings);
    out
}

/// Off-site, what plugging in gained and what full tuning would add; `None` otherwise.
pub(crate) fn off_site(summary: &Summary) -> Option<String> {
    let (results, o) = (Results::of(summary)?, summary.off_site.as_ref()?);
    let m = results.measures.first()?;
    let (gained, left) = o.gaps(m.of, m.higher)?;
    let signed = |x: f64| format!("{}{}", if x < 0.0 { "-" } else { "+" }, (m.text)(x.abs()));
    Some(format!(
        "{}: plugged in is {} on the base model, all layers tuned is {} on that (+ is better)",
        m.name,
        signed(gained),
        signed(left)
    ))
}

/// What each client's calibration does to the scores of labels.
fn labels(c: &Calibrated) -> String {
    let (before, after) = (&c.plain.global, &c.calibrated.global);
    let mut out = "calibrated by each client".to_owned();
    let numbers = [
        ("loss among them", before.loss.zip(after.loss), format::loss as fn(f64) -> String),
        ("accuracy", before.accuracy.zip(after.accuracy), format::percent),
    ];
    for (name, both, text) in numbers {
        if let Some((before, after)) = both {
            let _ = write!(out, ", {name} {} to {}", text(before), text(after));
        }
    }
    out
}

fn rounds(summary: &Summary) -> String {
    let run = &summary.run;
    let stopped = if run.rounds_done < run.rounds {
        format!(" of {}", format::count(run.rounds))
    } else {
        String::new()
    };
    format!(
        "{}{stopped}, {} of {} in each",
        format::count(run.rounds_done),
        format::count(run.cohort),
        format::counted(run.clients, "client")
    )
}

/// What [`crate::doctor::examine`] found, in words; one line when it found nothing.
#[must_use]
pub fn findings(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "doctor  no failure signature found\n".to_owned();
    }
    let mut out = String::new();
    for f in findings {
        let severity = match f.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Serious => "serious",
        };
        let _ = writeln!(out, "\n{severity}: {} [{}]", f.signature, f.id);
        for e in &f.evidence {
            let _ = writeln!(out, "  - {e}");
        }
        let _ = writeln!(out, "  try: {}", f.advice);
    }
    out
}

/// The headline table.
#[must_use]
pub fn table(results: &Results) -> String {
    let cell = |value: Option<f64>, column: usize| {
        value.map_or_else(|| "-".to_owned(), |v| (results.measures[column].text)(v))
    };
    let rows: Vec<(&str, Vec<String>)> = results
        .rows
        .iter()
        .map(|r| (r.label, r.values.iter().enumerate().map(|(i, v)| cell(*v, i)).collect()))
        .collect();
    let first = rows.iter().map(|r| r.0.len()).max().unwrap_or(0) + 2;
    let widths: Vec<usize> = results
        .measures
        .iter()
        .enumerate()
        .map(|(i, m)| rows.iter().map(|r| r.1[i].chars().count()).max().unwrap_or(0).max(m.name.len()))
        .collect();
    let mut out = format!("  {:first$}", "");
    for (m, w) in results.measures.iter().zip(&widths) {
        let _ = write!(out, "  {:>w$}", m.name);
    }
    out.push('\n');
    for (row, (label, cells)) in results.rows.iter().zip(&rows) {
        let mark = if row.who == Who::Federated { '>' } else { ' ' };
        let _ = write!(out, "{mark} {label:first$}");
        for (c, w) in cells.iter().zip(&widths) {
            let _ = write!(out, "  {c:>w$}");
        }
        out.push('\n');
    }
    let _ = writeln!(out, "  on {}", results.computed_on());
    out
}
