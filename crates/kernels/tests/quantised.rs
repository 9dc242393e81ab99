//! Quantised frozen tensors: codes by PyTorch and bitsandbytes, and blocks on them as on the numbers they stand for.

#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

use std::sync::Arc;

use antiphon_kernels::{Backend, Code, Cpu, Dst, FrozenData, Layout, Linear, Mat, Quantised, Reference, Src};
use serde_json::Value;

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn values() -> (Value, Vec<f32>) {
    let file: Value = serde_json::from_str(include_str!("golden/quantised.json")).unwrap();
    let x = numbers(&file["values"]).into_iter().map(|x| x as f32).collect();
    (file, x)
}

#[test]
fn codes_scales_and_numbers_are_those_of_pytorch_and_bitsandbytes() {
    let (file, x) = values();
    for code in Code::ALL {
        let q = Quantised::new(code, &x);
        let golden = &file[code.name()];
        let byte = |c: &u8| if code == Code::Int8 { f64::from(*c as i8) } else { f64::from(*c) };
        assert_eq!(q.codes().iter().map(byte).collect::<Vec<_>>(), numbers(&golden["codes"]), "{code}");
        let mut wide = vec![0.0; x.len()];
        q.widen(0, &mut wide);
        for (found, expected) in [(q.scales(), "scales"), (&wide, "widened")] {
            let expected = numbers(&golden[expected]);
            assert_eq!(found.len(), expected.len());
            for (f, e) in found.iter().zip(expected) {
                assert!((f64::from(*f) - e).abs() <= 1e-6 * e.abs(), "{code}: {f} for {e}");
            }
        }
        assert_eq!(q.bytes(), q.codes().len() + 4 * q.scales().len());
    }
}

#[test]
fn any_part_is_widened_as_the_whole_is() {
    let (_, x) = values();
    for code in Code::ALL {
        let q = FrozenData::Quantised(Arc::new(Quantised::new(code, &x)));
        let mut wide = vec![0.0; x.len()];
        q.widen(0, &mut wide);
        for (at, len) in [(0, 1), (1, 70), (63, 2), (64, 64), (99, 101), (200, 0)] {
            let mut part = vec![f32::NAN; len];
            q.widen(at, &mut part);
            assert_eq!(part, wide[at..at + len], "{code} at {at}");
        }
    }
}

/// `W: 10 × 20` on five rows, its gradient, and rows of it as an embedding.
fn blocks<B: Backend>(b: &B, w: FrozenData, layout: Layout) -> Vec<f32> {
    let (d_in, d_out, n) = (20, 10, 5);
    let w = b.freeze(w).unwrap();
    let x: Vec<f32> = (0..n * d_in).map(|i| (i as f32 * 0.37).sin()).collect();
    let (mut held, mut y) = (b.alloc(n * d_in).unwrap(), b.alloc(n * (d_out + d_in) + 3 * d_in).unwrap());
    b.upload(&x, Dst::new(&mut held, 0, n * d_in)).unwrap();
    let map = Linear { w: Mat::Frozen(&w), bias: None, d_in, d_out, layout };
    b.linear(Src::new(&held, 0, n * d_in), map, Dst::new(&mut y, 0, n * d_out), false);
    b.linear_dx(Src::new(&held, 0, n * d_out), map, Dst::new(&mut y, n * d_out, n * d_in), false);
    b.embedding(&[3, 0, 9], Mat::Frozen(&w), d_in, Dst::new(&mut y, n * (d_out + d_in), 3 * d_in), false);
    let mut host = vec![0.0; b.len(&y)];
    b.download(Src::new(&y, 0, host.len()), &mut host).unwrap();
    host
}

#[test]
fn blocks_read_the_numbers_that_codes_stand_for() {
    let (_, x) = values();
    for code in Code::ALL {
        let q = Quantised::new(code, &x);
        let mut wide = vec![0.0; x.len()];
        q.widen(0, &mut wide);
        let (q, wide) = (FrozenData::Quantised(Arc::new(q)), FrozenData::Owned(wide.into()));
        for layout in [Layout::OutIn, Layout::InOut] {
            let here = blocks(&Cpu::serial(), q.clone(), layout);
            // to the bit: a product does not know where its operand came from
            assert_eq!(here, blocks(&Cpu::serial(), wide.clone(), layout), "{code}");
            let there = blocks(&Reference, q.clone(), layout);
            assert!(here.iter().zip(&there).all(|(a, b)| (a - b).abs() < 1e-4), "{code} {layout:?}");
        }
    }
}

#[test]
fn a_scale_that_is_no_number_is_found() {
    let mut x = vec![1.0_f32; 130];
    x[129] = f32::INFINITY;
    let q = FrozenData::Quantised(Arc::new(Quantised::new(Code::Nf4, &x)));
    assert_eq!(q.first_non_finite(), Some(128));
}

#[test]
fn rounding_is_off_by_half_a_step_at_most() {
    let x: Vec<f32> = (0..1000).map(|i| (i as f32 * 1.7).sin() * (1.0 + i as f32)).collect();
    let q = Quantised::new(Code::Int8, &x);
    let mut wide = vec![0.0; x.len()];
    q.widen(0, &mut wide);
    for (i, (a, b)) in x.iter().zip(&wide).enumerate() {
        assert!((a - b).abs() <= 0.500_01 * q.scales()[i / 64], "{i}: {a} as {b}");
    }
}
