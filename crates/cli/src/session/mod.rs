//! A run put together: base model, data of every client, method, aggregation. Built from a run file alone, so `plan`,
//! `run`, `resume` and `eval` see the same thing.

mod audit;
mod baselines;
mod calibration;
mod chosen;
mod clients;
mod embedded;
mod evaluate;
mod execute;
mod finish;
mod head;
mod here;
mod offsite;
mod paid;
mod personal;
mod recorder;
mod scalars;
mod sealed;
mod searching;
mod tokens;
mod trial;
mod work;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use antiphon_algo::{Checked, ServerStep};
use antiphon_core::ClientId;
use antiphon_kernels::{Backend, Cpu};
use antiphon_model::adapter::{self, About, Adapter};
use antiphon_model::{Base, Net, Shape, Spec, Task, Weights, Wiring};
use antiphon_protocol::Policy;
use antiphon_report::{DataReport, Truncation};
use antiphon_tune::method::{self, Start};
use antiphon_tune::settings::{Duration, StatePolicy};
use antiphon_tune::{
    Method, Recipe, TrainSettings, TuneError, Tuning, estimator, objective, optim, step_shape,
};

use crate::error::{Fail, Failure, Kind};
use crate::machine;
use crate::prediction::Prediction;
use crate::progress::Progress;
use crate::runfile::{Loaded, RunFile};
use searching::Parts;

pub(crate) use audit::{Logged, replay};
pub(crate) use calibration::{Heard, Said, calibrated, check as check_calibration};
pub(crate) use chosen::{Chosen, check as check_choice, figure};
pub(crate) use clients::{Person, division, gather, inline, kept_back, shown};
pub(crate) use evaluate::split;
pub(crate) use execute::{ClientState, Outcome, execute, resume};
pub(crate) use finish::{Finished, Past, asked, conclude, publish_with, resumed_at, summary};
pub(crate) use offsite::OffSite;
pub(crate) use paid::open_ledger;
pub(crate) use personal::Personal;
pub(crate) use recorder::{Events, Shared, digest, unix_ms};
pub(crate) use scalars::Scalars;
pub(crate) use searching::{Searching, best_waypoint, in_words, questions, something_to_choose};
pub(crate) use tokens::Tokens;
pub(crate) use trial::{Course, Pin, Trial};
pub(crate) use work::{Crew, Hand};

/// Everything a run needs besides its directory.
pub(crate) struct Session {
    pub(crate) loaded: Loaded,
    pub(crate) base: Base,
    pub(crate) tokens: Tokens,
    pub(crate) task: Task,
    pub(crate) method: Box<dyn Method>,
    /// Everything trainable, personal tensors included.
    pub(crate) wiring: Arc<Wiring>,
    /// First values of everything trainable.
    pub(crate) theta: Vec<f32>,
    /// The mathematics of what clients train.
    spec: Spec,
    /// What clients train: the base, or its emulator.
    pub(crate) tuning: Arc<Tuning<Cpu>>,
    /// The owner's side, where clients hold an emulator.
    pub(crate) offsite: Option<OffSite>,
    /// Clients, in the order of their ids.
    pub(crate) people: Vec<Person>,
    /// Held-out data of nobody in particular.
    pub(crate) common: Person,
    /// Names of the classes; empty without.
    pub(crate) labels: Vec<String>,
    /// Token ids of the label words of tasks solved by generation.
    pub(crate) label_words: Option<Vec<u32>>,
    pub(crate) data: DataReport,
    pub(crate) truncation: Truncation,
    /// Lines for the user: formats found, what was left out.
    pub(crate) notes: Vec<String>,
    /// Tensors that never travel.
    pub(crate) personal: Option<Personal>,
    /// What travels instead of the trainable vector.
    pub(crate) scalars: Option<Scalars>,
    /// The search of a run without gradients.
    pub(crate) searching: Option<Searching>,
    pub(crate) plan: Checked,
    pub(crate) policy: Policy,
    pub(crate) workers: usize,
    pub(crate) stop: Arc<AtomicBool>,
    /// Made once, before the rounds.
    pub(crate) predicted: OnceLock<Prediction>,
}

impl Session {
    /// Reads the base, the data and everything the run file names, and refuses what does not fit.
    pub(crate) fn open(loaded: Loaded, progress: &Progress, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        Self::open_with(loaded, None, progress, stop)
    }

