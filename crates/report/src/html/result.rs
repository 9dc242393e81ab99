//! The head of the page: what was run, what came of it, what it cost.

use super::write::Html;
use super::{Report, number, offsite, section};
use crate::format::{bytes, counted, percent, seconds, short};
use crate::results::{Measure, Results, Row, Who};
use crate::summary::Summary;
use crate::terminal;

pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    let s = report.summary;
    let run = &s.run;
    h.raw("<header><p class=\"brand\">antiphon</p>").element("h1", "", &run.name);
    h.open("p", &[("class", &"what")]);
    h.element("b", "", &run.base_model).text(" on ").element("b", "", &run.data).raw("<br>");
    h.text(format_args!(
        "{} · {} · {} · {} of {} in each of {}",
        run.method,
        run.objective,
        run.federation,
        run.cohort,
        counted(run.clients, "client"),
        counted(run.rounds_done, "round"),
    ));
    if let Some(steps) = run.local_steps {
        h.text(format_args!(" · {}", counted(steps, "local step")));
    }
    if let Some(chosen) = run.chosen {
        h.text(format_args!(" · {chosen}"));
    }
    h.raw("</p>");
    if run.rounds_done < run.rounds {
        h.open("p", &[("class", &"stopped")])
            .text(format_args!(
                "Stopped after {} of {} rounds: the numbers are of that moment.",
                run.rounds_done, run.rounds
            ))
            .close("p");
    }
    h.raw("</header>");
    if let Some(results) = Results::of(s) {
        headline(h, &results, s);
        table(h, &results, report);
    }
    tiles(h, s);
}

/// One sentence that says what came of it.
fn headline(h: &mut Html, results: &Results, s: &Summary) {
    let Some(measure) = results.measures.first() else { return };
    let Some(ours) = results.main(Who::Federated) else { return };
    h.raw("<p class=\"headline\">");
    if measure.higher {
        // several labelled tokens an example: accuracy counts tokens
        let tokens = s.federated.as_ref().is_some_and(|e| e.global.tokens > e.global.examples);
        let (verb, what) = if tokens {
            ("predicts", "of the labelled test tokens")
        } else {
            ("answers", "of the test examples")
        };
        h.text(format_args!("The federated model {verb} "))
            .element("strong", "", (measure.text)(ours))
            .text(format_args!(" {what} correctly"));
    } else {
        h.text("The federated model has a test ").text(measure.name).text(" of ").element(
            "strong",
            "",
            (measure.text)(ours),
        );
    }
    let rest: Vec<String> =
        [(Who::AloneMean, "the mean client alone"), (Who::Base, "the base model as it was")]
            .iter()
            .filter_map(|(who, name)| Some(format!("{name} {}", (measure.text)(results.main(*who)?))))
            .collect();
    if !rest.is_empty() {
        h.text(format_args!("; {}", rest.join(", ").replace(" %", "\u{a0}%")));
    }
    h.raw(".</p>");
}

fn table(h: &mut Html, results: &Results, report: &Report<'_>) {
    section(h, "result", "Result");
    h.open("p", &[("class", &"note")]).text(format_args!("On {}.", results.computed_on())).close("p");
    let Some(first) = results.measures.first() else {
        h.element(
            "p",
            "",
            "No figure: what was asked of the model on these examples has no answer that could be measured.",
        );
        h.raw("</section>");
        return;
    };
    h.raw("<div class=\"wide\"><table class=\"result\"><thead><tr><th></th>");
    for m in &results.measures {
        h.open("th", &[("class", &"num")])
            .text(m.name)
            .element("small", "", if m.higher { " ↑" } else { " ↓" })
            .close("th");
    }
    h.element("th", "bars", first.name).raw("</tr></thead><tbody>");
    let main = |row: &Row| row.values.first().copied().flatten();
    let longest = results.rows.iter().filter_map(main).fold(0.0, f64::max);
    for row in &results.rows {
        let (class, colour) = match row.who {
            Who::Base | Who::Emulator | Who::RandomSearch => ("", "c-base"),
            Who::AloneMean | Who::AloneWorst | Who::EmulatorTuned => ("", "c-alone"),
            Who::Federated => ("ours", "c-fed"),
            Who::Centralised | Who::Full => ("", "c-central"),
        };
        h.open("tr", &[("class", &class)]).element("th", "", row.label);
        for (value, m) in row.values.iter().zip(&results.measures) {
            number(h, value.map(m.text));
        }
        h.raw("<td class=\"bars\">");
        if let Some(value) = main(row) {
            h.open(
                "i",
                &[("class", &colour), ("style", &format_args!("width:{:.1}%", bar(value, longest, first)))],
            )
            .close("i");
        }
        h.raw("</td></tr>");
    }
    h.raw("</tbody></table></div>");
    let notes = footnotes(report.summary);
    if !notes.is_empty() {
        h.element("p", "note", notes);
    }
    offsite::write(h, report);
    h.raw("</section>");
}

