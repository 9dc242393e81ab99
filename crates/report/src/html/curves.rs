//! Curves over rounds: loss, quality, time, and how far the clients' updates agree.

use super::chart::{Band, Chart, Series, Unit};
use super::write::Html;
use super::{Report, offsite, section};
use crate::format::{self, counted};
use crate::record::{Metrics, RoundRecord};
use crate::results::{MEASURES, Measure};

pub(super) fn write(h: &mut Html, report: &Report<'_>) {
    if report.rounds.is_empty() {
        return;
    }
    section(h, "curves", "Over the rounds");
    h.raw("<div class=\"charts\">");
    loss(report).write(h);
    for m in MEASURES.iter().filter(|m| m.name != "loss") {
        quality(report, m).write(h);
    }
    for mut chart in offsite::charts(report) {
        chart.prune();
        chart.write(h);
    }
    norms(report.rounds).write(h);
    agreement(report.rounds).write(h);
    time(report.rounds).write(h);
    speed(report.rounds).write(h);
    h.raw("</div></section>");
}

fn over(rounds: &[RoundRecord], of: impl Fn(&RoundRecord) -> Option<f64>) -> Vec<(f64, f64)> {
    let finite = |r: &RoundRecord| Some((f64::from(r.round.0), of(r).filter(|v| v.is_finite())?));
    rounds.iter().filter_map(finite).collect()
}

/// Lowest and highest over the clients' own held-out data.
fn per_client(rounds: &[RoundRecord], of: fn(&Metrics) -> Option<f64>) -> Vec<(f64, f64, f64)> {
    rounds
        .iter()
        .filter_map(|r| {
            let values = r.eval.as_ref()?.per_client.values().filter_map(of).filter(|v| v.is_finite());
            let (low, high, n) = values
                .fold((f64::INFINITY, f64::NEG_INFINITY, 0), |(l, h, n), v| (l.min(v), h.max(v), n + 1));
            (n >= 2).then_some((f64::from(r.round.0), low, high))
        })
        .collect()
}

/// `validation data of all clients: 1,200 examples`.
fn held_out(report: &Report<'_>) -> Option<String> {
    let eval = report.rounds.iter().find_map(|r| r.eval.as_ref())?;
    // texts are judged as a whole
    let tokens = if [0, eval.global.examples].contains(&eval.global.tokens) {
        String::new()
    } else {
        format!(", {} labelled tokens", format::count(eval.global.tokens))
    };
    Some(format!(
        "{} data of all clients ({}{tokens})",
        eval.split.name(),
        counted(eval.global.examples, "example")
    ))
}

fn loss(report: &Report<'_>) -> Chart {
    let held_out = held_out(report);
    let note = match &held_out {
        Some(on) => format!(
            "Cross-entropy in nats. Held-out: the global model on {on}. Training: mean of the round's local steps."
        ),
        None => "Cross-entropy in nats: mean of the round's local steps.".to_owned(),
    };
    let mut chart = Chart::new("Loss", note, Unit::Plain);
    chart.bands.push(Band {
        name: "single clients, held-out".into(),
        colour: "c-fed",
        points: per_client(report.rounds, |m| m.loss),
    });
    chart.lines.push(Series {
        name: "training".into(),
        colour: "c-train",
        points: over(report.rounds, |r| r.train_loss),
        dashed: true,
    });
    chart.lines.push(Series {
        name: "held-out".into(),
        colour: "c-fed",
        points: over(report.rounds, |r| r.eval.as_ref()?.global.loss),
        dashed: false,
    });
    chart.prune();
    chart
}

fn quality(report: &Report<'_>, m: &Measure) -> Chart {
    let title = match m.name {
        "accuracy" => "Accuracy",
        "perplexity" => "Perplexity",
        _ => "Bits per byte",
    };
    let note = format!("The global model on {}.", held_out(report).unwrap_or_default());
    let unit = if m.name == "accuracy" { Unit::Percent } else { Unit::Plain };
    let mut chart = Chart::new(title, note, unit);
    chart.ceiling = (m.name == "accuracy").then_some(1.0);
    chart.bands.push(Band {
        name: "single clients".into(),
        colour: "c-fed",
        points: per_client(report.rounds, m.of),
    });
    chart.lines.push(Series {
        name: "all clients".into(),
        colour: "c-fed",
        points: over(report.rounds, |r| (m.of)(&r.eval.as_ref()?.global)),
        dashed: false,
    });
    chart.prune();
    chart
}

fn norms(rounds: &[RoundRecord]) -> Chart {
    let note =
        "l2 norms of the counted clients' updates, before any layer, and of their weighted mean.".to_owned();
    let mut chart = Chart::new("Size of updates", note, Unit::Plain);
    let spreads = || rounds.iter().filter_map(|r| Some((f64::from(r.round.0), r.spread.as_ref()?)));
    chart.bands.push(Band {
        name: "smallest to largest".into(),
        colour: "c-train",
        points: spreads().map(|(x, s)| (x, s.min_norm, s.max_norm)).collect(),
    });
    chart.lines.push(Series {
        name: "mean client".into(),
        colour: "c-train",
        points: spreads().map(|(x, s)| (x, s.mean_norm)).collect(),
        dashed: false,
    });
    chart.lines.push(Series {
        name: "their mean".into(),
        colour: "c-fed",
        points: spreads().map(|(x, s)| (x, s.norm_of_mean)).collect(),
        dashed: false,
    });
    chart.from_zero = true;
    chart.prune();
    chart
}

fn agreement(rounds: &[RoundRecord]) -> Chart {
    let note = "Alignment: norm-weighted mean cosine between clients' updates. Factor error: \
                ‖mean(BA) − mean(B)·mean(A)‖ / ‖mean(BA)‖, what averaging LoRA factors costs."
        .to_owned();
    let mut chart = Chart::new("Agreement of updates", note, Unit::Plain);
    chart.lines.push(Series {
        name: "alignment".into(),
        colour: "c-fed",
        points: over(rounds, |r| r.spread.as_ref()?.alignment),
        dashed: false,
    });
    chart.lines.push(Series {
        name: "factor error".into(),
        colour: "c-train",
        points: over(rounds, |r| r.factor_error),
        dashed: false,
    });
    chart.from_zero = true;
    chart.prune();
    chart
}

fn time(rounds: &[RoundRecord]) -> Chart {
    let mut chart = Chart::new("Time", "Seconds per round.".to_owned(), Unit::Seconds);
    chart.bars.push(Series {
        name: "round".into(),
        colour: "c-fed",
        points: over(rounds, |r| r.wall_seconds),
        dashed: false,
    });
    chart.bars.push(Series {
        name: "evaluation".into(),
        colour: "c-alone",
        points: over(rounds, |r| r.eval_seconds),
        dashed: false,
    });
    chart.prune();
    chart
}

fn speed(rounds: &[RoundRecord]) -> Chart {
    let note = "Training tokens of the whole cohort per second of the round, padding excluded.".to_owned();
    let mut chart = Chart::new("Speed", note, Unit::PerSecond);
    chart.lines.push(Series {
        name: "tokens".into(),
        colour: "c-fed",
        points: over(rounds, |r| r.tokens_per_second),
        dashed: false,
    });
    chart.from_zero = true;
    chart.prune();
    chart
}

impl Chart {
    /// Drops what was not measured, so that the legend names only what is there.
    fn prune(&mut self) {
        self.lines.retain(|s| !s.points.is_empty());
        self.bars.retain(|s| !s.points.is_empty());
        self.bands.retain(|b| b.points.len() >= 2);
    }
}
