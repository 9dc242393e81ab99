//! Run directory, event log, checkpoints, resume
