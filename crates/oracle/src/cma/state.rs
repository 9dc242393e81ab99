//! Saving a search between two generations.

use serde::{Deserialize, Serialize};

use super::shape::{Shape, ShapeState};
use super::{Cma, CmaError, Constants};

/// Everything that a search remembers. Loaded with the constants that it was saved with, it continues with the same bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CmaState {
    /// Generations told.
    pub generation: u64,
    /// `[N]`.
    pub mean: Vec<f64>,
    /// The step size.
    pub sigma: f64,
    /// Path of the step size, `[N]`.
    pub ps: Vec<f64>,
    /// Path of the rank-one update, `[N]`.
    pub pc: Vec<f64>,
    /// The covariance.
    pub shape: ShapeState,
    /// Mirrors of the next generation, each `[N]`.
    pub mirrors: Vec<Vec<f64>>,
}

impl Cma {
    /// What to save.
    #[must_use]
    pub fn state(&self) -> CmaState {
        CmaState {
            generation: self.generation,
            mean: self.mean.clone(),
            sigma: self.sigma,
            ps: self.ps.clone(),
            pc: self.pc.clone(),
            shape: self.shape.state(self.mean.len()),
            mirrors: self.mirrors.clone(),
        }
    }

    /// Continues what [`Cma::state`] saved.
    pub fn load(state: CmaState, constants: Constants) -> Result<Self, CmaError> {
        let CmaState { generation, mean, sigma, ps, pc, shape, mirrors } = state;
        let n = constants.n;
        let (expected, found) = (constants.covariance, shape.covariance());
        if expected != found {
            return Err(CmaError::Kind { expected, found });
        }
        for (what, v) in [("the mean", &mean), ("the path of σ", &ps), ("the path of C", &pc)]
            .into_iter()
            .chain(mirrors.iter().map(|m| ("a mirror", m)))
        {
            if v.len() != n {
                return Err(CmaError::Length { what, expected: n, found: v.len() });
            }
            if !v.iter().all(|x| x.is_finite()) {
                return Err(CmaError::NotFinite { what });
            }
        }
        let mut out = Self::new(mean, sigma, constants)?;
        out.shape = Shape::load(shape, n)?;
        (out.generation, out.ps, out.pc, out.mirrors) = (generation, ps, pc, mirrors);
        Ok(out)
    }
}
