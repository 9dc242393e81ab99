//! Lays trainable tensors one after another into a schema.

use std::ops::Range;

use antiphon_core::{Schema, SchemaError, TensorSpec};

/// Tensors in the order in which they enter the flat vector.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    list: Vec<TensorSpec>,
    end: usize,
}

impl Tensors {
    /// Appends a tensor and says where it lies.
    pub(super) fn push(&mut self, name: String, shape: &[usize]) -> Range<usize> {
        let tensor = TensorSpec { name, shape: shape.to_vec() };
        let range = self.end..self.end + tensor.len();
        self.end = range.end;
        self.list.push(tensor);
        range
    }

    pub(super) fn schema(self) -> Result<Schema, SchemaError> {
        Schema::new(self.list)
    }
}
