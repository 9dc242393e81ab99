//! A client that searches: local work for the ordinary coordinator.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use antiphon_algo::{Local, LocalWork, WorkError};
use antiphon_core::{ClientId, Round, Weight};

use super::{Place, Search, SearchError};
use crate::access::Grant;
use crate::error::OracleError;
use crate::task::Question;

/// What clients of one site ask and pay from. Filled once a run has a directory, and so a ledger.
pub type Purse = Arc<OnceLock<Grant>>;

/// One client: its questions, and the search that all share. Keeps nothing between rounds.
pub struct Seeker {
    search: Arc<dyn Search>,
    purse: Purse,
    questions: Arc<[Question]>,
    id: ClientId,
    weight: Weight,
    seed: u64,
}

impl std::fmt::Debug for Seeker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seeker({}, {} questions)", self.id, self.questions.len())
    }
}

impl Seeker {
    /// What a client reports beside its vector.
    pub const METRICS: [&str; 2] = ["train_loss", "train_units"];

    /// A client with at least one question.
    pub fn new(
        search: Arc<dyn Search>,
        purse: Purse,
        questions: Arc<[Question]>,
        id: ClientId,
        seed: u64,
    ) -> Result<Self, WorkError> {
        let weight = Weight::new(questions.len() as f64).map_err(|_| WorkError::NoData)?;
        Ok(Self { search, purse, questions, id, weight, seed })
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.id
    }
}

/// `train_loss` is the mean over everything tried; `train_units` the examples asked about at most, repetitions counted.
impl LocalWork for &Seeker {
    fn run(&mut self, start: &[f32], round: Round) -> Result<Local, WorkError> {
        let oracle = self.purse.get().ok_or(WorkError::NoData)?;
        let place = Place { oracle, questions: &self.questions, seed: self.seed, client: self.id, round };
        let (delta, loss) = self.search.round(&place, start).map_err(|e| match e {
            SearchError::Oracle(OracleError::Interrupted) => WorkError::Interrupted,
            SearchError::State { expected, found } => WorkError::Length { expected, found },
            e => WorkError::Other(Box::new(e)),
        })?;
        let asked = self.search.queries(self.questions.len() as u64);
        let metrics =
            BTreeMap::from([("train_loss".to_owned(), loss), ("train_units".to_owned(), asked as f64)]);
        Ok(Local { delta, weight: self.weight, metrics })
    }
}
