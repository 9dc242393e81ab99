//! The weight files of a directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use antiphon_kernels::Mapped;
use serde_json::{Map, Value};

use super::CheckpointError;
use crate::gate::{self, GateError, Limits, Located};

/// Bytes of a JSON file of a checkpoint, tokenizers aside.
const MAX_JSON: u64 = 16 << 20;

type Files = (Vec<Arc<Mapped>>, BTreeMap<String, (usize, Located)>);

/// Maps the files of `dir` and reads their headers.
pub(super) fn open(dir: &Path) -> Result<Files, CheckpointError> {
    let single = dir.join("model.safetensors");
    if single.is_file() {
        let (file, header) = map(&single)?;
        let tensors = header.tensors.into_iter().map(|(name, t)| (name, (0, t))).collect();
        return Ok((vec![file], tensors));
    }
    let index = dir.join("model.safetensors.index.json");
    if index.is_file() {
        return sharded(dir, &index);
    }
    let pickle_files =
        ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"]
            .iter()
            .filter(|f| dir.join(f).exists())
            .map(|&f| f.to_owned())
            .collect();
    Err(CheckpointError::NoWeights { dir: dir.to_owned(), pickle_files })
}

fn sharded(dir: &Path, index: &Path) -> Result<Files, CheckpointError> {
    let bad = |reason: String| CheckpointError::Index { path: index.to_owned(), reason };
    let json = read_json(index)?;
    let Some(weight_map) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(
            bad("`weight_map` is missing; expected an object from tensor names to file names".into()),
        );
    };
    let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, file) in weight_map {
        // a name is never a path: it stays inside the directory
        let plain = |f: &&str| {
            f.ends_with(".safetensors") && !f.starts_with('.') && !f.contains(['/', '\\', ':', '\0'])
        };
        let Some(file) = file.as_str().filter(plain) else {
            return Err(bad(format!(
                "tensor `{name}` is said to be in {file}; expected the plain name of a .safetensors file"
            )));
        };
        by_file.entry(file).or_default().push(name);
    }
    let mut files = Vec::new();
    let mut tensors = BTreeMap::new();
    for (file, names) in by_file {
        let path = dir.join(file);
        if !path.is_file() {
            return Err(bad(format!("{file} is missing; the index puts {} tensors there", names.len())));
        }
        let (mapped, mut header) = map(&path)?;
        for name in names {
            let Some(located) = header.tensors.remove(name) else {
                return Err(bad(format!("tensor `{name}` is not in {file}, where the index puts it")));
            };
            tensors.insert(name.to_owned(), (files.len(), located));
        }
        if let Some(name) = header.tensors.keys().next() {
            return Err(bad(format!("tensor `{name}` is in {file}, but the index does not put it there")));
        }
        files.push(mapped);
    }
    Ok((files, tensors))
}

fn map(path: &Path) -> Result<(Arc<Mapped>, gate::Header), CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let refused = |source| CheckpointError::Gate { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(io)?.len() == 0 {
        return Err(refused(GateError::NoLength { found: 0 }));
    }
    let file = Mapped::open(path).map_err(io)?;
    let header = gate::header(file.bytes(), &Limits::LOCAL).map_err(refused)?;
    Ok((Arc::new(file), header))
}

/// A JSON object of bounded size.
pub(crate) fn read_json(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(io)?.len();
    if found > MAX_JSON {
        let reason = format!("{found} bytes; at most {MAX_JSON} are accepted");
        return Err(CheckpointError::Index { path: path.to_owned(), reason });
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    serde_json::from_str(&text).map_err(|source| CheckpointError::Json { path: path.to_owned(), source })
}
