//! Element types of operands, widened to binary32 where they are packed.

use half::{bf16, f16};

#[cfg(target_endian = "big")]
compile_error!("checkpoints are little-endian and are read where they lie");

/// How an operand's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    Bf16,
    F16,
}

/// An element type.
pub(super) trait Element: Copy + 'static {
    /// Bytes of an element.
    const SIZE: usize;
    const KIND: Kind;

    /// The element at `at`, which need not be aligned.
    ///
    /// # Safety
    /// `at` is valid for reading `SIZE` bytes.
    unsafe fn read(at: *const u8) -> f32;
}

impl Element for f32 {
    const SIZE: usize = 4;
    const KIND: Kind = Kind::F32;

    #[inline(always)]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { at.cast::<f32>().read_unaligned() }
    }
}

impl Element for bf16 {
    const SIZE: usize = 2;
    const KIND: Kind = Kind::Bf16;

    #[inline(always)]
    unsafe fn read(at: *const u8) -> f32 {
        // Not `bf16::to_f32`, which quiets a signalling NaN: the vector kernels shift, and so does this.
        // SAFETY: the caller's promise.
        f32::from_bits(u32::from(unsafe { at.cast::<u16>().read_unaligned() }) << 16)
    }
}

impl Element for f16 {
    const SIZE: usize = 2;
    const KIND: Kind = Kind::F16;

    #[inline(always)]
    unsafe fn read(at: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        f16::from_bits(unsafe { at.cast::<u16>().read_unaligned() }).to_f32()
    }
}
