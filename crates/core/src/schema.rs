//! The order, names and shapes of what is trained.
//!
//! A flattened model is always in schema order, and every message that carries one carries the
//! schema's digest: two parties can never add vectors that mean different things.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// One trainable tensor, stored as binary32 in row-major order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Dotted name, in the layout of the checkpoint or of peft without its prefix, such as
    /// `model.layers.3.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when some dimension is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The ordered list of trainable tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<TensorSpec>", into = "Vec<TensorSpec>")]
pub struct Schema {
    tensors: Vec<TensorSpec>,
    /// `offsets[i]` is where tensor `i` starts; one longer than `tensors`.
    offsets: Vec<usize>,
}

/// A list of tensors that is no schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Two tensors share a name.
    #[error("two trainable tensors are named `{0}`")]
    Duplicate(String),
    /// A tensor without elements.
    #[error("trainable tensor `{0}` has no elements")]
    Empty(String),
}

impl Schema {
    /// A schema of `tensors` in the order given.
    pub fn new(tensors: Vec<TensorSpec>) -> Result<Self, SchemaError> {
        let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(SchemaError::Duplicate(pair[0].to_owned()));
        }
        if let Some(t) = tensors.iter().find(|t| t.is_empty()) {
            return Err(SchemaError::Empty(t.name.clone()));
        }
        let mut offsets = vec![0];
        for t in &tensors {
            offsets.push(offsets[offsets.len() - 1] + t.len());
        }
        Ok(Self { tensors, offsets })
    }

    /// The tensors, in order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorSpec] {
        &self.tensors
    }

    /// Number of scalars, `d`.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.offsets.last().copied().unwrap_or(0)
    }

    /// Where tensor `index` lies in the flat vector.
    #[must_use]
    pub fn range(&self, index: usize) -> Range<usize> {
        self.offsets[index]..self.offsets[index + 1]
    }

    /// Index of the tensor called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|t| t.name == name)
    }

    /// Tensors with where each lies in the flat vector.
    pub fn iter(&self) -> impl Iterator<Item = (&TensorSpec, Range<usize>)> {
        self.tensors.iter().enumerate().map(|(i, t)| (t, self.range(i)))
    }

    /// Identifies names, shapes and order.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut h = blake3::Hasher::new();
        h.update(b"antiphon schema 1");
        for t in &self.tensors {
            h.update(&(t.name.len() as u64).to_le_bytes());
            h.update(t.name.as_bytes());
            h.update(&(t.shape.len() as u64).to_le_bytes());
            for &n in &t.shape {
                h.update(&(n as u64).to_le_bytes());
            }
        }
        Digest(*h.finalize().as_bytes())
    }
}

impl TryFrom<Vec<TensorSpec>> for Schema {
    type Error = SchemaError;
    fn try_from(tensors: Vec<TensorSpec>) -> Result<Self, SchemaError> {
        Self::new(tensors)
    }
}

impl From<Schema> for Vec<TensorSpec> {
    fn from(s: Schema) -> Self {
        s.tensors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.into(), shape: shape.into() }
    }

    #[test]
    fn ranges_tile_the_vector() {
        let s = Schema::new(vec![spec("a", &[2, 3]), spec("b", &[5])]).unwrap();
        assert_eq!((s.dim(), s.range(0), s.range(1)), (11, 0..6, 6..11));
    }

    #[test]
    fn digest_sees_names_shapes_and_order() {
        let of = |v: Vec<TensorSpec>| Schema::new(v).unwrap().digest();
        let base = of(vec![spec("a", &[2, 3]), spec("b", &[5])]);
        assert_ne!(base, of(vec![spec("b", &[5]), spec("a", &[2, 3])]));
        assert_ne!(base, of(vec![spec("a", &[3, 2]), spec("b", &[5])]));
        assert_ne!(base, of(vec![spec("a", &[2, 3]), spec("c", &[5])]));
    }

    #[test]
    fn duplicates_and_empties_are_refused() {
        assert_eq!(
            Schema::new(vec![spec("a", &[1]), spec("a", &[2])]),
            Err(SchemaError::Duplicate("a".into()))
        );
        assert_eq!(Schema::new(vec![spec("a", &[0])]), Err(SchemaError::Empty("a".into())));
    }
}
