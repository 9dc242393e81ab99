//! A vector in flight between two stages of the federated algebra.

use std::fmt;

use bytes::Bytes;

/// Coordinates in schema order.
#[derive(Clone, PartialEq)]
pub enum Payload {
    /// `d` real coordinates.
    Real(Vec<f32>),
    /// `d` real coordinates still in their message, 4 little-endian bytes each. Cloning shares them,
    /// and a loop over `from_le_bytes` is as fast as one over `f32`, so nothing need be copied out.
    RealBytes(Bytes),
    /// `d` coordinates in the ring of integers modulo 2^64.
    Ring(Vec<u64>),
}

impl Payload {
    /// Number of coordinates, `d`.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Real(v) => v.len(),
            Self::RealBytes(b) => b.len() / 4,
            Self::Ring(v) => v.len(),
        }
    }

    /// True when `d == 0`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The real coordinates, copied out of their message if they lie in one; `self` back if they
    /// are not real.
    pub fn into_real(self) -> Result<Vec<f32>, Self> {
        match self {
            Self::Real(v) => Ok(v),
            Self::RealBytes(b) => Ok(b.as_chunks::<4>().0.iter().map(|&c| f32::from_le_bytes(c)).collect()),
            Self::Ring(_) => Err(self),
        }
    }
}

/// Prints the shape only: a payload may be a client's private update.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Real(v) => write!(f, "Real[{}]", v.len()),
            Self::RealBytes(b) => write!(f, "RealBytes[{}]", b.len() / 4),
            Self::Ring(v) => write!(f, "Ring[{}]", v.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_in_a_message_are_those_of_the_vector() {
        let v = vec![1.5_f32, -0.0, f32::MAX];
        let bytes: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
        let p = Payload::RealBytes(bytes.into());
        assert_eq!(p.len(), 3);
        assert_eq!(p.into_real(), Ok(v));
        assert_eq!(Payload::Ring(vec![1]).into_real(), Err(Payload::Ring(vec![1])));
    }
}
