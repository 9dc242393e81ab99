//! The stream of perturbations: by its definition (`golden/noise.py`), by its bits, by its moments.

#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use antiphon_core::Digest;
use antiphon_kernels::{Backend, Cpu, Dst, Law, Noise, Reference, Src};
use serde_json::Value;

fn z<B: Backend>(b: &B, noise: Noise, n: usize) -> Vec<f32> {
    let mut y = b.alloc(n).unwrap();
    b.add_noise(noise, Dst::new(&mut y, 0, n));
    let mut host = vec![0.0; n];
    b.download(Src::new(&y, 0, n), &mut host).unwrap();
    host
}

#[test]
fn both_backends_agree_with_the_definition() {
    let file: Value = serde_json::from_str(include_str!("golden/noise.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let number = |v: &Value| v.as_u64().unwrap();
        let law = if case["law"] == "gaussian" { Law::Gaussian } else { Law::Rademacher };
        let key = [number(&case["key"][0]) as u32, number(&case["key"][1]) as u32];
        let noise =
            Noise { key, high: number(&case["high"]), law, scale: 1.0, first: number(&case["first"]) };
        let expected: Vec<f64> = case["z"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        for found in [z(&Cpu::serial(), noise, expected.len()), z(&Reference, noise, expected.len())] {
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                assert!((f64::from(*f) - e).abs() < 2e-6, "{noise:?} element {i}: {f} for {e}");
            }
        }
    }
}

/// What was sent as a seed must mean the same numbers in every later version: these digests never change.
#[test]
fn the_bits_are_pinned() {
    for (law, expected) in [(Law::Gaussian, "24847caf35b61995"), (Law::Rademacher, "a3a2f6c0a2a739b1")] {
        let noise = Noise { key: [11, 12], high: 13, law, scale: 1.0, first: 0 };
        let bytes: Vec<u8> = z(&Cpu::serial(), noise, 4096).iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(Digest::of(&bytes).to_string()[..16], *expected, "{law:?}");
    }
}

/// Mean, variance and fourth moment, and no correlation between neighbours, directions or tensors, within five standard
/// errors.
#[test]
fn moments_are_those_of_the_law() {
    let n = 1 << 20;
    let se = 1.0 / (n as f64).sqrt();
    for (law, fourth) in [(Law::Gaussian, 3.0), (Law::Rademacher, 1.0)] {
        let noise = Noise { key: [3, 4], high: 0, law, scale: 1.0, first: 0 };
        let a = z(&Cpu::serial(), noise, n);
        let b = z(&Cpu::serial(), Noise { high: 1, ..noise }, n);
        let c = z(&Cpu::serial(), Noise { key: [3, 5], ..noise }, n);
        let mean = |f: &dyn Fn(usize) -> f64| (0..n - 1).map(f).sum::<f64>() / (n - 1) as f64;
        let at = |v: &[f32], i: usize| f64::from(v[i]);
        assert!(mean(&|i| at(&a, i)).abs() < 5.0 * se, "{law:?} mean");
        assert!((mean(&|i| at(&a, i).powi(2)) - 1.0).abs() < 5.0 * 1.42 * se, "{law:?} variance");
        assert!((mean(&|i| at(&a, i).powi(4)) - fourth).abs() < 5.0 * 9.8 * se, "{law:?} fourth moment");
        for (what, other) in [("neighbour", &a[1..]), ("direction", &b[..]), ("tensor", &c[..])] {
            assert!(mean(&|i| at(&a, i) * at(other, i)).abs() < 5.0 * se, "{law:?} and its {what}");
        }
        let tail = a.iter().filter(|v| v.abs() > 3.0).count() as f64 / n as f64;
        let expected = if law == Law::Gaussian { 2.699_8e-3 } else { 0.0 };
        assert!((tail - expected).abs() < 5.0 * (expected / n as f64).sqrt() + 1e-12, "{law:?} tail: {tail}");
    }
}
