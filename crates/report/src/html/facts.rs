//! What it takes to do it again: predictions, versions, seed, digests, the run file, every number.

use super::write::Html;
use super::{Report, number, section};
use crate::format::{bytes, count, loss, percent, seconds, short, significant};
use crate::record::ClientStatus;
use crate::summary::Comparison;

pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    predicted(h, report);
    section(h, "again", "Do it again");
    pairs(h, report);
    if !report.rounds.is_empty() {
        h.raw("<details><summary>Every round in numbers</summary>");
        rounds(h, report);
        h.raw("</details>");
    }
    h.raw("<details><summary>The resolved run file</summary><pre><code>")
        .text(report.run_toml)
        .raw("</code></pre></details></section>");
    h.raw("<footer>Written by antiphon from metrics.jsonl and summary.json. 1 MB is 1,000,000 bytes; rounds count from 0.</footer>");
}

fn predicted(h: &mut Html, report: &Report<'_>) {
    let list = &report.summary.predicted;
    if list.is_empty() {
        return;
    }
    section(h, "plan", "Predicted and measured");
    h.raw("<p class=\"note\">What <code>antiphon plan</code> says before anything runs, beside what came. Exact quantities must be equal; for estimates, × is measured over predicted.</p>");
    h.raw("<div class=\"wide\"><table><thead><tr><th></th><th class=\"num\">predicted</th><th class=\"num\">measured</th><th></th></tr></thead><tbody>");
    for c in list {
        h.raw("<tr>").element("th", "", &c.quantity);
        number(h, Some(quantity(c, c.predicted)));
        number(h, c.measured.map(|m| quantity(c, m)));
        match c.measured {
            None => h.raw("<td class=\"note\">not measured</td>"),
            Some(m) if c.exact && m == c.predicted => h.raw("<td class=\"good\">equal</td>"),
            Some(m) if c.exact => {
                h.element("td", "bad", format_args!("differs by {}", quantity(c, m - c.predicted)))
            }
            Some(m) if c.predicted != 0.0 => {
                h.element("td", "note", format_args!("× {}", significant(m / c.predicted, 2)))
            }
            Some(_) => h.raw("<td></td>"),
        };
        h.raw("</tr>");
    }
    h.raw("</tbody></table></div></section>");
}

fn quantity(c: &Comparison, value: f64) -> String {
    match (c.unit.as_str(), c.exact) {
        // what must be equal is shown to the last digit
        ("bytes", true) => format!("{} B", whole(value)),
        ("bytes", false) => bytes(value),
        ("seconds", _) => seconds(value),
        ("", true) => whole(value),
        ("", false) => short(value),
        (unit, _) => format!("{} {unit}", short(value)),
    }
}

fn whole(value: f64) -> String {
    let sign = if value < 0.0 { "−" } else { "" };
    format!("{sign}{}", count(value.abs() as u64))
}

fn pairs(h: &mut Html, report: &Report<'_>) {
    let s = report.summary;
    let mut pairs = vec![
        ("seed".to_owned(), s.run.seed.to_string()),
        ("kernel profile".to_owned(), s.run.kernel_profile.clone()),
        ("threads (no influence on the result)".to_owned(), s.run.threads.to_string()),
    ];
    if let Some(digest) = s.digest {
        pairs.push(("BLAKE3 of the result".to_owned(), digest.to_hex()));
    }
    if let Some(output) = &s.output {
        pairs.push(("result, in the run directory".to_owned(), output.clone()));
    }
    if !s.run.resumed_at.is_empty() {
        let list: Vec<String> = s.run.resumed_at.iter().map(u64::to_string).collect();
        pairs.push(("resumed at round".to_owned(), list.join(", ")));
    }
    pairs.extend(s.run.versions.iter().map(|(name, version)| (name.clone(), version.clone())));
    h.raw("<dl class=\"pairs\">");
    for (name, value) in pairs {
        h.element("dt", "", name).element("dd", "", value);
    }
    h.raw("</dl>");
}

fn rounds(h: &mut Html, report: &Report<'_>) {
    let split = report.rounds.iter().find_map(|r| r.eval.as_ref()).map_or("held-out", |e| e.split.name());
    h.raw("<div class=\"wide\"><table class=\"small\"><thead><tr><th class=\"num\">round</th><th class=\"num\">counted</th><th class=\"num\">training loss</th>");
    h.open("th", &[("class", &"num")]).text(format_args!("{split} loss")).close("th");
    h.open("th", &[("class", &"num")]).text(format_args!("{split} accuracy")).close("th");
    h.raw("<th class=\"num\">up</th><th class=\"num\">down</th><th class=\"num\">alignment</th><th class=\"num\">factor error</th><th class=\"num\">time</th><th>not counted</th></tr></thead><tbody>");
    for r in report.rounds {
        let counted = r.clients.iter().filter(|c| c.status.counted()).count();
        let eval = r.eval.as_ref().map(|e| &e.global);
        h.raw("<tr>");
        number(h, Some(r.round.0.to_string()));
        number(h, Some(format!("{counted} of {}", r.cohort.len())));
        number(h, r.train_loss.map(loss));
        number(h, eval.and_then(|e| e.loss).map(loss));
        number(h, eval.and_then(|e| e.accuracy).map(percent));
        number(h, r.traffic.map(|t| bytes(t.up as f64)));
        number(h, r.traffic.map(|t| bytes(t.down as f64)));
        number(h, r.spread.as_ref().and_then(|s| s.alignment).map(|a| significant(a, 2)));
        number(h, r.factor_error.map(percent));
        number(h, r.wall_seconds.map(seconds));
        let lost: Vec<String> = r
            .clients
            .iter()
            .filter(|c| !c.status.counted())
            .map(|c| format!("{} {}", c.client, reason(&c.status)))
            .collect();
        h.element("td", "", lost.join("; ")).raw("</tr>");
    }
    h.raw("</tbody></table></div>");
}

fn reason(status: &ClientStatus) -> String {
    match status {
        ClientStatus::Counted => String::new(),
        ClientStatus::Refused(why) => format!("refused: {why}"),
        ClientStatus::NotFinite => "not finite".to_owned(),
        ClientStatus::Failed(why) => format!("failed: {why}"),
        ClientStatus::TimedOut => "timed out".to_owned(),
    }
}
