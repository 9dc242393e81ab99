//! One client for each file of `path`: data that owners have already kept apart.

use antiphon_core::Stream;
use antiphon_core::registry::{Entry, settings};
use serde::Deserialize;

use super::{Partition, PartitionError, Partitioner, Pool, Share};

/// Registry line of [`Files`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "files",
    paper: "",
    about: "one client per file of path",
    build: |table| Ok(Box::new(settings::<Files>("files", table)?)),
};

/// Settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// If given, the number of files that there must be.
    pub clients: Option<usize>,
}

impl Partitioner for Files {
    fn assign(&self, pool: &Pool<'_>, _: &Stream) -> Result<Partition, PartitionError> {
        if let Some(clients) = self.clients.filter(|&c| c != pool.files.len()) {
            return Err(PartitionError::FileCount { files: pool.files.len(), clients });
        }
        let mut clients: Vec<Share> =
            pool.files.iter().map(|name| Share { name: name.clone(), examples: Vec::new() }).collect();
        for (i, e) in pool.examples.iter().enumerate() {
            match clients.get_mut(e.file) {
                Some(share) => share.examples.push(i),
                None => return Err(PartitionError::NotADivision { example: i }),
            }
        }
        Ok(Partition { clients, ..Partition::default() })
    }
}
