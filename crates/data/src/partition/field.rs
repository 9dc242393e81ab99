//! One client for each value of a field: a category, a domain, a speaker, a user. The natural division where data have
//! one (Dolly's categories, CLINC150's domains, the speakers of a play).

use std::collections::BTreeMap;

use antiphon_core::Stream;
use antiphon_core::registry::{Entry, settings};
use serde::Deserialize;

use super::{Over, Partition, PartitionError, Partitioner, Pool, Share, check};

/// Registry line of [`Field`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "field",
    paper: "arXiv:1812.01097",
    about: "one client per value of columns.field, small values left out or pooled",
    build: |table| {
        let this: Field = settings("field", table)?;
        check("field", &[(this.top != Some(0), "`top` must be at least 1")])?;
        Ok(Box::new(this))
    },
};

/// Settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// If given, the number of clients that must come out.
    pub clients: Option<usize>,
    /// Keep only that many values, those with the most examples (then the first by name).
    pub top: Option<usize>,
    /// Least examples of a value that becomes a client.
    #[serde(default = "one")]
    pub min_examples: usize,
    /// Least bytes of text of a value that becomes a client.
    #[serde(default)]
    pub min_bytes: usize,
    /// What happens to the values that become no client.
    #[serde(default)]
    pub rest: Rest,
}

/// What happens to the values that become no client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rest {
    /// They stay out, and the report says how many.
    #[default]
    Leave,
    /// Together they make one more client, called `rest`.
    Pool,
}

fn one() -> usize {
    1
}

impl Partitioner for Field {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        let values = Over::strata(Some(Over::Field), pool, stream)?;
        let count = values.len();
        let bytes = |examples: &[usize]| examples.iter().map(|&i| pool.examples[i].bytes()).sum::<usize>();
        let mut kept: Vec<(&String, &Vec<usize>)> = values
            .iter()
            .filter(|(_, e)| e.len() >= self.min_examples && bytes(e) >= self.min_bytes)
            .collect();
        if kept.is_empty() {
            return Err(PartitionError::NoneLargeEnough {
                values: count,
                min_examples: self.min_examples,
                min_bytes: self.min_bytes,
                examples: values.values().map(Vec::len).max().unwrap_or(0),
                bytes: values.values().map(|e| bytes(e)).max().unwrap_or(0),
            });
        }
        if let Some(top) = self.top {
            kept.sort_by_key(|(name, e)| (std::cmp::Reverse(e.len()), *name));
            kept.truncate(top);
            kept.sort();
        }
        let kept: BTreeMap<&String, &Vec<usize>> = kept.into_iter().collect();
        let mut clients: Vec<Share> = kept
            .iter()
            .map(|(name, examples)| Share { name: (*name).clone(), examples: (*examples).clone() })
            .collect();
        let mut left: Vec<usize> =
            values.iter().filter(|(v, _)| !kept.contains_key(v)).flat_map(|(_, e)| e).copied().collect();
        left.sort_unstable();
        let out = count - clients.len();
        if self.rest == Rest::Pool && !left.is_empty() {
            clients.push(Share { name: "rest".to_owned(), examples: std::mem::take(&mut left) });
        }
        if let Some(asked) = self.clients.filter(|&asked| asked != clients.len()) {
            return Err(PartitionError::ClientCount { values: clients.len(), clients: asked });
        }
        let left_why = if left.is_empty() {
            String::new()
        } else {
            format!("{out} of {count} values are too small to be a client")
        };
        Ok(Partition { clients, left, left_why })
    }
}
