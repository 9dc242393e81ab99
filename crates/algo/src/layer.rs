//! The seam of clipping, weighting, compression, masking and noise.

use std::fmt;

use antiphon_core::{ClientId, Noise, Payload, Round, Weight};

use crate::{Carrier, Contract, Mismatch, State};

/// One stage between local work and the reducer, both halves in one place.
///
/// Order, for layers `[a, b]`: `a.client`, `b.client`, (network), `b.inspect`, `b.each`, `a.each`,
/// (reduce), `b.sum`, `a.sum`.
///
/// `up` is always the contract that [`Layer::contract`] received and accepted: of what the client half
/// takes in. `slot` is this layer's own memory, saved with the checkpoint: one per client in `client`,
/// one of the server in `sum`; a layer without memory ignores it.
///
/// Laws, checked for every entry of [`crate::LAYERS`]: the client half keeps the promise of `contract`
/// (carrier, length, norm) on any finite input; `contract` and the halves are deterministic in their
/// arguments.
pub trait Layer: fmt::Debug + Send + Sync {
    /// The id and every setting that changes a number, such as `weight by=examples cap=100`. Part of
    /// the plan's digest, so that both halves are known to be the same on both sides.
    fn describe(&self) -> String;

    /// The contract this layer passes on, given the one it receives. This is where a layer says what
    /// it needs.
    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch>;

    /// Client half. `x: [up.len]`; the result is as promised by [`Layer::contract`].
    fn client(
        &self,
        x: Payload,
        up: &Contract,
        cx: &ClientCx<'_>,
        slot: &mut State,
    ) -> Result<Payload, LayerError> {
        let _ = (up, cx, slot);
        Ok(x)
    }

    /// Server check of what one client sent, for the layer nearest the network and only where the
    /// server sees clients one by one. Catches a client half that did not do its part. `weight` is
    /// what the client declared.
    fn inspect(&self, x: &Payload, up: &Contract, weight: Weight) -> Result<(), LayerError> {
        let _ = (x, up, weight);
        Ok(())
    }

    /// Server half on each client's vector, before the reducer. A layer that overrides this clears
    /// [`Contract::summable`].
    fn each(&self, x: Payload, up: &Contract) -> Result<Payload, LayerError> {
        let _ = up;
        Ok(x)
    }

    /// Server half on the reduced vector.
    fn sum(
        &self,
        y: Payload,
        up: &Contract,
        cx: &mut ServerCx<'_>,
        slot: &mut State,
    ) -> Result<Payload, LayerError> {
        let _ = (up, cx, slot);
        Ok(y)
    }

    /// What a client that declares `weight` counts in the aggregate, if this layer decides that.
    fn counts(&self, weight: Weight) -> Option<f64> {
        let _ = weight;
        None
    }

    /// The l2 norm of one client's vector before this layer, in the units of what the client half takes in, from
    /// `sent`, that of what it gives out. `None` where the one cannot be told from the other. Clipping counts as the
    /// client's own doing: what was clipped away is not in its contribution.
    fn norm(&self, sent: f64, weight: Weight) -> Option<f64> {
        let _ = (sent, weight);
        None
    }

    /// The privacy cost of one round, if this layer adds calibrated noise.
    fn privacy(&self) -> Option<GaussianEvent> {
        None
    }
}

/// Facts that the client half may use.
#[derive(Clone, Copy, Debug)]
pub struct ClientCx<'a> {
    /// The round being computed.
    pub round: Round,
    /// Who is computing it.
    pub client: ClientId,
    /// Everyone selected for this round, ascending; includes `client`.
    pub cohort: &'a [ClientId],
    /// This client's weight.
    pub weight: Weight,
}

/// Facts that the server half may use.
pub struct ServerCx<'a> {
    /// The round being closed.
    pub round: Round,
    /// Clients whose update was accepted, `>= 1`.
    pub accepted: usize,
    /// Randomness is an argument, so that a test can choose it.
    pub noise: &'a mut dyn Noise,
    /// How many threads may share the work, `>= 1`. Never changes a bit of the result.
    pub threads: usize,
}

impl fmt::Debug for ServerCx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerCx({}, {} accepted, {} threads)", self.round, self.accepted, self.threads)
    }
}

/// What one round of a noise layer costs, for the accountant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GaussianEvent {
    /// Noise standard deviation over l2 sensitivity, dimensionless.
    pub noise_multiplier: f64,
}

/// A vector that a stage cannot take.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// Coordinates of the wrong set.
    #[error("`{layer}` expects {expected:?} coordinates, found {found:?}")]
    Carrier {
        /// Whose error.
        layer: &'static str,
        /// What it takes.
        expected: Carrier,
        /// What it got.
        found: Carrier,
    },
    /// Another number of coordinates than the contract says.
    #[error("`{layer}` expects {expected} coordinates, found {found}")]
    Length {
        /// Whose error.
        layer: &'static str,
        /// Of the contract.
        expected: usize,
        /// Of the vector.
        found: usize,
    },
    /// A NaN or an infinity.
    #[error("coordinate {index} is {value}, not a finite number")]
    NotFinite {
        /// The first such coordinate.
        index: usize,
        /// What it holds.
        value: f32,
    },
    /// A vector longer than the plan allows.
    #[error("an l2 norm of {found}, but the plan bounds it by {bound}")]
    Norm {
        /// What the contract promises.
        bound: f64,
        /// What arrived.
        found: f64,
    },
    /// The weight inside the vector is not the one that the message declares.
    #[error("the vector carries weight {found}, but the message declares {declared} (after the cap)")]
    Weight {
        /// After the cap, as it should stand in the vector.
        declared: f32,
        /// The last coordinate.
        found: f32,
    },
    /// A sum of weights that nothing can be divided by.
    #[error("the weights sum to {found}")]
    TotalWeight {
        /// The last coordinate of the sum.
        found: f32,
    },
}

/// The set that the coordinates of `x` live in.
#[must_use]
pub fn carrier_of(x: &Payload) -> Carrier {
    match x {
        Payload::Real(_) | Payload::RealBytes(_) => Carrier::Real,
        Payload::Ring(_) => Carrier::Ring,
    }
}

/// The real coordinates of `x`, or `layer`'s complaint. For the halves of layers over reals.
pub fn real(layer: &'static str, x: Payload) -> Result<Vec<f32>, LayerError> {
    x.into_real().map_err(|x| LayerError::Carrier { layer, expected: Carrier::Real, found: carrier_of(&x) })
}
