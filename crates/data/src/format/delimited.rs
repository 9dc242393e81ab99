//! Comma- and tab-separated values.

use std::path::Path;

use serde_json::Value;

use super::error::{FormatError, Problem};
use super::table::{Place, Table};

/// Reads records separated by `separator`. `quotes` gives double quotes their CSV meaning. Without `header` the
/// first record is taken for a header if its cells could be names: none empty, repeated, a number, or longer than 40
/// bytes.
pub fn read(
    file: &Path,
    text: &str,
    separator: u8,
    quotes: bool,
    header: Option<bool>,
) -> Result<(Table, bool), FormatError> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .quoting(quotes)
        .has_headers(false)
        .from_reader(text.as_bytes());
    let mut records = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| {
            FormatError::at(
                file,
                Place::Line(e.position().map_or(0, csv::Position::line)),
                Problem::Syntax(e.into()),
            )
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        records.push((Place::Line(line), record));
    }
    let first = records.first().map(|(_, r)| r.clone()).unwrap_or_default();
    let has_header = header.unwrap_or_else(|| looks_like_header(first.iter()));
    let columns = if has_header {
        first.iter().map(|c| c.trim().to_owned()).collect()
    } else {
        (0..first.len()).map(|i| i.to_string()).collect()
    };
    let rows = records
        .into_iter()
        .skip(usize::from(has_header))
        .map(|(place, r)| (place, r.iter().map(|c| Value::String(c.to_owned())).collect()));
    Ok((Table::of_cells(file, columns, rows), has_header))
}

/// Whether cells are names of columns: none is empty, repeated, a number, or longer than 40 bytes.
fn looks_like_header<'a>(cells: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    let mut cells = cells.map(str::trim).peekable();
    cells.peek().is_some()
        && cells.all(|c| !c.is_empty() && c.len() <= 40 && c.parse::<f64>().is_err() && seen.insert(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tsv(text: &str) -> (Table, bool) {
        read(Path::new("a.tsv"), text, b'\t', false, None).unwrap()
    }

    #[test]
    fn a_header_is_told_from_a_row() {
        let (t, header) = tsv("label\tsentence\n0\tsay \"hi\n");
        assert!(header);
        assert_eq!(
            (t.columns.as_slice(), t.rows.len()),
            (["label".to_owned(), "sentence".into()].as_slice(), 1)
        );
        assert_eq!(t.rows[0].cells["sentence"], "say \"hi", "a quote is a character in TSV");
        assert_eq!(t.rows[0].place, Place::Line(2));
        let (t, header) = tsv("Great phone.\t1\nBad.\t0\n");
        assert!(!header);
        assert_eq!((t.columns.len(), t.rows.len()), (2, 2));
    }

    #[test]
    fn csv_quotes_and_unequal_records() {
        let text = "text,label\n\"a, \"\"b\"\"\nc\",pos\n";
        let (t, _) = read(Path::new("a.csv"), text, b',', true, None).unwrap();
        assert_eq!(t.rows[0].cells["text"], "a, \"b\"\nc");
        let e = read(Path::new("a.csv"), "a,b\n1,2\n3\n", b',', true, None).unwrap_err().to_string();
        assert!(e.contains("a.csv: line 3"), "{e}");
    }
}
