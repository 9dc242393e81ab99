//! One party: black-box tuning, and random search, the line that stands beside every result.
//!
//! BBT (Sun et al. 2022, arXiv:2201.03514): CMA-ES over the coordinates of a random subspace ([`crate::projection`]); every so
//! many candidates the one at hand is judged on development data, and the best judged so far is what comes out.
//!
//! Random search draws from the distribution that BBT begins with, for as many candidates, and keeps the best on the training
//! data. A method that does not beat it at equal queries has learnt nothing from what it asked.

use antiphon_core::Noise;

use crate::cma::Cma;
use crate::fedbpt::SearchError;

/// What came out.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Coordinates; those of the start if nothing could be evaluated.
    pub x: Vec<f64>,
    /// By what it was chosen: development loss, or training loss for random search; `NaN` if nothing was evaluated.
    pub loss: f64,
    /// Training losses of all candidates in the order of evaluation, gaps as `NaN`.
    pub history: Vec<f64>,
}

/// Evaluates `candidates` candidates on training data (the last generation is finished) and, after every `every`, the current
/// one on development data.
pub fn tune<E>(
    mut cma: Cma,
    candidates: usize,
    every: usize,
    noise: &mut dyn Noise,
    mut train: impl FnMut(&[f64]) -> Result<f64, E>,
    mut dev: impl FnMut(&[f64]) -> Result<f64, E>,
) -> Result<Found, SearchError<E>> {
    let mut found = Found { x: cma.mean().to_vec(), loss: f64::NAN, history: Vec::new() };
    while found.history.len() < candidates {
        let generation = cma.ask(noise)?;
        let first = found.history.len();
        for candidate in &generation {
            found.history.push(train(&candidate.x).map_err(SearchError::Evaluate)?);
            if found.history.len().is_multiple_of(every.max(1)) {
                let loss = dev(&candidate.x).map_err(SearchError::Evaluate)?;
                found.consider(&candidate.x, loss);
            }
        }
        cma.tell(generation, &found.history[first..])?;
    }
    // the mean is never among the candidates, and often the best
    let loss = dev(cma.mean()).map_err(SearchError::Evaluate)?;
    found.consider(cma.mean(), loss);
    Ok(found)
}

/// `candidates` draws of `N(start, sigma²)`, the start itself first.
pub fn random<E>(
    start: &[f64],
    sigma: f64,
    candidates: usize,
    noise: &mut dyn Noise,
    mut train: impl FnMut(&[f64]) -> Result<f64, E>,
) -> Result<Found, E> {
    let mut found = Found { x: start.to_vec(), loss: f64::NAN, history: Vec::new() };
    for i in 0..candidates {
        let step = |noise: &mut dyn Noise| if i == 0 { 0.0 } else { sigma * noise.standard_normal() };
        let x: Vec<f64> = start.iter().map(|s| s + step(noise)).collect();
        let loss = train(&x)?;
        found.history.push(loss);
        found.consider(&x, loss);
    }
    Ok(found)
}

impl Found {
    fn consider(&mut self, x: &[f64], loss: f64) {
        if loss < self.loss || (self.loss.is_nan() && !loss.is_nan()) {
            self.loss = loss;
            self.x = x.to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use antiphon_core::{Purpose, Stream};

    use super::*;
    use crate::cma::{Constants, Covariance};

    fn loss(x: &[f64]) -> Result<f64, Infallible> {
        Ok(x.iter().enumerate().map(|(i, x)| (x - 1.0).powi(2) * (1 + i) as f64).sum())
    }

    #[test]
    fn black_box_tuning_beats_random_search_at_equal_queries() {
        let constants = Constants::new(10, 10, Covariance::Separable).unwrap();
        let cma = Cma::new(vec![0.0; 10], 0.5, constants).unwrap();
        let mut noise = Stream::new(1, Purpose::Test);
        let mut asked = 0;
        let tuned = tune(
            cma,
            400,
            50,
            &mut noise,
            |x| {
                asked += 1;
                loss(x)
            },
            loss,
        )
        .unwrap();
        let luck = random(&[0.0; 10], 0.5, 400, &mut noise, loss).unwrap();
        assert_eq!((asked, tuned.history.len(), luck.history.len()), (400, 400, 400));
        assert!(tuned.loss < 0.05 * luck.loss, "{} {}", tuned.loss, luck.loss);
        // random search starts from the start, so that it is never worse than nothing
        assert!(luck.loss <= luck.history[0] && luck.history[0] == loss(&[0.0; 10]).unwrap());
    }

    #[test]
    fn gaps_are_never_chosen() {
        let mut noise = Stream::new(1, Purpose::Test);
        let gap = |_: &[f64]| Ok::<_, Infallible>(f64::NAN);
        let found = random(&[2.0], 1.0, 5, &mut noise, gap).unwrap();
        assert!(found.loss.is_nan() && found.x == [2.0]);
    }
}
