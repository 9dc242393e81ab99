//! Federated tuning whose messages are a few scalars, whatever the size of the model: `[scalars]` of a run file.
//!
//! Every party can make the same directions from seeds, so a model that moved along directions is told by how far it moved
//! along each. What travels is the *state*, a small vector with its own schema, and a [`Replica`] turns it into the trainable
//! vector:
//!
//! ```text
//! w = w₀ + unit · Σ_s a_s z(s)         a_s: numbers of the state; z(s): the direction of seed s
//! ```
//!
//! The state is carried by the ordinary coordinator and averaged by the ordinary layers and reducers, medians included. A
//! client's update is, as ever, *start minus end*: of the state.
//!
//! All methods travel in units of the gradient (slopes, or projections of a summed gradient) and `unit` is minus the learning
//! rate. That is why the learning rate is constant in forward-only methods, and why weight decay and momentum are refused
//! there: a step that is not a multiple of `z(s)` cannot be told by a scalar.
//!
//! A [`Method`] is settings; [`Method::prepare`] meets a run and becomes [`Scalars`]. One file and one line in [`METHODS`]
//! each. Deliberately missing: methods that keep a mask of weights (Meerkat, arXiv:2506.03337).

mod client;
mod decomfl;
mod fedkseed;
mod fedkseed_pro;
mod ferret;
mod fixed;
mod pool;
mod replica;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use antiphon_algo::WorkError;
use antiphon_core::{ClientId, ConfigError, Entry, Round, Schema, SchemaError, TensorSpec, registry};
use antiphon_kernels::{BackendError, Law};

pub use client::ScalarClient;
pub use fixed::{LARGEST, RESOLUTION};
pub use replica::Replica;

use crate::schedule::Position;
use crate::settings::{Duration, StatePolicy};
use crate::tuning::Recipe;

/// Every method.
pub const METHODS: &[&Entry<dyn Method>] =
    &[&fedkseed::ENTRY, &fedkseed_pro::ENTRY, &decomfl::ENTRY, &ferret::ENTRY];

/// The method that `table["id"]` names.
pub fn build(table: &toml::Table) -> Result<Box<dyn Method>, ConfigError> {
    registry::build("scalars", METHODS, table)
}

/// A method by its settings.
pub trait Method: fmt::Debug + Send + Sync {
    /// Id in the registry.
    fn id(&self) -> &'static str;

    /// Ready for runs of `recipe` on trainable vectors of `schema`. Refuses a recipe whose steps it cannot tell.
    fn prepare(&self, schema: &Schema, recipe: &Recipe) -> Result<Arc<dyn Scalars>, ScalarsError>;

    /// The complete table that builds it.
    fn settings(&self) -> Result<toml::Table, toml::ser::Error>;
}

/// A method in a run.
///
/// Laws, checked for every registry entry: the replica of the first state is `w₀` to the bit; a replica that has seen other
/// states gives the bits of one that has not; two clients that start from one state start from the same bits.
pub trait Scalars: fmt::Debug + Send + Sync {
    /// What the state is made of and how far its numbers reach.
    fn frame(&self) -> &Frame;

    /// Of the state.
    fn schema(&self) -> &Schema {
        &self.frame().schema
    }

    /// What the state stands for.
    fn terms(&self, state: &[f32]) -> Result<Terms, ScalarsError>;

    /// Opens a client's notebook for a round that starts from `state`.
    fn begin(
        &self,
        state: &[f32],
        round: Round,
        client: ClientId,
    ) -> Result<Box<dyn Notebook + '_>, ScalarsError>;

    /// Coordinates of an update that are not zero, at most, for a client that takes `steps` local steps.
    fn most_sent(&self, steps: u32) -> usize;
}

/// What a state is made of and how far its numbers reach, the same for a whole run.
#[derive(Debug)]
pub struct Frame {
    /// Of the state.
    pub schema: Schema,
    /// What the weights move by for each unit of a coefficient, along its direction.
    pub unit: f64,
    /// Of the directions.
    pub law: Law,
    /// The parts of the trainable vector along which a direction may lie alone; whole tensors.
    pub blocks: Vec<Range<usize>>,
}

impl Frame {
    /// Of a forward-only method: directions of the recipe's estimator that lie in the whole of `trained`, and weights that move
    /// by `unit` against a slope.
    fn forward_only(
        tensors: &[(&str, &[usize])],
        trained: &Schema,
        recipe: &Recipe,
        unit: f64,
    ) -> Result<Self, ScalarsError> {
        let law = recipe.estimator.law().unwrap_or(Law::Gaussian);
        let blocks = std::iter::once(0..trained.dim()).collect();
        Ok(Self { schema: schema(tensors)?, unit: -unit, law, blocks })
    }
}

/// A client's notes of one round.
pub trait Notebook: Send {
    /// Replaces `seeds` by those of the directions of local step `step`.
    fn draw(&mut self, step: u32, seeds: &mut Vec<u64>);

    /// The slopes that step found, in the units of the loss, and moved against.
    fn note(&mut self, step: u32, slopes: &[f64]);

    /// The update, start minus end of the state, after weights that moved by `moved` (start minus end, `[d]`).
    fn close(self: Box<Self>, moved: &[f32], along: &dyn Directions) -> Result<Vec<f32>, ScalarsError>;
}

/// Directions that can be looked along.
pub trait Directions {
    /// `Σ_i z_i x_i` over the elements of `block`, in binary64; `x: [d]`. The same bits on any number of threads.
    fn dot(&self, seed: u64, block: Range<usize>, x: &[f32]) -> Result<f64, ScalarsError>;
}

/// Coefficients by (block, seed), in fixed point: see [`RESOLUTION`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms(BTreeMap<(u32, u64), i64>);

