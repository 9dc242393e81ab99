//! The whole server, for any covariance.

use super::{Report, Settings};
use crate::cma::{Candidate, Cma, CmaError, Constants};

/// FedBPT's server.
#[derive(Clone, Debug)]
pub struct Server {
    settings: Settings,
    cma: Cma,
    /// The step size carried from round to round, before the floor.
    carried: f64,
    /// Parents of a client's generation.
    parents: usize,
}

/// What clients begin a round with.
#[derive(Clone, Debug)]
pub struct Broadcast {
    /// Mean and covariance.
    pub cma: Cma,
    /// The step size.
    pub sigma: f64,
}

impl Broadcast {
    /// A client's job.
    pub fn job(&self, settings: &Settings) -> Result<super::Job, CmaError> {
        let cma = self.cma.light_copy(self.sigma, settings.client_constants()?)?;
        Ok(super::Job { cma, generations: settings.generations })
    }
}

impl Server {
    /// Before the first round, for `clients` answers a round.
    pub fn new(settings: Settings, clients: usize) -> Result<Self, CmaError> {
        let constants = Constants::all_parents(settings.dim, clients, settings.covariance)?;
        let cma = Cma::new(vec![0.0; settings.dim], settings.sigma, constants)?;
        let parents = settings.client_constants()?.mu;
        Ok(Self { settings, cma, carried: settings.sigma, parents })
    }

    /// What to send.
    #[must_use]
    pub fn broadcast(&self) -> Broadcast {
        // what the run file asks for is not raised to the floor
        let first = self.cma.generation() == 0;
        let sigma = if first { self.carried } else { self.carried.max(self.settings.floor) };
        Broadcast { cma: self.cma.clone(), sigma }
    }

    /// The search over clients' results.
    #[must_use]
    pub fn cma(&self) -> &Cma {
        &self.cma
    }

    /// Learns from a round.
    pub fn close(&mut self, reports: &[Report]) -> Result<(), CmaError> {
        let squares: f64 = reports.iter().map(|r| r.squares).sum();
        let sigma = (squares / reports.len() as f64 / self.parents as f64).sqrt();
        self.cma.set_sigma(sigma)?;
        let means = reports.iter().map(|r| Candidate::foreign(r.mean.clone())).collect();
        let fitness: Vec<f64> = reports.iter().map(|r| r.fitness).collect();
        self.cma.tell(means, &fitness)?;
        self.carried = self.settings.decay * self.carried.min(self.carried * self.cma.sigma() / sigma);
        Ok(())
    }
}
