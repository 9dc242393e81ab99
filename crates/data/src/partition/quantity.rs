//! Skew of sizes alone: contents are uniform, sizes follow a Dirichlet or a log-normal distribution (quantity skew of Li
//! et al. 2022, "Federated learning on non-IID data silos", section 3.3).

use antiphon_core::registry::{Entry, settings};
use antiphon_core::{Noise, Stream};
use serde::Deserialize;

use super::{Partition, PartitionError, Partitioner, Pool, check, draw};

/// Registry line of [`Quantity`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "quantity",
    paper: "arXiv:2102.02079",
    about: "uniform contents, sizes from Dir(alpha) or a log-normal distribution (sigma)",
    build: |table| {
        let this: Quantity = settings("quantity", table)?;
        let positive = |x: Option<f64>| x.is_none_or(|x| x.is_finite() && x > 0.0);
        check(
            "quantity",
            &[
                (this.clients > 0, "`clients` must be at least 1"),
                (
                    this.alpha.is_some() != this.sigma.is_some(),
                    "give either `alpha` (Dirichlet) or `sigma` (log-normal)",
                ),
                (positive(this.alpha), "`alpha` must be a positive number"),
                (positive(this.sigma), "`sigma` must be a positive number"),
            ],
        )?;
        Ok(Box::new(this))
    },
};

/// Settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantity {
    /// Number of clients.
    pub clients: usize,
    /// Sizes in proportion to one draw of `Dir(alpha)`; small values give few large clients.
    pub alpha: Option<f64>,
    /// Sizes in proportion to `exp(sigma · N(0, 1))`.
    pub sigma: Option<f64>,
    /// Least examples of a client; drawn again until all have it.
    pub min_examples: Option<usize>,
}

impl Partitioner for Quantity {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        let min = self.min_examples.unwrap_or(1);
        draw::enough(pool, self.clients, min)?;
        draw::until_large_enough("quantity", min, stream, |s| {
            let mut order: Vec<usize> = (0..pool.examples.len()).collect();
            s.shuffle(&mut order);
            let p = match (self.alpha, self.sigma) {
                (Some(alpha), _) => s.dirichlet(&vec![alpha; self.clients]),
                (None, sigma) => {
                    let sigma = sigma.unwrap_or(0.0);
                    let w: Vec<f64> =
                        (0..self.clients).map(|_| (sigma * s.standard_normal()).exp()).collect();
                    let total: f64 = w.iter().sum();
                    w.iter().map(|w| w / total).collect()
                }
            };
            let mut rest = order.as_slice();
            let mut shares = Vec::with_capacity(self.clients);
            for size in draw::sizes(order.len(), &p) {
                let (share, after) = rest.split_at(size.min(rest.len()));
                shares.push(share.to_vec());
                rest = after;
            }
            shares
        })
    }
}
