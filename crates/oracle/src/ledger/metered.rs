//! An oracle whose questions are paid for.

use std::sync::Arc;

use antiphon_core::Schema;

use super::Ledger;
use crate::answer::{Answers, LabelScore, Usage};
use crate::error::OracleError;
use crate::oracle::{EmbedOracle, Facts, LogprobOracle, TextOracle, WeightOracle};
use crate::query::{Query, ScoreQuery, Soft, TextQuery};

/// Reserves before each batch and settles after it. Of the same tier as what it wraps.
#[derive(Debug)]
pub struct Metered<O: ?Sized> {
    ledger: Arc<Ledger>,
    inner: Arc<O>,
}

impl<O: ?Sized> Metered<O> {
    /// `inner`, paid from `ledger`.
    pub fn new(inner: Arc<O>, ledger: Arc<Ledger>) -> Self {
        Self { ledger, inner }
    }
}

impl<O: TextOracle + ?Sized> Metered<O> {
    fn pay<'a, T>(
        &self,
        questions: impl Iterator<Item = Query<'a>>,
        ask: impl FnOnce(&O) -> Result<Answers<T>, OracleError>,
    ) -> Result<Answers<T>, OracleError> {
        let most: Usage = questions.map(|q| self.inner.at_most(q)).sum();
        let reservation = self.ledger.reserve(most)?;
        match ask(&self.inner) {
            Ok(mut answers) => {
                answers.usage = reservation.settle(answers.usage).map_err(Box::new)?;
                Ok(answers)
            }
            Err(e) => {
                if e.nothing_sent() {
                    reservation.release().map_err(Box::new)?;
                }
                Err(e)
            }
        }
    }
}

impl<O: TextOracle + ?Sized> TextOracle for Metered<O> {
    fn facts(&self) -> &Facts {
        self.inner.facts()
    }

    fn at_most(&self, query: Query<'_>) -> Usage {
        self.ledger.terms().prices.priced(self.inner.at_most(query))
    }

    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError> {
        self.pay(batch.iter().map(Query::Text), |o| o.generate(batch))
    }
}

impl<O: LogprobOracle + ?Sized> LogprobOracle for Metered<O> {
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.pay(batch.iter().map(Query::Score), |o| o.score(batch))
    }
}

impl<O: EmbedOracle + ?Sized> EmbedOracle for Metered<O> {
    fn width(&self) -> usize {
        self.inner.width()
    }

    fn embedding_std(&self) -> f64 {
        self.inner.embedding_std()
    }

    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.pay(batch.iter().map(|q| Query::Soft(soft, q)), |o| o.score_soft(soft, batch))
    }
}

impl<O: WeightOracle + ?Sized> WeightOracle for Metered<O> {
    fn schema(&self) -> &Schema {
        self.inner.schema()
    }

    fn score_at(&self, theta: &[f32], batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.pay(batch.iter().map(|q| Query::At(theta, q)), |o| o.score_at(theta, batch))
    }
}
