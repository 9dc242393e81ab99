//! Rows as every container yields them, before anyone knows what they mean.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// Where a row stands in its file, counted from one as editors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Containers made of lines.
    Line(u64),
    /// Containers made of records.
    Row(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(n) => write!(f, "line {n}"),
            Self::Row(n) => write!(f, "row {n}"),
        }
    }
}

/// One record: named cells, text in CSV and any JSON value elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Cells by column name.
    pub cells: Map<String, Value>,
    /// Where it stands.
    pub place: Place,
}

/// The rows of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// As the user named it.
    pub file: PathBuf,
    /// Every column of some row, in order of first appearance.
    pub columns: Vec<String>,
    /// Whether columns have a position, so that a number can name one.
    pub positional: bool,
    /// The rows, in file order.
    pub rows: Vec<Row>,
}

impl Table {
    /// A table with a fixed list of columns, one cell each.
    #[must_use]
    pub fn of_cells(
        file: &Path,
        columns: Vec<String>,
        rows: impl IntoIterator<Item = (Place, Vec<Value>)>,
    ) -> Self {
        let rows = rows
            .into_iter()
            .map(|(place, cells)| Row { cells: columns.iter().cloned().zip(cells).collect(), place })
            .collect();
        Self { file: file.to_owned(), columns, positional: true, rows }
    }

    /// A table of objects; its columns are the union of their keys.
    #[must_use]
    pub fn of_objects(file: &Path, rows: impl IntoIterator<Item = (Place, Map<String, Value>)>) -> Self {
        let rows: Vec<Row> = rows.into_iter().map(|(place, cells)| Row { cells, place }).collect();
        let mut seen = std::collections::BTreeSet::new();
        let mut columns = Vec::new();
        for key in rows.iter().flat_map(|r| r.cells.keys()) {
            if seen.insert(key.as_str()) {
                columns.push(key.clone());
            }
        }
        Self { file: file.to_owned(), columns, positional: false, rows }
    }
}
