//! Files that torch wrote (`tests/golden/torch/make.py`), and broken ones.

use super::*;

const F32: &[u8] = include_bytes!("../../tests/golden/torch/f32.pt");
const F16: &[u8] = include_bytes!("../../tests/golden/torch/f16.pt");
const BF16: &[u8] = include_bytes!("../../tests/golden/torch/bf16.pt");
const TRANSPOSED: &[u8] = include_bytes!("../../tests/golden/torch/transposed.pt");
const LIST: &[u8] = include_bytes!("../../tests/golden/torch/list.pt");
const INT: &[u8] = include_bytes!("../../tests/golden/torch/int.pt");
const SLICED: &[u8] = include_bytes!("../../tests/golden/torch/sliced.pt");

#[test]
fn tensors_of_three_types_come_as_they_were() {
    let exact = [0.0, 1.5, -2.25, 3e-7, 65504.0, -0.0];
    assert_eq!(read(F32), Ok((vec![2, 3], exact.to_vec())));
    // the nearest of each type: 3e-7 is subnormal in half precision, 65504 is not in bfloat16
    let half = [0.0, 1.5, -2.25, 5.0 / f32::from(1u16 << 12) / 4096.0, 65504.0, -0.0];
    assert_eq!(read(F16), Ok((vec![2, 3], half.to_vec())));
    let (shape, brain) = read(BF16).unwrap();
    assert_eq!(
        (shape, &brain[..3], brain[4], brain[5].to_bits()),
        (vec![2, 3], &exact[..3], 65536.0, 1 << 31)
    );
    assert!((brain[3] / 3e-7 - 1.0).abs() < 1.0 / 256.0);
    assert_eq!(read(SLICED), Ok((vec![2, 3], vec![0.0; 6])));
    assert_eq!(read_base64(&STANDARD.encode(F32)), read(F32));
}

#[test]
fn what_is_no_plain_tensor_is_refused() {
    assert!(matches!(read(TRANSPOSED), Err(TorchError::Strides { .. })));
    assert!(matches!(read(LIST), Err(Format(_))));
    assert_eq!(read(INT), Err(TorchError::Type("IntStorage".into())));
    assert_eq!(read_base64("§"), Err(TorchError::Base64));
    for bytes in [&b""[..], b"PK\x05\x06", &[0; 64], b"\x80\x02."] {
        assert!(read(bytes).is_err());
    }
}

/// A file as torch writes it, of a tensor without elements: `shape` and `strides` as the pickle has them.
fn empty_tensor(shape: &[u32], strides: &[u32]) -> Vec<u8> {
    let text = |t: &str| [&b"X"[..], &(t.len() as u32).to_le_bytes(), t.as_bytes()].concat();
    let ints = |list: &[u32]| {
        let each = list.iter().flat_map(|n| [&b"J"[..], &n.to_le_bytes()].concat());
        [b'('].into_iter().chain(each).chain([b't']).collect::<Vec<u8>>()
    };
    let storage =
        [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), b"K\0".to_vec()];
    let program = [
        &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(("[..],
        &storage.concat(),
        b"tQK\0",
        &ints(shape),
        &ints(strides),
        b"\x89ccollections\nOrderedDict\n)RtR.",
    ]
    .concat();
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    let entries = [("a/data.pkl", &program[..]), ("a/data/0", &[])];
    for (name, data) in entries {
        let sizes = [(data.len() as u32).to_le_bytes(); 2].concat();
        let lengths = [(name.len() as u16).to_le_bytes(), [0; 2]].concat();
        let at = (file.len() as u32).to_le_bytes();
        file.extend([b"PK\x03\x04", &[0; 14][..], &sizes, &lengths, name.as_bytes(), data].concat());
        directory
            .extend([b"PK\x01\x02", &[0; 16][..], &sizes, &lengths, &[0; 10], &at, name.as_bytes()].concat());
    }
    let (count, at) = ((entries.len() as u16).to_le_bytes(), (file.len() as u32).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    let end = [b"PK\x05\x06", &[0; 4][..], &count, &count, &size, &at, &[0; 2]].concat();
    [file, directory, end].concat()
}

#[test]
fn sizes_that_no_number_holds_are_refused() {
    assert_eq!(read(&empty_tensor(&[0, 3], &[3, 1])), Ok((vec![0, 3], vec![])));
    let large = 1 << 31;
    // no elements, and a stride above 64 bits
    let hollow = read(&empty_tensor(&[0, large, large, large], &[1, 1, large, 1]));
    assert!(matches!(hollow, Err(TorchError::Strides { .. })), "{hollow:?}");
    // more elements than 64 bits count
    let endless = read(&empty_tensor(&[large, large, large, 0], &[1, 1, large, 1]));
    assert!(matches!(endless, Err(TorchError::Length { found: 0, .. })), "{endless:?}");
}

#[test]
fn no_cut_and_no_flipped_byte_panics() {
    for cut in 0..F32.len() {
        assert!(read(&F32[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..F32.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = F32.to_vec();
            bytes[at] ^= flip;
            if let Ok((shape, values)) = read(&bytes) {
                assert_eq!(shape.iter().product::<usize>(), values.len());
            }
        }
    }
}
