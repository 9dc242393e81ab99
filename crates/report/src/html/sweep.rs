//! Charts of a study against a number that its grid changes: one for each arm and measure.

use super::chart::{Band, Chart, Series, Unit};
use super::section;
use super::write::Html;
use crate::results::{Measure, Who};
use crate::study::{Study, Sweep, sweeps};

pub(super) fn write(h: &mut Html, study: &Study) {
    let all = sweeps(study);
    let Some(first) = all.first() else { return };
    section(h, "sweep", "Against a setting");
    let about = format!(
        "Test data; mean over seeds against {}, the area one standard deviation to either side.",
        first.key
    );
    h.element("p", "note", about).raw("<div class=\"charts\">");
    for sweep in &all {
        study.measures().iter().for_each(|m| chart(sweep, m).write(h));
    }
    h.raw("</div></section>");
}

fn chart(sweep: &Sweep<'_>, m: &Measure) -> Chart {
    let accuracy = m.name == "accuracy";
    let note = if sweep.name.is_empty() { String::new() } else { format!("{}.", sweep.name) };
    let mut chart =
        Chart::new(super::study::title(m), note, if accuracy { Unit::Percent } else { Unit::Plain });
    chart.ceiling = accuracy.then_some(1.0);
    chart.x_name = sweep.key.to_owned().into();
    for (name, points) in sweep.traces(m) {
        let result = name == "result";
        let colour = if result { "c-fed" } else { colour(&name) };
        if result {
            let area = points.iter().filter_map(|(x, s)| s.deviation.map(|d| (*x, s.mean - d, s.mean + d)));
            let band = Band { name: "".into(), colour, points: area.collect() };
            chart.bands.extend(Some(band).filter(|b| b.points.len() > 1));
        }
        let points = points.iter().map(|(x, s)| (*x, s.mean)).collect();
        chart.lines.push(Series { name: name.into(), colour, points, dashed: !result });
    }
    chart
}

fn colour(line: &str) -> &'static str {
    match Who::ALL.iter().find(|w| w.label() == line) {
        Some(Who::Emulator) => "c-five",
        Some(Who::EmulatorTuned | Who::AloneMean) => "c-alone",
        Some(Who::Full | Who::Centralised) => "c-central",
        Some(Who::RandomSearch | Who::AloneWorst) => "c-six",
        _ => "c-base",
    }
}
