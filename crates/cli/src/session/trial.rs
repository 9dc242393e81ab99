//! What the rounds of a run need of it, wherever its model computes: in this process ([`super::Session`]) or behind an
//! endpoint ([`crate::remote::Remote`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use antiphon_algo::{Checked, ServerStep};
use antiphon_core::{ClientId, Round};
use antiphon_oracle::Usage;
use antiphon_protocol::Policy;
use antiphon_report::{Alignment, Evaluation, Gauge};
use antiphon_store::RunDir;

use super::{Finished, Hand, Outcome, Person, Personal};
use crate::args::Part;
use crate::error::Failure;
use crate::progress::Progress;
use crate::runfile::{Loaded, RunFile};

/// A fact that a resumed run must find unchanged.
pub(crate) struct Pin {
    /// Its key in the run directory's record.
    pub(crate) key: &'static str,
    pub(crate) value: String,
    /// Why it matters, for whoever changed it.
    pub(crate) why: &'static str,
}

/// How long a run has taken, and where it was taken up again.
#[derive(Clone, Copy)]
pub(crate) struct Course<'a> {
    pub(crate) begun: Instant,
    /// Rounds.
    pub(crate) resumed_at: &'a [u64],
}

/// One run, ready for its rounds.
pub(crate) trait Trial: Sync {
    fn loaded(&self) -> &Loaded;
    fn plan(&self) -> &Checked;
    fn policy(&self) -> &Policy;
    /// Clients, in the order of their ids.
    fn people(&self) -> &[Person];
    fn workers(&self) -> usize;
    fn stop(&self) -> &Arc<AtomicBool>;
    /// Lines for the user: formats found, what was left out.
    fn notes(&self) -> &[String];
    fn pins(&self) -> Vec<Pin>;
    /// First values of what travels.
    fn start(&self) -> Vec<f32>;
    fn server_step(&self) -> Result<Box<dyn ServerStep>, Failure>;
    /// Every client, before its first round.
    fn crew(&self) -> Result<Vec<Hand>, Failure>;
    /// Makes ready what clients begin with: anew, or from what a checkpoint kept beside the trainable vector. Before
    /// [`Trial::begin`].
    fn prepare(&self, _kept: Option<&[(String, Vec<u8>)]>, _progress: &Progress) -> Result<(), Failure> {
        Ok(())
    }

    /// What a checkpoint keeps beside the trainable vector.
    fn slots(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        Ok(Vec::new())
    }

    /// Gives the clients of a round what they have missed beside the trainable vector; returns its bytes.
    fn deliver(&self, _cohort: &[ClientId]) -> u64 {
        0
    }

    /// What the owner of a model does after `round`, with the vector that it ended with.
    fn between(
        &self,
        _round: Round,
        _theta: &[f32],
        _progress: &Progress,
    ) -> Result<Option<Alignment>, Failure> {
        Ok(None)
    }

    /// Called once the run has its directory and before its first round.
    fn begin(&self, dir: &Path) -> Result<(), Failure>;
    /// What travels, on `part` of every client and on their union.
    fn evaluate(&self, theta: &[f32], part: Part) -> Result<Evaluation, Failure>;
    /// Writes everything a finished run leaves.
    fn finish(
        &self,
        dir: &mut RunDir,
        outcome: &Outcome,
        course: Course<'_>,
        progress: &Progress,
    ) -> Result<Finished, Failure>;

    /// The run file.
    fn file(&self) -> &RunFile {
        &self.loaded().settings
    }

    /// Whether a closed round needs the updates themselves.
    fn keep_updates(&self) -> bool {
        false
    }

    /// Whether what clients deliver is kept, so that the run can be recomputed.
    fn audited(&self) -> bool {
        false
    }

    /// Tensors that never travel, and first values of everything trainable.
    fn personal(&self) -> Option<(&Personal, &[f32])> {
        None
    }

    /// Whether anything is held out to look at during the run.
    fn validates(&self) -> bool;

    /// Examples that passed forward through the model for the work that `client` reports; `None` where it does not say.
    fn forwards(&self, _client: ClientId, _metrics: &BTreeMap<String, f64>) -> Option<u64> {
        None
    }

    /// What a search has asked so far, earlier parts of the run and evaluations included.
    fn spent(&self) -> Option<Usage> {
        None
    }

    /// Where a search stands.
    fn gauge(&self, _theta: &[f32]) -> Option<Gauge> {
        None
    }

    /// What may be behind a failure of clients.
    fn hint(&self) -> Option<String> {
        None
    }

    /// Why the run was stopped, where it was not the user who stopped it.
    fn ended(&self) -> Option<Failure> {
        None
    }
}
