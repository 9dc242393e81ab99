//! The coordinate-wise median (Yin et al. 2018, arXiv:1803.01498, definition 1): as long as more than half of the clients are
//! honest, each coordinate lies within the range of theirs. Of an even number, the mean of the two in the middle.
//!
//! Deliberately missing: weights. Every client has one vote, whatever it says of its examples.

use antiphon_core::registry::{self, Entry};
use serde::Deserialize;

use super::ordered::{Rows, rankable};
use crate::{Accumulator, Contract, Mismatch, Reducer};

/// Registry line for [`Median`].
pub const ENTRY: Entry<dyn Reducer> = Entry {
    id: "median",
    paper: "arXiv:1803.01498",
    about: "coordinate-wise median: up to half of the clients may lie; needs `layers` without `weight`",
    build: |table| {
        registry::settings::<Settings>("median", table)?;
        Ok(Box::new(Median))
    },
};

/// The `[aggregation.reducer]` table of `median`: no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// `y_j = median_k x_{k,j}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Median;

impl Reducer for Median {
    fn describe(&self) -> String {
        "median".into()
    }

    fn accepts(&self, up: &Contract) -> Result<(), Mismatch> {
        rankable("median", up)
    }

    fn start(&self, up: &Contract) -> Box<dyn Accumulator> {
        Box::new(Rows { len: up.len, of: middle, setting: 0.0, rows: Vec::new() })
    }
}

fn middle(sorted: &[f32], _: f64) -> f32 {
    let n = sorted.len();
    // in binary64, where the sum of two binary32 cannot overflow
    (0.5 * (f64::from(sorted[(n - 1) / 2]) + f64::from(sorted[n / 2]))) as f32
}
