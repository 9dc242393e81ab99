//! The blocks of Offsite-Tuning (Xiao, Lin and Han 2023, arXiv:2302.04870): `uniform_choose_layers` of its released code.

use antiphon_core::{Entry, registry};
use serde::Deserialize;

use super::rules::{LayerRule, Middle, strides};

pub(super) const ENTRY: Entry<dyn LayerRule> = Entry {
    id: "offsite_tuning",
    paper: "arXiv:2302.04870",
    about: "block round(i (n - 1) / (m - 1)), halves to even, as the code of Offsite-Tuning",
    build: |t| Ok(Box::new(registry::settings::<OffsiteTuning>("offsite_tuning", t)?)),
};

/// It has no settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OffsiteTuning {}

impl LayerRule for OffsiteTuning {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn keep(&self, middle: Middle<'_>) -> Vec<usize> {
        strides(middle).map(|x| x.round_ties_even() as usize).collect()
    }
}
