//! Clipping by global norm (Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1), with the constant of
//! `torch.nn.utils.clip_grad_norm_`: `g ← g · min(1, max_norm / (‖g‖ + 1e-6))`.

use antiphon_kernels::{Backend, Dst, Src};

/// Scales `grad[..dim]` to a norm of at most `max_norm`, or leaves it when `max_norm` is `None`. Returns the norm before
/// clipping; a gradient whose norm is not finite is left as it is, for the caller to refuse.
pub fn clip_global_norm<B: Backend>(
    backend: &B,
    grad: &mut B::Buf,
    dim: usize,
    max_norm: Option<f32>,
) -> f64 {
    let norm = backend.sum_squares(Src::new(grad, 0, dim)).sqrt();
    if let Some(max) = max_norm
        && norm.is_finite()
    {
        let factor = f64::from(max) / (norm + 1e-6);
        if factor < 1.0 {
            backend.scale(factor as f32, Dst::new(grad, 0, dim));
        }
    }
    norm
}
