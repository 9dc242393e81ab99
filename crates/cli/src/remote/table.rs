//! The table of embeddings out of the checkpoint that an endpoint serves: what a client of vLLM needs to put a soft prompt
//! before its tokens. Nothing else of the model is read.

use antiphon_model::Base;
use antiphon_oracle::http::Table;
use antiphon_tune::method;

use super::Draft;
use crate::error::{Fail, Failure, Kind};
use crate::session::open_base;

/// See the module.
#[derive(Debug)]
pub(super) struct Embeddings {
    base: Base,
    std: f64,
}

impl Embeddings {
    /// Of `model.base_model`.
    pub(super) fn open(draft: &Draft) -> Result<Self, Failure> {
        let base = open_base(&draft.loaded).map_err(|f| {
            Failure::new(
                f.kind,
                format_args!(
                    "{f}\nvLLM takes soft prompts as input vectors, so that its clients look their tokens up themselves: \
                     model.base_model has to be the checkpoint that is served, with its weights (its table of embeddings is \
                     read, and nothing else). oracle.access = \"logprobs\" needs the tokenizer alone"
                ),
            )
        })?;
        let std = method::embedding_std(base.spec(), base.source()).fail(Kind::Model)?;
        Ok(Self { base, std })
    }
}

impl Table for Embeddings {
    fn width(&self) -> usize {
        self.base.spec().hidden
    }

    fn std(&self) -> f64 {
        self.std
    }

    fn push(&self, id: u32, rows: &mut Vec<f32>) -> bool {
        let row = method::token_rows(self.base.spec(), self.base.source(), &[id]);
        row.map(|row| rows.extend(row)).is_ok()
    }
}
