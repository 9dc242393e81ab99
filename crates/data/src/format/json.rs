//! JSON and JSON lines: objects, lists of cells, or bare texts as rows.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::{FormatError, Problem};
use super::table::{Place, Table};

/// The JSON type of a value, for messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Reads one JSON value and follows `path`, a dotted key path, to the list of rows.
pub fn read(file: &Path, text: &str, path: Option<&str>) -> Result<Table, FormatError> {
    let root: Value = serde_json::from_str(text)
        .map_err(|e| FormatError::at(file, Place::Line(e.line() as u64), Problem::Syntax(e.into())))?;
    let wrong = |root: &Value| {
        FormatError::new(file, Problem::Rows { path: path.map(str::to_owned), found: lists(root) })
    };
    let mut at = &root;
    for key in path.into_iter().flat_map(|p| p.split('.')) {
        at = at.get(key).ok_or_else(|| wrong(&root))?;
    }
    let Value::Array(_) = at else { return Err(wrong(&root)) };
    // Moves the list out instead of copying what may be most of the memory; every key is there, as just seen.
    let rows = path.into_iter().flat_map(|p| p.split('.')).fold(root, |mut v, key| v[key].take());
    let Value::Array(rows) = rows else { return Err(wrong(&Value::Null)) };
    table(file, rows.into_iter().enumerate().map(|(i, v)| (Place::Row(i as u64 + 1), v)))
}

/// Reads one JSON value a line, blank lines skipped.
pub fn read_lines(file: &Path, text: &str) -> Result<Table, FormatError> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let place = Place::Line(i as u64 + 1);
        let value: Value = serde_json::from_str(line)
            .map_err(|e| FormatError::at(file, place, Problem::Syntax(e.into())))?;
        rows.push((place, value));
    }
    table(file, rows)
}

/// Key paths, one or two deep, that lead to lists, with their lengths.
fn lists(root: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in root.as_object().into_iter().flatten() {
        match value {
            Value::Array(rows) => found.push(format!("{key} ({} rows)", rows.len())),
            Value::Object(inner) => {
                for (k, v) in inner {
                    if let Value::Array(rows) = v {
                        found.push(format!("{key}.{k} ({} rows)", rows.len()));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

fn table(file: &Path, rows: impl IntoIterator<Item = (Place, Value)>) -> Result<Table, FormatError> {
    let mut objects = Vec::new();
    let mut width = None;
    let mut all_lists = true;
    for (place, value) in rows {
        let cells = match value {
            Value::Object(cells) => {
                all_lists = false;
                cells
            }
            Value::Array(cells) => {
                width = width.max(Some(cells.len()));
                cells.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect()
            }
            text @ Value::String(_) => {
                all_lists = false;
                Map::from_iter([("text".to_owned(), text)])
            }
            other => {
                let found = type_name(&other);
                return Err(FormatError::at(file, place, Problem::NotARow { found }));
            }
        };
        objects.push((place, cells));
    }
    let mut table = Table::of_objects(file, objects);
    if let (Some(n), true) = (width, all_lists) {
        table.columns = (0..n).map(|i| i.to_string()).collect();
        table.positional = true;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_path_leads_to_the_rows() {
        let text = r#"{"train": [["hi", "greet"], ["bye", "leave"]], "n": 3, "x": {"y": [{"a": 1}]}}"#;
        let t = read(Path::new("c.json"), text, Some("train")).unwrap();
        assert_eq!((t.columns.as_slice(), t.positional), (["0".to_owned(), "1".to_owned()].as_slice(), true));
        assert_eq!(t.rows[1].cells["1"], "leave");
        assert_eq!(read(Path::new("c.json"), text, Some("x.y")).unwrap().columns, ["a"]);
        let e = read(Path::new("c.json"), text, None).unwrap_err().to_string();
        assert!(e.contains("train (2 rows), x.y (1 rows)"), "{e}");
        let e = read(Path::new("c.json"), text, Some("n")).unwrap_err().to_string();
        assert!(e.contains("`rows = \"n\"`") && e.contains("train"), "{e}");
    }

    #[test]
    fn broken_lines_are_named() {
        let e = read_lines(Path::new("c.jsonl"), "{\"a\": 1}\n\n{\"a\": }\n").unwrap_err().to_string();
        assert!(e.starts_with("c.jsonl: line 3:"), "{e}");
        let e = read_lines(Path::new("c.jsonl"), "{\"a\": 1}\n7\n").unwrap_err().to_string();
        assert!(e.contains("line 2") && e.contains("a number"), "{e}");
    }
}
