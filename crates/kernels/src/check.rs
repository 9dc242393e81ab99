//! Shape checks: a view of the wrong length is the caller's bug, and the panic names both lengths.

/// Panics unless `what` has `expected` elements.
#[track_caller]
pub(crate) fn same(what: &str, found: usize, expected: usize) {
    assert!(found == expected, "{what}: {found} elements where the shape has {expected}");
}

/// Number of rows of `width` in `len` elements; panics when they do not divide.
#[track_caller]
pub(crate) fn rows(what: &str, len: usize, width: usize) -> usize {
    assert!(width > 0 && len.is_multiple_of(width), "{what}: {len} elements are no rows of {width}");
    len / width
}

/// Panics unless `index < bound`.
#[track_caller]
pub(crate) fn below(what: &str, index: usize, bound: usize) {
    assert!(index < bound, "{what}: index {index} where the shape has {bound}");
}
