//! A run whose model computes in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_algo::{Checked, ServerStep};
use antiphon_core::{ClientId, Digest, Round};
use antiphon_oracle::Usage;
use antiphon_protocol::Policy;
use antiphon_report::{Alignment, Evaluation, Gauge};
use antiphon_store::RunDir;
use antiphon_tune::Client;

use super::offsite::SLOT;
use super::trial::{Course, Pin, Trial};
use super::{Finished, Hand, Outcome, Person, Personal, Session, finish};
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::prediction::Prediction;
use crate::progress::Progress;
use crate::runfile::Loaded;

impl Trial for Session {
    fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    fn plan(&self) -> &Checked {
        &self.plan
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn people(&self) -> &[Person] {
        &self.people
    }

    fn workers(&self) -> usize {
        self.workers
    }

    fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn pins(&self) -> Vec<Pin> {
        let split = self.data.digest.map(|d| Pin {
            key: "split",
            value: d.to_hex(),
            why: "the data have changed since the run began",
        });
        let pins = [
            Pin {
                key: "kernel_profile",
                value: self.profile(),
                why: "other kernels give other bits: continue on a machine of that profile",
            },
            Pin {
                key: "base",
                value: self.base.digest(self.workers).to_hex(),
                why: "the base model has changed since the run began",
            },
        ];
        let influence = self.influence().map(|scores| Pin {
            key: "influence",
            value: Digest::of(&scores.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>()).to_hex(),
            why: "the layers do something else on the public data than when the run began, and others would be left out",
        });
        pins.into_iter().chain(split).chain(influence).collect()
    }

    fn start(&self) -> Vec<f32> {
        self.shared_theta()
    }

    fn server_step(&self) -> Result<Box<dyn ServerStep>, Failure> {
        Session::server_step(self)
    }

    fn crew(&self) -> Result<Vec<Hand>, Failure> {
        if let Some(search) = &self.searching {
            return Ok(search.seekers(self.file().run.seed)?.into_iter().map(Hand::Seeks).collect());
        }
        if let Some(scalars) = &self.scalars {
            let client = |p| scalars.client(&self.tuning, p).map(Hand::Tells);
            return self.people.iter().map(client).collect();
        }
        let client = |p: &Person| {
            Client::new(Arc::clone(&self.tuning), p.id, Arc::clone(&p.train.sequences), p.train.examples)
                .map(Hand::Trains)
                .fail_at(Kind::Data, format_args!("`{}`", p.name))
        };
        self.people.iter().map(client).collect()
    }

    fn prepare(&self, kept: Option<&[(String, Vec<u8>)]>, progress: &Progress) -> Result<(), Failure> {
        let slot = kept.and_then(|list| list.iter().find(|(name, _)| name == SLOT));
        self.begin_offsite(slot.map(|(_, bytes)| &bytes[..]), progress)
    }

    fn slots(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
        self.aligner().map(|a| Ok((SLOT, a.slot()?))).into_iter().collect()
    }

    fn deliver(&self, cohort: &[ClientId]) -> u64 {
        self.aligner().map_or(0, |a| a.deliver(cohort))
    }

    fn between(
        &self,
        round: Round,
        theta: &[f32],
        progress: &Progress,
    ) -> Result<Option<Alignment>, Failure> {
        self.align_after(round, theta, progress)
    }

    fn begin(&self, dir: &Path) -> Result<(), Failure> {
        self.predicted.get_or_init(|| Prediction::of(self));
        self.searching.as_ref().map_or(Ok(()), |s| s.begin(&self.loaded, dir))
    }

    fn evaluate(&self, theta: &[f32], part: Part) -> Result<Evaluation, Failure> {
        Session::evaluate(self, theta, part)
    }

    fn finish(
        &self,
        dir: &mut RunDir,
        outcome: &Outcome,
        course: Course<'_>,
        progress: &Progress,
    ) -> Result<Finished, Failure> {
        finish::finish(self, dir, outcome, course, progress)
    }

    fn audited(&self) -> bool {
        self.scalars.is_some()
    }

    fn keep_updates(&self) -> bool {
        // the error of averaging factors needs them, and an audit does
        !self.wiring.lora.is_empty() || self.audited()
    }

    fn personal(&self) -> Option<(&Personal, &[f32])> {
        self.personal.as_ref().map(|p| (p, &self.theta[..]))
    }

    fn validates(&self) -> bool {
        Session::validates(self)
    }

    fn forwards(&self, client: ClientId, metrics: &BTreeMap<String, f64>) -> Option<u64> {
        Session::forwards(self, client, metrics)
    }

    fn spent(&self) -> Option<Usage> {
        self.searching.as_ref().map(|s| s.spent())
    }

    fn gauge(&self, theta: &[f32]) -> Option<Gauge> {
        self.searching.as_ref().map(|s| s.gauge(theta))
    }
}
