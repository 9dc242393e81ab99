//! What is served: a model with its adapter and tokenizer, and what clients may know of it.

use std::sync::Arc;

use antiphon_core::Digest;
use antiphon_kernels::{Backend, BackendError, Cpu, Dst};
use antiphon_model::checkpoint::CheckpointError;
use antiphon_model::tokenizer::TokenizerError;
use antiphon_model::weights::WeightsError;
use antiphon_model::{Adapter, Base, Net, NetError, Role, Task, Tokenizer, Weights, tensor_name};

use crate::engine::Device;

/// A model that cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The adapter classifies.
    #[error("this model classifies texts and does not continue them, so there is nothing to serve")]
    Classifies,
    /// The base lacks what generation reads.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor does not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The adapter does not fit, or the context is longer than the model's.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The tokenizer belongs to another model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The device has not enough memory.
    #[error(transparent)]
    Device(#[from] BackendError),
}

/// A model ready to answer.
#[derive(Debug)]
pub struct Served {
    pub(crate) device: Arc<Device>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) name: String,
    /// Of weights, adapter, tokenizer and template: a client that sees another has another model before it.
    pub(crate) fingerprint: String,
    /// Tokens that it reads, soft prompt of the adapter excluded.
    pub(crate) context: usize,
    /// Text of each token within a text, by id.
    pub(crate) texts: Vec<String>,
    /// Tokens that end a text.
    pub(crate) stop: Arc<[u32]>,
    /// Standard deviation of the entries of the token table: the scale of vectors in its place.
    pub(crate) embedding_std: f64,
    bos: Option<u32>,
}

impl Served {
    /// `base` with `adapter` under the name `name`, reading at most `context` tokens (the model's positions, if `None`)
    /// on `threads` threads.
    pub fn new(
        base: &Base,
        adapter: Option<&Adapter>,
        tokenizer: Tokenizer,
        name: String,
        context: Option<usize>,
        threads: usize,
    ) -> Result<Self, ModelError> {
        if adapter.is_some_and(|a| a.about.task != Task::CausalLm) {
            return Err(ModelError::Classifies);
        }
        base.require(Task::CausalLm)?;
        tokenizer.fits(base.spec().vocab)?;
        let backend = Cpu::threads(threads);
        let (wiring, theta) = adapter.map_or_else(Default::default, |a| (a.wiring.clone(), a.theta.clone()));
        let positions = context.unwrap_or(base.spec().max_positions);
        let weights = Weights::load(&backend, base.spec(), Task::CausalLm, base.source())?;
        let net = Net::new(&backend, weights, Task::CausalLm, Arc::new(wiring), positions)?;
        let mut params = backend.alloc(theta.len())?;
        backend.upload(&theta, Dst::new(&mut params, 0, theta.len()))?;
        let mut stop = base.spec().eos.clone();
        stop.extend(tokenizer.special().eos);
        let context = positions - net.limits().prompt;
        let fingerprint = fingerprint(base, &net, &theta, &tokenizer, threads)?;
        let bos = tokenizer.special().bos.filter(|_| tokenizer.adds_bos());
        let texts = texts(&tokenizer, base.spec().vocab);
        let device = Arc::new(Device { backend, net, params });
        Ok(Self {
            device,
            tokenizer,
            name,
            fingerprint,
            context,
            texts,
            stop: stop.into(),
            embedding_std: embedding_std(base),
            bos,
        })
    }

    /// The model's name in requests.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tokens that it reads.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// What answers carry as `system_fingerprint`.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn vocab(&self) -> usize {
        self.device.net.spec().vocab
    }

    pub(crate) fn width(&self) -> usize {
        self.device.net.spec().hidden
    }

    /// Ids of `text`, begun as the model's texts begin.
    pub(crate) fn encode(&self, text: &str, begin: bool) -> Result<Vec<u32>, TokenizerError> {
        let ids = self.tokenizer.encode(text, false)?.ids;
        Ok(self.bos.filter(|_| begin).into_iter().chain(ids).collect())
    }
}

fn fingerprint(
    base: &Base,
    net: &Net<Cpu>,
    theta: &[f32],
    tokenizer: &Tokenizer,
    threads: usize,
) -> Result<String, TokenizerError> {
    let path = tokenizer.path();
    let file = std::fs::read(path).map_err(|source| TokenizerError::Io { path: path.to_owned(), source })?;
    let mut h = blake3::Hasher::new();
    h.update(b"antiphon serve 1");
    h.update(&base.digest(threads).0);
    h.update(&net.wiring().schema.digest().0);
    for value in theta {
        h.update(&value.to_le_bytes());
    }
    h.update(&Digest::of(&file).0);
    h.update(tokenizer.template().map_or("", |t| t.source()).as_bytes());
    Ok(format!("fp_{}", &h.finalize().to_hex()[..16]))
}

fn embedding_std(base: &Base) -> f64 {
    let name = tensor_name(base.spec(), Role::TokenEmbedding);
    let Some((table, _)) = base.source().get(&name) else { return 0.0 };
    let mut values = vec![0.0; table.len()];
    table.widen(0, &mut values);
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// What each token adds to a text that goes on: decoding alone would drop a leading space.
fn texts(tokenizer: &Tokenizer, vocab: usize) -> Vec<String> {
    let anchor = tokenizer.encode("a", false).ok().and_then(|t| t.ids.last().copied());
    let alone = anchor.and_then(|a| tokenizer.decode(&[a], false).ok()).unwrap_or_default();
    (0..vocab as u32)
        .map(|id| {
            let ids: Vec<u32> = anchor.into_iter().chain([id]).collect();
            let text = tokenizer.decode(&ids, false).unwrap_or_default();
            match text.strip_prefix(&alone) {
                Some(rest) => rest.to_owned(),
                None => tokenizer.token(id).unwrap_or_default(),
            }
        })
        .collect()
}
