//! The `[aggregation]` and `[server]` sections of a run file.
//!
//! ```toml
//! [aggregation]
//! layers = [{ id = "clip", l2 = 1.0 }, { id = "weight", by = "examples", cap = 1000.0 }]
//! reducer = { id = "sum" }
//!
//! [server]
//! id = "sgdm"
//! learning_rate = 1.0
//! momentum = 0.9
//! ```
//!
//! Layers are listed from the model to the network: the first acts first on a client, and last on the server.

use antiphon_core::registry::{ConfigError, build};
use serde::{Deserialize, Serialize};

use crate::{LAYERS, Plan, REDUCERS, SERVER_STEPS, ServerStep};

/// The `[aggregation]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AggregationSettings {
    /// Outermost (nearest the model) first; each table names an entry of [`LAYERS`].
    pub layers: Vec<toml::Table>,
    /// Names an entry of [`REDUCERS`].
    pub reducer: toml::Table,
}

impl Default for AggregationSettings {
    /// Federated averaging: the mean weighted by examples, uncapped.
    fn default() -> Self {
        let table = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|&(k, v)| (k.to_owned(), toml::Value::from(v))).collect::<toml::Table>()
        };
        Self {
            layers: vec![table(&[("id", "weight"), ("by", "examples")])],
            reducer: table(&[("id", "sum")]),
        }
    }
}

impl AggregationSettings {
    /// Builds what the section names; [`Plan::check`] then tells whether it fits together.
    pub fn plan(&self) -> Result<Plan, ConfigError> {
        let layers = self.layers.iter().map(|t| build("layer", LAYERS, t)).collect::<Result<_, _>>()?;
        Ok(Plan { layers, reducer: build("reducer", REDUCERS, &self.reducer)? })
    }
}

/// Builds what the `[server]` section names.
pub fn server_step(section: &toml::Table) -> Result<Box<dyn ServerStep>, ConfigError> {
    build("server step", SERVER_STEPS, section)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<String, String> {
        let s: AggregationSettings = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        s.plan().map(|p| p.describe()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_section_builds_and_slips_are_named() {
        let ok = r#"
            layers = [{ id = "clip", l2 = 2.0 }, { id = "weight", by = "examples", cap = 50.0 }]
            reducer = { id = "sum" }"#;
        assert_eq!(plan(ok).unwrap(), "clip l2=2\nweight by=examples cap=50\nsum");
        let with =
            |layer: &str| plan(&format!("layers = [{layer}]\nreducer = {{ id = 'sum' }}")).unwrap_err();
        assert!(with("{ id = 'wieght' }").contains("did you mean `weight`?"));
        assert!(with("{ id = 'clip' }").contains("l2"));
        assert!(with("{ id = 'clip', l2 = 0.0 }").contains("positive"));
        assert!(with("{ id = 'weight', by = 'uniform', cap = 3.0 }").contains("no meaning"));
        assert!(with("{ id = 'weight', by = 'examples', cap = -1.0 }").contains("positive"));
        assert!(with("{ id = 'weight', by = 'loss' }").contains("examples"));
        assert!(plan("layers = []\nreducer = { id = 'sum', trim = 1 }").unwrap_err().contains("trim"));
        assert!(plan("layers = []\nreducer = { id = 'sum' }\nrduce = 1").unwrap_err().contains("rduce"));
    }

    #[test]
    fn the_default_is_the_weighted_mean() {
        let plan = AggregationSettings::default().plan().unwrap();
        assert_eq!(plan.describe(), "weight by=examples\nsum");
    }

    #[test]
    fn server_steps_validate_their_numbers() {
        let err = |t: &str| server_step(&t.parse().unwrap()).unwrap_err().to_string();
        assert!(err("id = 'sgdm'\nlearning_rate = 0.0\nmomentum = 0.5").contains("learning_rate"));
        assert!(err("id = 'sgdm'\nlearning_rate = 1.0\nmomentum = 1.0").contains("momentum"));
        assert!(err("id = 'fedavg'\nlearning_rate = 1.0").contains("learning_rate"));
        assert!(err("id = 'fedadam'").contains("known: fedavg, sgdm"));
    }
}
