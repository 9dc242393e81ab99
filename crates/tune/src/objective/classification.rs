//! Sequence classification: cross-entropy of the class, `- mean log p(y | x)` over sequences, by a linear head on one
//! pooled vector (Devlin et al. 2019, arXiv:1810.04805, section 4.1).

use antiphon_core::registry::{self, Entry};
use antiphon_data::Sequence;
use antiphon_model::{Batch, Pooling, Spec, Task};
use serde::{Deserialize, Serialize};

use super::{Objective, ObjectiveError, pooling_name};
use crate::settings::complete;

pub(super) const ENTRY: Entry<dyn Objective> = Entry {
    id: "classification",
    paper: "arXiv:1810.04805",
    about: "cross-entropy of a sequence's class, by a linear head on a pooled vector",
    build: |t| Ok(Box::new(registry::settings::<Classification>("classification", t)?)),
};

/// Settings of classification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Classification {
    /// How a sequence becomes a vector: `cls` (first token), `pooler` (first token through BERT's tanh pooler), `mean`
    /// (over tokens) or `last` (last token, decoders).
    pooling: PoolingKey,
}

/// [`Pooling`] as the run file spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PoolingKey {
    Cls,
    Pooler,
    Mean,
    Last,
}

impl From<PoolingKey> for Pooling {
    fn from(key: PoolingKey) -> Self {
        match key {
            PoolingKey::Cls => Self::Cls,
            PoolingKey::Pooler => Self::Pooler,
            PoolingKey::Mean => Self::Mean,
            PoolingKey::Last => Self::Last,
        }
    }
}

impl Objective for Classification {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn task(&self, spec: &Spec, classes: usize) -> Result<Task, ObjectiveError> {
        let pooling = self.pooling.into();
        let refuse = |reason| Err(ObjectiveError::Pooling { pooling: pooling_name(pooling), reason });
        match pooling {
            Pooling::Pooler if !spec.pooler => refuse("it has no pooler; use `mean` or `cls`"),
            Pooling::Cls if spec.causal => refuse("its first token sees nothing; use `last` or `mean`"),
            Pooling::Last if !spec.causal => refuse("it is an encoder; use `cls`, `pooler` or `mean`"),
            _ if classes < 2 => Err(ObjectiveError::Classes(classes)),
            _ => Ok(Task::Classify { classes, pooling }),
        }
    }

    fn units(&self, _: &Sequence) -> usize {
        1
    }

    fn push(&self, example: &Sequence, batch: &mut Batch) -> Result<(), ObjectiveError> {
        let class = example.class.ok_or(ObjectiveError::NoClass)?;
        Ok(batch.push_class(&example.ids, class)?)
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
