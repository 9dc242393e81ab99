//! Passes over vectors, written so that the compiler vectorises them on any target.

use antiphon_core::Payload;

use crate::LayerError;

/// Independent partial sums: hides the latency of an addition, and keeps the rounding error of a long
/// sum small. Part of the result's definition, so never a property of the machine.
const LANES: usize = 16;

/// `||x||_2`, squares and sums in f64. NaN or infinite if and only if a coordinate is.
pub(crate) fn l2_norm(x: &[f32]) -> f64 {
    norm_of(x, |&v| v)
}

/// [`l2_norm`] of little-endian binary32.
pub(crate) fn l2_norm_le(bytes: &[u8]) -> f64 {
    norm_of(bytes.as_chunks::<4>().0, |&c| f32::from_le_bytes(c))
}

fn norm_of<T>(x: &[T], value: impl Fn(&T) -> f32) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            let v = f64::from(value(v));
            *lane += v * v;
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        let v = f64::from(value(v));
        *lane += v * v;
    }
    lanes.iter().sum::<f64>().sqrt()
}

/// `Err` with the first coordinate of `x` that is NaN or infinite. Ring coordinates always pass.
pub(crate) fn finite(x: &Payload) -> Result<(), LayerError> {
    match x {
        Payload::Real(v) => finite_of(v, |&v| v),
        Payload::RealBytes(b) => finite_of(b.as_chunks::<4>().0, |&c| f32::from_le_bytes(c)),
        Payload::Ring(_) => Ok(()),
    }
}

fn finite_of<T>(x: &[T], value: impl Fn(&T) -> f32) -> Result<(), LayerError> {
    for (block, chunk) in x.chunks(4096).enumerate() {
        // no early exit inside the block: the loop stays branch-free
        let bad = chunk.iter().fold(false, |bad, v| bad | !value(v).is_finite());
        if bad && let Some(i) = chunk.iter().position(|v| !value(v).is_finite()) {
            return Err(LayerError::NotFinite { index: block * 4096 + i, value: value(&chunk[i]) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_agree_with_hand_and_with_bytes() {
        let x: Vec<f32> = (0..37).map(|i| i as f32 - 18.0).collect();
        let want = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(l2_norm(&x), want);
        assert_eq!(l2_norm_le(&bytes), want);
        assert!(l2_norm(&[f32::MAX; 40]).is_finite());
        assert!(!l2_norm(&[0.0, f32::INFINITY]).is_finite());
    }

    #[test]
    fn the_first_bad_coordinate_is_named() {
        let mut v = vec![0.0; 9000];
        v[5000] = f32::NEG_INFINITY;
        v[6000] = f32::NAN;
        assert_eq!(
            finite(&Payload::Real(v)),
            Err(LayerError::NotFinite { index: 5000, value: f32::NEG_INFINITY })
        );
        assert_eq!(finite(&Payload::Real(vec![f32::MAX, f32::MIN_POSITIVE, -0.0])), Ok(()));
    }
}
