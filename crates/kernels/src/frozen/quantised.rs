//! Frozen tensors of 8 or 4 bits an element, in blocks of 64 with one binary32 scale each.
//!
//! - `int8`: `x ≈ s q` with `s = max|x| / 127` over the block and an integer `q` in `-127 ..= 127`, halves to even (the linear
//!   symmetric scheme of `torch.quantize_per_channel`, a block as a channel). Off by at most `s / 2`.
//! - `nf4`: `x ≈ a c_q` with `a = max|x|` over the block and one of 16 numbers `c`, quantiles of a normal distribution (Dettmers et
//!   al. 2023, QLoRA, arXiv:2305.14314, appendix E). Codes lie as bitsandbytes lays them: two to a byte, the first in the high
//!   half.
//!
//! A weight is widened into a scratch of its own size where a product reads it: memory is what is saved here, not time.
//!
//! Deliberately missing: quantised scales (QLoRA's double quantisation), outliers kept apart (LLM.int8()), products on the codes
//! themselves.

use std::fmt;

/// Elements that share a scale.
pub(super) const BLOCK: usize = 64;

/// How an element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 8 bits, evenly spaced.
    Int8,
    /// 4 bits, spaced as a normal distribution's quantiles.
    Nf4,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 2] = [Self::Int8, Self::Nf4];

    /// As a run file names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Nf4 => "nf4",
        }
    }

    /// Bytes of `len` elements, scales included.
    #[must_use]
    pub fn bytes(self, len: usize) -> usize {
        self.code_bytes(len) + 4 * len.div_ceil(BLOCK)
    }

    fn code_bytes(self, len: usize) -> usize {
        match self {
            Self::Int8 => len,
            Self::Nf4 => len.div_ceil(2),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The numbers of NF4, ascending, as bitsandbytes has them.
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A tensor in codes and scales.
#[derive(Clone, PartialEq)]
pub struct Quantised {
    code: Code,
    len: usize,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

/// Prints the size only: these are somebody's weights.
impl fmt::Debug for Quantised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Quantised[{} {}]", self.len, self.code)
    }
}

impl Quantised {
    /// `values`, finite, row-major, in blocks from the first on.
    #[must_use]
    pub fn new(code: Code, values: &[f32]) -> Self {
        let mut codes = Vec::with_capacity(code.code_bytes(values.len()));
        let mut scales = Vec::with_capacity(values.len().div_ceil(BLOCK));
        for block in values.chunks(BLOCK) {
            let largest = block.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            match code {
                Code::Int8 => {
                    let scale = largest / 127.0;
                    scales.push(scale);
                    // a block of zeros, or of numbers so small that their scale is none
                    let of = |x: &f32| if scale > 0.0 { (x / scale).round_ties_even() } else { 0.0 };
                    codes.extend(block.iter().map(|x| of(x).clamp(-127.0, 127.0) as i8 as u8));
                }
                Code::Nf4 => {
                    scales.push(largest);
                    let of = |x: f32| if largest > 0.0 { nearest(x / largest) } else { 7 };
                    // a block has an even number of elements but for the last
                    codes.extend(
                        block.chunks(2).map(|two| of(two[0]) << 4 | of(two.get(1).copied().unwrap_or(0.0))),
                    );
                }
            }
        }
        Self { code, len: values.len(), codes, scales }
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Number of elements.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a tensor of no elements is no tensor")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.code.bytes(self.len)
    }

    /// Codes, two to a byte in 4 bits.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// One for each block.
    #[must_use]
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Elements `at .. at + out.len()` as numbers.
    pub fn widen(&self, at: usize, out: &mut [f32]) {
        assert!(at + out.len() <= self.len, "elements {at}..{} of {}", at + out.len(), self.len);
        let mut done = 0;
        while done < out.len() {
            let i = at + done;
            let run = (BLOCK - i % BLOCK).min(out.len() - done);
            let (scale, y) = (self.scales[i / BLOCK], &mut out[done..done + run]);
            match self.code {
                Code::Int8 => {
                    let codes = &self.codes[i..i + run];
                    y.iter_mut().zip(codes).for_each(|(y, q)| *y = scale * f32::from(*q as i8));
                }
                Code::Nf4 => {
                    for (y, i) in y.iter_mut().zip(i..) {
                        let pair = self.codes[i / 2];
                        let q = if i.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
                        *y = scale * NF4[q as usize];
                    }
                }
            }
            done += run;
        }
    }
}

/// The code of the number of [`NF4`] that is closest to `x`; the lower of two as close.
fn nearest(x: f32) -> u8 {
    NF4.windows(2).take_while(|two| x > (two[0] + two[1]) / 2.0).count() as u8
}
