//! What data turn out to be: they are read as one client's, and each refusal that a setting would lift is answered by that
//! setting, until something reads well.

use std::collections::BTreeMap;
use std::path::Path;

use antiphon_data::format::{Layout, Problem};
use antiphon_data::{DataError, Example, Federation, Settings, SettingsError};
use toml::{Table, Value};

use super::LEAST_EXAMPLES;
use crate::error::{Fail, Failure, Kind};

/// Columns that say who or what a row is from, the most telling first.
const FIELDS: [&str; 9] =
    ["client", "user", "author", "site", "domain", "category", "subject", "source", "template"];

/// What the data turned out to be.
pub(super) struct Found {
    pub(super) layout: Layout,
    /// What `[data]` must say.
    pub(super) guesses: Table,
    pub(super) examples: Vec<Example>,
    /// A line a file.
    pub(super) says: Vec<String>,
}

/// Reads `data`.
pub(super) fn look(data: &Path) -> Result<Found, Failure> {
    let (mut federation, mut guesses) = search(data, &Table::new()).fail(Kind::Data)?;
    for (key, value) in field(data, &guesses) {
        let next = with(&guesses, key, &value);
        if let Ok(f) = load(data, &next)
            && owners(examples(&f))
        {
            (federation, guesses) = (f, next);
            break;
        }
    }
    Ok(Found {
        layout: federation.detected.first().map_or(Layout::Text, |d| d.layout),
        says: federation.detected.iter().map(ToString::to_string).collect(),
        examples: federation.clients.into_iter().flat_map(|c| c.train).collect(),
        guesses,
    })
}

/// The first set of guesses under which the data read well; the error of the last one that was not asked for otherwise.
fn search(data: &Path, guesses: &Table) -> Result<(Federation, Table), DataError> {
    let error = match load(data, guesses) {
        Ok(f) => return Ok((f, guesses.clone())),
        Err(e) => e,
    };
    for (key, value) in remedies(&error) {
        // each key is tried once, so this ends
        if !guesses.contains_key(key)
            && let Ok((f, found)) = search(data, &with(guesses, key, &value))
            && plausible(key, &value, &f)
        {
            return Ok((f, found));
        }
    }
    Err(error)
}

/// Settings that would lift a refusal.
fn remedies(error: &DataError) -> Vec<(&'static str, Value)> {
    let DataError::Format(error) = error else { return Vec::new() };
    match &*error.problem {
        Problem::NotUtf8 { .. } => vec![("encoding", "latin-1".into())],
        Problem::NoSplitter { .. } => {
            ["speaker", "paragraph", "line"].map(|s| ("splitter", s.into())).into_iter().collect()
        }
        Problem::Rows { path: None, found } => {
            let train = found.iter().any(|path| path.starts_with("train"));
            train.then(|| ("rows", "train".into())).into_iter().collect()
        }
        Problem::UnknownLayout { columns, .. } if columns.len() == 2 => {
            let pair = |text: &String, label: &String| {
                let name = |column: &String| match column.parse::<i64>() {
                    Ok(position) => Value::from(position),
                    Err(_) => Value::from(column.as_str()),
                };
                let entries = [("text".to_owned(), name(text)), ("label".to_owned(), name(label))];
                ("columns", Value::from(Table::from_iter(entries)))
            };
            vec![pair(&columns[0], &columns[1]), pair(&columns[1], &columns[0])]
        }
        _ => Vec::new(),
    }
}

/// Whether what a guess makes of the data is worth training on.
fn plausible(key: &str, value: &Value, f: &Federation) -> bool {
    let n = examples(f).count();
    match key {
        // documents rather than crumbs or one lump; a play has speakers who speak often
        "splitter" if value.as_str() == Some("speaker") => n >= 2 * LEAST_EXAMPLES && owners(examples(f)),
        "splitter" => n >= 2 * LEAST_EXAMPLES,
        // labels repeat, texts do not
        "columns" => {
            let mut counts = BTreeMap::<&str, usize>::new();
            for label in examples(f).filter_map(Example::label) {
                *counts.entry(label).or_default() += 1;
            }
            counts.len() > 1 && n >= 10 * counts.len()
        }
        _ => true,
    }
}

/// Guesses of the column of owners.
fn field(data: &Path, guesses: &Table) -> Vec<(&'static str, Value)> {
    let column = |name: &str| {
        let mut columns = match guesses.get("columns") {
            Some(Value::Table(columns)) => columns.clone(),
            _ => Table::new(),
        };
        columns.insert("field".into(), name.into());
        ("columns", Value::from(columns))
    };
    // a column that no file has: the refusal lists those that are there
    let (key, value) = column("\u{0}");
    let Err(DataError::Format(e)) = load(data, &with(guesses, key, &value)) else { return Vec::new() };
    let Problem::NoColumn { columns, .. } = &*e.problem else { return Vec::new() };
    FIELDS.into_iter().filter(|f| columns.iter().any(|c| c == f)).map(column).collect()
}

/// Whether the field divides the data among several who each have enough.
fn owners<'a>(examples: impl Iterator<Item = &'a Example>) -> bool {
    fields(examples).values().filter(|n| **n >= LEAST_EXAMPLES).count() > 1
}

/// Examples of each value of the field.
pub(super) fn fields<'a>(examples: impl Iterator<Item = &'a Example>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for field in examples.filter_map(|e| e.field.as_deref()) {
        *counts.entry(field).or_default() += 1;
    }
    counts
}

fn examples(f: &Federation) -> impl Iterator<Item = &Example> {
    f.clients.iter().flat_map(|c| &c.train)
}

fn with(guesses: &Table, key: &str, value: &Value) -> Table {
    let mut table = guesses.clone();
    table.insert(key.to_owned(), value.clone());
    table
}

/// All of the data, at one client.
fn load(data: &Path, guesses: &Table) -> Result<Federation, DataError> {
    let mut table = with(guesses, "path", &Value::from(data.display().to_string()));
    let one = [("id".to_owned(), "iid".into()), ("clients".to_owned(), 1.into())];
    table.insert("partition".into(), Table::from_iter(one).into());
    let settings: Settings = table.try_into().map_err(|e: toml::de::Error| {
        let (found, expected) = (e.message().to_owned(), "keys of [data]");
        DataError::Settings(SettingsError::Value { key: "path", found, expected })
    })?;
    Federation::load(&settings, Path::new(""), 0)
}