/// Percent of the width: of the whole for a fraction, of the longest bar otherwise.
fn bar(value: f64, longest: f64, measure: &Measure) -> f64 {
    let full = if measure.higher { 1.0 } else { longest };
    if full > 0.0 { (100.0 * value / full).clamp(0.0, 100.0) } else { 0.0 }
}

/// What each comparison was given.
fn footnotes(s: &Summary) -> String {
    let mut notes = Vec::new();
    let b = &s.baselines;
    if let Some(o) = &s.off_site {
        let list = |layers: &[u64]| layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "Off-site: clients held layers {} of 0 to {} with embeddings and head, {} of the model's scalars as they are \
             ({}, drop rate {}), and trained layers {}.",
            list(&o.kept),
            o.layers.saturating_sub(1),
            percent(o.held as f64 / o.whole as f64),
            o.rule,
            o.drop_rate,
            list(&o.adapter)
        ));
        notes.extend(terminal::off_site(s).map(|gaps| format!("In {gaps}.")));
    }
    if let Some(alone) = &b.local_only {
        let steps =
            alone.steps.map_or_else(String::new, |n| format!(" for {} on its own data", counted(n, "step")));
        notes.push(format!(
            "Each client alone: {} trained{steps}, each tested on all clients' test data.",
            counted(alone.on_union.len() as u64, "model")
        ));
    }
    if let Some(all) = &b.centralised {
        let given = [all.steps.map(|n| counted(n, "step")), all.examples_seen.map(|n| counted(n, "example"))];
        let given: Vec<String> = given.into_iter().flatten().collect();
        let given = if given.is_empty() {
            String::new()
        } else {
            format!(" for {}, repetitions counted", given.join(" and "))
        };
        notes.push(format!("All data in one place: one model trained{given}."));
    }
    notes.join(" ")
}

fn tiles(h: &mut Html, s: &Summary) {
    let t = s.traffic;
    let share = if let Some(parameters) = s.run.parameters {
        format!(
            "of {} parameters ({})",
            short(parameters as f64),
            percent(s.run.trainable as f64 / parameters as f64)
        )
    } else {
        "parameters".to_owned()
    };
    let mut tiles = vec![
        ("trained", short(s.run.trainable as f64), share),
        ("sent up", bytes(t.up as f64), "by all clients, all rounds".to_owned()),
        ("sent down", bytes(t.down as f64), "to all clients, all rounds".to_owned()),
        ("took", seconds(s.wall_seconds), format!("on {}", counted(s.run.threads, "thread"))),
    ];
    if let Some(rss) = s.peak_rss_bytes {
        tiles.push(("memory", bytes(rss as f64), "peak of the process".to_owned()));
    }
    h.raw("<dl class=\"tiles\">");
    for (name, value, note) in tiles {
        h.raw("<div>")
            .element("dt", "", name)
            .element("dd", "", value)
            .element("dd", "note", note)
            .raw("</div>");
    }
    h.raw("</dl>");
}
