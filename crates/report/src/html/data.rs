//! How the data are divided: a heat map of clients by labels, sizes, divergences, truncation.

use super::write::Html;
use super::{Report, section};
use crate::format::{count, counted, percent, significant};
use crate::summary::{ClientData, DataReport, Truncation};

/// Columns of the heat map; rarer values are added up.
const MOST_VALUES: usize = 24;
/// Rows of the heat map.
const MOST_CLIENTS: usize = 60;

pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    let s = report.summary;
    if s.data.is_none() && s.truncation.is_none() {
        return;
    }
    section(h, "data", "Data");
    if let Some(data) = &s.data {
        let total: u64 = data.clients.iter().map(size).sum();
        h.open("p", &[("class", &"note")])
            .text(format_args!(
                "{} among {}, divided by ",
                counted(total, "example"),
                counted(data.clients.len() as u64, "client")
            ))
            .element("code", "", &data.partitioner)
            .text(". All splits together.")
            .close("p");
        heat_map(h, data);
        if !data.divergence.is_empty() {
            h.raw("<dl class=\"pairs\">");
            for (name, value) in &data.divergence {
                h.element("dt", "", name).element("dd", "", significant(*value, 3));
            }
            h.raw("</dl>");
        }
    }
    if let Some(t) = &s.truncation {
        truncation(h, t);
    }
    h.raw("</section>");
}

fn size(c: &ClientData) -> u64 {
    c.train + c.validation + c.test
}

/// Columns to show: indices into the counts, the most frequent first, and whether some are left over.
fn columns(data: &DataReport) -> (Vec<usize>, bool) {
    let total = |i: usize| data.clients.iter().filter_map(|c| c.counts.get(i)).sum::<u64>();
    let mut all: Vec<usize> = (0..data.values.len()).collect();
    if all.len() <= MOST_VALUES {
        return (all, false);
    }
    all.sort_by_key(|i| std::cmp::Reverse(total(*i)));
    all.truncate(MOST_VALUES);
    (all, true)
}

fn heat_map(h: &mut Html, data: &DataReport) {
    let (columns, rest) = columns(data);
    let largest = data.clients.iter().map(size).max().unwrap_or(1).max(1);
    if !columns.is_empty() {
        h.open("p", &[("class", &"legend")])
            .text(format_args!("share of a client's examples by {}", data.field))
            .raw("<span class=\"ramp\">0 <i></i> 100 %</span></p>");
    }
    h.raw("<div class=\"wide\"><table class=\"heat\"><thead><tr><th></th>");
    for i in &columns {
        h.raw("<th class=\"up\">").element("span", "", &data.values[*i]).raw("</th>");
    }
    if rest {
        h.raw("<th class=\"up\">")
            .element("span", "", format_args!("{} more", data.values.len() - columns.len()))
            .raw("</th>");
    }
    h.raw("<th class=\"size\">examples</th></tr></thead><tbody>");
    for client in data.clients.iter().take(MOST_CLIENTS) {
        h.raw("<tr>").element("th", "", &client.name);
        let total: u64 = client.counts.iter().sum();
        let mut shown = 0;
        for i in &columns {
            let n = client.counts.get(*i).copied().unwrap_or(0);
            shown += n;
            cell(h, n, total, &client.name, &data.values[*i]);
        }
        if rest {
            cell(h, total - shown, total, &client.name, "other values");
        }
        h.open(
            "td",
            &[
                ("class", &"size"),
                (
                    "title",
                    &format_args!(
                        "{} train, {} validation, {} test",
                        count(client.train),
                        count(client.validation),
                        count(client.test)
                    ),
                ),
            ],
        );
        h.open("i", &[("style", &format_args!("width:{:.1}%", 60.0 * size(client) as f64 / largest as f64))])
            .close("i");
        h.element("span", "", count(size(client))).raw("</td></tr>");
    }
    h.raw("</tbody></table></div>");
    if let Some(hidden) = data.clients.len().checked_sub(MOST_CLIENTS).filter(|n| *n > 0) {
        h.element(
            "p",
            "note",
            format_args!("The first {MOST_CLIENTS} clients; {hidden} more are in summary.json."),
        );
    }
}

fn cell(h: &mut Html, n: u64, total: u64, client: &str, value: &str) {
    let share = if total == 0 { 0.0 } else { n as f64 / total as f64 };
    // the eye sees the root of a share about linearly
    h.open(
        "td",
        &[
            ("style", &format_args!("--v:{:.0}%", 100.0 * share.sqrt())),
            ("title", &format_args!("{client}: {value} {} ({})", count(n), percent(share))),
        ],
    )
    .close("td");
}

fn truncation(h: &mut Html, t: &Truncation) {
    let text = if t.truncated == 0 {
        format!("No example is longer than {} tokens: nothing was cut off.", count(t.max_tokens))
    } else {
        format!(
            "{} of {} examples are longer than {} tokens and were cut: {} of {} labelled tokens lost, {} left without any label.",
            count(t.truncated),
            count(t.examples),
            count(t.max_tokens),
            count(t.labels_lost),
            count(t.labels),
            counted(t.emptied, "example")
        )
    };
    h.element("p", "note", text);
}
