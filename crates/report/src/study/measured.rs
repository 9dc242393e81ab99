//! What a study keeps of a run.

use std::collections::BTreeMap;

use antiphon_core::Digest;
use serde::{Deserialize, Serialize};

use crate::record::{Evaluation, Metrics, RoundRecord, Split, Traffic, Waypoint};
use crate::results::{Results, Row, Who};
use crate::summary::{Baseline, Summary};

/// One finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The federated model on the test data of all clients together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Metrics>,
    /// Lines to compare with on the same data, by name: of each the numbers by the name of their measure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lines: BTreeMap<String, BTreeMap<String, f64>>,
    /// From clients to the server, all rounds.
    pub bytes_up: u64,
    /// From the server to clients, all rounds.
    pub bytes_down: u64,
    /// Example forwards of all rounds; absent where a round does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwards: Option<u64>,
    /// Examples that a search has asked an oracle about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<u64>,
    /// Of the whole command, resumed parts together.
    pub wall_seconds: f64,
    /// Largest resident set of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// Of the division of the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Digest>,
    /// Instruction set and blocking: runs of different profiles differ in their last bits.
    pub kernel_profile: String,
    /// The federated model on validation data after rounds that were evaluated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<Point>,
    /// The lines on validation data, likewise; the base model is one point at no forwards.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub line_curves: BTreeMap<String, Vec<Point>>,
}

/// A model on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Example forwards until then.
    pub forwards: u64,
    /// Bytes until then, up and down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// On validation data of all clients together.
    pub metrics: Metrics,
}

impl Measured {
    /// Of a run's own records.
    #[must_use]
    pub fn of(summary: &Summary, rounds: &[RoundRecord]) -> Self {
        let b = &summary.baselines;
        let walked = [(Who::Base, &b.zero_shot), (Who::RandomSearch, &b.random_search)];
        let (mut forwards, mut traffic) = (Some(0_u64), Some(Traffic::default()));
        let mut curve = Vec::new();
        for r in rounds {
            forwards = forwards.zip(r.worked()).map(|(a, b)| a + b);
            traffic = traffic.zip(r.traffic).map(|(mut a, b)| {
                a += b;
                a
            });
            if let (Some(forwards), Some(metrics)) = (forwards, validation(r.eval.as_ref())) {
                let bytes = traffic.map(|t| t.up + t.down);
                curve.push(Point { forwards, bytes, metrics });
            }
        }
        let point = |w: &Waypoint| {
            Some(Point { forwards: w.forwards, bytes: None, metrics: validation(Some(&w.eval))? })
        };
        let on_the_way = |line: &Baseline| line.curve.iter().filter_map(point).collect::<Vec<_>>();
        Self {
            test: summary.federated.as_ref().map(|e| e.global.clone()),
            lines: Results::of(summary).map(|r| lines(&r)).unwrap_or_default(),
            bytes_up: summary.traffic.up,
            bytes_down: summary.traffic.down,
            forwards,
            queries: summary.queries.as_ref().map(|q| q.examples),
            wall_seconds: summary.wall_seconds,
            peak_rss_bytes: summary.peak_rss_bytes,
            split: summary.data.as_ref().and_then(|d| d.digest),
            kernel_profile: summary.run.kernel_profile.clone(),
            curve,
            line_curves: walked
                .into_iter()
                .filter_map(|(who, line)| Some((who.label().to_owned(), on_the_way(line.as_ref()?))))
                .filter(|(_, points)| !points.is_empty())
                .collect(),
        }
    }
}

/// Everything of the headline table but the federated model.
fn lines(results: &Results) -> BTreeMap<String, BTreeMap<String, f64>> {
    let numbers = |row: &Row| {
        let pairs = results.measures.iter().zip(&row.values);
        pairs.filter_map(|(m, v)| Some((m.name.to_owned(), (*v)?))).collect()
    };
    let others = results.rows.iter().filter(|r| r.who != Who::Federated);
    others.map(|r| (r.label.to_owned(), numbers(r))).collect()
}

/// Of validation data: test data are for the end.
fn validation(eval: Option<&Evaluation>) -> Option<Metrics> {
    eval.filter(|e| e.split == Split::Validation && e.global.examples > 0).map(|e| e.global.clone())
}
