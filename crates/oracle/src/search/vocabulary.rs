//! What searches among tokens share: a state that is a distribution over candidates at every position of the prompt.

use antiphon_core::{Schema, SchemaError};

use super::{Gauge, Ground, PromptOf, SearchError, state};
use crate::discrete::Rows;

/// The candidates of a ground, without repetitions.
pub(super) fn candidates(ground: &Ground) -> Result<Vec<u32>, SearchError> {
    let mut tokens = Vec::new();
    for &id in &ground.candidates {
        if !tokens.contains(&id) {
            tokens.push(id);
        }
    }
    if tokens.len() < 2 { Err(SearchError::Candidates { found: tokens.len() }) } else { Ok(tokens) }
}

/// Candidates, and the state with which a search among them begins.
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<u32>,
    /// `[positions, tokens]`
    pub(super) start: Rows,
}

impl Vocabulary {
    pub(super) fn schema(&self) -> Result<Schema, SchemaError> {
        Rows::schema(self.start.positions(), self.start.candidates())
    }

    /// The distributions that travelled as `theta`.
    pub(super) fn rows(&self, theta: &[f32]) -> Result<Rows, SearchError> {
        state(theta.len(), self.start.values().len())?;
        Ok(Rows::from_wire(self.start.positions(), self.start.candidates(), theta)?)
    }

    /// How undecided the prompt is.
    pub(super) fn gauge(&self, theta: &[f32]) -> Gauge {
        Gauge { entropy: self.rows(theta).ok().map(|r| r.entropy()), ..Gauge::default() }
    }

    /// The prompt that has candidate `prompt[i]` at position `i`.
    pub(super) fn spell(&self, prompt: &[usize]) -> PromptOf {
        PromptOf::Tokens(prompt.iter().filter_map(|&j| self.tokens.get(j).copied()).collect())
    }

    /// The likeliest prompt of a state.
    pub(super) fn best(&self, theta: &[f32]) -> Result<PromptOf, SearchError> {
        Ok(self.spell(&self.rows(theta)?.best()))
    }
}

/// Start minus end.
pub(super) fn delta(start: &[f32], end: &Rows) -> Vec<f32> {
    start.iter().zip(end.values()).map(|(s, e)| (f64::from(*s) - e) as f32).collect()
}
