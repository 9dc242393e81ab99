//! Several runs beside each other: `study.json` and what is read off it.
//!
//! A study is a grid of variants × seeds; a [`Cell`] is one run. Everything here is a pure function of the cells' own
//! `summary.json` and `metrics.jsonl`. A mean stands beside its spread over seeds; of one seed there is no spread.
//!
//! Deliberately missing: tests of significance. With the few seeds that people can pay for, every seed is shown.

mod curve;
mod line;
mod measured;
mod own;
mod spread;
mod sweep;
mod table;
mod text;

use std::collections::BTreeMap;

use antiphon_core::Digest;
use serde::{Deserialize, Serialize};

pub use curve::{Curve, Pays, Threshold, thresholds};
pub use measured::{Measured, Point};
pub use own::beside;
pub use spread::Spread;
pub use sweep::{Sweep, Trace, sweeps};
pub use table::{Row, Table, budgets, pays, results};
pub use text::{csv, markdown, terminal};

use crate::record::Metrics;
use crate::results::{MEASURES, Measure};

/// Version of the layout of [`Study`]; raised when a field changes its meaning or goes.
pub const STUDY_SCHEMA: u32 = 1;

/// Every run of a grid, as far as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// [`STUDY_SCHEMA`].
    pub schema: u32,
    /// What it is called.
    pub name: String,
    /// Each variant runs once with each.
    pub seeds: Vec<u64>,
    /// Names of [`MEASURES`], in the order of the tables' columns; empty for all that were measured.
    #[serde(default)]
    pub metrics: Vec<String>,
    /// Numbers of example forwards at which curves are read, ascending.
    #[serde(default)]
    pub forwards: Vec<u64>,
    /// In the order of the study file: arms, and for each of them the points of the grid.
    pub variants: Vec<Variant>,
    /// Which division of the data was used for what; every variant of a seed on the same data shares it.
    pub splits: Vec<Division>,
}

/// Settings that were run with every seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name in tables.
    pub name: String,
    /// What it changes of its run file, by dotted key, as TOML.
    pub set: BTreeMap<String, String>,
    /// Those of [`Variant::set`] that change the data: variants that differ here are compared with lines of their own.
    pub data: BTreeMap<String, String>,
    /// One a seed, in the order of [`Study::seeds`].
    pub cells: Vec<Cell>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Its seed.
    pub seed: u64,
    /// Its run directory, relative to that of the study.
    pub dir: String,
    /// How far it is.
    #[serde(flatten)]
    pub status: Status,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "result")]
#[non_exhaustive]
pub enum Status {
    /// Not begun, or not ended.
    Waiting,
    /// Ended without a result; why.
    Failed(String),
    /// Ended with one.
    Finished(Box<Measured>),
}

impl Cell {
    /// What it measured, once it has ended.
    #[must_use]
    pub fn measured(&self) -> Option<&Measured> {
        match &self.status {
            Status::Finished(m) => Some(m),
            _ => None,
        }
    }
}

/// One division of the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Division {
    /// The seed that made it.
    pub seed: u64,
    /// What variants set of the data, as [`Variant::data`].
    pub data: BTreeMap<String, String>,
    /// Of who holds what, and of what is held out.
    pub digest: Digest,
}

impl Study {
    /// The columns: what was asked for, or else everything that some run measured.
    #[must_use]
    pub fn measures(&self) -> Vec<Measure> {
        let measured = |m: &Measure| self.finished().any(|c| c.test.as_ref().and_then(m.of).is_some());
        match &self.metrics[..] {
            [] => MEASURES.into_iter().filter(measured).collect(),
            names => names.iter().filter_map(|n| measure(n)).collect(),
        }
    }

    /// What every finished run measured.
    pub fn finished(&self) -> impl Iterator<Item = &Measured> {
        self.variants.iter().flat_map(|v| &v.cells).filter_map(Cell::measured)
    }

    /// Cells in all.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.variants.iter().map(|v| v.cells.len()).sum()
    }

    /// Cells that ended without a result, with the reason.
    pub fn failed(&self) -> impl Iterator<Item = (&Variant, &Cell, &str)> {
        self.variants.iter().flat_map(|v| v.cells.iter().map(move |c| (v, c))).filter_map(|(v, c)| {
            match &c.status {
                Status::Failed(why) => Some((v, c, why.as_str())),
                _ => None,
            }
        })
    }
}

impl Variant {
    /// Finished cells.
    pub fn finished(&self) -> impl Iterator<Item = &Measured> {
        self.cells.iter().filter_map(Cell::measured)
    }

    /// The spread over its finished seeds of a number that all of them have.
    fn spread(&self, of: impl Fn(&Measured) -> Option<f64>) -> Option<Spread> {
        let values: Option<Vec<f64>> = self.finished().map(of).collect();
        Spread::of(&values?)
    }
}

/// The measure of that name.
#[must_use]
pub fn measure(name: &str) -> Option<Measure> {
    MEASURES.into_iter().find(|m| m.name == name)
}

/// `key = value, …`; of a dotted key the last part.
pub fn shown(set: &BTreeMap<String, String>) -> String {
    let last = |k: &str| k.rsplit('.').next().unwrap_or_default().to_owned();
    let items: Vec<String> = set.iter().map(|(k, v)| format!("{} = {v}", last(k))).collect();
    items.join(", ")
}

/// A number of [`Metrics`] that exists and is finite.
fn number(m: &Measure, metrics: &Metrics) -> Option<f64> {
    (m.of)(metrics).filter(|v| v.is_finite())
}
