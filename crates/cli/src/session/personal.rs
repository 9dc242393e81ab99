//! Tensors that stay with their client: a local classification head. What travels is the rest.
//!
//! The bodies are averaged, the heads never meet (FedPer, arXiv:1912.00818, section 3).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use antiphon_algo::{Local, LocalWork, WorkError};
use antiphon_core::{ClientId, Round, Schema};
use antiphon_model::Wiring;

use crate::error::{Fail, Failure, Kind};
use crate::runfile::{HeadSharing, RunFile};

/// A client's own values after a round.
type Own = (Round, Vec<f32>);

/// Which part of the trainable vector never travels, and what each client holds there.
pub(crate) struct Personal {
    shared: Schema,
    /// The head's range: always the end of the vector.
    range: Range<usize>,
    /// By client: the values after its last round, and those after the round before, from which that round is repeated.
    held: Mutex<BTreeMap<ClientId, Vec<Own>>>,
}

impl Personal {
    /// `None` where everything is federated.
    pub(crate) fn of(file: &RunFile, wiring: &Wiring) -> Result<Option<Self>, Failure> {
        if file.model.head == HeadSharing::Federated {
            return Ok(None);
        }
        let refuse = |why: &str| Failure::new(Kind::Settings, format_args!("model.head = \"local\": {why}"));
        let none = || refuse("there is no classification head; set objective.id = \"classification\"");
        let head = wiring.head.as_ref().ok_or_else(none)?;
        let range = head.weight.start..wiring.schema.dim();
        let tensors: Vec<_> =
            wiring.schema.iter().filter(|(_, r)| r.start < range.start).map(|(t, _)| t.clone()).collect();
        if tensors.is_empty() {
            return Err(refuse("nothing else is trained, so nothing would be federated"));
        }
        let shared = Schema::new(tensors).fail(Kind::Internal)?;
        if shared.dim() != range.start {
            return Err(refuse("the head does not stand at the end of the trainable vector"));
        }
        Ok(Some(Self { shared, range, held: Mutex::default() }))
    }

    /// What travels.
    pub(crate) fn shared(&self) -> &Schema {
        &self.shared
    }

    /// The part of `whole` that travels.
    pub(crate) fn share(&self, whole: &[f32]) -> Vec<f32> {
        whole[..self.range.start].to_vec()
    }

    /// The vector of `client`: what travels and its own part, `first` before its first round.
    pub(crate) fn whole(&self, client: ClientId, shared: &[f32], first: &[f32]) -> Vec<f32> {
        self.before(client, Round(u32::MAX), shared, first)
    }

    fn before(&self, client: ClientId, round: Round, shared: &[f32], first: &[f32]) -> Vec<f32> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.get(&client).and_then(|list| list.iter().rev().find(|(r, _)| *r < round));
        [shared, own.map_or(&first[self.range.clone()], |(_, v)| v)].concat()
    }

    fn keep(&self, client: ClientId, round: Round, own: Vec<f32>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let list = held.entry(client).or_default();
        list.retain(|(r, _)| *r < round);
        if list.len() > 1 {
            list.remove(0);
        }
        list.push((round, own));
    }

    /// Goes back to what `client` held before `round`, in which its work did not count.
    pub(crate) fn forget(&self, client: ClientId, round: Round) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = held.get_mut(&client) {
            list.retain(|(r, _)| *r != round);
        }
    }

    /// What `client` holds, for a checkpoint.
    pub(crate) fn state(&self, client: ClientId) -> Option<(Round, Vec<f32>)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&client).and_then(|list| list.last()).cloned()
    }

    /// Puts back what [`Personal::state`] gave; `false` when it is not of this head.
    pub(crate) fn restore(&self, client: ClientId, round: Round, own: Vec<f32>) -> bool {
        let fits = own.len() == self.range.len();
        if fits {
            self.keep(client, round, own);
        }
        fits
    }

    /// One round of a client whose `work` trains the whole vector.
    pub(crate) fn run(
        &self,
        client: ClientId,
        work: &mut dyn LocalWork,
        start: &[f32],
        first: &[f32],
        round: Round,
    ) -> Result<Local, WorkError> {
        let whole = self.before(client, round, start, first);
        let mut local = work.run(&whole, round)?;
        let own = local.delta.split_off(self.range.start);
        let end = whole[self.range.start..].iter().zip(&own).map(|(s, d)| s - d).collect();
        self.keep(client, round, end);
        Ok(local)
    }
}
