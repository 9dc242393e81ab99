//! What reducers by rank share: rows are gathered, and each coordinate's values are sorted.
//!
//! A function of the multiset of rows: neither the order of clients nor merging nor threads can change a bit. Memory is that of
//! all rows; meant for small vectors (projected gradients, adapters) and cohorts of hundreds.

use std::any::Any;

use antiphon_core::Payload;

use crate::layer::carrier_of;
use crate::vector::by_columns;
use crate::{Accumulator, Carrier, Contract, Mismatch, ReduceError, View};

/// Columns whose values are laid side by side at a time.
const BLOCK: usize = 64;

/// Refuses what cannot be ranked coordinate by coordinate.
pub(super) fn rankable(stage: &'static str, up: &Contract) -> Result<(), Mismatch> {
    let refuse =
        |needs: &'static str, remedy: &'static str| Err(Mismatch { stage, needs, found: up.clone(), remedy });
    if up.view == View::SumOnly {
        return refuse("each client's vector", "sums alone cannot be ranked: use `sum`, or no masking");
    }
    if up.carrier != Carrier::Real {
        return refuse("real coordinates", "remove the layer that maps to integers");
    }
    if up.weighted {
        return refuse(
            "vectors that no weight multiplies",
            "leave the `weight` layer out: every client has one vote",
        );
    }
    if !up.summable {
        return refuse("vectors in the coordinates of the model", "remove the layer that is not summable");
    }
    Ok(())
}

/// What becomes of one coordinate's values, sorted, at least one.
pub(super) type OfSorted = fn(&[f32], f64) -> f32;

/// Rows of one round.
pub(super) struct Rows {
    pub(super) len: usize,
    /// Which reducer, so that partial results of two are not merged.
    pub(super) of: OfSorted,
    /// Its setting.
    pub(super) setting: f64,
    pub(super) rows: Vec<Vec<f32>>,
}

impl Accumulator for Rows {
    fn add(&mut self, x: Payload) -> Result<(), ReduceError> {
        let found = carrier_of(&x);
        if x.len() != self.len && found == Carrier::Real {
            return Err(ReduceError::Length { expected: self.len, found: x.len() });
        }
        let row = match x {
            Payload::Real(v) => v,
            Payload::RealBytes(b) => b.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect(),
            Payload::Ring(_) => return Err(ReduceError::Carrier { expected: Carrier::Real, found }),
        };
        self.rows.push(row);
        Ok(())
    }

    fn merge(&mut self, other: Box<dyn Accumulator>) -> Result<(), ReduceError> {
        let other: Box<dyn Any> = other;
        let other = other.downcast::<Self>().map_err(|_| ReduceError::Merge)?;
        let same = other.len == self.len
            && std::ptr::fn_addr_eq(other.of, self.of)
            && other.setting.to_bits() == self.setting.to_bits();
        if !same {
            return Err(ReduceError::Merge);
        }
        self.rows.extend(other.rows);
        Ok(())
    }

    fn finish(self: Box<Self>, threads: usize) -> Result<Payload, ReduceError> {
        if self.rows.is_empty() {
            return Err(ReduceError::Empty);
        }
        let mut y = vec![0.0; self.len];
        by_columns(threads, &mut y, |at, part| self.columns(part, at));
        Ok(Payload::Real(y))
    }
}

impl Rows {
    /// Writes the columns from `at` on.
    fn columns(&self, y: &mut [f32], at: usize) {
        let n = self.rows.len();
        let mut values = vec![0.0; n * BLOCK];
        for (i, out) in y.chunks_mut(BLOCK).enumerate() {
            let first = at + i * BLOCK;
            for (k, row) in self.rows.iter().enumerate() {
                for (j, v) in row[first..first + out.len()].iter().enumerate() {
                    values[j * n + k] = *v;
                }
            }
            for (out, column) in out.iter_mut().zip(values.chunks_exact_mut(n)) {
                column.sort_unstable_by(f32::total_cmp);
                *out = (self.of)(column, self.setting);
            }
        }
    }
}