impl Terms {
    /// Adds `coefficient` times the direction of `seed` in block number `block`.
    pub fn add(&mut self, block: u32, seed: u64, coefficient: f32) -> Result<(), ScalarsError> {
        let units = fixed::coefficient(coefficient)?;
        if units != 0 {
            *self.0.entry((block, seed)).or_default() += units;
        }
        Ok(())
    }

    /// The coefficient of `seed` in block number `block`.
    #[must_use]
    pub fn coefficient(&self, block: u32, seed: u64) -> f64 {
        self.0.get(&(block, seed)).map_or(0.0, |c| *c as f64 * RESOLUTION)
    }

    /// Refuses coefficients whose sum could leave the range of the fixed point.
    fn check(&self) -> Result<(), ScalarsError> {
        let sum: f64 = self.0.values().map(|c| c.unsigned_abs() as f64).sum();
        if sum <= fixed::MOST { Ok(()) } else { Err(ScalarsError::Range { found: sum * RESOLUTION }) }
    }

    /// What must be added to `earlier` to have this.
    fn since(&self, earlier: &Self) -> Self {
        let mut out = self.0.clone();
        for (key, c) in &earlier.0 {
            *out.entry(*key).or_default() -= c;
        }
        out.retain(|_, c| *c != 0);
        Self(out)
    }
}

/// A method that cannot be prepared or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScalarsError {
    /// Steps that a scalar cannot tell.
    #[error("`{method}` {needs}; found {found}")]
    Recipe {
        /// Which method.
        method: &'static str,
        /// What would work.
        needs: &'static str,
        /// What there is.
        found: String,
    },
    /// Settings that do not fit the run.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The state is not that of this method.
    #[error("a state of {found} numbers, but this method has {expected}")]
    State {
        /// Of the schema.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// A round that the state has no row for.
    #[error("{round}, but the state has rows for {rounds} rounds")]
    Round {
        /// Which.
        round: Round,
        /// Rows.
        rounds: u32,
    },
    /// A number of the state that cannot be applied.
    #[error("a coefficient of {found}; expected a number of at most {LARGEST} in magnitude")]
    Coefficient {
        /// What it is.
        found: f32,
    },
    /// Coefficients that are large together.
    #[error(
        "the coefficients sum to {found:e} in magnitude, more than {LARGEST} units that the fixed point holds: training has \
         diverged; a lower learning rate or `estimator.max_projected_gradient` may help"
    )]
    Range {
        /// Their sum.
        found: f64,
    },
    /// No schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The device refused.
    #[error(transparent)]
    Device(#[from] BackendError),
}

impl From<ScalarsError> for WorkError {
    fn from(e: ScalarsError) -> Self {
        Self::Other(Box::new(e))
    }
}

/// Refuses `state` of another length than the schema's.
fn fits(schema: &Schema, state: &[f32]) -> Result<(), ScalarsError> {
    let (expected, found) = (schema.dim(), state.len());
    if expected == found { Ok(()) } else { Err(ScalarsError::State { expected, found }) }
}

/// A schema of named lists of scalars.
fn schema(tensors: &[(&str, &[usize])]) -> Result<Schema, ScalarsError> {
    let spec = |(name, shape): &(&str, &[usize])| TensorSpec { name: (*name).into(), shape: shape.to_vec() };
    Ok(Schema::new(tensors.iter().map(spec).collect())?)
}

/// Refuses steps that are not `θ ← θ - lr g z` with a learning rate that never changes; gives the directions of a step.
fn forward_only(method: &'static str, recipe: &Recipe) -> Result<u32, ScalarsError> {
    let refuse = |needs, found: String| Err(ScalarsError::Recipe { method, needs, found });
    let directions = recipe.estimator.directions();
    if directions == 0 {
        let found = format!("`{}`", recipe.estimator.id());
        return refuse("tells slopes along directions: set `estimator.id = \"zeroth_order\"`", found);
    }
    match recipe.optimizer.plain_decay() {
        Some(0.0) => {}
        Some(found) => {
            let found = format!("`optimizer.weight_decay = {found}`");
            return refuse("has no scalar for weight decay: set it to 0", found);
        }
        None => {
            let found = format!("`optimizer.id = \"{}\"` with state", recipe.optimizer.id());
            return refuse("needs `optimizer.id = \"sgd\"` without momentum", found);
        }
    }
    let train = &recipe.train;
    if train.optimizer_state == StatePolicy::Keep {
        let found = "`train.optimizer_state = \"keep\"`".into();
        return refuse("keeps nothing at clients: set it to \"reset\"", found);
    }
    // any position off the peak makes the learning rate one that the sum of slopes does not know
    let at = |round, step| train.schedule.factor(Position { round, rounds: 4, step, steps: 4 });
    let moving = (0..4).flat_map(|r| (0..4).map(move |s| (r, s))).any(|(r, s)| at(r, s) != 1.0);
    if moving {
        let found = "`train.lr_scheduler` that changes it".into();
        return refuse("sums slopes over rounds, which is right for a constant learning rate alone", found);
    }
    Ok(directions)
}

/// Local steps of every client in a round, where all take the same number.
fn equal_steps(method: &'static str, recipe: &Recipe) -> Result<u32, ScalarsError> {
    match recipe.train.duration {
        Duration::Steps(n) if n > 0 => Ok(n),
        Duration::Steps(n) => {
            let needs = "has a scalar for each local step: set `train.local_steps` to 1 or more";
            Err(ScalarsError::Recipe { method, needs, found: format!("`train.local_steps = {n}`") })
        }
        Duration::Epochs(n) => {
            let needs =
                "has a scalar for each local step, the same number at every client: set `train.local_steps`";
            Err(ScalarsError::Recipe { method, needs, found: format!("`train.local_epochs = {n}`") })
        }
    }
}
