//! The reference backend: binary64 loops.

/// Binary64 on the host, in loops.
#[derive(Debug)]
pub struct Reference;
