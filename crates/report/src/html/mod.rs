//! `report.html`: one file, no network, readable on a phone, light and dark.
//!
//! Every section is a file that writes itself or, when nothing of it was measured, nothing.

mod chart;
mod clients;
mod curves;
mod data;
mod facts;
mod findings;
mod offsite;
mod queries;
mod result;
mod study;
mod sweep;
mod traffic;
mod write;

use crate::doctor::Finding;
use crate::record::RoundRecord;
use crate::study::Study;
use crate::summary::Summary;
use write::Html;

/// What a report is made of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The whole run.
    pub summary: &'a Summary,
    /// Ascending by round.
    pub rounds: &'a [RoundRecord],
    /// What [`crate::doctor::examine`] found.
    pub findings: &'a [Finding],
    /// The resolved run file, as text.
    pub run_toml: &'a str,
}

/// The page of a study.
#[must_use]
pub fn study(study: &Study) -> String {
    let mut h = Html::default();
    begin(&mut h, &study.name);
    study::write(&mut h, study);
    end(h)
}

/// The page of a run.
#[must_use]
pub fn page(report: &Report<'_>) -> String {
    let mut h = Html::default();
    begin(&mut h, &report.summary.run.name);
    result::write(&mut h, report);
    findings::write(&mut h, report);
    curves::write(&mut h, report);
    queries::write(&mut h, report);
    clients::write(&mut h, report);
    data::write(&mut h, report);
    traffic::write(&mut h, report);
    facts::write(&mut h, report);
    end(h)
}

/// The head, and the body open.
fn begin(h: &mut Html, title: &str) {
    h.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
        .raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">")
        .raw("<meta name=\"color-scheme\" content=\"light dark\">")
        // the page needs nothing from anywhere: whatever slipped through could not load or run
        .raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">")
        .element("title", "", format_args!("{title} · antiphon"))
        .raw("<style>")
        .raw(include_str!("style.css"))
        .raw("</style></head><body><main>");
}

fn end(mut h: Html) -> String {
    h.raw("</main></body></html>\n");
    h.finish()
}

/// Opens a section with its heading.
fn section(h: &mut Html, id: &'static str, title: &'static str) {
    h.open("section", &[("id", &id)]).element("h2", "", title);
}

/// A table cell with a number, or a dash.
fn number(h: &mut Html, text: Option<String>) {
    match text {
        Some(text) => h.element("td", "num", text),
        None => h.raw("<td class=\"num none\">–</td>"),
    };
}
