//! Memory of the CPU backend: zeroed buffers on cache-line boundaries, and scratch that is kept between calls.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ptr::NonNull;

use crate::backend::BackendError;

/// A cache line, and the width of the widest vector.
const ALIGN: usize = 64;

/// Binary32 numbers, aligned to 64 bytes.
#[derive(Debug)]
pub struct CpuBuf {
    at: NonNull<f32>,
    len: usize,
}

// SAFETY: the buffer owns its memory alone, and f32 has no thread affinity.
unsafe impl Send for CpuBuf {}
// SAFETY: a shared reference gives only reads.
unsafe impl Sync for CpuBuf {}

impl CpuBuf {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Result<Self, BackendError> {
        let refused = || BackendError::Memory { bytes: len.saturating_mul(size_of::<f32>()), device: "cpu" };
        if len == 0 {
            return Ok(Self { at: NonNull::dangling(), len });
        }
        let layout = Self::layout(len).ok_or_else(refused)?;
        // SAFETY: the layout is not empty.
        let raw = unsafe { alloc_zeroed(layout) };
        let at = NonNull::new(raw.cast::<f32>()).ok_or_else(refused)?;
        Ok(Self { at, len })
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_mul(size_of::<f32>())?, ALIGN).ok()
    }

    /// The numbers.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        // SAFETY: `at` is valid for `len` initialised elements, or dangling and `len` is zero.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    /// The numbers, writable.
    pub fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `values`, and `&mut self` excludes every other reference.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Drop for CpuBuf {
    fn drop(&mut self) {
        if let (true, Some(layout)) = (self.len > 0, Self::layout(self.len)) {
            // SAFETY: allocated in `zeros` with this layout.
            unsafe { dealloc(self.at.as_ptr().cast(), layout) }
        }
    }
}

thread_local! {
    /// Buffers not in use.
    static IDLE: RefCell<Vec<CpuBuf>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` numbers of unspecified value, aligned to 64 bytes. Calls nest; after the first call of a
/// given depth and size nothing is allocated.
pub(crate) fn scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let kept = IDLE.with_borrow_mut(|idle| {
        // the smallest that serves; if none does, one gives way to a larger
        let fit = (0..idle.len()).filter(|&i| idle[i].len >= len).min_by_key(|&i| idle[i].len);
        let last = idle.len().checked_sub(1);
        fit.or(last).map(|i| idle.swap_remove(i))
    });
    let mut buf = match kept {
        Some(b) if b.len >= len => b,
        // a failed scratch allocation has no caller that could do with less
        _ => CpuBuf::zeros(len.next_power_of_two())
            .unwrap_or_else(|_| handle_alloc_error(CpuBuf::layout(len).unwrap_or(Layout::new::<f32>()))),
    };
    let result = f(&mut buf.values_mut()[..len]);
    IDLE.with_borrow_mut(|idle| idle.push(buf));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_and_aligned() {
        for len in [0, 1, 17, 4097] {
            let b = CpuBuf::zeros(len).unwrap();
            assert_eq!(b.values(), vec![0.0; len]);
            assert!(len == 0 || b.values().as_ptr().addr().is_multiple_of(ALIGN));
        }
        assert!(matches!(CpuBuf::zeros(usize::MAX / 2), Err(BackendError::Memory { .. })));
    }

    #[test]
    fn nested_scratch_does_not_alias_and_is_kept() {
        let address = |s: &mut [f32]| s.as_ptr().addr();
        let first = scratch(100, |a| {
            a.fill(1.0);
            scratch(50, |b| b.fill(2.0));
            assert!(a.iter().all(|&v| v == 1.0));
            address(a)
        });
        assert_eq!(scratch(100, address), first);
    }
}
