//! A vector in flight between two stages of the federated algebra.

use std::fmt;

/// Coordinates in schema order.
#[derive(Clone, PartialEq)]
pub enum Payload {
    /// `d` real coordinates.
    Real(Vec<f32>),
    /// `d` coordinates in the ring of integers modulo 2^64.
    Ring(Vec<u64>),
}

impl Payload {
    /// Number of coordinates, `d`.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Real(v) => v.len(),
            Self::Ring(v) => v.len(),
        }
    }

    /// True when `d == 0`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Prints the shape only: a payload may be a client's private update.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real(v) => write!(f, "Real[{}]", v.len()),
            Self::Ring(v) => write!(f, "Ring[{}]", v.len()),
        }
    }
}
