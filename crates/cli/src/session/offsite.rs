//! Off-site tuning in a run: clients train adapters on an emulator, the owner plugs them into the whole model.
//!
//! The emulator and the whole model have one trainable vector, because tensors are named as the checkpoint names them. What
//! clients send is that vector and nothing else, so plugging in is reading it under the whole model's wiring.
//!
//! The five numbers of Offsite-Tuning (Xiao, Lin and Han 2023, arXiv:2302.04870, table 2) are measured together or not at
//! all: an emulator tuned to a good score says nothing about the model that its owner keeps.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_algo::{LocalWork, WorkError};
use antiphon_core::{ClientId, Millis};
use antiphon_kernels::Cpu;
use antiphon_model::{Base, Emulator, Net, Weights, Wiring};
use antiphon_protocol::Record;
use antiphon_report::{Evaluation, OffSite as Numbers};
use antiphon_sim::{Config, Silent, Simulation, Start as Begin, WallClock, Workforce};
use antiphon_tune::method::{self, Start};
use antiphon_tune::{Client, Method, Tuning};

use super::{Blame, Outcome, Session, execute, recipe};
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::machine;
use crate::progress::Progress;
use crate::runfile::{HeadSharing, Loaded};

/// peft's key that puts a method on some layers.
const LAYERS: &str = "layers_to_transform";

/// The owner's side of a run, and what was divided.
pub(crate) struct OffSite {
    pub(crate) emulator: Emulator,
    /// The whole model under the adapter's wiring.
    pub(crate) owner: Arc<Tuning<Cpu>>,
}

/// A division, and the method on the adapter's layers alone.
type Divided = (Emulator, Box<dyn Method>);

/// The division that the run file asks for, and its method on the adapter's layers alone.
pub(super) fn divide(loaded: &Loaded, base: &Base) -> Result<Option<Divided>, Failure> {
    let file = &loaded.settings;
    let Some(settings) = &file.emulator else { return Ok(None) };
    let refuse = |section: &str, why: &str| Err(loaded.source.blame(section, why));
    if file.model.head == HeadSharing::Local {
        return refuse(
            "model",
            "`head = \"local\"` is not known with [emulator]: the owner would lack a head",
        );
    }
    if file.method.contains_key(LAYERS) {
        let why = format!("[emulator] says which layers are trained: leave `{LAYERS}` out");
        return refuse("method", &why);
    }
    let emulator = Emulator::new(base.spec().layers, settings).blame(loaded, "emulator")?;
    let mut table = file.method.clone();
    let layers = emulator.adapter().iter().map(|&l| toml::Value::from(l as i64)).collect();
    table.insert(LAYERS.to_owned(), toml::Value::Array(layers));
    match method::build(&table) {
        Ok(method) => Ok(Some((emulator, method))),
        // the table without the key has been built before: it is the key that is not known
        Err(_) => {
            let id = file.method.get("id").and_then(toml::Value::as_str).unwrap_or_default();
            let why = format!(
                "`{id}` has no `{LAYERS}`: it cannot be put on some layers alone, so it makes no adapter for \
                 [emulator]; `full`, `lora` and `houlsby` can"
            );
            refuse("method", &why)
        }
    }
}

impl OffSite {
    /// The owner's model beside the clients' `tuning`.
    pub(super) fn new(
        loaded: &Loaded,
        base: &Base,
        emulator: Emulator,
        method: &dyn Method,
        tuning: &Tuning<Cpu>,
        longest: usize,
    ) -> Result<Self, Failure> {
        let task = tuning.net().task();
        let spec = tuning.net().spec();
        let outside = |&(layer, _): &(usize, _)| {
            let layer = spec.checkpoint_layer(layer);
            (!emulator.adapter().contains(&layer)).then_some(layer)
        };
        if let Some(layer) = tuning.net().wiring().lora.keys().find_map(outside) {
            let why = format!("layer {layer} is not the adapter's; name modules without their layer");
            return Err(loaded.source.blame("method", &why));
        }
        let wiring = Arc::new(method.wire(base.spec(), task).blame(loaded, "method")?);
        if wiring.schema != tuning.net().wiring().schema {
            let why = "what it trains on the emulator is not what it would train on the whole model";
            return Err(loaded.source.blame("method", why));
        }
        let backend = Arc::new(Cpu::serial());
        let weights = Weights::load(&*backend, base.spec(), task, base.source()).fail(Kind::Model)?;
        let owner = beside(loaded, (backend, weights), tuning, wiring, longest)?;
        Ok(Self { emulator, owner: Arc::new(owner) })
    }
}

/// The whole model under `wiring`, on the steps and the device of `tuning`.
fn beside(
    loaded: &Loaded,
    (backend, weights): (Arc<Cpu>, Arc<Weights<Cpu>>),
    tuning: &Tuning<Cpu>,
    wiring: Arc<Wiring>,
    longest: usize,
) -> Result<Tuning<Cpu>, Failure> {
    let net = Net::new(&*backend, weights, tuning.net().task(), wiring, longest).fail(Kind::Model)?;
    Ok(Tuning::new(backend, Arc::new(net), recipe(loaded)?, tuning.shape(), tuning.stop()))
}

/// What clients hold of a model, for `plan` and the report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disclosed {
    /// Scalars that clients hold, embeddings and head included.
    pub(crate) held: u64,
    /// Scalars of the whole model.
    pub(crate) whole: u64,
}

