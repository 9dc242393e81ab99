//! Bytes to text.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::{FormatError, Problem};
use super::table::Place;

/// How the bytes of a text file are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CharEncoding {
    /// UTF-8; anything else is an error that names the line.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// ISO 8859-1: every byte is the code point of the same number.
    #[serde(rename = "latin-1")]
    Latin1,
    /// UTF-8 with invalid bytes read as U+FFFD.
    #[serde(rename = "utf-8-lossy")]
    Utf8Lossy,
}

/// `bytes` of `file` as text, without a byte-order mark.
pub fn decode(file: &Path, bytes: Vec<u8>, encoding: CharEncoding) -> Result<String, FormatError> {
    let text = match encoding {
        CharEncoding::Latin1 => return Ok(bytes.into_iter().map(char::from).collect()),
        CharEncoding::Utf8Lossy => String::from_utf8_lossy(&bytes).into_owned(),
        CharEncoding::Utf8 => String::from_utf8(bytes).map_err(|e| {
            let offset = e.utf8_error().valid_up_to();
            let bytes = e.as_bytes();
            let line = 1 + bytes[..offset].iter().filter(|&&b| b == b'\n').count() as u64;
            FormatError::at(file, Place::Line(line), Problem::NotUtf8 { offset, byte: bytes[offset] })
        })?,
    };
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stray_byte_is_named_or_read_as_told() {
        let bytes = b"one\ncaf\xe9\n".to_vec();
        let read = |e| decode(Path::new("f.txt"), bytes.clone(), e);
        let e = read(CharEncoding::Utf8).unwrap_err().to_string();
        assert!(
            e.contains("line 2") && e.contains("0xe9") && e.contains("offset 7") && e.contains("latin-1"),
            "{e}"
        );
        assert_eq!(read(CharEncoding::Latin1).unwrap(), "one\ncafé\n");
        assert_eq!(read(CharEncoding::Utf8Lossy).unwrap(), "one\ncaf\u{fffd}\n");
        let bom = decode(Path::new("f"), "\u{feff}a".into(), CharEncoding::Utf8).unwrap();
        assert_eq!(bom, "a");
    }
}
