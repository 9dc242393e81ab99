//! Off-site tuning in a run: clients train adapters on an emulator, the owner plugs them into the whole model.
//!
//! The emulator and the whole model have one trainable vector, because tensors are named as the checkpoint names them. What
//! clients send is that vector and nothing else, so plugging in is reading it under the whole model's wiring.
//!
//! The five numbers of Offsite-Tuning (Xiao, Lin and Han 2023, arXiv:2302.04870, table 2) are measured together or not at
//! all: an emulator tuned to a good score says nothing about the model that its owner keeps.

mod alignment;
mod full;
mod numbers;
mod price;
mod public;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_data::Sequence;
use antiphon_kernels::{Cpu, FrozenData};
use antiphon_model::{Base, Emulator, Net, QuantisedSource, Spec, Task, Weights, Wiring};
use antiphon_tune::{Method, Tuning, align, method};

pub(crate) use alignment::Aligner;
pub(super) use alignment::SLOT;
pub(crate) use numbers::numbers;
pub(crate) use public::Public;

use super::clients::Person;
use super::evaluate::interrupted_or;
use super::{Blame, Session, Tokens, recipe};
use crate::error::{Fail, Failure, Kind};
use crate::machine;
use crate::progress::Progress;
use crate::runfile::{HeadSharing, Loaded, RunFile};

/// peft's key that puts a method on some layers.
const LAYERS: &str = "layers_to_transform";

/// The owner's side of a run, and what was divided.
pub(crate) struct OffSite {
    pub(crate) emulator: Emulator,
    /// The whole model under the adapter's wiring.
    pub(crate) owner: Arc<Tuning<Cpu>>,
    /// What brings the emulator nearer to the model, where something does.
    pub(crate) aligner: Option<Aligner>,
    /// What each layer of the model does to the stream, where the rule asks for it.
    pub(crate) influence: Vec<f64>,
}

/// What the owner divides the model by.
pub(super) struct Owner<'a> {
    pub(super) base: &'a Base,
    pub(super) task: Task,
    pub(super) public: Option<&'a Public>,
    pub(super) workers: usize,
    pub(super) stop: &'a AtomicBool,
}

impl Owner<'_> {
    /// The influence of each layer, on the public data that the owner trains on.
    fn influence(&self, progress: &Progress) -> Result<Vec<f64>, Failure> {
        let missing = || Failure::new(Kind::Internal, "a rule that measures, and no public data");
        let sequences = &self.public.ok_or_else(missing)?.train;
        progress.stage(&format!("measuring the layers on {} public sequences", sequences.len()));
        let backend = Cpu::threads(self.workers);
        let weights = Weights::load(&backend, self.base.spec(), self.task, self.base.source());
        align::influence(&backend, weights.fail(Kind::Model)?, self.task, sequences, self.stop)
            .map_err(interrupted_or(Kind::Model))
    }
}

/// A model divided.
pub(super) struct Divided {
    pub(super) emulator: Emulator,
    /// Of each layer, where the rule asks for it; else empty.
    pub(super) influence: Vec<f64>,
}

/// A division, and the method on the adapter's layers.
type Adapted = (Divided, Box<dyn Method>);

/// The division that the run file asks for, and its method on the adapter's layers alone.
pub(super) fn divide(
    loaded: &Loaded,
    owner: &Owner<'_>,
    progress: &Progress,
) -> Result<Option<Adapted>, Failure> {
    let base = owner.base;
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
    let division = settings.division();
    let measured = division.rule().blame(loaded, "emulator")?.measured();
    let influence = if measured { owner.influence(progress)? } else { Vec::new() };
    let emulator = Emulator::new(base.spec().layers, &division, &influence).blame(loaded, "emulator")?;
    let mut table = file.method.clone();
    let layers = emulator.adapter().iter().map(|&l| toml::Value::from(l as i64)).collect();
    table.insert(LAYERS.to_owned(), toml::Value::Array(layers));
    match method::build(&table) {
        Ok(method) => Ok(Some((Divided { emulator, influence }, method))),
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

/// The emulator's tensors as clients hold them, where that is not as the checkpoint has them.
pub(super) fn quantised<'a>(
    file: &RunFile,
    base: &'a Base,
    spec: &Spec,
    emulator: &Emulator,
) -> Option<QuantisedSource<'a>> {
    let dtype = file.emulator.as_ref()?.dtype?;
    Some(QuantisedSource::new(base.source(), dtype.code(), spec, emulator.adapter()))
}

