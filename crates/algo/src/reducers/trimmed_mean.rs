//! The coordinate-wise trimmed mean (Yin et al. 2018, arXiv:1803.01498, definition 2): of each coordinate's `n` values the
//! `⌊β n⌋` smallest and as many largest are left out, and the rest are averaged. It withstands fewer than `β n` liars and
//! wastes less than a median.
//!
//! Deliberately missing: weights. Every client has one vote, whatever it says of its examples.

use antiphon_core::registry::{self, ConfigError, Entry};
use serde::Deserialize;

use super::ordered::{Rows, rankable};
use crate::{Accumulator, Contract, Mismatch, Reducer};

/// Registry line for [`TrimmedMean`].
pub const ENTRY: Entry<dyn Reducer> = Entry {
    id: "trimmed_mean",
    paper: "arXiv:1803.01498",
    about: "coordinate-wise mean without the extremes; needs `layers` without `weight`",
    build: |table| Ok(Box::new(registry::settings::<TrimmedMean>("trimmed_mean", table)?.check()?)),
};

/// The `[aggregation.reducer]` table of `trimmed_mean`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrimmedMean {
    /// Share of the values left out at either end, at least 0 and below 0.5.
    trim: f64,
}

impl TrimmedMean {
    fn check(self) -> Result<Self, ConfigError> {
        if (0.0..0.5).contains(&self.trim) {
            return Ok(self);
        }
        let reason = format!("`trim` is {}; expected at least 0 and below 0.5", self.trim);
        Err(ConfigError::Invalid { id: "trimmed_mean".into(), reason })
    }
}

impl Reducer for TrimmedMean {
    fn describe(&self) -> String {
        format!("trimmed_mean trim={}", self.trim)
    }

    fn accepts(&self, up: &Contract) -> Result<(), Mismatch> {
        rankable("trimmed_mean", up)
    }

    fn start(&self, up: &Contract) -> Box<dyn Accumulator> {
        Box::new(Rows { len: up.len, of: mean_within, setting: self.trim, rows: Vec::new() })
    }
}

fn mean_within(sorted: &[f32], trim: f64) -> f32 {
    let out = (trim * sorted.len() as f64).floor() as usize;
    let kept = &sorted[out..sorted.len() - out];
    (kept.iter().map(|v| f64::from(*v)).sum::<f64>() / kept.len() as f64) as f32
}
