//! Hostile safetensors files, one for each item of the gate's list, and random damage.

#![allow(clippy::unwrap_used, reason = "test helpers outside of test functions")]
mod ckpt_common;

use std::collections::BTreeMap;

use antiphon_core::{Schema, TensorSpec};
use antiphon_model::gate::{self, GateError, Limits};
use ckpt_common::{file, safetensors};
use proptest::prelude::*;
use serde_json::json;

fn schema(list: &[(&str, &[usize])]) -> Schema {
    Schema::new(list.iter().map(|(n, s)| TensorSpec { name: (*n).into(), shape: s.to_vec() }).collect())
        .unwrap()
}

/// Tensors `b: [3]` and `a: [2, 5]`, in the order of names.
fn sound() -> (Vec<u8>, Schema) {
    let tensors = BTreeMap::from([
        ("b".to_owned(), (vec![3], vec![1.0, 2.0, 3.0])),
        ("a".to_owned(), (vec![2, 5], (0..10).map(|i| i as f32).collect())),
    ]);
    (safetensors(&tensors), schema(&[("b", &[3]), ("a", &[2, 5])]))
}

#[test]
fn a_sound_file_comes_out_in_the_order_of_the_manifest() {
    let (bytes, manifest) = sound();
    let flat = gate::peer(&bytes, &manifest).unwrap();
    assert_eq!(flat[..3], [1.0, 2.0, 3.0]);
    assert_eq!(flat[3..], (0..10).map(|i| i as f32).collect::<Vec<_>>());
}

