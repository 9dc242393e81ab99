//! Files to examples: container, then layout, then one example a row.
//!
//! What was detected is a value that prints itself, and every step of it can be forced. Deliberately missing:
//! compressed files, remote files, preference pairs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub mod chars;
pub mod container;
mod convert;
pub mod delimited;
pub mod error;
pub mod json;
pub mod layout;
pub mod parquet;
pub mod table;
pub mod text;

pub use chars::CharEncoding;
pub use container::Container;
pub use error::{FormatError, Problem};
pub use layout::{Column, Layout, Named};
pub use text::Splitter;

use crate::example::{Example, Kind};
use crate::template::Prompt;
use convert::Converter;
use layout::Resolved;
use table::Table;

/// How to read files. Everything left out is detected.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Forces the container.
    pub container: Option<Container>,
    /// Forces the layout.
    pub layout: Option<Layout>,
    /// How bytes become text.
    pub encoding: CharEncoding,
    /// Whether CSV and TSV begin with the names of the columns.
    pub header: Option<bool>,
    /// Key path to the list of rows inside a JSON file.
    pub rows: Option<String>,
    /// How plain text becomes documents.
    pub splitter: Option<Splitter>,
    /// Which column plays which part.
    pub columns: Named,
    /// How rows become prompts.
    pub prompt: Option<Prompt>,
    /// Put before every completion.
    pub completion_prefix: String,
    /// Group of each label, which becomes the field of labelled rows without one.
    pub groups: Option<LabelGroups>,
}

/// A grouping of labels, such as the ten domains of the 150 intents of CLINC150.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelGroups {
    file: PathBuf,
    group_of: BTreeMap<String, String>,
}

impl LabelGroups {
    /// Reads `{group: [labels]}` or `{label: group}`.
    pub fn read(file: &Path) -> Result<Self, FormatError> {
        let text = chars::decode(file, bytes(file)?, CharEncoding::Utf8)?;
        let wrong = |found: String| FormatError::new(file, Problem::NotGroups { found });
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let object = value.as_object().ok_or_else(|| wrong(json::type_name(&value).to_owned()))?;
        let mut group_of = BTreeMap::new();
        let mut put = |label: &str, group: &str| match group_of.insert(label.to_owned(), group.to_owned()) {
            Some(other) if other != group => {
                Err(wrong(format!("label `{label}` in both `{other}` and `{group}`")))
            }
            _ => Ok(()),
        };
        for (key, value) in object {
            match value {
                serde_json::Value::String(group) => put(key, group)?,
                serde_json::Value::Array(labels) => {
                    for label in labels {
                        let label = label.as_str().ok_or_else(|| wrong(format!("{label} under `{key}`")))?;
                        put(label, key)?;
                    }
                }
                other => return Err(wrong(format!("{} under `{key}`", json::type_name(other)))),
            }
        }
        Ok(Self { file: file.to_owned(), group_of })
    }
}

/// What a file turned out to be. Prints as one line for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// The file.
    pub file: PathBuf,
    /// Its container.
    pub container: Container,
    /// For CSV and TSV, whether the first record names the columns.
    pub header: Option<bool>,
    /// The meaning of its rows.
    pub layout: Layout,
    /// Column by part.
    pub columns: BTreeMap<&'static str, String>,
    /// Rows read.
    pub rows: usize,
    /// Rows left out because nothing can be learnt from them.
    pub blank: usize,
    /// Pairs whose prompt and completion meet without white space: words may run together.
    pub glued: usize,
}

impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = self.layout.spec();
        write!(f, "{}: {}", self.file.display(), self.container.id())?;
        match self.header {
            Some(true) => write!(f, " with header")?,
            Some(false) => write!(f, " without header")?,
            None => {}
        }
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(p, c)| if *p == c { c.clone() } else { format!("{p} = {c}") })
            .collect();
        write!(f, ", {} rows of format {} ({})", self.rows, spec.id, columns.join(", "))?;
        if self.blank > 0 {
            write!(f, "; {} blank rows left out", self.blank)?;
        }
        if self.glued > 0 {
            let n = self.glued;
            write!(f, "; in {n} rows no white space separates prompt and completion (see `template`)")?;
        }
        Ok(())
    }
}

/// Examples with what their files turned out to be.
#[derive(Clone, Debug)]
pub struct Read {
    /// In file order; `Example::file` indexes `detected`.
    pub examples: Vec<Example>,
    /// One a file.
    pub detected: Vec<Detected>,
}

