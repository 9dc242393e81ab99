//! What an event log says about the state of a run, and which of it is still on disk.

use std::collections::BTreeMap;
use std::path::Path;

use antiphon_core::{ClientId, Digest, Round};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Manifest, Restored};
use crate::disk::names;
use crate::error::StoreError;
use crate::layout::Layout;
use crate::log::Event;
use crate::run::Settings;

/// The first row of a log.
#[derive(Serialize, Deserialize)]
pub(crate) struct Created {
    pub(crate) format: u32,
    pub(crate) settings: Settings,
    pub(crate) run_toml: String,
    pub(crate) meta: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Closed {
    pub(crate) manifest: Digest,
    pub(crate) theta: Digest,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Update {
    pub(crate) client: ClientId,
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    pub(crate) stored: bool,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Rewound {
    /// The first round that is done again.
    pub(crate) next: Round,
}

/// What the log says.
pub(crate) struct History {
    pub(crate) created: Created,
    /// Manifest of every round that is closed and was not done again.
    pub(crate) closed: BTreeMap<Round, Digest>,
    /// Since the last closing.
    pub(crate) updates: Vec<Update>,
    pub(crate) published: Option<Round>,
}

impl History {
    pub(crate) fn read(layout: &Layout, events: &[Event]) -> Result<Self, StoreError> {
        let path = layout.log();
        let Some((first, rest)) = events.split_first() else {
            return Err(StoreError::NoRun {
                path: layout.root().to_owned(),
                missing: "the first row of events.sqlite",
            });
        };
        let mut history = Self {
            created: from_json(&path, first)?,
            closed: BTreeMap::new(),
            updates: Vec::new(),
            published: None,
        };
        for event in rest {
            match (event.kind.as_str(), event.round) {
                ("closed", Some(round)) => {
                    history.closed.insert(round, from_json::<Closed>(&path, event)?.manifest);
                    history.updates.clear();
                }
                ("rewound", _) => {
                    let Rewound { next } = from_json(&path, event)?;
                    history.closed.split_off(&next);
                    history.updates.clear();
                }
                ("update", _) => history.updates.push(from_json(&path, event)?),
                ("published", _) => history.published = from_json(&path, event)?,
                _ => {}
            }
        }
        Ok(history)
    }
}

/// The manifests on disk that the log names and that read well. Of those it does not name, one that
/// has seen rows the log lacks is an error in durable mode and debris of a power loss otherwise.
pub(crate) fn read_manifests(
    layout: &Layout,
    closed: &BTreeMap<Round, Digest>,
    chain: &[Digest],
    durable: bool,
) -> Result<BTreeMap<Round, Manifest>, StoreError> {
    let mut kept = BTreeMap::new();
    for name in names(&layout.rounds())? {
        let Ok(round) = name.parse().map(Round) else { continue };
        let Ok(manifest) = Manifest::read(layout, round, None) else { continue };
        let seen = manifest.log;
        let in_log =
            usize::try_from(seen.seq).ok().and_then(|n| chain.get(n.checked_sub(1)?)) == Some(&seen.digest);
        if !in_log && durable {
            let head = chain.len() as i64;
            return Err(StoreError::LogCut { path: layout.log(), head, round, seen: seen.seq });
        }
        if let Some(digest) = closed.get(&round)
            && Manifest::read(layout, round, Some(*digest)).is_ok()
        {
            kept.insert(round, manifest);
        }
    }
    Ok(kept)
}

pub(crate) type Skipped = Vec<(Round, StoreError)>;

/// The newest checkpoint whose every byte is intact, and why newer ones are not.
pub(crate) fn newest_intact(
    layout: &Layout,
    closed: &BTreeMap<Round, Digest>,
    kept: &BTreeMap<Round, Manifest>,
) -> Result<(Option<Restored>, Skipped), StoreError> {
    let mut skipped = Vec::new();
    for (round, digest) in closed.iter().rev() {
        let restored = match kept.get(round) {
            Some(manifest) => manifest.restore(&layout.blobs()),
            None => Manifest::read(layout, *round, Some(*digest)).and_then(|m| m.restore(&layout.blobs())),
        };
        match restored {
            Ok(restored) => return Ok((Some(restored), skipped)),
            // no permission, a failing disk: not a matter of going back
            Err(StoreError::Io { doing, path, source }) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io { doing, path, source });
            }
            Err(e) => skipped.push((*round, e)),
        }
    }
    Ok((None, skipped))
}

fn from_json<T: serde::de::DeserializeOwned>(path: &Path, event: &Event) -> Result<T, StoreError> {
    serde_json::from_str(&event.json).map_err(|source| StoreError::Json {
        path: path.to_owned(),
        line: usize::try_from(event.seq).unwrap_or(0),
        source,
    })
}
