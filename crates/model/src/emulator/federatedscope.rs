//! The blocks of FederatedScope-LLM (Kuang et al. 2023, arXiv:2309.00363) and FedBiOT: `model_drop_layer` of the released code.

use antiphon_core::{Entry, registry};
use serde::Deserialize;

use super::rules::{LayerRule, Middle, strides};

pub(super) const ENTRY: Entry<dyn LayerRule> = Entry {
    id: "federatedscope",
    paper: "arXiv:2309.00363",
    about: "block floor(i (n - 1) / (m - 1)), as the code of FederatedScope-LLM and FedBiOT",
    build: |t| Ok(Box::new(registry::settings::<FederatedScope>("federatedscope", t)?)),
};

/// It has no settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FederatedScope {}

impl LayerRule for FederatedScope {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn keep(&self, middle: Middle<'_>) -> Vec<usize> {
        strides(middle).map(|x| x as usize).collect()
    }
}
