//! Per client, a label distribution around the prior: `q_j ~ Dir(alpha · prior)`, and client `j` draws its examples
//! without replacement from `q_j`. All clients have the same size up to one example. A class that runs out is dropped and
//! the rest of `q_j` scaled up; when all of it has run out, what is left is drawn in proportion to what is left.
//!
//! Convention of Hsu et al. 2019 (section 3), FedNLP and FedPETuning. The concentrations sum to `alpha`, where those of
//! `dirichlet_class` sum to `alpha` times the number of clients: the same number means far more skew here. Later clients
//! choose from less, so their distributions lie closer to what is left over.

use antiphon_core::Stream;
use antiphon_core::registry::{Entry, settings};
use serde::Deserialize;

use super::{Over, Partition, PartitionError, Partitioner, Pool, check, draw};

/// Registry line of [`DirichletClient`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "dirichlet_client",
    paper: "arXiv:1909.06335",
    about: "each client's label distribution from Dir(alpha * prior), equal sizes, exhausted classes refilled",
    build: |table| {
        let this: DirichletClient = settings("dirichlet_client", table)?;
        check(
            "dirichlet_client",
            &[
                (this.clients > 0, "`clients` must be at least 1"),
                (this.alpha.is_finite() && this.alpha > 0.0, "`alpha` must be a positive number"),
            ],
        )?;
        Ok(Box::new(this))
    },
};

/// Settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirichletClient {
    /// Number of clients.
    pub clients: usize,
    /// Sum of the concentrations; small values give each client few classes.
    pub alpha: f64,
    /// What plays the class: labels if the rows have them, otherwise the field.
    pub over: Option<Over>,
}

impl Partitioner for DirichletClient {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        let n = pool.examples.len();
        draw::enough(pool, self.clients, 1)?;
        let strata = Over::strata(self.over, pool, stream)?;
        let mut shuffling = stream.substream(0);
        let mut left: Vec<Vec<usize>> = strata.into_values().collect();
        left.iter_mut().for_each(|class| shuffling.shuffle(class));
        let concentration: Vec<f64> = left.iter().map(|c| self.alpha * c.len() as f64 / n as f64).collect();
        let mut shares = Vec::with_capacity(self.clients);
        for (j, size) in
            draw::sizes(n, &vec![1.0 / self.clients as f64; self.clients]).into_iter().enumerate()
        {
            let mut s = stream.substream(1 + j as u64);
            let q = s.dirichlet(&concentration);
            let mut share = Vec::with_capacity(size);
            for _ in 0..size {
                let of = |weight: &dyn Fn(usize) -> f64| -> Vec<f64> {
                    (0..left.len()).map(|k| if left[k].is_empty() { 0.0 } else { weight(k) }).collect()
                };
                let mut weights = of(&|k| q[k]);
                if weights.iter().sum::<f64>() <= 0.0 {
                    weights = of(&|k| left[k].len() as f64);
                }
                share.extend(left[pick(&weights, s.uniform())].pop());
            }
            shares.push(share);
        }
        Ok(Partition::numbered(shares))
    }
}

/// The index at which the cumulated weights pass `u` of their sum; never one of zero weight.
fn pick(weights: &[f64], u: f64) -> usize {
    let mut target = u * weights.iter().sum::<f64>();
    let mut last = 0;
    for (k, &w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        last = k;
        if target < w {
            break;
        }
        target -= w;
    }
    last
}
