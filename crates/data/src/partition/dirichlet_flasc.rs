//! Per client, a vector over classes `q_j ~ Dir(alpha · 1_C)`; then, per class, the clients' entries are scaled to sum to
//! one and class `k` is spread by `q_jk / Σ_i q_ik`. Every example is used, sizes differ. Convention of FLASC
//! (Kuo et al. 2024).

use antiphon_core::Stream;
use antiphon_core::registry::Entry;

use super::dirichlet_class::PerClass;
use super::{Over, Partition, PartitionError, Partitioner, Pool, draw};

/// Registry line of [`DirichletFlasc`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "dirichlet_flasc",
    paper: "arXiv:2406.05233",
    about: "Dir(alpha) over classes per client, then normalised over clients per class",
    build: |table| Ok(Box::new(DirichletFlasc(PerClass::read("dirichlet_flasc", table)?))),
};

/// The convention of FLASC.
#[derive(Debug)]
pub struct DirichletFlasc(pub PerClass);

impl Partitioner for DirichletFlasc {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        let PerClass { clients, alpha, over, min_examples } = self.0;
        let min = min_examples.unwrap_or(1);
        draw::enough(pool, clients, min)?;
        let strata = Over::strata(over, pool, stream)?;
        draw::until_large_enough("dirichlet_flasc", min, stream, |s| {
            let q: Vec<Vec<f64>> = (0..clients).map(|_| s.dirichlet(&vec![alpha; strata.len()])).collect();
            let mut shares = vec![Vec::new(); clients];
            for (k, class) in strata.values().enumerate() {
                let mut class = class.clone();
                s.shuffle(&mut class);
                let mut p: Vec<f64> = q.iter().map(|q| q[k]).collect();
                let mass: f64 = p.iter().sum();
                if mass > 0.0 {
                    p.iter_mut().for_each(|p| *p /= mass);
                } else {
                    // Every client's draw underflowed here: one of them takes the class.
                    p[s.below(clients as u64) as usize] = 1.0;
                }
                for (share, piece) in shares.iter_mut().zip(draw::cut(&class, &p)) {
                    share.extend_from_slice(piece);
                }
            }
            shares
        })
    }
}
