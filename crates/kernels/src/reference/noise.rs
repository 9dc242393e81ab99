//! [`Noise`] one element at a time, by its formula in binary64; the words are turned into numbers as the CPU does.

use std::f64::consts::{FRAC_PI_2, PI};

use crate::backend::{Law, Noise};
use crate::philox;

/// `scale · z` of element `index` after the first.
pub(super) fn at(noise: &Noise, index: usize) -> f64 {
    let element = noise.first + index as u64;
    let word = |i| philox::word(noise.key, noise.high, i);
    let z = match noise.law {
        Law::Rademacher => {
            if word(element) >> 31 == 0 {
                1.0
            } else {
                -1.0
            }
        }
        Law::Gaussian => {
            let pair = element / 2 * 2;
            let (radius, angle) = (word(pair), word(pair + 1));
            // in binary32: near 1, rounding decides the logarithm
            let u = ((radius >> 1) as f32).mul_add(2f32.powi(-31), 2f32.powi(-32));
            let r = (-2.0 * f64::from(u).ln()).sqrt();
            let half = f64::from(angle.cast_signed()) * (FRAC_PI_2 / 2f64.powi(31));
            let theta = if angle & 1 == 0 { half } else { PI - half };
            if element.is_multiple_of(2) { r * theta.cos() } else { r * theta.sin() }
        }
    };
    f64::from(noise.scale) * z
}
