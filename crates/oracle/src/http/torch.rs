//! A matrix in the container that `torch.save` writes, base64: what servers read as input vectors.
//!
//! The container is a zip of stored entries: the pickle (protocol 2) that rebuilds one contiguous float tensor, its bytes, the
//! byte order, the version.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// `[rows, width]`, row-major, as base64 of a `torch.save` file.
pub(super) fn base64(rows: usize, width: usize, values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    STANDARD.encode(zip(&[
        ("archive/data.pkl", &pickle(rows, width)),
        ("archive/byteorder", b"little"),
        ("archive/data/0", &bytes),
        ("archive/version", b"3\n"),
    ]))
}

/// `_rebuild_tensor_v2(FloatStorage '0', 0, (rows, width), (width, 1), False, OrderedDict())`
fn pickle(rows: usize, width: usize) -> Vec<u8> {
    let int = |n: usize| [&b"J"[..], &(n as u32).to_le_bytes()].concat();
    let text = |s: &str| [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
    [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        &int(rows * width),
        b"tQ",
        &int(0),
        &int(rows),
        &int(width),
        b"\x86",
        &int(width),
        &int(1),
        b"\x86\x89ccollections\nOrderedDict\n)RtR.",
    ]
    .concat()
}

/// A zip of stored entries.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = out.len() as u32;
        let size = (data.len() as u32).to_le_bytes();
        // version 2.0, no flags, stored, 1 January 1980
        let mut head = vec![20, 0, 0, 0, 0, 0, 0, 0, 33, 0];
        head.extend(crc32(data).to_le_bytes());
        head.extend(size);
        head.extend(size);
        head.extend((name.len() as u16).to_le_bytes());
        head.extend([0, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&head);
        out.extend(name.as_bytes());
        out.extend(*data);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&head);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (at, count) = (out.len() as u32, (entries.len() as u16).to_le_bytes());
    out.extend(&directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count);
    out.extend(count);
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// CRC-32 as in zip (reflected polynomial `0xedb88320`).
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ ((c & 1) * 0xedb8_8320))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
