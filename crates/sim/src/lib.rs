//! The in-process link, the virtual clock and faults