    /// The same with the adapter in `trained` in place of what `[method]` says and of its first values.
    pub(crate) fn open_with(
        loaded: Loaded,
        trained: Option<&Path>,
        progress: &Progress,
        stop: Arc<AtomicBool>,
    ) -> Result<Self, Failure> {
        let file = &loaded.settings;
        // settings that need neither model nor data fail first
        let recipe = recipe(&loaded)?;
        let method = method::build(&file.method).blame(&loaded, "method")?;
        let aggregation = file.aggregation.plan().blame(&loaded, "aggregation")?;
        antiphon_algo::server_step(&file.server).blame(&loaded, "server")?;

        progress.stage(&format!("reading the model {}", file.model.base_model));
        let base = open_base(&loaded)?;
        let tokens = Tokens::open(&base, file)?;

        progress.stage(&format!("reading the data {}", clients::shown(file)));
        // how many classes there are is known once the data are read
        let task = |classes| recipe.objective.task(base.spec(), classes).blame(&loaded, "objective");
        let classify = matches!(task(2)?, Task::Classify { .. });
        let mut gathered = clients::gather(&loaded, &tokens, classify)?;
        let task = task(gathered.labels.len())?;
        base.require(task).fail(Kind::Model)?;

        let workers = if file.run.workers == 0 { machine::cores() } else { file.run.workers };
        let backend = Arc::new(Cpu::serial());
        // an adapter that is given stands on the whole model
        let (mut divided, mut public, mut method) = (None, None, method);
        if trained.is_none() {
            // without an emulator, what is kept back is for a head
            let shared =
                if file.emulator.is_some() { std::mem::take(&mut gathered.public) } else { Vec::new() };
            let notes = &mut gathered.notes;
            public = offsite::public(&loaded, &tokens, shared, &gathered.people, notes)?;
            let owner = offsite::Owner { base: &base, task, public: public.as_ref(), workers, stop: &stop };
            if let Some((division, adapter)) = offsite::divide(&loaded, &owner, progress)? {
                (divided, method) = (Some(division), adapter);
            }
        }
        let spec = match &divided {
            None => base.spec().clone(),
            Some(d) => d.emulator.spec(base.spec()).map_err(|layer| {
                Failure::new(Kind::Internal, format_args!("the emulator keeps layer {layer} of the base"))
            })?,
        };
        let quantised = divided.as_ref().and_then(|d| offsite::quantised(file, &base, &spec, &d.emulator));
        let source = quantised.as_ref().map_or(base.source(), |q| q);
        let weights = Weights::load(&*backend, &spec, task, source).fail(Kind::Model)?;
        let trained = trained.map(|dir| read_adapter(dir, &base, task, &gathered.labels)).transpose()?;
        let wiring = match &trained {
            Some(adapter) => Arc::new(adapter.wiring.clone()),
            None => Arc::new(method.wire(&spec, task).blame(&loaded, "method")?),
        };
        recipe.estimator.check(&wiring, &*recipe.optimizer, &recipe.train).blame(&loaded, "estimator")?;
        let personal = Personal::of(file, &wiring)?;
        if file.search.is_none() {
            enough(&gathered.people, &recipe, file)?;
        }
        check_calibration(file, gathered.label_words.as_deref(), &gathered.people)?;
        check_choice(file, evaluate::validates(&gathered.people, &gathered.common))?;
        let prompt = wiring.prompt.as_ref().map_or(0, |p| p.tokens);
        let shape = shape(&recipe, &gathered.people, &gathered.common, prompt);
        let longest =
            gathered.people.iter().chain([&gathered.common]).map(Person::longest).max().unwrap_or(1) + prompt;
        let net = Net::new(&*backend, Arc::clone(&weights), task, Arc::clone(&wiring), longest)
            .fail_at(Kind::Data, format_args!("data.sequence_len = {}", file.data.sequence_len))?;
        let tuning = Tuning::new(Arc::clone(&backend), Arc::new(net), recipe, shape, Arc::clone(&stop));

        let offsite = divided
            .map(|d| OffSite::new(&loaded, &base, d, &*method, &tuning, (longest, public)))
            .transpose()?;
        let encode = |text: &str| tokens.plain(text);
        let start = Start { spec: &spec, base: base.source(), tokenize: Some(&encode), seed: file.run.seed };
        let theta = match trained {
            Some(adapter) => adapter.theta,
            None => {
                let mut theta = method.init(&wiring, &start).blame(&loaded, "method")?;
                if file.model.head_shots.is_some() {
                    let model = (&*backend, &weights);
                    head::fit(&loaded, model, task, &gathered.public, &wiring, &mut theta)?;
                }
                theta
            }
        };
        let scalars = Scalars::open(&loaded, &tuning, &theta, workers)?;
        let policy = policy(file);
        policy.check(gathered.people.len()).blame(&loaded, "federation")?;
        let searching = Searching::open(&Parts {
            loaded: &loaded,
            base: &base,
            weights: &weights,
            tuning: &tuning,
            backend: &backend,
            tokens: &tokens,
            people: &gathered.people,
            label_words: gathered.label_words.as_deref(),
            labels: &gathered.labels,
            wiring: &wiring,
            theta: &theta,
            stop: &stop,
        })?;
        let plan = match &searching {
            Some(s) => {
                s.afford(&loaded, policy.num_rounds, policy.cohort_size(gathered.people.len()))?;
                match s.server()? {
                    Some((plan, _)) => plan,
                    None => aggregation.check(&s.schema()?).blame(&loaded, "aggregation")?,
                }
            }
            None => {
                let schema = match (&scalars, &personal) {
                    (Some(s), _) => s.schema(),
                    (None, Some(p)) => p.shared(),
                    (None, None) => &wiring.schema,
                };
                aggregation.check(schema).blame(&loaded, "aggregation")?
            }
        };
        Ok(Self {
            base,
            tokens,
            task,
            method,
            wiring,
            theta,
            spec,
            tuning: Arc::new(tuning),
            offsite,
            people: gathered.people,
            common: gathered.common,
            labels: gathered.labels,
            label_words: gathered.label_words,
            data: gathered.data,
            truncation: gathered.truncation,
            notes: gathered.notes,
            personal,
            scalars,
            searching,
            plan,
            policy,
            workers,
            stop,
            predicted: OnceLock::new(),
            loaded,
        })
    }