#[test]
fn every_hostile_file_is_refused_for_its_own_reason() {
    let four = [0_u8; 4];
    let entry = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let f32 = |shape: &str, offsets: &str| entry("F32", shape, offsets);
    let many = |n: usize| {
        let entries: Vec<String> = (0..n)
            .map(|i| {
                format!(r#""t{i}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#, 4 * i, 4 * i + 4)
            })
            .collect();
        file(&format!("{{{}}}", entries.join(",")), &vec![0; 4 * n])
    };
    let long_shape = format!("[{}1]", "1,".repeat(40_000));
    let zero_bomb: Vec<String> =
        (0..4000).map(|i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let nested = format!(r#"{{"x":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
    let huge_length = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
    let declared = |n: u64| [n.to_le_bytes().as_slice(), b"{}"].concat();
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":{a}}},"b":{{"dtype":"F32","shape":[1],"data_offsets":{b}}}}}"#
        )
    };
    let x = r#""x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "no safetensors file"),
        ("seven bytes", vec![0; 7], "no safetensors file"),
        ("a length beyond every limit", huge_length, "at most 262144 are accepted"),
        ("a header of 100 MB", declared(100_000_000), "at most 262144 are accepted"),
        ("a header longer than the file", declared(1000), "its header needs 1008 bytes, the file has 10"),
        ("no header", declared(0), "expected `{`"),
        ("a list", file("[]", &[]), "expected `{`"),
        ("white space first", file(" {}", &[]), "expected `{`"),
        ("text behind the object", file("{}x", &[]), "malformed"),
        ("two objects", file("{}{}", &[]), "malformed"),
        ("not UTF-8", [8_u64.to_le_bytes().as_slice(), b"{\"\xff\xff\":1}"].concat(), "malformed"),
        ("deep nesting", file(&nested, &[]), "malformed"),
        ("a number for an entry", file(r#"{"x":3}"#, &[]), "malformed"),
        ("no dtype", file(r#"{"x":{"shape":[1],"data_offsets":[0,4]}}"#, &four), "missing field `dtype`"),
        ("no shape", file(r#"{"x":{"dtype":"F32","data_offsets":[0,4]}}"#, &four), "missing field `shape`"),
        ("no offsets", file(r#"{"x":{"dtype":"F32","shape":[1]}}"#, &four), "missing field `data_offsets`"),
        (
            "an unknown field",
            file(&format!("{{{}}}", x.replace("\"dtype\"", "\"path\":\"/etc\",\"dtype\"")), &four),
            "unknown field `path`",
        ),
        (
            "a field twice",
            file(&format!("{{{}}}", x.replace("\"dtype\"", "\"shape\":[1],\"dtype\"")), &four),
            "`x.shape` twice",
        ),
        ("three offsets", file(&f32("[1]", "[0,4,4]"), &four), "malformed"),
        ("a negative dimension", file(&f32("[-1]", "[0,4]"), &four), "malformed"),
        ("a fractional dimension", file(&f32("[1.0]", "[0,4]"), &four), "malformed"),
        ("a tensor twice", file(&format!("{{{x},{x}}}"), &four), "`x` twice"),
        (
            "a tensor twice by an escape",
            file(&format!("{{{x},{}}}", x.replace("\"x\"", "\"\\u0078\"")), &four),
            "`x` twice",
        ),
        (
            "metadata",
            file(&format!(r#"{{"__metadata__":{{"format":"pt"}},{x}}}"#), &four),
            "not accepted from a peer",
        ),
        (
            "an empty name",
            file(&format!("{{{}}}", x.replace("\"x\"", "\"\"")), &four),
            "a tensor name of 0 bytes",
        ),
        (
            "a long name",
            file(&format!("{{{}}}", x.replace("\"x\"", &format!("\"{}\"", "n".repeat(600)))), &four),
            "a tensor name of 600 bytes; 1 to 512",
        ),
        ("4,097 tensors", many(4097), "more than 4096 tensors"),
        (
            "4,000 tensors of nothing",
            file(&format!("{{{}}}", zero_bomb.join(",")), &[]),
            "a dimension of zero",
        ),
        ("a scalar", file(&f32("[]", "[0,4]"), &four), "0 dimensions; 1 to 4"),
        ("rank 5", file(&f32("[1,1,1,1,1]", "[0,4]"), &four), "more than 4 dimensions"),
        ("rank 40,001", file(&f32(&long_shape, "[0,4]"), &four), "more than 4 dimensions"),
        ("a zero dimension", file(&f32("[3,0]", "[0,0]"), &[]), "a dimension of zero: shape [3, 0]"),
        (
            "an unknown type",
            file(&entry("F33", "[1]", "[0,4]"), &four),
            "element type `F33`; accepted: F32, BF16",
        ),
        (
            "integers",
            file(&entry("I32", "[1]", "[0,4]"), &four),
            "element type `I32`; accepted: F32, BF16, F16",
        ),
        ("a size that overflows", file(&f32("[4294967296,4294967296,4]", "[0,4]"), &four), "does not fill"),
        ("fewer bytes than the shape", file(&f32("[2]", "[0,4]"), &four), "does not fill its bytes 0..4"),
        ("more bytes than the shape", file(&f32("[1]", "[0,8]"), &[0; 8]), "does not fill its bytes 0..8"),
        ("offsets backwards", file(&f32("[1]", "[4,0]"), &four), "does not fill its bytes 4..0"),
        (
            "offsets at the end of numbers",
            file(&f32("[1]", "[18446744073709551612,18446744073709551615]"), &four),
            "does not fill",
        ),
        ("overlap", file(&two("[0,4]", "[0,4]"), &four), "`b` begins at byte 0 of the data, expected 4"),
        (
            "partial overlap",
            file(&two("[0,4]", "[2,6]"), &[0; 6]),
            "`b` begins at byte 2 of the data, expected 4",
        ),
        ("a hole", file(&two("[0,4]", "[8,12]"), &[0; 12]), "`b` begins at byte 8 of the data, expected 4"),
        (
            "a hole at the beginning",
            file(&f32("[1]", "[4,8]"), &[0; 8]),
            "`x` begins at byte 4 of the data, expected 0",
        ),
        (
            "truncated data",
            file(&f32("[1]", "[0,4]"), &four[..3]),
            "4 bytes of data, the file holds 3: it is truncated",
        ),
        ("out of range", file(&f32("[1000]", "[0,4000]"), &four), "4000 bytes of data, the file holds 4"),
        ("data left over", file(&f32("[1]", "[0,4]"), &[0; 9]), "4 bytes of data, the file holds 9"),
        (
            "a path for a name",
            file(&f32("[1]", "[0,4]").replace("\"x\"", "\"../../etc/cron.d/x\""), &four),
            "`../../etc/cron.d/x` is not expected",
        ),
        ("nothing", file("{}", &[]), "`x` is missing"),
        ("another shape", file(&f32("[1,1]", "[0,4]"), &four), "`x` is F32 [1, 1], expected F32 [1]"),
        ("another type", file(&entry("F16", "[2]", "[0,4]"), &four), "`x` is F16 [2], expected F32 [1]"),
        ("NaN", file(&f32("[1]", "[0,4]"), &f32::NAN.to_le_bytes()), "`x` holds NaN at element 0"),
        (
            "infinity",
            file(&f32("[1]", "[0,4]"), &f32::NEG_INFINITY.to_le_bytes()),
            "`x` holds -inf at element 0",
        ),
    ];
    let manifest = schema(&[("x", &[1])]);
    for (what, bytes, expected) in &cases {
        let error = gate::peer(bytes, &manifest).expect_err(what).to_string();
        assert!(error.contains(expected), "{what}: expected `{expected}` in: {error}");
    }
}

#[test]
fn a_local_file_may_carry_bounded_metadata_buffers_and_scalars() {
    let local = |header: &str, data: &[u8]| gate::header(&file(header, data), &Limits::LOCAL);
    let sound = r#"{"__metadata__":{"format":"pt","model.embed_tokens.weight":"lm_head.weight"},
        "n":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"m":{"dtype":"BOOL","shape":[1,1,3],"data_offsets":[8,11]}}"#;
    let header = local(sound, &[0; 11]).unwrap();
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(header.tensors["m"].bytes.len(), 3);
    let error = |header: &str| local(header, &[]).unwrap_err().to_string();
    assert!(error(r#"{"__metadata__":{"a":3}}"#).contains("malformed"));
    assert!(error(r#"{"__metadata__":{"a":"1","a":"2"}}"#).contains("`__metadata__.a` twice"));
    assert!(error(r#"{"__metadata__":{},"__metadata__":{}}"#).contains("`__metadata__` twice"));
    let long = json!({ "__metadata__": { "a": "x".repeat(2 << 20) } }).to_string();
    assert!(error(&long).contains("more than 4096 entries or 1048576 bytes"));
    let many: serde_json::Map<_, _> = (0..5000).map(|i| (i.to_string(), json!(""))).collect();
    assert!(error(&json!({ "__metadata__": many }).to_string()).contains("more than 4096 entries"));
    assert!(error(r#"{"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#).contains("element type `F4`"));
}

/// Headers that the gate reads as the format's own reader does.
fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(header) = gate::header(bytes, &Limits::LOCAL) else { return Ok(()) };
    let theirs = safetensors::SafeTensors::deserialize(bytes);
    prop_assert!(theirs.is_ok(), "accepted here, refused there: {:?}", theirs.err());
    let theirs = theirs.unwrap();
    prop_assert_eq!(theirs.len(), header.tensors.len());
    for (name, view) in theirs.iter() {
        let ours = &header.tensors[name];
        prop_assert_eq!(view.shape(), ours.shape.as_slice());
        prop_assert_eq!(view.data(), &bytes[ours.bytes.clone()]);
        prop_assert_eq!(view.dtype().to_string(), ours.dtype.to_string());
    }
    Ok(())
}

/// Tensors of random shapes, in binary32.
fn tensors() -> impl Strategy<Value = BTreeMap<String, (Vec<usize>, Vec<f32>)>> {
    let tensor = prop::collection::vec(1_usize..5, 1..4)
        .prop_map(|shape| (shape.clone(), vec![0.25; shape.iter().product()]));
    prop::collection::btree_map("[a-z.\"\\\\é]{1,12}", tensor, 0..6)
}

proptest! {
    #[test]
    fn sound_files_are_read_as_the_format_reads_them(tensors in tensors()) {
        let bytes = safetensors(&tensors);
        prop_assert_eq!(gate::header(&bytes, &Limits::LOCAL).unwrap().tensors.len(), tensors.len());
        agree(&bytes)?;
    }

    #[test]
    fn damage_never_panics_and_what_passes_is_sound(
        tensors in tensors(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..5), 1..6),
    ) {
        let mut bytes = safetensors(&tensors);
        for (at, byte, how) in edits {
            let i = at.index(bytes.len());
            match how {
                0 => bytes[i] = byte,
                1 => bytes[i] ^= 1 << (byte % 8),
                2 => bytes.insert(i, byte),
                3 => bytes.truncate(i.max(1)),
                _ => bytes[i] = b"0123456789[]{},:\""[byte as usize % 17],
            }
        }
        agree(&bytes)?;
        let manifest = Schema::new(
            tensors.into_iter().map(|(name, (shape, _))| TensorSpec { name, shape }).collect()
        ).unwrap();
        if let Ok(flat) = gate::peer(&bytes, &manifest) {
            prop_assert_eq!(flat.len(), manifest.dim());
            prop_assert!(flat.iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        agree(&bytes)?;
        prop_assert!(gate::peer(&bytes, &schema(&[("x", &[1])])).is_err());
    }
}

#[test]
fn hostile_headers_cost_no_more_than_their_limits() {
    // 250 kB of zero-sized tensors, of dimensions and of metadata: refused at the first entry, not after the last
    let first = |header: &str| gate::header(&file(header, &[]), &Limits::PEER).unwrap_err();
    let zeros: String =
        (0..4000).map(|i| format!(r#","{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    assert!(matches!(first(&format!("{{{}}}", &zeros[1..])), GateError::ZeroDim { name, .. } if name == "0"));
    let dims =
        format!(r#"{{"x":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,4]}}}}"#, "1,".repeat(120_000));
    assert!(
        matches!(first(&dims), GateError::Rank { rank: 5, .. }),
        "no more than one dimension too many is kept"
    );
    let metadata = json!({ "__metadata__": { "a": "x".repeat(200_000) } }).to_string();
    assert_eq!(first(&metadata), GateError::Metadata);
}
