//! Examples sorted by class, cut into `clients · shards_per_client` equal shards, and each client dealt its number of
//! shards at random (McMahan et al. 2017, section 3: two shards of one digit each).

use antiphon_core::Stream;
use antiphon_core::registry::{Entry, settings};
use serde::Deserialize;

use super::{Over, Partition, PartitionError, Partitioner, Pool, check, draw};

/// Registry line of [`Shards`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "shards",
    paper: "arXiv:1602.05629",
    about: "sorted by class, cut into equal shards, shards_per_client dealt to each client",
    build: |table| {
        let this: Shards = settings("shards", table)?;
        check(
            "shards",
            &[
                (this.clients > 0, "`clients` must be at least 1"),
                (this.shards_per_client > 0, "`shards_per_client` must be at least 1"),
            ],
        )?;
        Ok(Box::new(this))
    },
};

/// Settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shards {
    /// Number of clients.
    pub clients: usize,
    /// Shards that each client holds.
    pub shards_per_client: usize,
    /// What plays the class: labels if the rows have them, otherwise the field.
    pub over: Option<Over>,
}

impl Partitioner for Shards {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        draw::enough(pool, self.clients, self.shards_per_client)?;
        let strata = Over::strata(self.over, pool, stream)?;
        let mut s = stream.substream(0);
        let mut sorted = Vec::with_capacity(pool.examples.len());
        for mut class in strata.into_values() {
            s.shuffle(&mut class);
            sorted.extend(class);
        }
        let shards = self.clients * self.shards_per_client;
        let mut pieces = Vec::with_capacity(shards);
        let mut rest = sorted.as_slice();
        for size in draw::sizes(sorted.len(), &vec![1.0 / shards as f64; shards]) {
            let (piece, after) = rest.split_at(size);
            pieces.push(piece);
            rest = after;
        }
        s.shuffle(&mut pieces);
        Ok(Partition::numbered(pieces.chunks(self.shards_per_client).map(<[_]>::concat).collect()))
    }
}
