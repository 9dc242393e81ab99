//! Dividing a block into tasks that write disjoint parts of its outputs.

use std::marker::PhantomData;

use crate::pool::Pool;

/// Elements of one task: enough to outweigh claiming it, few enough that threads end together.
pub(super) const GRAIN: usize = 8192;

/// Rows of one task for rows of `width`. Rows do not meet, so it changes no bits.
pub(super) fn rows_per_task(width: usize) -> usize {
    (GRAIN / width.max(1)).max(1)
}

/// A slice that tasks take apart.
pub(super) struct Parts<'a, T> {
    at: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive reference, whose parts go to other threads.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self { at: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Where element `at` lies, for products that write rows with gaps.
    pub(super) fn element(&self, at: usize) -> *mut T {
        assert!(at <= self.len, "element {at} of {}", self.len);
        self.at.wrapping_add(at)
    }

    /// Elements `at .. at + len`.
    ///
    /// # Safety
    /// No element of it is in a part that another thread uses meanwhile, or that the caller still holds.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that parts are disjoint")]
    pub(super) unsafe fn part(&self, at: usize, len: usize) -> &'a mut [T] {
        assert!(
            at <= self.len && len <= self.len - at,
            "part {at}..{} of {}",
            at.saturating_add(len),
            self.len
        );
        // SAFETY: within the slice, and disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(at), len) }
    }
}

/// Calls `f(i, parts)` for each task `i < tasks`, on any of the threads. Each output is a slice with the length of one
/// task's part: part `i` begins at `i` times that, and the last ends with the slice.
pub(super) fn split<const M: usize>(
    pool: &Pool,
    tasks: usize,
    outputs: [(&mut [f32], usize); M],
    f: impl Fn(usize, [&mut [f32]; M]) + Sync,
) {
    let outputs = outputs.map(|(slice, step)| (slice.len(), step, Parts::new(slice)));
    pool.run(tasks, &|i| {
        let parts = std::array::from_fn(|j| {
            let (len, step, parts) = &outputs[j];
            let first = (i * step).min(*len);
            // SAFETY: ranges of different `i` are disjoint, and outputs are different slices.
            unsafe { parts.part(first, (*step).min(len - first)) }
        });
        f(i, parts);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_goes_to_one_task() {
        let (mut a, mut b) = (vec![0.0; 103], vec![0.0; 7]);
        split(&Pool::new(3), 7, [(&mut a, 16), (&mut b, 1)], |i, [a, b]| {
            a.iter_mut().for_each(|v| *v += 1.0 + i as f32);
            b[0] += 1.0;
        });
        assert!(a.iter().enumerate().all(|(k, &v)| v == 1.0 + (k / 16) as f32));
        assert_eq!(b, [1.0; 7]);
    }
}
