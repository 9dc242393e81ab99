//! Differentiable blocks, forward and backward, behind a narrow [`Backend`] over device buffers.
//!
//! There is no tape. A model calls blocks forward, keeps what their gradients need in buffers planned
//! once, and calls the gradients in reverse. The reasons and the alternatives that were measured are in
//! `ARCHITECTURE.md`.
//!
//! Deliberately missing: shapes that change during a step, broadcasting, views that own memory.

mod args;
pub mod backend;
mod check;
pub mod counting;
pub mod cpu;
mod frozen;
pub mod gemm;
pub mod map;
mod philox;
pub mod pool;
pub mod reference;

pub use backend::{
    AdamW, AttnShape, Backend, BackendError, Coef, DType, Dropout, Dst, FrozenData, Gelu, Law, Layout,
    Linear, Loss, Mat, Noise, Segment, Sgd, Src,
};
pub use cpu::Cpu;
pub use frozen::{Code, Quantised};
pub use map::Mapped;
pub use pool::Pool;
pub use reference::Reference;
