//! The suite every backend runs: each case drives one block on random non-square operands and returns all that it
//! wrote, by name. What the numbers are compared with (another backend, another number of threads) is the caller's
//! choice, so a new backend adds one test file of a few lines.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

pub(crate) mod attention;
pub(crate) mod cases;
pub(crate) mod noise;

use std::io::Write;
use std::sync::Arc;

use antiphon_core::{Noise, Purpose, Stream};
use antiphon_kernels::{Backend, DType, Dst, FrozenData, Loss, Mapped, Mat, Src};
use half::{bf16, f16};

/// What one case wrote: names and numbers, in order.
pub(crate) type Outputs = Vec<(String, Vec<f64>)>;

type Run<B> = Box<dyn Fn(&Bench<'_, B>) -> Outputs>;

/// One case.
pub(crate) struct Case<B: Backend> {
    pub(crate) name: String,
    pub(crate) run: Run<B>,
}

/// All cases.
pub(crate) fn cases<B: Backend>() -> Vec<Case<B>> {
    let mut all = cases::pointwise();
    all.extend(cases::rows());
    all.extend(cases::linear());
    all.extend(cases::norm());
    all.extend(cases::loss());
    all.extend(cases::optim());
    all.extend(attention::cases());
    all.extend(noise::cases());
    all
}

/// A backend with the means to place operands on it.
pub(crate) struct Bench<'a, B: Backend> {
    pub(crate) b: &'a B,
}

/// Elements before and after every operand; a block that writes there is caught by [`Bench::read`].
const MARGIN: usize = 3;
const CANARY: f32 = 77.0;

/// An operand in the middle of a larger buffer, at an unaligned place.
pub(crate) struct View<B: Backend> {
    buf: B::Buf,
    len: usize,
}

impl<B: Backend> View<B> {
    pub(crate) fn src(&self) -> Src<'_, B::Buf> {
        Src::new(&self.buf, MARGIN, self.len)
    }
    pub(crate) fn dst(&mut self) -> Dst<'_, B::Buf> {
        Dst::new(&mut self.buf, MARGIN, self.len)
    }
    /// The first `len` elements, written.
    pub(crate) fn dst_of(&mut self, len: usize) -> Dst<'_, B::Buf> {
        Dst::new(&mut self.buf, MARGIN, len)
    }
    pub(crate) fn live(&self) -> Mat<'_, B> {
        Mat::Live(self.src())
    }
    pub(crate) fn buf(&mut self) -> (&mut B::Buf, usize) {
        (&mut self.buf, MARGIN)
    }
}

impl<B: Backend> Bench<'_, B> {
    pub(crate) fn put(&self, values: &[f32]) -> View<B> {
        let mut padded = vec![CANARY; values.len() + 2 * MARGIN];
        padded[MARGIN..][..values.len()].copy_from_slice(values);
        let mut buf = self.b.alloc(padded.len()).unwrap();
        let len = padded.len();
        self.b.upload(&padded, Dst::new(&mut buf, 0, len)).unwrap();
        View { buf, len: values.len() }
    }

    /// Standard normal numbers; the same on every backend.
    pub(crate) fn random(&self, name: &str, len: usize) -> View<B> {
        self.put(&normal(name, len))
    }

    /// The numbers of a view; checks that its surroundings are untouched.
    pub(crate) fn read(&self, view: &View<B>) -> Vec<f64> {
        let mut host = vec![0.0; view.len + 2 * MARGIN];
        self.b.download(Src::new(&view.buf, 0, host.len()), &mut host).unwrap();
        let (body, tail) = host[MARGIN..].split_at(view.len);
        assert!(host[..MARGIN].iter().chain(tail).all(|&v| v == CANARY), "wrote outside its view");
        body.iter().map(|&v| f64::from(v)).collect()
    }

    /// `values` stored as `dtype` in a real file, `shift` bytes from its beginning, mapped and frozen.
    pub(crate) fn freeze(&self, values: &[f32], dtype: DType, shift: usize) -> B::Frozen {
        self.b.freeze(mapped(values, dtype, shift)).unwrap()
    }
}

/// `values` stored as `dtype` in a real file, `shift` bytes from its beginning.
pub(crate) fn mapped(values: &[f32], dtype: DType, shift: usize) -> FrozenData {
    let mut bytes = vec![0xAA; shift];
    for &v in values {
        match dtype {
            DType::F32 => bytes.extend(v.to_le_bytes()),
            DType::Bf16 => bytes.extend(bf16::from_f32(v).to_le_bytes()),
            DType::F16 => bytes.extend(f16::from_f32(v).to_le_bytes()),
        }
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let file = Arc::new(Mapped::open(file.path()).unwrap());
    FrozenData::Mapped { file, at: shift, dtype, len: values.len() }
}

/// Standard normal numbers named `name`.
pub(crate) fn normal(name: &str, len: usize) -> Vec<f32> {
    let mut s = Stream::keyed(1, Purpose::Test, None, None, name);
    (0..len).map(|_| s.standard_normal() as f32).collect()
}

/// Integers below `bound` named `name`.
pub(crate) fn below(name: &str, len: usize, bound: u64) -> Vec<u32> {
    let mut s = Stream::keyed(2, Purpose::Test, None, None, name);
    (0..len).map(|_| s.below(bound) as u32).collect()
}

pub(crate) fn loss_values(loss: Loss) -> Vec<f64> {
    vec![loss.nll, loss.correct as f64, loss.rows as f64]
}

/// `‖a - b‖ / ‖b‖`, and the norm itself where `b` is zero.
pub(crate) fn relative(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |it: &mut dyn Iterator<Item = f64>| it.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    let size = norm(&mut b.iter().copied());
    if size > 0.0 { difference / size } else { difference }
}

/// Every case on `device` against the same case on `truth`.
pub(crate) fn agree<B: Backend, T: Backend>(device: &B, truth: &T, tolerance: f64) {
    let mut failures = Vec::new();
    for (case, expected) in cases::<B>().iter().zip(cases::<T>()) {
        let found = (case.run)(&Bench { b: device });
        let expected = (expected.run)(&Bench { b: truth });
        assert!(!found.is_empty() && found.len() == expected.len());
        for ((name, a), (_, b)) in found.iter().zip(&expected) {
            let error = relative(a, b);
            // a NaN must fail too
            if !matches!(error.partial_cmp(&tolerance), Some(std::cmp::Ordering::Less)) {
                failures.push(format!("{} {name}: {error:e}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} beyond {tolerance:e}:\n{}", failures.len(), failures.join("\n"));
}

/// Every case on `a` and `b`, bit for bit.
pub(crate) fn identical<B: Backend>(a: &B, b: &B, what: &str) {
    for case in cases::<B>() {
        let (x, y) = ((case.run)(&Bench { b: a }), (case.run)(&Bench { b }));
        for ((name, x), (_, y)) in x.iter().zip(&y) {
            let same = x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits());
            assert!(same, "{}: {} {name} differs", what, case.name);
        }
    }
}
