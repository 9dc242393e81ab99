//! Golden files: numbers from another implementation, as JSON or safetensors, with the script that made them beside
//! them. A crate keeps its own under `tests/golden/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;

/// The golden files of one crate.
#[derive(Clone, Debug)]
pub struct Golden {
    root: PathBuf,
}

/// A tensor of a golden file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Rows first.
    pub shape: Vec<usize>,
    /// Row-major, widened from what the file holds.
    pub values: Vec<f64>,
}

/// A golden file that cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum GoldenError {
    /// Not there, or not readable.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not of the form that the test expects.
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl std::fmt::Display for GoldenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read { path, source } => {
                write!(f, "{}: {source}; the script beside the golden files makes them", path.display())
            }
            Self::Form { path, reason } => write!(f, "{}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for GoldenError {}

impl Golden {
    /// Those of the crate whose `env!("CARGO_MANIFEST_DIR")` is given.
    #[must_use]
    pub fn of(manifest_dir: &str) -> Self {
        Self { root: Path::new(manifest_dir).join("tests/golden") }
    }

    /// Reads `name` (with its extension) as JSON.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, GoldenError> {
        let (path, bytes) = self.read(name)?;
        serde_json::from_slice(&bytes).map_err(|e| GoldenError::Form { path, reason: e.to_string() })
    }

    /// Reads every tensor of `name` (with its extension); F32, F64, I32 and I64.
    pub fn tensors(&self, name: &str) -> Result<BTreeMap<String, Tensor>, GoldenError> {
        let (path, bytes) = self.read(name)?;
        let form = |reason: String| GoldenError::Form { path: path.clone(), reason };
        let file = SafeTensors::deserialize(&bytes).map_err(|e| form(e.to_string()))?;
        let mut out = BTreeMap::new();
        for (name, view) in file.tensors() {
            let data = view.data();
            let values = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect(),
                Dtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
                Dtype::I32 => data.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect(),
                Dtype::I64 => data.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
                other => return Err(form(format!("`{name}` is {other:?}; expected F32, F64, I32 or I64"))),
            };
            out.insert(name, Tensor { shape: view.shape().to_vec(), values });
        }
        Ok(out)
    }

    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>), GoldenError> {
        let path = self.root.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(source) => Err(GoldenError::Read { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_missing_or_malformed_ones_named() {
        let golden = Golden::of(env!("CARGO_MANIFEST_DIR"));
        let pair: (f64, Vec<u32>) = golden.json("pair.json").unwrap();
        assert_eq!(pair, (0.5, vec![1, 2]));
        let tensors = golden.tensors("two.safetensors").unwrap();
        assert_eq!(tensors["a"], Tensor { shape: vec![2, 1], values: vec![1.5, -2.0] });
        assert_eq!(tensors["n"], Tensor { shape: vec![3], values: vec![7.0, 8.0, -9.0] });
        let e = golden.json::<String>("pair.json").unwrap_err().to_string();
        assert!(e.contains("pair.json"), "{e}");
        assert!(matches!(golden.json::<u32>("none.json"), Err(GoldenError::Read { .. })));
        assert!(matches!(golden.tensors("pair.json"), Err(GoldenError::Form { .. })));
    }
}
