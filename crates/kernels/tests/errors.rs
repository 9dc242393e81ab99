//! What is refused, and how it says so, on both backends.

#![allow(clippy::unwrap_used, reason = "what cannot be set up is a failed test")]

mod suite;

use std::panic::{AssertUnwindSafe, catch_unwind};

use antiphon_kernels::{
    AttnShape, Backend, BackendError, Coef, Cpu, DType, Dst, FrozenData, Layout, Linear, Reference, Segment,
    Src,
};
use suite::{Bench, mapped};

/// Runs `law` on every backend.
macro_rules! on_every_backend {
    ($law:ident) => {{
        $law(&Cpu::serial());
        $law(&Reference);
    }};
}

#[test]
fn transfers_of_another_length_are_errors() {
    fn law<B: Backend>(b: &B) {
        let mut buf = b.alloc(5).unwrap();
        let refused = b.upload(&[1.0; 4], Dst::new(&mut buf, 0, 5)).unwrap_err();
        assert_eq!(refused.to_string(), "a transfer of 4 elements into 5");
        let refused = b.download(Src::new(&buf, 1, 3), &mut [0.0; 4]).unwrap_err();
        assert_eq!(refused.to_string(), "a transfer of 3 elements into 4");
    }
    on_every_backend!(law);
}

#[test]
fn memory_that_nobody_has_is_an_error() {
    fn law<B: Backend>(b: &B) {
        for len in [usize::MAX, usize::MAX / 16] {
            assert!(matches!(b.alloc(len), Err(BackendError::Memory { .. })), "{len}");
        }
    }
    on_every_backend!(law);
}

#[test]
fn a_tensor_beyond_its_file_is_an_error() {
    fn law<B: Backend>(b: &B) {
        let FrozenData::Mapped { file, .. } = mapped(&[1.0; 10], DType::Bf16, 0) else { panic!("mapped") };
        for (at, len, fits) in [(0, 10, true), (0, 11, false), (19, 1, false), (18, 1, true), (400, 1, false)]
        {
            let data = FrozenData::Mapped { file: file.clone(), at, dtype: DType::Bf16, len };
            assert_eq!(b.freeze(data).is_ok(), fits, "{len} elements at {at} of 20 bytes");
        }
    }
    on_every_backend!(law);
}

#[test]
fn views_of_the_wrong_length_name_both_lengths() {
    fn message(f: impl FnOnce()) -> String {
        let payload = catch_unwind(AssertUnwindSafe(f)).unwrap_err();
        payload.downcast_ref::<String>().cloned().unwrap_or_default()
    }
    fn law<B: Backend>(b: &B) {
        let t = Bench { b };
        let view = |len| t.random("x", len);
        let expect = |found: String, parts: [&str; 2]| {
            assert!(parts.iter().all(|p| found.contains(p)), "{}: {found:?}", b.name());
        };
        let (x, w, mut y, mut inv) = (view(12), view(5), view(12), view(3));
        expect(message(|| b.rms_norm(x.src(), w.live(), 4, 1e-5, y.dst(), inv.dst())), ["5", "4"]);
        expect(message(|| b.axpy(1.0, w.src(), y.dst(), false)), ["5", "12"]);
        expect(message(|| b.embedding(&[9], x.live(), 4, y.dst_of(4), false)), ["9", "3"]);
        let coef = Coef::Uniform(1.0);
        let labels = [0, 1, 4];
        let found = message(|| {
            b.cross_entropy(y.dst(), 4, &labels, coef, false, None);
        });
        expect(found, ["index 4", "has 4"]);
        let map = Linear { w: w.live(), bias: None, d_in: 4, d_out: 2, layout: Layout::OutIn };
        expect(message(|| b.linear(x.src(), map, y.dst_of(6), false)), ["5", "8"]);
        let shape = AttnShape { heads: 2, kv_heads: 2, head_dim: 2, scale: 1.0, causal: true, window: None };
        let (mut out, mut lse) = (view(12), view(6));
        let (q, k, v) = (x.src(), x.src(), x.src());
        let segments = [Segment::square(0, 4)];
        let found = message(|| b.attention(q, k, v, &segments, shape, out.dst(), lse.dst()));
        expect(found, ["segment 0", "3 queries"]);
    }
    on_every_backend!(law);
}
