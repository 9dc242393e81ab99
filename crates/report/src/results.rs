//! The headline: what was there before, what each client has alone, what the federation made of it.
//! One list of rows, shown by the terminal and the HTML report alike.

use std::collections::BTreeMap;

use antiphon_core::ClientId;

use crate::format;
use crate::record::Metrics;
use crate::summary::{LocalOnly, Summary};

/// A number of [`Metrics`] as a column.
#[derive(Clone, Copy)]
pub struct Measure {
    /// Column head.
    pub name: &'static str,
    /// True when more is better.
    pub higher: bool,
    /// Reads it.
    pub of: fn(&Metrics) -> Option<f64>,
    /// Writes it.
    pub text: fn(f64) -> String,
}

impl std::fmt::Debug for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Measure({})", self.name)
    }
}

/// All of them, the one that matters most to a user first.
pub const MEASURES: [Measure; 4] = [
    Measure { name: "accuracy", higher: true, of: |m| m.accuracy, text: format::percent },
    Measure { name: "perplexity", higher: false, of: |m| m.perplexity, text: |x| format::significant(x, 4) },
    Measure { name: "bits/byte", higher: false, of: |m| m.bits_per_byte, text: |x| format!("{x:.3}") },
    Measure { name: "loss", higher: false, of: |m| m.loss, text: format::loss },
];

/// Which model a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The base model as it was.
    Base,
    /// Off-site, the emulator as it was.
    Emulator,
    /// Off-site, the emulator with the trained adapter.
    EmulatorTuned,
    /// Mean over clients, each alone.
    AloneMean,
    /// The worst client alone.
    AloneWorst,
    /// The best of random prompts, with as many queries.
    RandomSearch,
    /// The federated model.
    Federated,
    /// All data in one place.
    Centralised,
    /// Off-site, the whole model tuned on all of its layers.
    Full,
}

impl Who {
    /// All of them, in reading order.
    pub const ALL: [Self; 9] = [
        Self::Base,
        Self::Emulator,
        Self::EmulatorTuned,
        Self::AloneMean,
        Self::AloneWorst,
        Self::RandomSearch,
        Self::Federated,
        Self::Centralised,
        Self::Full,
    ];

    /// Its name in a table.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Base => "base model, as it was",
            Self::Emulator => "emulator, as it was",
            Self::EmulatorTuned => "emulator, tuned",
            Self::AloneMean => "each client alone, mean",
            Self::AloneWorst => "each client alone, worst",
            Self::RandomSearch => "random search, as many queries",
            Self::Federated => "federated",
            Self::Centralised => "all data in one place",
            Self::Full => "whole model, all layers tuned",
        }
    }
}

/// One row: the numbers of [`Results::measures`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Which model.
    pub who: Who,
    /// Its name here: off-site, the federated model is the adapter plugged in.
    pub label: &'static str,
    /// One a measure; absent when it was not measured.
    pub values: Vec<Option<f64>>,
}

/// The headline table, all of it on test data of the union of the clients.
#[derive(Clone, Debug)]
pub struct Results {
    /// The columns, most important first.
    pub measures: Vec<Measure>,
    /// The rows, in reading order.
    pub rows: Vec<Row>,
    /// Test examples of the union.
    pub examples: u64,
    /// Labelled tokens in them.
    pub tokens: u64,
}

impl Results {
    /// `None` before the federated model was evaluated on test data.
    #[must_use]
    pub fn of(summary: &Summary) -> Option<Self> {
        let federated = &summary.federated.as_ref()?.global;
        let measures: Vec<Measure> = MEASURES.into_iter().filter(|m| (m.of)(federated).is_some()).collect();
        let row = |who: Who, number: &dyn Fn(&Measure) -> Option<f64>| Row {
            who,
            label: if who == Who::Federated && summary.off_site.is_some() {
                "federated, plugged in"
            } else {
                who.label()
            },
            values: measures.iter().map(number).collect(),
        };
        let mut rows = Vec::new();
        let b = &summary.baselines;
        let zero_shot = b.zero_shot.as_ref().map(|base| &base.eval.global);
        if let Some(base) = summary.off_site.as_ref().map(|o| &o.zero_shot).or(zero_shot) {
            rows.push(row(Who::Base, &|m| (m.of)(base)));
        }
        if let Some(o) = &summary.off_site {
            rows.push(row(Who::Emulator, &|m| (m.of)(&o.emulator_zero_shot)));
            rows.push(row(Who::EmulatorTuned, &|m| (m.of)(&o.emulator_tuned)));
        }
        if let Some(alone) = b.local_only.as_ref().map(|l| &l.on_union).filter(|m| !m.is_empty()) {
            rows.push(row(Who::AloneMean, &|m| alone_stat(alone, m).map(|s| s.0)));
            rows.push(row(Who::AloneWorst, &|m| alone_stat(alone, m).map(|s| s.1)));
        }
        if let Some(luck) = &b.random_search {
            rows.push(row(Who::RandomSearch, &|m| (m.of)(&luck.eval.global)));
        }
        rows.push(row(Who::Federated, &|m| (m.of)(federated)));
        if let Some(all) = &b.centralised {
            rows.push(row(Who::Centralised, &|m| (m.of)(&all.eval.global)));
        }
        if let Some(o) = &summary.off_site {
            rows.push(row(Who::Full, &|m| (m.of)(&o.full)));
        }
        Some(Self { measures, rows, examples: federated.examples, tokens: federated.tokens })
    }

    /// The first measure of `who`.
    #[must_use]
    pub fn main(&self, who: Who) -> Option<f64> {
        self.rows.iter().find(|r| r.who == who)?.values.first().copied().flatten()
    }

    /// What every number of the table was computed on.
    #[must_use]
    pub fn computed_on(&self) -> String {
        let tokens = if [0, self.examples].contains(&self.tokens) {
            String::new()
        } else {
            format!(", {} labelled tokens", format::count(self.tokens))
        };
        format!("test data of all clients together: {}{tokens}", format::counted(self.examples, "example"))
    }
}

fn alone_stat(alone: &BTreeMap<ClientId, Metrics>, m: &Measure) -> Option<(f64, f64)> {
    LocalOnly::mean_and_worst(alone, m.of, m.higher)
}
