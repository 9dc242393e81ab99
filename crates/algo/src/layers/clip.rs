//! l2 clipping of each client's vector: `x * min(1, c / ||x||_2)`.
//!
//! Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1 (of gradients); per client in McMahan et al. 2018,
//! arXiv:1710.06963, Algorithm 1, "flat clipping". The bound holds in binary32, not only on paper: the
//! scale is rounded towards zero by more than the rounding of the products can add.
//!
//! Deliberately missing: clipping per tensor, and an adaptive bound.

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_core::{Payload, Weight};
use serde::Deserialize;

use crate::layer::real;
use crate::vector::l2_norm;
use crate::{Carrier, ClientCx, Contract, Layer, LayerError, Mismatch, State};

const ID: &str = "clip";

/// Products rounded to binary32 lengthen a vector by at most `1 + 2^-24`, and the norm itself is good to
/// far better than `2^-24`; two bits of margin cover both.
const SHRINK: f64 = 1.0 - (f32::EPSILON as f64) * 2.0;

/// Registry line for [`Clip`].
pub const ENTRY: Entry<dyn Layer> = Entry {
    id: ID,
    paper: "arXiv:1710.06963",
    about: "projects each client's update onto the l2 ball of radius l2",
    build: |table| Ok(Box::new(Clip::from_settings(registry::settings(ID, table)?)?)),
};

/// The `[[aggregation.layers]]` table of `clip`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The radius, in the units of the update.
    pub l2: f64,
}

/// Projects each client's vector onto the l2 ball.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    bound: f64,
}

impl Clip {
    /// Radius `l2`, in the units of the update. Errors unless it is a positive normal binary32: below
    /// that, rounding is no longer relative and the bound could not be kept.
    pub fn new(l2: f64) -> Result<Self, ConfigError> {
        if l2 >= f64::from(f32::MIN_POSITIVE) && l2 <= f64::from(f32::MAX) {
            Ok(Self { bound: l2 })
        } else {
            let reason = format!("`l2 = {l2}` is no radius; expected a positive number such as 1.0");
            Err(ConfigError::Invalid { id: ID.into(), reason })
        }
    }

    /// From the run file.
    pub fn from_settings(s: Settings) -> Result<Self, ConfigError> {
        Self::new(s.l2)
    }
}

impl Layer for Clip {
    fn describe(&self) -> String {
        format!("clip l2={}", self.bound)
    }

    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch> {
        if up.carrier != Carrier::Real {
            return Err(Mismatch {
                stage: ID,
                needs: "real coordinates",
                found: up.clone(),
                remedy: "put `clip` before the layer that leaves the reals",
            });
        }
        Ok(Contract { l2: Some(up.l2.map_or(self.bound, |b| b.min(self.bound))), ..up.clone() })
    }

    fn client(
        &self,
        x: Payload,
        _: &Contract,
        _: &ClientCx<'_>,
        _: &mut State,
    ) -> Result<Payload, LayerError> {
        let mut v = real(ID, x)?;
        let norm = l2_norm(&v);
        if !norm.is_finite() {
            crate::vector::finite(&Payload::Real(v))?;
            return Err(LayerError::Norm { bound: self.bound, found: norm });
        }
        if norm > self.bound * SHRINK {
            // norm > 0 here, because the bound is
            let scale = self.bound * SHRINK / norm;
            v.iter_mut().for_each(|c| *c = (f64::from(*c) * scale) as f32);
        }
        Ok(Payload::Real(v))
    }

    fn norm(&self, sent: f64, _: Weight) -> Option<f64> {
        Some(sent)
    }
}
