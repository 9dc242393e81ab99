//! Rotary tables (arXiv:2104.09864), in binary64 and rounded once.
//!
//! Frequencies are `θ^(-2i/head_dim)`; scaling follows transformers' `modeling_rope_utils` (linear, and Llama 3's ramp
//! between long and short wavelengths).

use crate::spec::RopeScaling;

/// `[positions, head_dim]`: a row holds `head_dim/2` cosines and then `head_dim/2` sines.
pub(crate) fn table(positions: usize, head_dim: usize, theta: f64, scaling: RopeScaling) -> Vec<f32> {
    let half = head_dim / 2;
    let frequencies: Vec<f64> =
        (0..half).map(|i| scaled(theta.powf(-2.0 * i as f64 / head_dim as f64), scaling)).collect();
    let mut table = vec![0.0; positions * head_dim];
    for (p, row) in table.chunks_exact_mut(head_dim).enumerate() {
        for (i, w) in frequencies.iter().enumerate() {
            let (sin, cos) = (p as f64 * w).sin_cos();
            row[i] = cos as f32;
            row[half + i] = sin as f32;
        }
    }
    table
}

fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            let wavelength = std::f64::consts::TAU / frequency;
            if wavelength > original_max_positions / low_freq_factor {
                frequency / factor
            } else if wavelength < original_max_positions / high_freq_factor {
                frequency
            } else {
                let smooth = (original_max_positions / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_divides_long_ones_and_ramps_between() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192.0,
        };
        let (short, long, middle) = (1.0, 1e-5, std::f64::consts::TAU / 4096.0);
        assert_eq!(scaled(short, scaling), short);
        assert_eq!(scaled(long, scaling), long / 8.0);
        // 8192 / 4096 = 2 stands a third of the way from 1 to 4
        let expected = (2.0 / 3.0) * middle / 8.0 + middle / 3.0;
        assert!((scaled(middle, scaling) - expected).abs() < 1e-18);
    }

    #[test]
    fn a_row_is_cosines_then_sines() {
        let t = table(3, 4, 100.0, RopeScaling::None);
        let expected = [2f64.cos(), 0.2f64.cos(), 2f64.sin(), 0.2f64.sin()];
        for (found, expected) in t[8..].iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-7);
        }
    }
}