impl OffSite {
    /// The owner's model beside the clients' `tuning`.
    pub(super) fn new(
        loaded: &Loaded,
        base: &Base,
        Divided { emulator, influence }: Divided,
        method: &dyn Method,
        tuning: &Tuning<Cpu>,
        (longest, public): (usize, Option<Public>),
    ) -> Result<Self, Failure> {
        let net = tuning.net();
        let (task, spec) = (net.task(), net.spec());
        let outside = |&(layer, _): &(usize, _)| {
            let layer = spec.checkpoint_layer(layer);
            (!emulator.adapter().contains(&layer)).then_some(layer)
        };
        if let Some(layer) = net.wiring().lora.keys().find_map(outside) {
            let why = format!("layer {layer} is not the adapter's; name modules without their layer");
            return Err(loaded.source.blame("method", &why));
        }
        let wiring = Arc::new(method.wire(base.spec(), task).blame(loaded, "method")?);
        if wiring.schema != net.wiring().schema {
            let why = "what it trains on the emulator is not what it would train on the whole model";
            return Err(loaded.source.blame("method", why));
        }
        let backend = Arc::new(Cpu::serial());
        let weights = Weights::load(&*backend, base.spec(), task, base.source()).fail(Kind::Model)?;
        let owner = beside(loaded, (backend, weights), tuning, wiring, longest)?;
        let aligner = match &loaded.settings.emulator {
            Some(section) => {
                let original = (Arc::clone(net.weights()), task);
                Aligner::new(loaded, section, &emulator, original, public)?
            }
            None => None,
        };
        Ok(Self { emulator, owner: Arc::new(owner), aligner, influence })
    }
}

/// The data that the owner aligns on: `shared` are the examples of `[data]` that no client got.
pub(super) fn public(
    loaded: &Loaded,
    tokens: &Tokens,
    shared: Vec<Sequence>,
    people: &[Person],
    notes: &mut Vec<String>,
) -> Result<Option<Public>, Failure> {
    let Some(settings) = loaded.settings.emulator.as_ref().and_then(|e| e.public.as_ref()) else {
        return Ok(None);
    };
    let sequences = match &settings.path {
        Some(path) => public::read(loaded, settings, path, tokens)?,
        None => shared,
    };
    let public = Public::new(loaded, settings, sequences, people)?;
    notes.extend(public.note());
    Ok(Some(public))
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
    /// Bytes of what a client holds, as it gets it before its first round.
    pub(crate) sent_once: u64,
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

    /// What each layer of the model does to the stream, where that decides which of them clients hold.
    pub(crate) fn influence(&self) -> Option<&[f64]> {
        self.offsite.as_ref().map(|o| &o.influence[..]).filter(|scores| !scores.is_empty())
    }

    /// What clients hold.
    pub(crate) fn disclosed(&self) -> Disclosed {
        Disclosed {
            held: machine::parameters(self.spec(), self.task),
            whole: machine::parameters(self.base.spec(), self.task),
            sent_once: self.emulator_bytes(),
        }
    }

    /// Bytes of the emulator as a client gets it before its first round: tensors as the checkpoint stores them, those of a
    /// distilled middle in four bytes a scalar.
    fn emulator_bytes(&self) -> u64 {
        if self.file().emulator.as_ref().is_some_and(|e| e.dtype.is_some()) {
            return self.tuning.net().weights().bytes() as u64;
        }
        let distilled = self.file().emulator.as_ref().is_some_and(|e| e.distill.is_some());
        let middle = self.offsite.as_ref().map(|o| o.emulator.middle()).unwrap_or_default();
        let spec = self.spec();
        let one = |info: &antiphon_model::TensorInfo| -> u64 {
            let layer = info.role.layer().map(|l| spec.checkpoint_layer(l));
            let trained = distilled && layer.is_some_and(|l| middle.contains(&l));
            let size = match self.base.source().get(&info.name) {
                Some((FrozenData::Mapped { dtype, .. }, _)) if !trained => dtype.size(),
                _ => 4,
            };
            (size * info.shape.iter().product::<usize>()) as u64
        };
        self.tuning.net().weights().infos().iter().map(one).sum()
    }
}
