//! Half of the isotropic server: clients' results by rank.

use antiphon_algo::layer::carrier_of;
use antiphon_algo::{Accumulator, Carrier, Contract, Mismatch, ReduceError, Reducer, View};
use antiphon_core::Payload;

use super::Places;
use crate::cma::{Constants, Covariance};

/// Weighs clients by the rank of their fitness, after pulling in steps that no sample would take.
///
/// Gives out `[d + 3]`: `Σ w_k (m − m_k)`, the number of clients, `σ̂`, and minus the mean fitness.
#[derive(Clone, Debug)]
pub struct Ranked {
    places: Places,
    parents: usize,
}

impl Ranked {
    /// Of `dim` coordinates, for clients whose generations have `parents` parents.
    #[must_use]
    pub fn new(dim: usize, parents: usize) -> Self {
        Self { places: Places::new(dim), parents }
    }
}

impl Reducer for Ranked {
    fn describe(&self) -> String {
        format!("fedbpt dim={} parents={}", self.places.dim, self.parents)
    }

    fn accepts(&self, up: &Contract) -> Result<(), Mismatch> {
        let refuse = |needs, remedy| Err(Mismatch { stage: "fedbpt", needs, found: up.clone(), remedy });
        if up.view == View::SumOnly {
            return refuse("each client's result, to rank them", "leave secure aggregation out");
        }
        if up.weighted || up.carrier != Carrier::Real || up.len != self.places.len() {
            return refuse("a mean, a step size and a fitness in their own units", "leave the layers out");
        }
        Ok(())
    }

    fn start(&self, _: &Contract) -> Box<dyn Accumulator> {
        Box::new(Rows { of: self.clone(), rows: Vec::new() })
    }
}

struct Rows {
    of: Ranked,
    rows: Vec<Vec<f32>>,
}

impl Accumulator for Rows {
    fn add(&mut self, x: Payload) -> Result<(), ReduceError> {
        let expected = self.of.places.len();
        if x.len() != expected {
            return Err(ReduceError::Length { expected, found: x.len() });
        }
        let found = carrier_of(&x);
        let row = x.into_real().map_err(|_| ReduceError::Carrier { expected: Carrier::Real, found })?;
        self.rows.push(row);
        Ok(())
    }

    fn merge(&mut self, other: Box<dyn Accumulator>) -> Result<(), ReduceError> {
        let other: Box<dyn std::any::Any> = other;
        let other = other.downcast::<Self>().map_err(|_| ReduceError::Merge)?;
        if other.of.places != self.of.places || other.of.parents != self.of.parents {
            return Err(ReduceError::Merge);
        }
        self.rows.extend(other.rows);
        Ok(())
    }

    fn finish(self: Box<Self>, _: usize) -> Result<Payload, ReduceError> {
        let places = self.of.places;
        let (n, count) = (places.dim as f64, self.rows.len());
        if count == 0 {
            return Err(ReduceError::Empty);
        }
        let squares: f64 = self.rows.iter().map(|r| f64::from(r[places.path()]).powi(2)).sum();
        let sigma = (squares / count as f64 / self.of.parents as f64).sqrt();
        let longest = (n.sqrt() + 2.0 * n / (n + 2.0)) * sigma;
        let fitness: Vec<f64> = self.rows.iter().map(|r| -f64::from(r[places.fitness()])).collect();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by(|&a, &b| fitness[a].total_cmp(&fitness[b]));
        let constants = Constants::all_parents(places.dim, count, Covariance::Isotropic);
        let weights = constants.map(|c| c.weights).map_err(|_| ReduceError::Empty)?;
        let mut out = vec![0.0_f64; places.len()];
        for (&k, w) in order.iter().zip(weights) {
            let step = &self.rows[k][..places.dim];
            let length = step.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>().sqrt();
            let w = if length > longest { w * longest / length } else { w };
            out.iter_mut().zip(step).for_each(|(o, s)| *o += w * f64::from(*s));
        }
        out[places.sigma()] = count as f64;
        out[places.path()] = sigma;
        out[places.fitness()] = -fitness.iter().sum::<f64>() / count as f64;
        Ok(Payload::Real(out.into_iter().map(|v| v as f32).collect()))
    }
}
