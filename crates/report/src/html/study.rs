//! The page of a study: the table, curves against forwards and against bytes, every run.

use std::collections::BTreeMap;

use super::chart::{Band, Chart, Series, Unit};
use super::write::Html;
use super::{number, section};
use crate::format::counted;
use crate::results::Measure;
use crate::study::{Curve, Point, Spread, Status, Study, Table, beside, budgets, pays, results, shown};

/// Colour classes of variants, in their order; more variants begin again.
const COLOURS: [&str; 8] =
    ["c-fed", "c-train", "c-central", "c-alone", "c-five", "c-six", "c-seven", "c-eight"];

/// Points of a curve, evenly spaced on the logarithmic axis.
const POINTS: usize = 40;

pub(super) fn write(h: &mut Html, study: &Study) {
    head(h, study);
    section(h, "result", "Result");
    table(h, &results(study), "result");
    for own in study.measures().iter().filter_map(|m| beside(study, m)) {
        table(h, &own, "small");
    }
    h.raw("</section>");
    super::sweep::write(h, study);
    curves(h, study);
    let read: Vec<Table> = study.measures().iter().filter_map(|m| budgets(study, m)).collect();
    if !read.is_empty() {
        section(h, "budgets", "At equal work");
        read.iter().for_each(|t| table(h, t, "small"));
        h.raw("</section>");
    }
    if let Some(t) = pays(study) {
        section(h, "pays", "From where on it pays");
        table(h, &t, "small");
        h.raw("</section>");
    }
    runs(h, study);
    h.raw("<footer>Written by antiphon from the summary.json and metrics.jsonl of every run. 1 MB is 1,000,000 bytes.</footer>");
}

fn head(h: &mut Html, study: &Study) {
    h.raw("<header><p class=\"brand\">antiphon</p>").element("h1", "", &study.name);
    let seeds: Vec<String> = study.seeds.iter().map(u64::to_string).collect();
    let what = format!(
        "{} with each of the seeds {}",
        counted(study.variants.len() as u64, "variant"),
        seeds.join(", ")
    );
    h.element("p", "what", what);
    let (done, all) = (study.finished().count(), study.cells());
    let failed = study.failed().count();
    if done < all {
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        h.element(
            "p",
            "stopped",
            format_args!("{done} of {all} runs have ended{failed}: the numbers are of these."),
        );
    }
    let mut profiles: Vec<&str> = study.finished().map(|c| c.kernel_profile.as_str()).collect();
    profiles.sort_unstable();
    profiles.dedup();
    if profiles.len() > 1 {
        let list = profiles.join(" and ");
        h.element(
            "p",
            "stopped",
            format_args!("Runs of different kernel profiles differ in their last bits: {list}."),
        );
    }
    h.raw("</header>");
}

fn table(h: &mut Html, t: &Table, class: &'static str) {
    h.raw("<div class=\"wide\">").open("table", &[("class", &class)]).raw("<thead><tr><th></th>");
    t.head.iter().skip(1).for_each(|name| {
        h.element("th", "num", name);
    });
    h.raw("</tr></thead><tbody>");
    for row in &t.rows {
        let class = if row.variant { "ours" } else { "" };
        h.open("tr", &[("class", &class)]).element("th", "", &row.name);
        row.cells.iter().for_each(|c| number(h, c.clone()));
        h.raw("</tr>");
    }
    h.raw("</tbody></table></div>").element("p", "note", &t.note);
}

/// One pair of charts for each measure and each kind of data.
fn curves(h: &mut Html, study: &Study) {
    let all = Curve::all(study);
    if all.is_empty() {
        return;
    }
    section(h, "curves", "On the way");
    h.raw("<p class=\"note\">The global model on validation data of all clients together: mean over seeds, each read at its last evaluation until then; the area is one standard deviation to either side. Logarithmic axes.</p>");
    let mut kinds: Vec<&BTreeMap<String, String>> = all.iter().map(|c| c.data).collect();
    kinds.dedup();
    kinds.sort();
    kinds.dedup();
    for data in kinds {
        let own: Vec<&Curve<'_>> = all.iter().filter(|c| c.data == data).collect();
        if !data.is_empty() {
            h.element("h3", "", shown(data));
        }
        h.raw("<div class=\"charts\">");
        for m in study.measures() {
            chart(&own, &m, &FORWARDS).write(h);
            chart(&own, &m, &BYTES).write(h);
        }
        h.raw("</div>");
    }
    h.raw("</section>");
}

/// What a curve is drawn against.
struct Against {
    name: &'static str,
    unit: Unit,
    of: fn(&Point) -> Option<f64>,
}