/// The data files that `paths` name; a folder stands for its data files in order of their names. Beside files of rows,
/// plain text in a folder is taken for notes (a licence, a readme) and left out.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, FormatError> {
    let mut out = Vec::new();
    for path in paths {
        let io = |source| FormatError::new(path, Problem::Io(source));
        if !path.is_dir() {
            out.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            let file = entry.map_err(io)?.path();
            let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            if file.is_file() && Container::ENDINGS.contains(&ending.as_str()) {
                found.push(file);
            }
        }
        if found.is_empty() {
            let endings = Container::ENDINGS.to_vec();
            return Err(FormatError::new(path, Problem::EmptyFolder { endings }));
        }
        let plain = |f: &PathBuf| f.extension().is_some_and(|e| e.eq_ignore_ascii_case("txt"));
        if !found.iter().all(plain) {
            found.retain(|f| !plain(f));
        }
        found.sort();
        out.extend(found);
    }
    Ok(out)
}

/// Reads `files` in order. The layout is that of the first file; each file may name its columns in its own order.
pub fn read(files: &[PathBuf], options: &ReadOptions) -> Result<Read, FormatError> {
    let mut examples = Vec::new();
    let mut detected: Vec<Detected> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let (table, container, header) = table(file, options)?;
        if table.rows.is_empty() {
            return Err(FormatError::new(file, Problem::Empty { more: 0, rows: 0, blank: 0 }));
        }
        let forced = options.layout.or(detected.first().map(|d| d.layout));
        let resolved = layout::detect(&table, &options.columns, forced)?;
        let before = examples.len();
        let glued = convert(&table, &resolved, options, index, &mut examples)?;
        detected.push(Detected {
            file: file.clone(),
            container,
            header,
            layout: resolved.layout,
            columns: resolved.columns,
            rows: table.rows.len(),
            blank: table.rows.len() - (examples.len() - before),
            glued,
        });
    }
    if examples.is_empty() {
        let sum = |f: fn(&Detected) -> usize| detected.iter().map(f).sum();
        return Err(FormatError::new(
            files.first().map_or(Path::new(""), PathBuf::as_path),
            Problem::Empty {
                more: files.len().saturating_sub(1),
                rows: sum(|d| d.rows),
                blank: sum(|d| d.blank),
            },
        ));
    }
    Ok(Read { examples, detected })
}

fn bytes(file: &Path) -> Result<Vec<u8>, FormatError> {
    std::fs::read(file).map_err(|source| FormatError::new(file, Problem::Io(source)))
}

fn table(file: &Path, options: &ReadOptions) -> Result<(Table, Container, Option<bool>), FormatError> {
    let raw = bytes(file)?;
    let container = match options.container {
        Some(forced) => forced,
        None => container::detect(file, &raw)?,
    };
    if container == Container::Parquet {
        return Ok((parquet::read(file)?, container, None));
    }
    let text = chars::decode(file, raw, options.encoding)?;
    let table = match container {
        Container::Csv | Container::Tsv => {
            let (separator, quotes) = if container == Container::Csv { (b',', true) } else { (b'\t', false) };
            let (table, header) = delimited::read(file, &text, separator, quotes, options.header)?;
            return Ok((table, container, Some(header)));
        }
        Container::Json => json::read(file, &text, options.rows.as_deref())?,
        Container::Jsonl => json::read_lines(file, &text)?,
        Container::Trec => text::read_trec(file, &text)?,
        Container::Text | Container::Parquet => {
            let splitter = options.splitter.as_ref().ok_or_else(|| {
                FormatError::new(file, Problem::NoSplitter { known: Splitter::KNOWN.to_vec() })
            })?;
            text::read(file, &text, splitter)?
        }
    };
    Ok((table, container, None))
}

/// Appends the examples of `table`; returns how many pairs meet without white space.
fn convert(
    table: &Table,
    resolved: &Resolved,
    options: &ReadOptions,
    index: usize,
    examples: &mut Vec<Example>,
) -> Result<usize, FormatError> {
    let converter = Converter::new(table, resolved, options)?;
    let mut glued = 0;
    for row in &table.rows {
        let Some(kind) = converter.kind(row)? else { continue };
        let mut field = converter.field(row)?;
        if let (None, Some(groups), Kind::Labelled { label, .. }) = (&field, &options.groups, &kind) {
            let group = groups.group_of.get(label).ok_or_else(|| {
                FormatError::at(
                    &table.file,
                    row.place,
                    Problem::UngroupedLabel { label: label.clone(), groups: groups.file.clone() },
                )
            })?;
            field = Some(group.clone());
        }
        if let Kind::Completion { prompt, completion } = &kind {
            let apart = prompt.is_empty()
                || prompt.ends_with(char::is_whitespace)
                || completion.starts_with(char::is_whitespace);
            glued += usize::from(!apart);
        }
        examples.push(Example::new(kind, field, index));
    }
    Ok(glued)
}
