//! A run whose model is behind an endpoint, as the rounds see it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_algo::{Checked, ServerStep};
use antiphon_core::ClientId;
use antiphon_oracle::Usage;
use antiphon_oracle::search::Seeker;
use antiphon_protocol::Policy;
use antiphon_report::{Evaluation, Gauge};
use antiphon_store::RunDir;

use super::Remote;
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::progress::Progress;
use crate::runfile::Loaded;
use crate::session::{Course, Finished, Hand, Outcome, Person, Pin, Trial};

impl Trial for Remote {
    fn loaded(&self) -> &Loaded {
        &self.draft.loaded
    }

    fn plan(&self) -> &Checked {
        &self.plan
    }

    fn policy(&self) -> &Policy {
        &self.draft.policy
    }

    fn people(&self) -> &[Person] {
        &self.draft.people
    }

    fn workers(&self) -> usize {
        self.draft.workers
    }

    fn stop(&self) -> &Arc<AtomicBool> {
        &self.draft.stop
    }

    fn notes(&self) -> &[String] {
        &self.lines
    }

    fn pins(&self) -> Vec<Pin> {
        let why =
            "another model is behind the endpoint; answers of two models cannot be mixed, so begin a new run";
        vec![Pin { key: "oracle", value: self.identity(), why }]
    }

    fn start(&self) -> Vec<f32> {
        self.search.start()
    }

    fn server_step(&self) -> Result<Box<dyn ServerStep>, Failure> {
        match self.search.server() {
            Some((_, step)) => Ok(step),
            None => antiphon_algo::server_step(&self.draft.file().server).fail(Kind::Settings),
        }
    }

    fn crew(&self) -> Result<Vec<Hand>, Failure> {
        let seed = self.draft.file().run.seed;
        let seeker = |(id, questions): (&ClientId, &Arc<[_]>)| {
            let (search, purse) = (Arc::clone(&self.search), Arc::clone(&self.purse));
            let seeker = Seeker::new(search, purse, Arc::clone(questions), *id, seed);
            seeker.map(Hand::Seeks).fail_at(Kind::Data, id)
        };
        self.draft.questions(Part::Train).iter().map(seeker).collect()
    }

    fn validates(&self) -> bool {
        self.draft.validates()
    }

    fn begin(&self, dir: &Path) -> Result<(), Failure> {
        self.open_purse(dir)
    }

    fn evaluate(&self, theta: &[f32], part: Part) -> Result<Evaluation, Failure> {
        self.evaluate_prompt(&self.search.prompt(theta).fail(Kind::Federation)?, part)
    }

    fn finish(
        &self,
        dir: &mut RunDir,
        outcome: &Outcome,
        course: Course<'_>,
        progress: &Progress,
    ) -> Result<Finished, Failure> {
        super::finish::finish(self, dir, outcome, course, progress)
    }

    fn forwards(&self, _client: ClientId, metrics: &BTreeMap<String, f64>) -> Option<u64> {
        metrics.get("train_units").map(|n| *n as u64)
    }

    fn spent(&self) -> Option<Usage> {
        Some(self.ledger.get().map_or(Usage::ZERO, |l| l.spent()))
    }

    fn gauge(&self, theta: &[f32]) -> Option<Gauge> {
        let antiphon_oracle::search::Gauge { entropy, sigma } = self.search.gauge(theta);
        Some(Gauge { entropy, sigma })
    }

    fn ended(&self) -> Option<Failure> {
        self.ending.why().map(|(kind, why)| Failure::new(kind, why))
    }

    fn hint(&self) -> Option<String> {
        self.ending.gap().map(|gap| format!("the last question without an answer: {gap}"))
    }
}
