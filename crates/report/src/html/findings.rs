//! What the doctor found.

use super::write::Html;
use super::{Report, section};
use crate::doctor::{ALL, Severity};
use crate::format::counted;

pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    section(h, "doctor", "Doctor");
    if report.findings.is_empty() {
        h.open("p", &[("class", &"well")])
            .text(format_args!("Looked for {}, found none.", counted(ALL.len() as u64, "failure signature")))
            .close("p");
    }
    for f in report.findings {
        let (class, word) = match f.severity {
            Severity::Note => ("finding is-note", "note"),
            Severity::Warning => ("finding is-warning", "warning"),
            Severity::Serious => ("finding is-serious", "serious"),
        };
        h.open("article", &[("class", &class)])
            .raw("<h3>")
            .element("span", "tag", word)
            .text(&f.signature)
            .raw("</h3><ul>");
        for e in &f.evidence {
            h.element("li", "", e);
        }
        h.raw("</ul>").open("p", &[]).element("b", "", "Try: ");
        code(h, &f.advice);
        h.raw("</p></article>");
    }
    h.raw("</section>");
}

/// Text with `names` between backticks.
fn code(h: &mut Html, text: &str) {
    for (i, part) in text.split('`').enumerate() {
        if i % 2 == 1 {
            h.element("code", "", part);
        } else {
            h.text(part);
        }
    }
}