const FORWARDS: Against =
    Against { name: "example forwards", unit: Unit::LogCount, of: |p| Some(p.forwards as f64) };
const BYTES: Against =
    Against { name: "bytes, up and down", unit: Unit::LogBytes, of: |p| p.bytes.map(|b| b as f64) };

/// Of a chart of `m`.
pub(super) fn title(m: &Measure) -> &'static str {
    match m.name {
        "accuracy" => "Accuracy",
        "perplexity" => "Perplexity",
        "bits/byte" => "Bits per byte",
        _ => "Loss",
    }
}

fn chart(curves: &[&Curve<'_>], m: &Measure, against: &Against) -> Chart {
    let title = title(m);
    let note = format!("Against {}.", against.name);
    let mut chart = Chart::new(title, note, if m.name == "accuracy" { Unit::Percent } else { Unit::Plain });
    chart.ceiling = (m.name == "accuracy").then_some(1.0);
    chart.x_name = against.name.into();
    chart.x_unit = against.unit;
    let extents: Vec<(f64, f64)> = curves.iter().filter_map(|c| extent(c, against)).collect();
    let Some((low, high)) = extents.iter().copied().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else {
        return chart;
    };
    let (mut colours, mut searches) = (COLOURS.iter().cycle(), COLOURS.iter().rev().cycle());
    for c in curves {
        // a line that is one point, such as the base model as it was, holds everywhere
        let level = c.line && c.seeds.iter().all(|p| p.len() == 1 && p[0].forwards == 0);
        let colour = match (c.line, level) {
            (_, true) => "c-base",
            (true, false) => searches.next().copied().unwrap_or("c-base"),
            (false, _) => colours.next().copied().unwrap_or("c-fed"),
        };
        let (from, to) = match (level, extent(c, against)) {
            (true, _) => (low, high),
            (false, Some(own)) => own,
            (false, None) => continue,
        };
        let read = |x: f64| {
            let at = if level { 0.0 } else { 10_f64.powf(x) * (1.0 + 1e-12) };
            let value = |points: &&[Point]| {
                let until = points.iter().take_while(|p| (against.of)(p).or(Some(0.0)) <= Some(at));
                (m.of)(&until.last()?.metrics).filter(|v| v.is_finite())
            };
            Some((x, Spread::of(&c.seeds.iter().map(value).collect::<Option<Vec<f64>>>()?)?))
        };
        let steps = (0..=POINTS).map(|i| from + (to - from) * i as f64 / POINTS as f64);
        let points: Vec<(f64, Spread)> = steps.filter_map(read).collect();
        let area = points.iter().filter_map(|(x, s)| s.deviation.map(|d| (*x, s.mean - d, s.mean + d)));
        if !c.line {
            chart.bands.push(Band { name: "".into(), colour, points: area.collect() });
        }
        chart.lines.push(Series {
            name: c.name.clone().into(),
            colour,
            points: points.iter().map(|(x, s)| (*x, s.mean)).collect(),
            dashed: c.line,
        });
    }
    chart.bands.retain(|b| b.points.len() > 1);
    chart
}

/// Logarithms of where a curve begins and ends; `None` without a place above zero.
fn extent(c: &Curve<'_>, against: &Against) -> Option<(f64, f64)> {
    let ends = c.seeds.iter().map(|p| Some(((against.of)(p.first()?)?, (against.of)(p.last()?)?)));
    let ends: Vec<(f64, f64)> = ends.collect::<Option<_>>()?;
    let low = ends.iter().map(|e| e.0).reduce(f64::max)?;
    let high = ends.iter().map(|e| e.1).reduce(f64::min)?;
    (low > 0.0 && high >= low).then(|| (low.log10(), high.log10()))
}

/// Every run by itself.
fn runs(h: &mut Html, study: &Study) {
    section(h, "runs", "Every run");
    let measures = study.measures();
    h.raw("<div class=\"wide\"><table class=\"small\"><thead><tr><th></th><th class=\"num\">seed</th>");
    for m in &measures {
        h.element("th", "num", m.name);
    }
    h.raw("<th>folder</th></tr></thead><tbody>");
    for v in &study.variants {
        for cell in &v.cells {
            h.raw("<tr>").element("th", "", &v.name).element("td", "num", cell.seed);
            let test = cell.measured().and_then(|c| c.test.as_ref());
            for m in &measures {
                number(h, test.and_then(m.of).map(m.text));
            }
            h.raw("<td>").element("code", "", &cell.dir);
            if let Status::Failed(why) = &cell.status {
                h.text(" ").element("span", "bad", why);
            }
            h.raw("</td></tr>");
        }
    }
    h.raw("</tbody></table></div></section>");
}
