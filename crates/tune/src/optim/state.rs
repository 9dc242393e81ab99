//! Optimiser state outside a device: what a client keeps between rounds and what a checkpoint stores.
//!
//! Layout of the bytes, little-endian: magic, optimiser id (u32 length, UTF-8), schema digest (32), step (u64), number
//! of vectors (u32), their length (u64), then the vectors as binary32.

use antiphon_core::Digest;

const MAGIC: &[u8] = b"antiphon optimizer state 1\n";

/// State of an optimiser after `step` steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// Steps taken.
    pub step: u64,
    /// The optimiser's state vectors, in the order of its slots.
    pub slots: Vec<Vec<f32>>,
}

/// Bytes that are no state of this optimiser for these parameters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Not written by [`OptimizerState::to_bytes`], or cut short.
    #[error("optimiser state is damaged: {wanted} at byte {at}, of {len} bytes")]
    Damaged {
        /// What should stand there.
        wanted: &'static str,
        /// Where.
        at: usize,
        /// Bytes in all.
        len: usize,
    },
    /// The state of another optimiser.
    #[error("optimiser state of `{found}`, this run uses `{expected}`")]
    Optimizer {
        /// Id in the bytes.
        found: String,
        /// Id of the run.
        expected: String,
    },
    /// The state of other parameters.
    #[error("optimiser state of schema {found}, this run has {expected}")]
    Schema {
        /// Digest in the bytes.
        found: Digest,
        /// Digest of the run.
        expected: Digest,
    },
    /// Right names, wrong sizes.
    #[error(
        "optimiser state has {slots} vectors of {dim}, this run needs {expected_slots} of {expected_dim}"
    )]
    Shape {
        /// Vectors found.
        slots: usize,
        /// Their length.
        dim: usize,
        /// Vectors needed.
        expected_slots: usize,
        /// Length needed.
        expected_dim: usize,
    },
}

impl OptimizerState {
    /// Bytes for a checkpoint; equal states give equal bytes.
    #[must_use]
    pub fn to_bytes(&self, optimizer: &str, schema: Digest) -> Vec<u8> {
        let dim = self.slots.first().map_or(0, Vec::len);
        let mut out = Vec::with_capacity(MAGIC.len() + 64 + optimizer.len() + 4 * dim * self.slots.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(optimizer.len() as u32).to_le_bytes());
        out.extend_from_slice(optimizer.as_bytes());
        out.extend_from_slice(&schema.0);
        out.extend_from_slice(&self.step.to_le_bytes());
        out.extend_from_slice(&(self.slots.len() as u32).to_le_bytes());
        out.extend_from_slice(&(dim as u64).to_le_bytes());
        for v in self.slots.iter().flatten() {
            out.extend_from_slice(&v.to_le_bytes());
        }
        out
    }

    /// Reads what [`OptimizerState::to_bytes`] wrote for the same optimiser and schema; `slots` vectors of `dim`.
    pub fn from_bytes(
        bytes: &[u8],
        optimizer: &str,
        schema: Digest,
        slots: usize,
        dim: usize,
    ) -> Result<Self, StateError> {
        let mut r = Reader { bytes, at: 0 };
        if r.take(MAGIC.len(), "the magic line")? != MAGIC {
            return Err(r.damaged("the magic line"));
        }
        let id_len = u32::from_le_bytes(r.array("the length of the optimiser's id")?) as usize;
        let found = String::from_utf8_lossy(r.take(id_len, "the optimiser's id")?).into_owned();
        if found != optimizer {
            return Err(StateError::Optimizer { found, expected: optimizer.to_owned() });
        }
        let found = Digest(r.array("the schema's digest")?);
        if found != schema {
            return Err(StateError::Schema { found, expected: schema });
        }
        let step = u64::from_le_bytes(r.array("the step")?);
        let found_slots = u32::from_le_bytes(r.array("the number of vectors")?) as usize;
        let found_dim = u64::from_le_bytes(r.array("the length of a vector")?) as usize;
        // a state without vectors has no length to speak of
        if found_slots != slots || (slots > 0 && found_dim != dim) {
            let (expected_slots, expected_dim) = (slots, dim);
            return Err(StateError::Shape {
                slots: found_slots,
                dim: found_dim,
                expected_slots,
                expected_dim,
            });
        }
        let mut out = Self { step, slots: Vec::with_capacity(slots) };
        for _ in 0..slots {
            let raw = r.take(4 * dim, "a state vector")?;
            out.slots
                .push(raw.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect());
        }
        if r.at == bytes.len() { Ok(out) } else { Err(r.damaged("the end")) }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn damaged(&self, wanted: &'static str) -> StateError {
        StateError::Damaged { wanted, at: self.at, len: self.bytes.len() }
    }

    fn take(&mut self, n: usize, wanted: &'static str) -> Result<&'a [u8], StateError> {
        let rest = &self.bytes[self.at..];
        let part = rest.get(..n).ok_or_else(|| self.damaged(wanted))?;
        self.at += n;
        Ok(part)
    }

    fn array<const N: usize>(&mut self, wanted: &'static str) -> Result<[u8; N], StateError> {
        let part = self.take(N, wanted)?;
        <[u8; N]>::try_from(part).map_err(|_| self.damaged(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schema() -> Digest {
        Digest::of(b"schema")
    }

    proptest! {
        #[test]
        fn a_state_survives_its_bytes(step: u64, m in prop::collection::vec(any::<f32>(), 1..40)) {
            let v = m.iter().map(|x| x * 0.5).collect();
            let state = OptimizerState { step, slots: vec![m.clone(), v] };
            let bytes = state.to_bytes("adamw", schema());
            let back = OptimizerState::from_bytes(&bytes, "adamw", schema(), 2, m.len()).unwrap();
            prop_assert_eq!(back.to_bytes("adamw", schema()), bytes);
        }

        #[test]
        fn every_cut_is_refused(cut in 0usize..10_000) {
            let state = OptimizerState { step: 7, slots: vec![vec![1.0; 9]] };
            let bytes = state.to_bytes("sgd", schema());
            let cut = cut % bytes.len();
            let e = OptimizerState::from_bytes(&bytes[..cut], "sgd", schema(), 1, 9);
            let damaged = matches!(e, Err(StateError::Damaged { .. }));
            prop_assert!(damaged);
        }
    }

    #[test]
    fn the_state_of_something_else_is_refused() {
        let bytes = OptimizerState { step: 1, slots: vec![vec![0.0; 3]] }.to_bytes("sgd", schema());
        let read =
            |id: &str, s, slots, dim| OptimizerState::from_bytes(&bytes, id, s, slots, dim).unwrap_err();
        assert!(matches!(read("adamw", schema(), 1, 3), StateError::Optimizer { .. }));
        assert!(matches!(read("sgd", Digest::of(b"other"), 1, 3), StateError::Schema { .. }));
        assert!(matches!(read("sgd", schema(), 2, 3), StateError::Shape { .. }));
        assert!(matches!(read("sgd", schema(), 1, 4), StateError::Shape { .. }));
        let longer = [bytes.clone(), vec![0]].concat();
        let e = OptimizerState::from_bytes(&longer, "sgd", schema(), 1, 3).unwrap_err();
        assert!(matches!(e, StateError::Damaged { wanted: "the end", .. }));
    }
}
