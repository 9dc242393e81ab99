//! A search against what it cost: queries, tokens, bytes, with random search's line.

use super::chart::{Chart, Series, Unit};
use super::write::Html;
use super::{Report, section};
use crate::record::RoundRecord;

pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    if report.rounds.iter().all(|r| r.spent.is_none()) {
        return;
    }
    section(h, "queries", "Against what was asked");
    h.raw("<div class=\"charts\">");
    type Cost = fn(&RoundRecord) -> f64;
    let costs: [(&str, &str, Unit, Cost); 3] = [
        ("Loss against queries", "examples asked about", Unit::Plain, |r| {
            r.spent.map_or(0.0, |s| s.queries() as f64)
        }),
        ("Loss against tokens", "tokens sent and generated", Unit::Plain, |r| {
            r.spent.map_or(0.0, |s| s.tokens as f64)
        }),
        ("Loss against bytes", "bytes between clients and server", Unit::Bytes, |r| {
            r.traffic.map_or(0.0, |t| (t.up + t.down) as f64)
        }),
    ];
    for (title, x_name, unit, cost) in costs {
        chart(report, title, x_name, unit, &cost).write(h);
    }
    h.raw("</div></section>");
}

fn chart(
    report: &Report<'_>,
    title: &'static str,
    x_name: &'static str,
    unit: Unit,
    cost: &dyn Fn(&RoundRecord) -> f64,
) -> Chart {
    let by_queries = title.ends_with("queries");
    let mut note =
        "Cross-entropy in nats on validation data of all clients, evaluations not counted.".to_owned();
    if by_queries {
        note += " Random search: the best prompt so far, drawn as the search begins, on everybody's training data.";
    }
    let mut chart = Chart::new(title, note, Unit::Plain);
    (chart.x_name, chart.x_unit) = (x_name.into(), unit);
    let mut sum = 0.0;
    let mut points: Vec<(f64, f64)> = Vec::new();
    for r in report.rounds {
        sum += cost(r);
        points
            .extend(r.eval.as_ref().and_then(|e| e.global.loss).filter(|l| l.is_finite()).map(|l| (sum, l)));
    }
    chart.lines.push(Series { name: "search".into(), colour: "c-fed", points, dashed: false });
    let random = report.summary.baselines.random_search.as_ref().filter(|_| by_queries);
    let mut points: Vec<(f64, f64)> = random
        .iter()
        .flat_map(|b| &b.curve)
        .filter_map(|w| Some((w.forwards as f64, w.eval.global.loss.filter(|l| l.is_finite())?)))
        .collect();
    // what was found stays found
    if let (Some(last), Some(end)) = (points.last().copied(), random.and_then(|b| b.examples_seen)) {
        points.push((end as f64, last.1));
    }
    chart.lines.push(Series { name: "random search".into(), colour: "c-alone", points, dashed: true });
    chart.lines.retain(|s| !s.points.is_empty());
    chart
}
