//! Uniformly at random, in equal sizes: what federated learning would like its data to be.

use antiphon_core::Stream;
use antiphon_core::registry::{Entry, settings};
use serde::Deserialize;

use super::{Partition, PartitionError, Partitioner, Pool, check, draw};

/// Registry line of [`Iid`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "iid",
    paper: "arXiv:1602.05629",
    about: "uniformly at random, sizes that differ by at most one",
    build: |table| {
        let this: Iid = settings("iid", table)?;
        check("iid", &[(this.clients > 0, "`clients` must be at least 1")])?;
        Ok(Box::new(this))
    },
};

/// Settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iid {
    /// Number of clients.
    pub clients: usize,
}

impl Partitioner for Iid {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        draw::enough(pool, self.clients, 1)?;
        let mut order: Vec<usize> = (0..pool.examples.len()).collect();
        stream.clone().shuffle(&mut order);
        let equal = vec![1.0 / self.clients as f64; self.clients];
        let mut shares = Vec::new();
        let mut rest = order.as_slice();
        for size in draw::sizes(order.len(), &equal) {
            let (share, after) = rest.split_at(size);
            shares.push(share.to_vec());
            rest = after;
        }
        Ok(Partition::numbered(shares))
    }
}