impl Disclosed {
    /// The share of the model, in `[0, 1]`.
    pub(crate) fn share(self) -> f64 {
        self.held as f64 / self.whole as f64
    }
}

impl Session {
    /// The model that the run makes: the whole one with the adapter in it, off-site, and what clients train otherwise.
    pub(crate) fn owner(&self) -> &Tuning<Cpu> {
        self.offsite.as_ref().map_or(&self.tuning, |o| &o.owner)
    }

    /// What clients hold.
    pub(crate) fn disclosed(&self) -> Disclosed {
        Disclosed {
            held: machine::parameters(self.tuning.net().spec(), self.task),
            whole: machine::parameters(self.base.spec(), self.task),
        }
    }
}

/// Every client of the fully tuned federation.
struct Everyone(BTreeMap<ClientId, Client<Cpu>>);

impl Workforce for Everyone {
    fn hire(&self, client: ClientId, _worker: usize) -> Result<Box<dyn LocalWork + '_>, WorkError> {
        self.0.get(&client).map(|c| Box::new(c) as Box<dyn LocalWork + '_>).ok_or(WorkError::NoData)
    }
}

/// The five numbers of a finished run; `None` where there is no emulator. `plugged_in` was measured already.
pub(super) fn numbers(
    session: &Session,
    outcome: &Outcome,
    plugged_in: &Evaluation,
    progress: &Progress,
) -> Result<Option<Numbers>, Failure> {
    let (Some(offsite), Some(settings)) = (&session.offsite, &session.file().emulator) else {
        return Ok(None);
    };
    let emulator = &offsite.emulator;
    progress.stage("testing the emulator");
    let on = |tuning: &Tuning<Cpu>, theta: &[f32]| session.evaluate_on(tuning, theta, Part::Test);
    let zero_shot = on(&offsite.owner, &session.theta)?;
    let emulator_zero_shot = on(&session.tuning, &session.theta)?;
    let emulator_tuned = on(&session.tuning, &outcome.theta)?;
    progress.stage("tuning the whole model for comparison");
    let full = full(session, &offsite.owner)?;
    let indices = |list: &[usize]| list.iter().map(|&l| l as u64).collect();
    let disclosed = session.disclosed();
    Ok(Some(Numbers {
        rule: settings.rule.get("id").and_then(toml::Value::as_str).unwrap_or_default().to_owned(),
        drop_rate: settings.drop_rate,
        layers: session.base.spec().layers as u64,
        adapter: indices(emulator.adapter()),
        kept: indices(emulator.kept()),
        held: disclosed.held,
        whole: disclosed.whole,
        zero_shot: zero_shot.global,
        emulator_zero_shot: emulator_zero_shot.global,
        emulator_tuned: emulator_tuned.global,
        plugged_in: plugged_in.global.clone(),
        full: full.global,
    }))
}

/// The same federation with every client holding the whole model and the method on all of its layers: what off-site tuning
/// gives up. In memory; nothing of it is kept but its score.
fn full(session: &Session, owner: &Tuning<Cpu>) -> Result<Evaluation, Failure> {
    let (file, base) = (session.file(), &session.base);
    let method = method::build(&file.method).blame(&session.loaded, "method")?;
    let wiring = Arc::new(method.wire(base.spec(), session.task).blame(&session.loaded, "method")?);
    let encode = |text: &str| session.tokens.plain(text);
    let start =
        Start { spec: base.spec(), base: base.source(), tokenize: Some(&encode), seed: file.run.seed };
    let theta = method.init(&wiring, &start).blame(&session.loaded, "method")?;
    let aggregation = file.aggregation.plan().blame(&session.loaded, "aggregation")?;
    let plan = aggregation.check(&wiring.schema).blame(&session.loaded, "aggregation")?;
    let longest = session.tuning.net().limits().max_len;
    // the owner's model is in memory already; nothing of it is written
    let whole = (Arc::new(Cpu::serial()), Arc::clone(owner.net().weights()));
    let tuning = Arc::new(beside(&session.loaded, whole, &session.tuning, wiring, longest)?);
    let client = |p: &super::Person| {
        Client::new(Arc::clone(&tuning), p.id, Arc::clone(&p.train.sequences), p.train.examples)
            .fail_at(Kind::Data, format_args!("`{}`", p.name))
            .map(|c| (p.id, c))
    };
    let everyone = Everyone(session.people.iter().map(client).collect::<Result<_, _>>()?);
    let clock = WallClock::starting_at(Millis(0));
    let mut simulation = Simulation {
        config: Config {
            plan,
            policy: session.policy.clone(),
            roster: session.people.iter().map(|p| p.id).collect(),
            seed: file.run.seed,
            workers: session.workers,
            call_attempts: 1,
            restarts: 0,
            keep_updates: false,
        },
        server: antiphon_algo::server_step(&file.server).fail(Kind::Settings)?,
        noise: None,
        clock: &clock,
        faults: None,
    };
    let mut log: Vec<Record> = Vec::new();
    let end = simulation
        .run(Begin::fresh(theta), &everyone, &mut Silent, &mut log, &session.stop)
        .map_err(|e| execute::failure(&e))?;
    if end.next.0 < session.policy.num_rounds {
        return Err(if end.ending.is_none() {
            Failure::new(Kind::Interrupted, "stopped")
        } else {
            Failure::new(Kind::Federation, "the fully tuned model for comparison lost too many clients")
        });
    }
    session.evaluate_on(&tuning, &end.theta, Part::Test)
}
