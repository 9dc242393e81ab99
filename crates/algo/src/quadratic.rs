//! A client with a closed form: `k` steps of gradient descent on `||theta - target||^2 / 2`.
//!
//! ```text
//! theta_k - target = (1 - lr)^k (theta_0 - target)
//! delta = theta_0 - theta_k = (1 - (1 - lr)^k) (theta_0 - target)
//! ```

use std::collections::BTreeMap;

use antiphon_core::{Round, Weight};

use crate::{Local, LocalWork, WorkError};

/// The toy client of tests, examples and benches.
#[derive(Clone, Debug, PartialEq)]
pub struct Quadratic {
    /// The client's optimum, `[d]`.
    pub target: Vec<f32>,
    /// Step size, `0 < lr < 1`.
    pub lr: f32,
    /// Local steps `k`.
    pub steps: i32,
    /// Pretended size of the data set.
    pub weight: Weight,
}

impl Quadratic {
    /// `1 - (1 - lr)^k`: the part of the way to the target that one round covers.
    #[must_use]
    pub fn reach(&self) -> f32 {
        1.0 - (1.0 - self.lr).powi(self.steps)
    }
}

impl LocalWork for Quadratic {
    fn run(&mut self, start: &[f32], _: Round) -> Result<Local, WorkError> {
        if start.len() != self.target.len() {
            return Err(WorkError::Length { expected: self.target.len(), found: start.len() });
        }
        let reach = self.reach();
        let delta = start.iter().zip(&self.target).map(|(s, t)| reach * (s - t)).collect();
        let loss: f64 = start.iter().zip(&self.target).map(|(s, t)| f64::from(s - t).powi(2) / 2.0).sum();
        Ok(Local { delta, weight: self.weight, metrics: BTreeMap::from([("train_loss".to_owned(), loss)]) })
    }
}
