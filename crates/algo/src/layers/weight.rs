//! Weighted mean as a layer over a plain sum: clients send `(w x, w)`, the server divides.
//!
//! ```text
//! y = sum_k w_k x_k / sum_k w_k        (McMahan et al. 2017, arXiv:1602.05629, Algorithm 1, w_k = n_k)
//! ```
//!
//! As a layer it also works where the server sees only the sum (TFF's `MeanFactory` is built the same way).
//! `w` is rounded to binary32 and stands in the vector's last coordinate.
//!
//! The weight is the client's word. Without `cap` one client that claims 10^9 examples *is* the mean,
//! and no l2 bound survives this layer, so a noise layer after it is refused.

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_core::{Payload, Weight};
use serde::Deserialize;

use crate::layer::real;
use crate::vector::by_columns;
use crate::{Carrier, ClientCx, Contract, Layer, LayerError, Mismatch, ServerCx, State};

const ID: &str = "weight";

/// Registry line for [`WeightedMean`].
pub const ENTRY: Entry<dyn Layer> = Entry {
    id: ID,
    paper: "arXiv:1602.05629",
    about: "weighted mean over clients: by = examples (optionally with cap) or uniform",
    build: |table| Ok(Box::new(WeightedMean::from_settings(registry::settings(ID, table)?)?)),
};

/// The `[[aggregation.layers]]` table of `weight`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What a client counts by.
    pub by: By,
    /// Largest weight of one client, in examples; absent means uncapped.
    pub cap: Option<f64>,
}

/// What a client counts by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// By the examples it trained on.
    Examples,
    /// Every client counts one.
    Uniform,
}

/// Turns a sum into a weighted mean. On the wire: `[d + 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedMean {
    by: By,
    cap: Option<f64>,
}

impl WeightedMean {
    /// Every client counts one.
    #[must_use]
    pub fn uniform() -> Self {
        Self { by: By::Uniform, cap: None }
    }

    /// Clients count by their examples, uncapped.
    #[must_use]
    pub fn examples() -> Self {
        Self { by: By::Examples, cap: None }
    }

    /// From the run file. Errors on a cap that is not finite and positive, or where it has no meaning.
    pub fn from_settings(s: Settings) -> Result<Self, ConfigError> {
        let refuse = |reason: String| Err(ConfigError::Invalid { id: ID.into(), reason });
        match (s.by, s.cap) {
            (By::Uniform, Some(cap)) => {
                refuse(format!("`cap = {cap}` has no meaning with `by = \"uniform\"`; drop one of them"))
            }
            (_, Some(cap)) if !(cap.is_finite() && cap > 0.0) => {
                refuse(format!("`cap = {cap}` is not a positive number of examples"))
            }
            (by, cap) => Ok(Self { by, cap }),
        }
    }

    /// What stands in the vector for a client of weight `w`.
    fn effective(&self, w: Weight) -> f32 {
        match self.by {
            By::Uniform => 1.0,
            By::Examples => self.cap.map_or(w.get(), |cap| w.get().min(cap)) as f32,
        }
    }
}

impl Layer for WeightedMean {
    fn describe(&self) -> String {
        match (self.by, self.cap) {
            (By::Uniform, _) => "weight by=uniform".into(),
            (By::Examples, None) => "weight by=examples".into(),
            (By::Examples, Some(cap)) => format!("weight by=examples cap={cap}"),
        }
    }

    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch> {
        if up.carrier != Carrier::Real {
            return Err(Mismatch {
                stage: ID,
                needs: "real coordinates",
                found: up.clone(),
                remedy: "put `weight` before the layer that leaves the reals",
            });
        }
        if up.weighted {
            return Err(Mismatch {
                stage: ID,
                needs: "vectors that are not weighted yet",
                found: up.clone(),
                remedy: "keep one `weight` layer",
            });
        }
        let cap = match self.by {
            By::Uniform => Some(1.0),
            By::Examples => self.cap,
        };
        // ||(w x, w)|| <= w sqrt(||x||^2 + 1); each of the two roundings to binary32 (of w and of w x)
        // widens by at most 1 + 2^-24
        let widen = 1.0 + f64::from(f32::EPSILON) * 2.0;
        let l2 = match (up.l2, cap) {
            (Some(bound), Some(cap)) => Some(cap * bound.hypot(1.0) * widen),
            _ => None,
        };
        Ok(Contract { l2, len: up.len + 1, weighted: true, ..up.clone() })
    }

    fn client(
        &self,
        x: Payload,
        _: &Contract,
        cx: &ClientCx<'_>,
        _: &mut State,
    ) -> Result<Payload, LayerError> {
        let mut v = real(ID, x)?;
        let w = self.effective(cx.weight);
        if w != 1.0 {
            v.iter_mut().for_each(|c| *c *= w);
        }
        v.reserve_exact(1);
        v.push(w);
        Ok(Payload::Real(v))
    }

    fn inspect(&self, x: &Payload, _: &Contract, weight: Weight) -> Result<(), LayerError> {
        let found = match x {
            Payload::Real(v) => v.last().copied(),
            Payload::RealBytes(b) => b.as_chunks::<4>().0.last().map(|&c| f32::from_le_bytes(c)),
            Payload::Ring(_) => None,
        };
        let declared = self.effective(weight);
        match found {
            Some(w) if w == declared => Ok(()),
            found => Err(LayerError::Weight { declared, found: found.unwrap_or(f32::NAN) }),
        }
    }

    fn sum(
        &self,
        y: Payload,
        _: &Contract,
        cx: &mut ServerCx<'_>,
        _: &mut State,
    ) -> Result<Payload, LayerError> {
        let mut v = real(ID, y)?;
        let total = v.pop().unwrap_or(0.0);
        if !(total.is_finite() && total > 0.0) {
            return Err(LayerError::TotalWeight { found: total });
        }
        by_columns(cx.threads, &mut v, |_, part| part.iter_mut().for_each(|c| *c /= total));
        Ok(Payload::Real(v))
    }

    fn counts(&self, weight: Weight) -> Option<f64> {
        Some(self.effective(weight).into())
    }

    /// `||(w x, w)||^2 = w^2 (||x||^2 + 1)`. Good to about `1e-8` in absolute terms, because `w^2` is subtracted.
    fn norm(&self, sent: f64, weight: Weight) -> Option<f64> {
        let ratio = sent / f64::from(self.effective(weight));
        Some((ratio * ratio - 1.0).max(0.0).sqrt())
    }
}
