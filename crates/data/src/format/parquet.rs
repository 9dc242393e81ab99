//! Parquet through its record interface, without Arrow.

use std::fs::File;
use std::path::Path;

use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::Field;
use serde_json::Value;

use super::error::{FormatError, Problem};
use super::table::{Place, Table};

/// Reads every row of `file`.
pub fn read(file: &Path) -> Result<Table, FormatError> {
    // The reader asserts what a damaged file may violate (levels beyond their maximum, for one); the test below finds
    // such files. Nothing it was working on outlives the panic.
    std::panic::catch_unwind(|| rows(file)).unwrap_or_else(|_| {
        let damaged = "the file is damaged: its pages contradict its schema";
        Err(FormatError::new(file, Problem::Syntax(damaged.into())))
    })
}

fn rows(file: &Path) -> Result<Table, FormatError> {
    let handle = File::open(file).map_err(|source| FormatError::new(file, Problem::Io(source)))?;
    let broken =
        |row: u64, e: ParquetError| FormatError::at(file, Place::Row(row), Problem::Syntax(e.into()));
    let reader = SerializedFileReader::new(handle).map_err(|e| broken(0, e))?;
    let mut rows = Vec::new();
    for (i, row) in reader.get_row_iter(None).map_err(|e| broken(0, e))?.enumerate() {
        let place = Place::Row(i as u64 + 1);
        let row = row.map_err(|e| broken(i as u64 + 1, e))?;
        rows.push((place, row.into_columns().into_iter().map(|(k, f)| (k, value(f))).collect()));
    }
    let mut table = Table::of_objects(file, rows);
    table.positional = true;
    Ok(table)
}

/// A cell as JSON; dates, times, decimals and 16-bit floats as the text that the format prints.
fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => b.into(),
        Field::Byte(n) => n.into(),
        Field::Short(n) => n.into(),
        Field::Int(n) => n.into(),
        Field::Long(n) => n.into(),
        Field::UByte(n) => n.into(),
        Field::UShort(n) => n.into(),
        Field::UInt(n) => n.into(),
        Field::ULong(n) => n.into(),
        Field::Float(x) => x.into(),
        Field::Double(x) => x.into(),
        Field::Str(s) => s.into(),
        // Writers that leave out the UTF8 annotation still mean text.
        Field::Bytes(b) => String::from_utf8_lossy(b.data()).into(),
        Field::Group(row) => row.into_columns().into_iter().map(|(k, f)| (k, value(f))).collect(),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => {
            map.entries().iter().map(|(k, v)| (k.to_string(), value(v.clone()))).collect()
        }
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;

    use super::*;

    /// Two rows of `{text, label, messages: [{role, content}]}`, as `datasets` writes them.
    fn write(path: &Path) {
        let schema = "message rows {
            REQUIRED BYTE_ARRAY text (UTF8);
            REQUIRED INT32 label;
            OPTIONAL GROUP messages (LIST) { REPEATED GROUP list { OPTIONAL GROUP element {
                OPTIONAL BYTE_ARRAY role (UTF8);
                OPTIONAL BYTE_ARRAY content (UTF8);
            } } }
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = File::create(path).unwrap();
        let mut w =
            SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::builder().build())).unwrap();
        let mut group = w.next_row_group().unwrap();
        let bytes = |v: &[&str]| v.iter().map(|s| ByteArray::from(*s)).collect::<Vec<_>>();
        let mut next = 0;
        while let Some(mut column) = group.next_column().unwrap() {
            match next {
                0 => {
                    let v = bytes(&["hello", "schön"]);
                    column.typed::<ByteArrayType>().write_batch(&v, None, None).unwrap();
                }
                1 => {
                    column.typed::<Int32Type>().write_batch(&[1, 0], None, None).unwrap();
                }
                n => {
                    let v =
                        if n == 2 { bytes(&["user", "assistant", "user"]) } else { bytes(&["q", "a", "r"]) };
                    let typed = column.typed::<ByteArrayType>();
                    typed.write_batch(&v, Some(&[4, 4, 4]), Some(&[0, 1, 0])).unwrap();
                }
            }
            column.close().unwrap();
            next += 1;
        }
        group.close().unwrap();
        w.close().unwrap();
    }

    #[test]
    fn nested_rows_come_back_as_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        write(&path);
        let t = read(&path).unwrap();
        assert_eq!(t.columns, ["text", "label", "messages"]);
        assert_eq!(t.rows.len(), 2);
        assert_eq!(t.rows[1].cells["text"], "schön");
        assert_eq!(t.rows[0].cells["label"], 1);
        let expected =
            serde_json::json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
        assert_eq!(t.rows[0].cells["messages"], expected);
    }

    /// The reader is a foreign one: whatever a file holds, it must not take the process down.
    #[test]
    fn damaged_files_are_errors_or_rows_but_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        write(&path);
        let good = std::fs::read(&path).unwrap();
        let mut errors = 0;
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            std::fs::write(&path, &bad).unwrap();
            errors += usize::from(read(&path).is_err());
        }
        assert!(errors > good.len() / 4, "{errors} of {} files refused", good.len());
    }

    #[test]
    fn a_truncated_file_is_an_error_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        write(&path);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("rows.parquet"));
    }
}
