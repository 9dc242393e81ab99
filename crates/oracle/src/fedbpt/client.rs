//! A client's round: a short CMA-ES around the broadcast mean.

use antiphon_core::Noise;

use crate::cma::{Cma, CmaError};

/// What a client begins with.
#[derive(Debug)]
pub struct Job {
    /// Around the broadcast, with fresh paths: see [`Cma::light_copy`].
    pub cma: Cma,
    /// Generations, `T`.
    pub generations: u32,
}

/// What a client sends back.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Where its search ended, `[d]`.
    pub mean: Vec<f64>,
    /// Fitness of that mean; `NaN` if it could not be evaluated.
    pub fitness: f64,
    /// `Σ_t σ_t²` over the step sizes before each generation.
    pub squares: f64,
}

/// A client's search that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError<E> {
    /// Of the search.
    #[error(transparent)]
    Cma(#[from] CmaError),
    /// Of whoever evaluates.
    #[error(transparent)]
    Evaluate(E),
}

/// Searches; `fitness` is minimised, `NaN` is missing. A generation without any fitness ends the search with an error.
pub fn search<E>(
    job: Job,
    noise: &mut dyn Noise,
    mut fitness: impl FnMut(&[f64]) -> Result<f64, E>,
) -> Result<Report, SearchError<E>> {
    let Job { mut cma, generations } = job;
    let mut squares = 0.0;
    for _ in 0..generations {
        squares += cma.sigma() * cma.sigma();
        let candidates = cma.ask(noise)?;
        let values = candidates
            .iter()
            .map(|c| fitness(&c.x).map_err(SearchError::Evaluate))
            .collect::<Result<Vec<f64>, _>>()?;
        cma.tell(candidates, &values)?;
    }
    let mean = cma.mean().to_vec();
    let fitness = fitness(&mean).map_err(SearchError::Evaluate)?;
    Ok(Report { mean, fitness, squares })
}
