//! Supervised fine-tuning: cross-entropy of the next token at the labelled rows, `- mean log p(x_t | x_<t)`, the mean over
//! all labelled tokens of a step (as transformers' trainer does with `num_items_in_batch`), so a long completion counts for
//! more than a short one. Which tokens are labelled is the data's decision.

use antiphon_core::registry::{self, Entry};
use antiphon_data::Sequence;
use antiphon_model::{Batch, Spec, Task};
use serde::{Deserialize, Serialize};

use super::{Objective, ObjectiveError};
use crate::settings::complete;

pub(super) const ENTRY: Entry<dyn Objective> = Entry {
    id: "sft",
    paper: "arXiv:2203.02155",
    about: "cross-entropy of the next token at the labelled positions",
    build: |t| Ok(Box::new(registry::settings::<Sft>("sft", t)?)),
};

/// Settings of supervised fine-tuning: none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sft {}

impl Objective for Sft {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn task(&self, spec: &Spec, _: usize) -> Result<Task, ObjectiveError> {
        if spec.causal { Ok(Task::CausalLm) } else { Err(ObjectiveError::Encoder) }
    }

    fn units(&self, example: &Sequence) -> usize {
        example.label_tokens()
    }

    fn push(&self, example: &Sequence, batch: &mut Batch) -> Result<(), ObjectiveError> {
        Ok(batch.push(&example.ids, example.labels())?)
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
