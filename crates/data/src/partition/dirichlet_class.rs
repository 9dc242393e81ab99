//! Per class, proportions over clients from a symmetric Dirichlet distribution: `p_k ~ Dir(alpha · 1_N)` and client `j`
//! gets the share `p_kj` of class `k`. Sizes differ as well as label distributions. Drawn again until every client has
//! `min_examples`. Convention of FedML and of FederatedScope's LDA splitter, without their size mask.

use antiphon_core::registry::{Entry, settings};
use antiphon_core::{ConfigError, Stream};
use serde::Deserialize;

use super::{Over, Partition, PartitionError, Partitioner, Pool, check, draw};

/// Registry line of [`DirichletClass`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "dirichlet_class",
    paper: "arXiv:2007.13518",
    about: "each class spread over clients by Dir(alpha); redrawn until every client has min_examples",
    build: |table| Ok(Box::new(DirichletClass(PerClass::read("dirichlet_class", table)?))),
};

/// Settings of the conventions that spread each class over clients.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerClass {
    /// Number of clients.
    pub clients: usize,
    /// Concentration; small values give each client few classes.
    pub alpha: f64,
    /// What plays the class: labels if the rows have them, otherwise the field.
    pub over: Option<Over>,
    /// Least examples of a client; 1 unless the convention says otherwise.
    pub min_examples: Option<usize>,
}

impl PerClass {
    /// Reads and checks the settings of partitioner `id`.
    pub(super) fn read(id: &'static str, table: &toml::Table) -> Result<Self, ConfigError> {
        let this: Self = settings(id, table)?;
        check(
            id,
            &[
                (this.clients > 0, "`clients` must be at least 1"),
                (this.alpha.is_finite() && this.alpha > 0.0, "`alpha` must be a positive number"),
            ],
        )?;
        Ok(this)
    }
}

/// The convention without a size mask.
#[derive(Debug)]
pub struct DirichletClass(pub PerClass);

impl Partitioner for DirichletClass {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        let PerClass { clients, alpha, over, min_examples } = self.0;
        let min = min_examples.unwrap_or(1);
        draw::enough(pool, clients, min)?;
        let strata = Over::strata(over, pool, stream)?;
        draw::until_large_enough("dirichlet_class", min, stream, |s| {
            let mut shares = vec![Vec::new(); clients];
            for class in strata.values() {
                let mut class = class.clone();
                s.shuffle(&mut class);
                let p = s.dirichlet(&vec![alpha; clients]);
                for (share, piece) in shares.iter_mut().zip(draw::cut(&class, &p)) {
                    share.extend_from_slice(piece);
                }
            }
            shares
        })
    }
}
