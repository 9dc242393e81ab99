//! As `dirichlet_class`, but a client that already holds `n / N` examples gets nothing more: its proportion is set to
//! zero and the others are scaled up. Sizes come out nearly equal, so the same `alpha` skews less. Convention of
//! Shepherd (FedIT), which draws again until every client has 40 examples; also of the code of Li et al. 2021.

use antiphon_core::Stream;
use antiphon_core::registry::Entry;

use super::dirichlet_class::PerClass;
use super::{Over, Partition, PartitionError, Partitioner, Pool, draw};

/// Registry line of [`DirichletBalanced`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "dirichlet_balanced",
    paper: "arXiv:2305.05644",
    about: "dirichlet_class that stops filling clients of average size; min_examples is 40 unless given",
    build: |table| Ok(Box::new(DirichletBalanced(PerClass::read("dirichlet_balanced", table)?))),
};

/// The convention with a size mask.
#[derive(Debug)]
pub struct DirichletBalanced(pub PerClass);

impl Partitioner for DirichletBalanced {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        let PerClass { clients, alpha, over, min_examples } = self.0;
        let min = min_examples.unwrap_or(40);
        draw::enough(pool, clients, min)?;
        let strata = Over::strata(over, pool, stream)?;
        let full = pool.examples.len() as f64 / clients as f64;
        draw::until_large_enough("dirichlet_balanced", min, stream, |s| {
            let mut shares: Vec<Vec<usize>> = vec![Vec::new(); clients];
            for class in strata.values() {
                let mut class = class.clone();
                s.shuffle(&mut class);
                let drawn = s.dirichlet(&vec![alpha; clients]);
                // Never empty while there is a class to spread: the sizes so far sum to less than n.
                let open: Vec<usize> = (0..clients).filter(|&j| (shares[j].len() as f64) < full).collect();
                let mass: f64 = open.iter().map(|&j| drawn[j]).sum();
                let p: Vec<f64> = open
                    .iter()
                    .map(|&j| if mass > 0.0 { drawn[j] / mass } else { 1.0 / open.len() as f64 })
                    .collect();
                for (&j, piece) in open.iter().zip(draw::cut(&class, &p)) {
                    shares[j].extend_from_slice(piece);
                }
            }
            shares
        })
    }
}
