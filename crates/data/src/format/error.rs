//! What can be wrong with a data file, each with the place and what would work.

use std::fmt;
use std::path::{Path, PathBuf};

use super::table::Place;
use crate::template::TemplateError;

/// A data file that cannot be read as asked.
#[derive(Debug)]
pub struct FormatError {
    /// Which file or folder, as the user named it.
    pub file: PathBuf,
    /// Where in the file, if at one place.
    pub place: Option<Place>,
    /// What is wrong there.
    pub problem: Box<Problem>,
}

impl FormatError {
    pub(super) fn new(file: &Path, problem: Problem) -> Self {
        Self { file: file.to_owned(), place: None, problem: Box::new(problem) }
    }

    pub(super) fn at(file: &Path, place: Place, problem: Problem) -> Self {
        Self { file: file.to_owned(), place: Some(place), problem: Box::new(problem) }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(place) = self.place {
            write!(f, "{place}: ")?;
        }
        self.problem.fmt(f)
    }
}

impl std::error::Error for FormatError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[source] std::io::Error),
    /// A directory without data files.
    #[error("no data file in this folder; known endings: {}", endings.join(", "))]
    EmptyFolder {
        /// Endings that would have been read.
        endings: Vec<&'static str>,
    },
    /// Neither the ending nor the content tells the container.
    #[error(
        "cannot tell what kind of file this is (ending `{ending}`); set `container` to one of {}", known.join(", ")
    )]
    UnknownContainer {
        /// Its ending.
        ending: String,
        /// Containers that can be forced.
        known: Vec<&'static str>,
    },
    /// A compressed file.
    #[error("compressed with gzip; decompress it first")]
    Compressed,
    /// Bytes that are not UTF-8.
    #[error(
        "byte 0x{byte:02x} at offset {offset} is not UTF-8; set `encoding` to \"latin-1\" if the file is, or to \
         \"utf-8-lossy\" to read such bytes as U+FFFD"
    )]
    NotUtf8 {
        /// Offset of the first such byte in the file.
        offset: usize,
        /// The byte.
        byte: u8,
    },
    /// The container's own syntax is broken.
    #[error("{0}")]
    Syntax(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// `rows` is needed, or does not lead to a list.
    #[error(
        "{}; lists of rows found: {}",
        match path { Some(p) => format!("`rows = \"{p}\"` does not lead to a list of rows"),
                     None => "the file is not a list of rows, so `rows` must name one".to_owned() },
        if found.is_empty() { "none".to_owned() } else { found.join(", ") }
    )]
    Rows {
        /// What `rows` said.
        path: Option<String>,
        /// Key paths that lead to lists.
        found: Vec<String>,
    },
    /// A row that is neither an object nor a list nor a text.
    #[error("expected an object or a list of cells, found {found}")]
    NotARow {
        /// The JSON type found.
        found: &'static str,
    },
    /// No layout fits the columns.
    #[error(
        "no known format has these columns: {}{}. Known formats: {known}. Name the columns that matter, such as \
         `columns = {{ prompt = \"…\", completion = \"…\" }}`, or set `format`",
        columns.join(", "), if *nested { " (some hold lists or objects)" } else { "" }
    )]
    UnknownLayout {
        /// Columns found.
        columns: Vec<String>,
        /// Whether some cells are structured.
        nested: bool,
        /// What each known layout needs.
        known: String,
    },
    /// Columns of a kind of data that no objective here reads.
    #[error(
        "columns {} look like {what}, which antiphon does not train on yet; set `format` (for instance \
         \"{instead}\") to use the other columns only", columns.join(", ")
    )]
    Unsupported {
        /// Columns found.
        columns: Vec<String>,
        /// What they look like.
        what: &'static str,
        /// A layout that would read part of it.
        instead: &'static str,
    },
    /// A forced layout lacks a column.
    #[error(
        "format {layout} needs a column for `{role}` (looked for {}); columns found: {}{}",
        looked_for.join(", "), columns.join(", "),
        near.as_ref().map(|n| format!("; did you mean `{role} = \"{n}\"`?")).unwrap_or_default()
    )]
    NoColumn {
        /// The layout.
        layout: &'static str,
        /// The part the column would play.
        role: &'static str,
        /// Names tried.
        looked_for: Vec<String>,
        /// Columns found.
        columns: Vec<String>,
        /// The closest of them.
        near: Option<String>,
    },
    /// A number names a column of rows that have no order, or too few.
    #[error(
        "`columns.{role} = {index}` needs columns with a position, and {}; columns found: {}",
        if *positional { "there are fewer" } else { "these rows are objects: give a name" }, columns.join(", ")
    )]
    NoIndex {
        /// The part the column would play.
        role: &'static str,
        /// The number given, from zero.
        index: usize,
        /// Whether columns have positions at all.
        positional: bool,
        /// Columns found.
        columns: Vec<String>,
    },
    /// A row without a cell that its layout needs.
    #[error("no cell `{column}`; this row has {}", columns.join(", "))]
    NoCell {
        /// The column.
        column: String,
        /// The columns of that row.
        columns: Vec<String>,
    },
    /// A cell of the wrong type.
    #[error("`{column}` should be {expected}, found {found}")]
    WrongCell {
        /// The column, with the place inside the cell.
        column: String,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A label that the grouping file does not place.
    #[error("label `{label}` is in no group of {}", groups.display())]
    UngroupedLabel {
        /// The label.
        label: String,
        /// The grouping file.
        groups: PathBuf,
    },
    /// The grouping file is not what it should be.
    #[error("expected a JSON object of `{{group: [labels]}}` or `{{label: group}}`, found {found}")]
    NotGroups {
        /// What is wrong.
        found: String,
    },
    /// Plain text without `splitter`.
    #[error("plain text needs `splitter`: one of {}", known.join(", "))]
    NoSplitter {
        /// Known splitters.
        known: Vec<&'static str>,
    },
    /// The speaker splitter met a text that does not begin with a name.
    #[error(
        "the first block has no line `NAME:` before its text, so this is no play; other splitters: paragraph, line, \
         whole"
    )]
    NoSpeaker,
    /// A template that cannot be used with these rows.
    #[error(transparent)]
    Template(TemplateError),
    /// No usable example.
    #[error("no example: {rows} rows read{}, {blank} of them blank",
        if *more > 0 { format!(" from this and {more} more files") } else { String::new() })]
    Empty {
        /// Further files read.
        more: usize,
        /// Rows read.
        rows: usize,
        /// Rows without anything to learn.
        blank: usize,
    },
}
