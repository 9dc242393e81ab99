//! The other half of the isotropic server: the mean moves, the step size adapts.

use antiphon_algo::{ServerStep, State, StepError};

use super::{Places, Settings};
use crate::cma::{Constants, Covariance};

const NAME: &str = "fedbpt";

/// Cumulative step-size adaptation over rounds. State: the path `ps` (`[d]`) and the step size carried (`[1]`).
#[derive(Clone, Debug)]
pub struct Steps {
    places: Places,
    first: f64,
    floor: f64,
    decay: f64,
    state: Option<Carried>,
}

#[derive(Clone, Debug)]
struct Carried {
    /// Binary32, as it is saved, so that a resumed search has the same bits.
    path: Vec<f32>,
    sigma: f32,
}

impl Steps {
    /// Before the first round.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let places = Places::new(settings.dim);
        Self { places, first: settings.sigma, floor: settings.floor, decay: settings.decay, state: None }
    }

    fn length(what: &'static str, expected: usize, found: usize) -> Result<(), StepError> {
        if expected == found { Ok(()) } else { Err(StepError::Length { step: NAME, what, expected, found }) }
    }
}

impl ServerStep for Steps {
    fn describe(&self) -> String {
        let Self { places, first, floor, decay, .. } = self;
        format!("{NAME} dim={} sigma={first} floor={floor} decay={decay}", places.dim)
    }

    fn step(&mut self, theta: &mut [f32], delta: &[f32], _: usize) -> Result<(), StepError> {
        let Places { dim } = self.places;
        Self::length("the parameters", self.places.len(), theta.len())?;
        Self::length("the aggregate", theta.len(), delta.len())?;
        let (count, sigma) = (delta[self.places.sigma()] as usize, f64::from(delta[self.places.path()]));
        let Ok(c) = Constants::all_parents(dim, count, Covariance::Isotropic) else {
            return Ok(()); // a zero aggregate: nobody was counted
        };
        let carried =
            self.state.get_or_insert_with(|| Carried { path: vec![0.0; dim], sigma: self.first as f32 });
        let gain = (c.cs * (2.0 - c.cs) * c.mu_eff).sqrt() / sigma;
        for (p, d) in carried.path.iter_mut().zip(delta) {
            *p = ((1.0 - c.cs) * f64::from(*p) - gain * f64::from(*d)) as f32;
        }
        let length = carried.path.iter().map(|p| f64::from(*p).powi(2)).sum::<f64>().sqrt();
        let factor = (c.cs / c.damps * (length / c.chi - 1.0)).clamp(-1.0, 0.0).exp();
        carried.sigma = (f64::from(carried.sigma) * factor * self.decay) as f32;
        for (t, d) in theta[..dim].iter_mut().zip(delta) {
            *t -= d;
        }
        theta[self.places.sigma()] = carried.sigma.max(self.floor as f32);
        theta[self.places.path()] = 0.0;
        theta[self.places.fitness()] = 0.0;
        Ok(())
    }

    fn state(&self) -> State {
        let Some(carried) = &self.state else { return State::new() };
        State::from([("ps".to_owned(), carried.path.clone()), ("sigma".to_owned(), vec![carried.sigma])])
    }

    fn load(&mut self, state: State) -> Result<(), StepError> {
        let mut carried = Carried { path: vec![0.0; self.places.dim], sigma: self.first as f32 };
        let empty = state.is_empty();
        for (name, v) in state {
            match name.as_str() {
                "ps" => {
                    Self::length("the path", self.places.dim, v.len())?;
                    carried.path = v;
                }
                "sigma" => {
                    Self::length("the step size", 1, v.len())?;
                    carried.sigma = v[0];
                }
                _ => return Err(StepError::Unknown { step: NAME, name }),
            }
        }
        self.state = (!empty).then_some(carried);
        Ok(())
    }
}
