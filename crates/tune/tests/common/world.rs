//! A tiny model with clients on it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_core::{ClientId, Purpose, Stream};
use antiphon_data::Sequence;
use antiphon_kernels::Backend;
use antiphon_model::{Net, Shape, Spec, Task, Weights};
use antiphon_tune::method::{self, Start};
use antiphon_tune::{Client, Recipe, TrainSettings, Tuning, estimator, objective, optim, step_shape};

use super::Checkpoint;

/// A run on one of the tiny models.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) spec: Spec,
    pub(crate) method: &'static str,
    pub(crate) objective: &'static str,
    pub(crate) estimator: &'static str,
    pub(crate) optimizer: &'static str,
    pub(crate) train: String,
    pub(crate) classes: usize,
}

pub(crate) const LORA: &str = "id='lora'\nlora_r=2\nlora_alpha=4\ntarget_modules='all-linear'";
pub(crate) const FULL: &str = "id='full'";
pub(crate) const PROMPT: &str = "id='prompt'\nnum_virtual_tokens=3\nprompt_tuning_init='random'";
pub(crate) const SFT: &str = "id='sft'";
pub(crate) const SGD: &str = "id='sgd'";
pub(crate) const ADAMW: &str = "id='adamw'\nweight_decay=0.01";

impl Setup {
    pub(crate) fn lm(method: &'static str, optimizer: &'static str, train: &str) -> Self {
        Self {
            spec: super::llama(),
            method,
            objective: SFT,
            estimator: "id='backprop'",
            optimizer,
            train: train.into(),
            classes: 0,
        }
    }

    /// The shared part of the run, and first values whose low-rank pairs are moved off zero, so that every tensor has a
    /// gradient.
    pub(crate) fn build<B: Backend>(
        &self,
        backend: B,
        sets: &[Arc<[Sequence]>],
    ) -> (Arc<Tuning<B>>, Vec<f32>) {
        let recipe = self.recipe();
        let micro = recipe.train.micro_batch_size;
        let prompt = if self.method == PROMPT { 3 } else { 0 };
        let shape = step_shape(sets.iter().map(|s| &s[..]), micro, prompt);
        self.build_with(backend, shape, Arc::default())
    }

    pub(crate) fn build_with<B: Backend>(
        &self,
        backend: B,
        shape: Shape,
        stop: Arc<AtomicBool>,
    ) -> (Arc<Tuning<B>>, Vec<f32>) {
        let recipe = self.recipe();
        let task = recipe.objective.task(&self.spec, self.classes).unwrap();
        let method = method::build(&self.method.parse().unwrap()).unwrap();
        let wiring = Arc::new(method.wire(&self.spec, task).unwrap());
        let base = Checkpoint { spec: self.spec.clone(), task };
        let start = Start { spec: &self.spec, base: &base, tokenize: None, seed: 5 };
        let mut theta = method.init(&wiring, &start).unwrap();
        let mut stream = Stream::new(6, Purpose::Test);
        theta.iter_mut().filter(|v| **v == 0.0).for_each(|v| *v = 0.2 * stream.uniform_f32() - 0.1);
        let weights = Weights::load(&backend, &self.spec, task, &base).unwrap();
        let net = Net::new(&backend, weights, task, wiring, self.spec.max_positions).unwrap();
        (Arc::new(Tuning::new(Arc::new(backend), Arc::new(net), recipe, shape, stop)), theta)
    }

    fn recipe(&self) -> Recipe {
        let train: TrainSettings = toml::from_str(&self.train).unwrap();
        Recipe {
            objective: objective::build(&self.objective.parse().unwrap()).unwrap(),
            estimator: estimator::build(&self.estimator.parse().unwrap()).unwrap(),
            optimizer: optim::build(&self.optimizer.parse().unwrap()).unwrap(),
            train: train.check().unwrap(),
            rounds: 10,
            seed: 42,
        }
    }
}

/// `n` sequences of 3 to 9 tokens, about half of them labelled, at least one each; with a class below `classes`.
pub(crate) fn sequences(n: usize, seed: u64, classes: u32) -> Arc<[Sequence]> {
    let mut s = Stream::new(seed, Purpose::Test);
    (0..n)
        .map(|_| {
            let len = 3 + s.below(7) as usize;
            let ids: Vec<u32> = (0..len).map(|_| s.below(20) as u32).collect();
            let target = (0..len).map(|t| t == len - 1 || (t > 0 && s.below(2) == 1)).collect();
            let class = (classes > 0).then(|| s.below(u64::from(classes)) as u32);
            Sequence { ids, target, class }
        })
        .collect()
}

pub(crate) fn client<B: Backend>(tuning: &Arc<Tuning<B>>, id: u64, set: &Arc<[Sequence]>) -> Client<B> {
    Client::new(Arc::clone(tuning), ClientId(id), Arc::clone(set), set.len() as u64).unwrap()
}

pub(crate) fn task_of<B: Backend>(tuning: &Tuning<B>) -> Task {
    tuning.net().task()
}
