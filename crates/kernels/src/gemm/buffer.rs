//! Packing buffers: one pair per thread, aligned, grown when a product needs more, never freed before the thread ends.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Alignment of a buffer: a page, so that panels share no cache line and few translations.
const ALIGN: usize = 4096;

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes that packing buffers of all living threads hold.
#[must_use]
pub fn packing_bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}

/// Uninitialised, aligned, growing memory of `f32`.
struct Buffer {
    at: NonNull<f32>,
    len: usize,
}

impl Buffer {
    const EMPTY: Self = Self { at: NonNull::dangling(), len: 0 };

    fn layout(len: usize) -> Layout {
        match Layout::from_size_align(len * size_of::<f32>(), ALIGN) {
            Ok(layout) => layout,
            // Lengths are bounded by the blocking constants; see `drive`.
            Err(_) => unreachable!("a packing buffer of {len} elements"),
        }
    }

    /// Room for `len` elements, whose contents are lost when the buffer grows.
    fn reserve(&mut self, len: usize) -> *mut f32 {
        if len > self.len {
            let layout = Self::layout(len);
            self.free();
            // SAFETY: `len > self.len >= 0`, so the layout is not empty.
            let at = unsafe { alloc(layout) }.cast::<f32>();
            let Some(at) = NonNull::new(at) else { handle_alloc_error(layout) };
            (self.at, self.len) = (at, len);
            BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        }
        self.at.as_ptr()
    }

    fn free(&mut self) {
        if self.len > 0 {
            let layout = Self::layout(self.len);
            // SAFETY: `at` came from `alloc` with this layout and is forgotten below.
            unsafe { dealloc(self.at.as_ptr().cast(), layout) };
            BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
            // Not `*self = Self::EMPTY`, which would drop the old value, that is call us again.
            self.len = 0;
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.free();
    }
}

/// Which of a thread's buffers. A caller holds [`Slot::Shared`] while it, too, works on tasks that use
/// [`Slot::Private`].
#[derive(Clone, Copy)]
pub(super) enum Slot {
    Shared,
    Private,
}

thread_local! {
    static SLOTS: [Cell<Buffer>; 2] = const { [Cell::new(Buffer::EMPTY), Cell::new(Buffer::EMPTY)] };
}

/// Calls `body` with `len` uninitialised elements of this thread's buffer.
pub(super) fn with<R>(slot: Slot, len: usize, body: impl FnOnce(*mut f32) -> R) -> R {
    SLOTS.with(|slots| {
        // Taken, not borrowed: a nested use would find the slot empty and make its own.
        let mut buffer = slots[slot as usize].replace(Buffer::EMPTY);
        let result = body(buffer.reserve(len));
        slots[slot as usize].set(buffer);
        result
    })
}
