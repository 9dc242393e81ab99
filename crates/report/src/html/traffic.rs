//! Bytes: what was sent, and what it bought.

use super::chart::{Chart, Series, Unit};
use super::write::Html;
use super::{Report, number, section};
use crate::format::{bytes, percent};
use crate::record::Traffic;

pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    let s = report.summary;
    section(h, "bytes", "Bytes");
    h.raw("<div class=\"charts\">");
    quality(report).write(h);
    cumulative(report).write(h);
    h.raw("</div>");
    let t = s.traffic;
    let rounds = s.run.rounds_done.max(1) as f64;
    h.raw("<div class=\"wide\"><table><thead><tr><th></th><th class=\"num\">all rounds</th><th class=\"num\">per round</th><th class=\"num opt\">coordinates</th><th class=\"num\">overhead</th></tr></thead><tbody>");
    for (name, all, payload) in [("up", t.up, t.payload_up), ("down", t.down, t.payload_down)] {
        h.raw("<tr>").element("th", "", name);
        number(h, Some(bytes(all as f64)));
        number(h, Some(bytes(all as f64 / rounds)));
        h.element("td", "num opt", bytes(payload as f64));
        let overhead = all.saturating_sub(payload) as f64;
        number(
            h,
            (payload > 0).then(|| format!("{} ({})", bytes(overhead), percent(overhead / payload as f64))),
        );
        h.raw("</tr>");
    }
    h.raw("</tbody></table></div>");
    h.raw("<p class=\"note\">Counted on the encoded messages of all clients; up is from clients to the server. Coordinates: the values of updates and models; overhead: headers, names and digests.</p></section>");
}

/// `(bytes so far, record)` after each round with traffic.
fn running<'a>(report: &Report<'a>) -> Vec<(Traffic, &'a crate::record::RoundRecord)> {
    let mut sum = Traffic::default();
    report
        .rounds
        .iter()
        .filter_map(|r| {
            sum += r.traffic?;
            Some((sum, r))
        })
        .collect()
}

fn quality(report: &Report<'_>) -> Chart {
    let points = |of: fn(&crate::record::Metrics) -> Option<f64>| -> Vec<(f64, f64)> {
        running(report)
            .into_iter()
            .filter_map(|(t, r)| Some(((t.up + t.down) as f64, of(&r.eval.as_ref()?.global)?)))
            .collect()
    };
    let split = report.rounds.iter().find_map(|r| r.eval.as_ref()).map_or("held-out", |e| e.split.name());
    let accuracy = points(|m| m.accuracy);
    let mut chart = if accuracy.is_empty() {
        let note = format!(
            "Loss of the global model on {split} data of all clients, against all bytes sent until then, up and down."
        );
        let mut chart = Chart::new("What the bytes bought", note, Unit::Plain);
        chart.lines.push(Series {
            name: "loss".into(),
            colour: "c-fed",
            points: points(|m| m.loss),
            dashed: false,
        });
        chart
    } else {
        let note = format!(
            "Accuracy of the global model on {split} data of all clients, against all bytes sent until then, up and down."
        );
        let mut chart = Chart::new("What the bytes bought", note, Unit::Percent);
        chart.ceiling = Some(1.0);
        chart.lines.push(Series {
            name: "accuracy".into(),
            colour: "c-fed",
            points: accuracy,
            dashed: false,
        });
        chart
    };
    chart.x_name = "bytes sent".into();
    chart.x_unit = Unit::Bytes;
    chart
}

fn cumulative(report: &Report<'_>) -> Chart {
    let mut chart =
        Chart::new("Bytes so far", "All clients together, after each round.".to_owned(), Unit::Bytes);
    let running = running(report);
    let line =
        |of: fn(&Traffic) -> u64| running.iter().map(|(t, r)| (f64::from(r.round.0), of(t) as f64)).collect();
    chart.lines.push(Series { name: "up".into(), colour: "c-fed", points: line(|t| t.up), dashed: false });
    chart.lines.push(Series {
        name: "down".into(),
        colour: "c-train",
        points: line(|t| t.down),
        dashed: true,
    });
    chart.from_zero = true;
    chart
}
