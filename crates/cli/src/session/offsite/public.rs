//! Public data: what the owner of an emulator aligns it on.

use std::collections::BTreeSet;
use std::sync::Arc;

use antiphon_core::{Purpose, Stream};
use antiphon_data::encode::encode;
use antiphon_data::{Federation, Sequence, Settings};
use serde::Deserialize;

use crate::error::{Fail, Failure, Kind};
use crate::runfile::{Loaded, PublicSettings};
use crate::session::{Person, Tokens};

/// Public sequences.
#[derive(Clone, Debug)]
pub(crate) struct Public {
    /// Trained on.
    pub(crate) train: Arc<[Sequence]>,
    /// Measured on.
    pub(crate) held_out: Arc<[Sequence]>,
    /// How many of both some client has too.
    pub(crate) overlap: u64,
}

impl Public {
    /// Divides `sequences` by the run's seed.
    pub(super) fn new(
        loaded: &Loaded,
        settings: &PublicSettings,
        mut sequences: Vec<Sequence>,
        people: &[Person],
    ) -> Result<Self, Failure> {
        let found = sequences.len();
        let held = ((settings.validation * found as f64).round() as usize).max(1);
        if found > 1 && found <= held {
            let why = format!(
                "`validation` = {} of {found} public sequences leaves none to align on; choose a smaller share, such as 0.2",
                settings.validation
            );
            return Err(loaded.source.blame("emulator.public", &why));
        }
        if found < 2 {
            let why = format!(
                "{found} public sequences, and two are the least: one to align on and one to measure on; name more \
                 data, or a larger `share`"
            );
            return Err(loaded.source.blame("emulator.public", &why));
        }
        let of_clients: BTreeSet<&[u32]> = people
            .iter()
            .flat_map(|p| [&p.train, &p.validation, &p.test])
            .flat_map(|h| h.sequences.iter().map(|s| &s.ids[..]))
            .collect();
        let overlap = sequences.iter().filter(|s| of_clients.contains(&s.ids[..])).count() as u64;
        Stream::keyed(loaded.settings.run.seed, Purpose::Split, None, None, "public").shuffle(&mut sequences);
        let train = sequences.split_off(held);
        Ok(Self { train: train.into(), held_out: sequences.into(), overlap })
    }

    /// What the user should know before anything runs.
    pub(super) fn note(&self) -> Option<String> {
        (self.overlap > 0).then(|| {
            format!(
                "{} of {} public sequences are also some client's: what the owner learns from them, clients gave away",
                self.overlap,
                self.train.len() + self.held_out.len()
            )
        })
    }
}

/// The sequences of `emulator.public.path`, read as `[data]` says with the keys that differ.
pub(super) fn read(
    loaded: &Loaded,
    settings: &PublicSettings,
    path: &str,
    tokens: &Tokens,
) -> Result<Vec<Sequence>, Failure> {
    let mut table = toml::Table::try_from(&loaded.settings.data).fail(Kind::Internal)?;
    for key in
        ["validation_path", "test_path", "validation_rows", "test_rows", "max_examples", "columns", "split"]
    {
        table.remove(key);
    }
    let one = [("id".to_owned(), "iid".into()), ("clients".to_owned(), toml::Value::Integer(1))];
    table.insert("partition".to_owned(), toml::Value::Table(toml::Table::from_iter(one)));
    table.extend(settings.data.clone());
    table.insert("path".to_owned(), path.into());
    let data = Settings::deserialize(table)
        .map_err(|e| loaded.source.blame("emulator.public", &format!("data: {}", e.message())))?;
    let place = "emulator.public";
    let federation = Federation::load(&data, &loaded.dir, loaded.settings.run.seed)
        .fail_at(Kind::Data, place)
        .map_err(|f| f.with_near_path(&loaded.path(path)))?;
    let policy = federation.policy(&data, false, tokens).fail_at(Kind::Data, place)?;
    let examples: Vec<_> = federation.clients.into_iter().flat_map(|c| c.train).collect();
    Ok(encode(&examples, &policy, tokens, place).fail_at(Kind::Data, place)?.sequences().to_vec())
}
