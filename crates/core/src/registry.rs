//! Named implementations. One file per implementation, one line in its crate's list; an unknown id
//! is an error that lists the known ones, and there is no default.

use std::fmt;

use serde::de::DeserializeOwned;

/// One nameable implementation of a trait.
pub struct Entry<T: ?Sized + 'static> {
    /// Used in run files, on the command line, in golden files and docs; stable for ever.
    pub id: &'static str,
    /// The defining reference, such as `arXiv:1602.05629`.
    pub paper: &'static str,
    /// One line for the generated reference.
    pub about: &'static str,
    /// Builds it from its table in the run file, without the `id` key.
    pub build: fn(&toml::Table) -> Result<Box<T>, ConfigError>,
}

impl<T: ?Sized> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.id)
    }
}

/// Settings that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No such id.
    #[error("unknown {kind} `{id}`{}; known: {}", hint(id, known), known.join(", "))]
    Unknown {
        /// What was looked for: `reducer`, `method`, …
        kind: &'static str,
        /// What was asked for.
        id: String,
        /// What exists.
        known: Vec<&'static str>,
    },
    /// A table without `id`.
    #[error("the table of a {kind} needs an `id`; known: {}", known.join(", "))]
    NoId {
        /// What was looked for.
        kind: &'static str,
        /// What exists.
        known: Vec<&'static str>,
    },
    /// The table of a known id does not fit.
    #[error("{id}: {reason}")]
    Invalid {
        /// Whose table.
        id: String,
        /// What is wrong, what was expected, what would work.
        reason: String,
    },
}

fn hint(id: &str, known: &[&str]) -> String {
    nearest(id, known.iter().copied()).map(|k| format!(" (did you mean `{k}`?)")).unwrap_or_default()
}

/// The known name that a typing slip most likely meant, if one is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(word, k), k))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// Looks up `table["id"]` in `list` and builds it from the rest of the table.
pub fn build<T: ?Sized>(
    kind: &'static str,
    list: &[&Entry<T>],
    table: &toml::Table,
) -> Result<Box<T>, ConfigError> {
    let known = || list.iter().map(|e| e.id).collect();
    let Some(id) = table.get("id").and_then(toml::Value::as_str) else {
        return Err(ConfigError::NoId { kind, known: known() });
    };
    let Some(entry) = list.iter().find(|e| e.id == id) else {
        return Err(ConfigError::Unknown { kind, id: id.to_owned(), known: known() });
    };
    let mut rest = table.clone();
    rest.remove("id");
    (entry.build)(&rest)
}

/// Reads an entry's own settings struct (which should carry `#[serde(deny_unknown_fields)]`).
pub fn settings<S: DeserializeOwned>(id: &str, table: &toml::Table) -> Result<S, ConfigError> {
    S::deserialize(table.clone())
        .map_err(|e| ConfigError::Invalid { id: id.to_owned(), reason: e.message().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    trait Thing: fmt::Debug {}
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct One {
        #[allow(dead_code, reason = "only its presence is tested")]
        size: u32,
    }
    impl Thing for One {}
    const ONE: Entry<dyn Thing> =
        Entry { id: "median", paper: "", about: "", build: |t| Ok(Box::new(settings::<One>("median", t)?)) };

    fn try_build(text: &str) -> Result<Box<dyn Thing>, ConfigError> {
        build("reducer", &[&ONE], &text.parse().unwrap())
    }

    #[test]
    fn known_ids_build_and_the_rest_explain_themselves() {
        assert!(try_build("id = 'median'\nsize = 3").is_ok());
        assert_eq!(
            try_build("id = 'medain'").unwrap_err().to_string(),
            "unknown reducer `medain` (did you mean `median`?); known: median"
        );
        assert!(try_build("size = 3").unwrap_err().to_string().contains("needs an `id`"));
        assert!(try_build("id = 'median'\nsiez = 3").unwrap_err().to_string().contains("siez"));
    }
}