    /// The run file.
    pub(crate) fn file(&self) -> &RunFile {
        &self.loaded.settings
    }

    /// The mathematics of what clients train.
    pub(crate) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Scalars that the run changes: a sealed head is none of them.
    pub(crate) fn changed(&self) -> u64 {
        self.searching.as_ref().map_or(self.wiring.schema.dim(), |s| s.searched) as u64
    }

    /// Whether sequences are classified.
    pub(crate) fn classify(&self) -> bool {
        matches!(self.task, Task::Classify { .. })
    }

    /// The largest training step.
    pub(crate) fn shape(&self) -> Shape {
        self.tuning.shape()
    }

    /// The kernel profile, which fixes the bits.
    pub(crate) fn profile(&self) -> String {
        self.tuning.backend().profile()
    }

    /// Optimiser steps of `person` in a round.
    pub(crate) fn local_steps(&self, person: &Person) -> u32 {
        if self.searching.is_some() {
            return 0;
        }
        self.tuning.recipe().local_steps(person.train.sequences.len())
    }

    /// Examples that passed forward through the model for the training that `client` reports; a search's are in its ledger.
    pub(crate) fn forwards(&self, client: ClientId, metrics: &BTreeMap<String, f64>) -> Option<u64> {
        if self.searching.is_some() {
            return None;
        }
        let recipe = self.tuning.recipe();
        let passes = u64::from(recipe.estimator.forwards().unwrap_or(1));
        let steps = *metrics.get("train_steps")? as u64;
        let examples = match recipe.train.duration {
            Duration::Steps(_) => steps * recipe.batch_size() as u64,
            // whole passes over what the client holds, the last batch of each being what is left
            Duration::Epochs(n) => {
                let person = self.people.iter().find(|p| p.id == client)?;
                u64::from(n) * person.train.sequences.len() as u64
            }
        };
        Some(passes * examples)
    }

    /// What an adapter says of itself.
    pub(crate) fn about(&self) -> About {
        About {
            base_model: self.file().model.base_model.clone(),
            task: self.task,
            labels: self.labels.clone(),
        }
    }

    /// The server's step.
    pub(crate) fn server_step(&self) -> Result<Box<dyn ServerStep>, Failure> {
        match self.searching.as_ref().map(Searching::server).transpose()?.flatten() {
            Some((_, step)) => Ok(step),
            None => antiphon_algo::server_step(&self.file().server).fail(Kind::Settings),
        }
    }

    /// First values of what travels.
    pub(crate) fn shared_theta(&self) -> Vec<f32> {
        if let Some(s) = &self.searching {
            return s.start();
        }
        if let Some(s) = &self.scalars {
            return s.start();
        }
        self.personal.as_ref().map_or_else(|| self.theta.clone(), |p| p.share(&self.theta))
    }

    /// The whole trainable vector of `client`, given the shared part.
    pub(crate) fn personal_theta<'a>(&self, client: ClientId, shared: &'a [f32]) -> Cow<'a, [f32]> {
        match &self.personal {
            None => shared.into(),
            Some(p) => p.whole(client, shared, &self.theta).into(),
        }
    }
}

/// Refuses settings that are wrong whatever the model and the data are.
pub(crate) fn check(loaded: &Loaded) -> Result<(), Failure> {
    let file = &loaded.settings;
    recipe(loaded)?;
    method::build(&file.method).blame(loaded, "method")?;
    file.aggregation.plan().blame(loaded, "aggregation")?;
    antiphon_algo::server_step(&file.server).blame(loaded, "server")?;
    if let Some(table) = &file.search {
        let search = antiphon_oracle::search::build(table).blame(loaded, "search")?;
        search.check(file.oracle.access).blame(loaded, "oracle")?;
    }
    Ok(())
}

