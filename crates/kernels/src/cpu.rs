//! The CPU backend.

/// Binary32 on the host.
#[derive(Debug)]
pub struct Cpu;
