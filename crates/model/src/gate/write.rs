//! Safetensors files out.

use std::io::{self, Write};
use std::path::Path;

use antiphon_kernels::DType;
use half::{bf16, f16};
use serde_json::{Map, json};

use super::Stored;
use crate::atomic;

/// A tensor to be written. Its bytes are asked for when their turn comes, so that a model larger than memory can
/// pass through.
pub(crate) struct Out<'a> {
    /// Name in the file.
    pub(crate) name: String,
    /// Element type in the file.
    pub(crate) dtype: DType,
    /// Rows first.
    pub(crate) shape: Vec<usize>,
    /// Writes exactly the bytes of the shape.
    #[allow(clippy::type_complexity, reason = "a callback, named where it stands")]
    pub(crate) fill: Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>,
}

impl<'a> Out<'a> {
    /// A binary32 tensor of `values`.
    pub(crate) fn values(name: String, shape: Vec<usize>, values: &'a [f32]) -> Self {
        let fill = Box::new(move |w: &mut dyn Write| put(w, DType::F32, values));
        Self { name, dtype: DType::F32, shape, fill }
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Writes `values` in `dtype`, little-endian, rounded to nearest even.
pub(crate) fn put(w: &mut dyn Write, dtype: DType, values: &[f32]) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(4096 * dtype.size());
    for chunk in values.chunks(4096) {
        buffer.clear();
        match dtype {
            DType::F32 => chunk.iter().for_each(|v| buffer.extend(v.to_le_bytes())),
            DType::Bf16 => chunk.iter().for_each(|&v| buffer.extend(bf16::from_f32(v).to_le_bytes())),
            DType::F16 => chunk.iter().for_each(|&v| buffer.extend(f16::from_f32(v).to_le_bytes())),
        }
        w.write_all(&buffer)?;
    }
    Ok(())
}

/// Writes a file with the metadata `{"format": "pt"}` that transformers and peft ask for: wide types first, so that every
/// tensor is aligned, then by name.
pub(crate) fn write(path: &Path, mut tensors: Vec<Out<'_>>) -> io::Result<()> {
    tensors.sort_by(|a, b| b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name)));
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut at = 0;
    for t in &tensors {
        let to = at + t.bytes();
        let entry = json!({
            "dtype": Stored::Weight(t.dtype).to_string(),
            "shape": t.shape,
            "data_offsets": [at, to],
        });
        header.insert(t.name.clone(), entry);
        at = to;
    }
    let mut json = serde_json::to_vec(&header)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    atomic::write(path, |w| {
        w.write_all(&(json.len() as u64).to_le_bytes())?;
        w.write_all(&json)?;
        tensors.iter().try_for_each(|t| (t.fill)(w))
    })
}
