//! How examples are divided among clients.
//!
//! The same `alpha` means different heterogeneity in different code bases, so every convention has its own name.
//! One file a partitioner, one line in [`PARTITIONERS`]. Laws that hold for all: every example goes to exactly one client or to
//! the reported remainder; no client is empty; the same seed gives the same division on every machine.
//! Deliberately missing: anything that looks at a model.

use std::collections::BTreeMap;
use std::fmt;

use antiphon_core::registry::{self, Entry};
use antiphon_core::{ConfigError, Purpose, Stream};
use serde::Deserialize;

pub mod clusters;
pub mod dirichlet_balanced;
pub mod dirichlet_class;
pub mod dirichlet_client;
pub mod dirichlet_flasc;
mod draw;
mod error;
pub mod field;
pub mod files;
pub mod iid;
pub mod quantity;
pub mod shards;

pub use error::PartitionError;

use crate::example::Example;

/// Every partitioner.
pub const PARTITIONERS: &[&Entry<dyn Partitioner>] = &[
    &iid::ENTRY,
    &dirichlet_class::ENTRY,
    &dirichlet_balanced::ENTRY,
    &dirichlet_client::ENTRY,
    &dirichlet_flasc::ENTRY,
    &field::ENTRY,
    &quantity::ENTRY,
    &shards::ENTRY,
    &files::ENTRY,
    &clusters::ENTRY,
];

/// What is divided.
#[derive(Clone, Copy, Debug)]
pub struct Pool<'a> {
    /// In file order.
    pub examples: &'a [Example],
    /// A name for each file, indexed by `Example::file`.
    pub files: &'a [String],
}

/// One client's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The value, file or number it was made from.
    pub name: String,
    /// Indices into the pool, in the order the partitioner gave them.
    pub examples: Vec<usize>,
}

/// A division of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// One share a client, in client order; none is empty.
    pub clients: Vec<Share>,
    /// Examples that belong to no client.
    pub left: Vec<usize>,
    /// Why, for people; empty when none is left.
    pub left_why: String,
}

impl Partition {
    /// Shares named `client 0`, `client 1`, …
    fn numbered(shares: Vec<Vec<usize>>) -> Self {
        let share = |(i, examples)| Share { name: format!("client {i}"), examples };
        Self { clients: shares.into_iter().enumerate().map(share).collect(), ..Self::default() }
    }
}

/// Divides examples among clients.
pub trait Partitioner: fmt::Debug + Send + Sync {
    /// A division of `pool`, a pure function of the two arguments. `stream` is this partitioner's own.
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError>;
}

/// Builds the partitioner that `table` names (key `id`) and divides `pool`, with the laws checked.
pub fn divide(table: &toml::Table, pool: &Pool<'_>, seed: u64) -> Result<Partition, PartitionError> {
    let partitioner = registry::build("partitioner", PARTITIONERS, table)?;
    let id = table.get("id").and_then(toml::Value::as_str).unwrap_or_default();
    let stream = Stream::keyed(seed, Purpose::Partition, None, None, id);
    let partition = partitioner.assign(pool, &stream)?;
    if let Some(empty) = partition.clients.iter().find(|c| c.examples.is_empty()) {
        return Err(PartitionError::EmptyClient { client: empty.name.clone() });
    }
    let mut seen = vec![false; pool.examples.len()];
    for &i in partition.clients.iter().flat_map(|c| &c.examples).chain(&partition.left) {
        match seen.get_mut(i) {
            Some(first) if !*first => *first = true,
            _ => return Err(PartitionError::NotADivision { example: i }),
        }
    }
    match seen.iter().position(|s| !s) {
        Some(example) => Err(PartitionError::NotADivision { example }),
        None => Ok(partition),
    }
}

/// What a partitioner looks at when it skews clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// The label of labelled rows.
    Label,
    /// The column named `columns.field`.
    Field,
    /// That many clusters of the texts, see [`clusters`].
    Clusters(usize),
}

impl Over {
    /// Examples by value, values in alphabetical order. Without `over`: labels if there are any, otherwise fields.
    fn strata(
        over: Option<Self>,
        pool: &Pool<'_>,
        stream: &Stream,
    ) -> Result<BTreeMap<String, Vec<usize>>, PartitionError> {
        let labelled = pool.examples.iter().any(|e| e.label().is_some());
        let over = over.unwrap_or(if labelled { Self::Label } else { Self::Field });
        let mut strata = BTreeMap::<String, Vec<usize>>::new();
        if let Self::Clusters(k) = over {
            for (i, c) in clusters::assign(pool, k, stream)?.into_iter().enumerate() {
                strata.entry(format!("cluster {c}")).or_default().push(i);
            }
            return Ok(strata);
        }
        for (i, e) in pool.examples.iter().enumerate() {
            let value = if over == Self::Label { e.label() } else { e.field.as_deref() };
            match value {
                Some(v) => strata.entry(v.to_owned()).or_default().push(i),
                None => {
                    let examples = pool.examples.len();
                    let with = |f: fn(&Example) -> bool| pool.examples.iter().filter(|e| f(e)).count();
                    return Err(PartitionError::NoValue {
                        what: if over == Self::Label { "label" } else { "field" },
                        examples,
                        labels: with(|e| e.label().is_some()),
                        fields: with(|e| e.field.is_some()),
                    });
                }
            }
        }
        Ok(strata)
    }
}

/// Refuses settings that no data could satisfy.
fn check(id: &str, conditions: &[(bool, &str)]) -> Result<(), ConfigError> {
    match conditions.iter().find(|(holds, _)| !holds) {
        Some((_, reason)) => Err(ConfigError::Invalid { id: id.to_owned(), reason: (*reason).to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