/// Marks an error with the section of the run file that it is about.
pub(crate) trait Blame<T> {
    fn blame(self, loaded: &Loaded, section: &str) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> Blame<T> for Result<T, E> {
    fn blame(self, loaded: &Loaded, section: &str) -> Result<T, Failure> {
        self.fail(Kind::Settings).map_err(|f| loaded.source.blame(section, &f.message))
    }
}

/// An adapter that answers what the run file asks.
fn read_adapter(dir: &Path, base: &Base, task: Task, labels: &[String]) -> Result<Adapter, Failure> {
    let adapter = adapter::read(dir, base.spec()).fail(Kind::Model)?;
    let About { task: found, labels: named, .. } = &adapter.about;
    let differs = if *found != task {
        format!("it was trained for {found:?}, the run file asks for {task:?}")
    } else if !named.is_empty() && named != labels {
        format!("its labels are {}, those of the data are {}", named.join(", "), labels.join(", "))
    } else {
        return Ok(adapter);
    };
    Err(Failure::new(Kind::Model, format_args!("{}: {differs}", dir.display())))
}

/// The base model that a run file names.
pub(crate) fn open_base(loaded: &Loaded) -> Result<Base, Failure> {
    let name = &loaded.settings.model.base_model;
    let (prefix, path) = name.strip_prefix("init:").map_or(("", name.as_str()), |path| ("init:", path));
    let path = loaded.path(path);
    Base::open(&format!("{prefix}{}", path.display()), loaded.settings.run.seed)
        .fail_at(Kind::Model, "model.base_model")
        .map_err(|f| f.with_near_path(&path))
}

fn recipe(loaded: &Loaded) -> Result<Recipe, Failure> {
    let file = &loaded.settings;
    Ok(Recipe {
        objective: objective::build(&file.objective).blame(loaded, "objective")?,
        estimator: estimator::build(&file.estimator).blame(loaded, "estimator")?,
        optimizer: optim::build(&file.optimizer).blame(loaded, "optimizer")?,
        train: train(file).check().blame(loaded, "train")?,
        rounds: file.federation.num_rounds,
        seed: file.run.seed,
    })
}

/// `[train]`, or for a search what evaluation needs of it.
fn train(file: &RunFile) -> TrainSettings {
    file.train.clone().unwrap_or_else(|| TrainSettings {
        learning_rate: 1.0,
        micro_batch_size: 16,
        gradient_accumulation_steps: 1,
        local_steps: Some(0),
        local_epochs: None,
        max_grad_norm: 0.0,
        lr_scheduler: toml::Table::from_iter([("id".to_owned(), "constant".into())]),
        optimizer_state: StatePolicy::Reset,
        proximal: 0.0,
        personalized_lr: None,
    })
}

/// Refuses a client with fewer sequences than a micro-batch, before anything of a micro-batch's size is made.
fn enough(people: &[Person], recipe: &Recipe, file: &RunFile) -> Result<(), Failure> {
    let expected = recipe.train.micro_batch_size as usize;
    for p in people {
        let found = p.train.sequences.len();
        if found < expected {
            let few = TuneError::FewExamples { client: p.id, found, expected };
            return Err(few)
                .fail_at(Kind::Data, format_args!("`{}`", p.name))
                .map_err(|f| clients::kept_too_much(file, f));
        }
    }
    Ok(())
}

/// The step that holds every client's largest micro-batch and each held-out sequence.
fn shape(recipe: &Recipe, people: &[Person], common: &Person, prompt: usize) -> Shape {
    let training = people.iter().map(|p| &p.train.sequences[..]);
    let mut shape = step_shape(training, recipe.train.micro_batch_size, prompt);
    let held = people
        .iter()
        .chain([common])
        .flat_map(|p| p.validation.sequences.iter().chain(p.test.sequences.iter()));
    for sequence in held {
        shape.tokens = shape.tokens.max(sequence.len() + prompt);
        shape.labelled = shape.labelled.max(sequence.label_tokens());
    }
    shape
}

/// `[federation]` as the coordinator wants it.
pub(crate) fn policy(file: &RunFile) -> Policy {
    let f = &file.federation;
    Policy {
        num_rounds: f.num_rounds,
        fraction: f.fraction,
        min_clients: f.min_clients,
        round_deadline_ms: (f.round_deadline_s > 0).then(|| f.round_deadline_s * 1000),
        join_deadline_ms: None,
        round_attempts: 3,
        history: if file.scalars.is_some() { scalars::HISTORY } else { 0 },
    }
}
