//! What ends a run: a budget that is used up, an endpoint that is down or has become another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_oracle::{
    Answers, EmbedOracle, Facts, LabelScore, LogprobOracle, Missing, OracleError, Query, ScoreQuery, Soft,
    TextOracle, TextQuery, Usage,
};

use crate::error::{Failure, Kind, oracle};

/// Why a run ends, and the last question that went without an answer. Shared by everybody who asks.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    why: Mutex<Option<(Kind, String)>>,
    gap: Mutex<Option<Missing>>,
    stop: Arc<AtomicBool>,
}

impl Ending {
    /// Raises `stop` when it ends.
    pub(super) fn new(stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..Self::default() }
    }

    pub(super) fn why(&self) -> Option<(Kind, String)> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn gap(&self) -> Option<Missing> {
        self.gap.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn end(&self, e: &OracleError) {
        let Failure { kind, message } = oracle(e, Kind::Oracle);
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((kind, message));
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// An oracle whose end is the run's: a client that went on would only see every later question fail.
#[derive(Debug)]
pub(super) struct Watched<O: ?Sized> {
    pub(super) ending: Arc<Ending>,
    pub(super) inner: Arc<O>,
}

impl<O: ?Sized> Watched<O> {
    fn hear<T>(&self, answer: Result<Answers<T>, OracleError>) -> Result<Answers<T>, OracleError> {
        match answer {
            Ok(answers) => {
                if let Some(gap) = answers.items.iter().find_map(|i| i.as_ref().err()) {
                    *self.ending.gap.lock().unwrap_or_else(PoisonError::into_inner) = Some(gap.clone());
                }
                Ok(answers)
            }
            // the question's fault, not the endpoint's
            Err(
                e @ (OracleError::Question { .. } | OracleError::Width { .. } | OracleError::Length { .. }),
            ) => Err(e),
            Err(OracleError::Interrupted) => Err(OracleError::Interrupted),
            Err(e) => {
                self.ending.end(&e);
                Err(OracleError::Interrupted)
            }
        }
    }
}

impl<O: TextOracle + ?Sized> TextOracle for Watched<O> {
    fn facts(&self) -> &Facts {
        self.inner.facts()
    }

    fn at_most(&self, query: Query<'_>) -> Usage {
        self.inner.at_most(query)
    }

    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError> {
        self.hear(self.inner.generate(batch))
    }
}

impl<O: LogprobOracle + ?Sized> LogprobOracle for Watched<O> {
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.hear(self.inner.score(batch))
    }
}

impl<O: EmbedOracle + ?Sized> EmbedOracle for Watched<O> {
    fn width(&self) -> usize {
        self.inner.width()
    }

    fn embedding_std(&self) -> f64 {
        self.inner.embedding_std()
    }

    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.hear(self.inner.score_soft(soft, batch))
    }
}
