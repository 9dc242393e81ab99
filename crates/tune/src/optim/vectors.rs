//! One client's vectors on a device: parameters, gradient and optimiser state.

use antiphon_kernels::{AdamW, Backend, BackendError, Dst, Sgd, Src};

use super::{Optimizer, OptimizerState, StepBlocks};

/// Parameters, gradient and optimiser state, each `dim` long; allocated once and reused from client to client.
#[derive(Debug)]
pub struct Vectors<B: Backend> {
    /// The trainable vector, schema order.
    pub theta: B::Buf,
    /// Its gradient, accumulated over the micro-batches of a step.
    pub grad: B::Buf,
    slots: Vec<B::Buf>,
    dim: usize,
}

impl<B: Backend> Vectors<B> {
    /// Zeros for `dim` parameters and an optimiser with `slots` state vectors: `(2 + slots) · dim` elements.
    pub fn new(backend: &B, dim: usize, slots: usize) -> Result<Self, BackendError> {
        Ok(Self {
            theta: backend.alloc(dim)?,
            grad: backend.alloc(dim)?,
            slots: (0..slots).map(|_| backend.alloc(dim)).collect::<Result<_, _>>()?,
            dim,
        })
    }

    /// The same with `fixed` more parameters after those that the optimiser moves, which a model reads beside them.
    pub fn with_fixed(backend: &B, dim: usize, fixed: &[f32], slots: usize) -> Result<Self, BackendError> {
        let mut all = Self::new(backend, dim, slots)?;
        (all.theta, all.grad) = (backend.alloc(dim + fixed.len())?, backend.alloc(dim + fixed.len())?);
        backend.upload(fixed, Dst::new(&mut all.theta, dim, fixed.len()))?;
        Ok(all)
    }

    /// The same without a gradient, for steps that form none: `(1 + slots) · dim` elements.
    pub fn without_gradient(backend: &B, dim: usize, slots: usize) -> Result<Self, BackendError> {
        Ok(Self {
            theta: backend.alloc(dim)?,
            grad: backend.alloc(0)?,
            slots: (0..slots).map(|_| backend.alloc(dim)).collect::<Result<_, _>>()?,
            dim,
        })
    }

    /// Length of each vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Sets the gradient to zero.
    pub fn zero_grad(&mut self, backend: &B) {
        let len = backend.len(&self.grad);
        backend.fill(Dst::new(&mut self.grad, 0, len), 0.0);
    }

    /// Takes step number `step` (from 1) along the gradient.
    pub fn step(&mut self, backend: &B, rule: &dyn Optimizer, lr: f32, step: u64) {
        rule.step(lr, step, &mut OnDevice { backend, vectors: self });
    }

    /// The optimiser's state, which `step` steps have made.
    pub fn state(&self, backend: &B, step: u64) -> Result<OptimizerState, BackendError> {
        let mut slots = vec![vec![0.0; self.dim]; self.slots.len()];
        for (host, slot) in slots.iter_mut().zip(&self.slots) {
            backend.download(Src::new(slot, 0, self.dim), host)?;
        }
        Ok(OptimizerState { step, slots })
    }

    /// Puts a kept state in place, or zero state. Returns the number of steps that made it.
    pub fn set_state(&mut self, backend: &B, state: Option<&OptimizerState>) -> Result<u64, BackendError> {
        let dim = self.dim;
        let Some(state) = state else {
            for slot in &mut self.slots {
                backend.fill(Dst::new(slot, 0, dim), 0.0);
            }
            return Ok(0);
        };
        if state.slots.len() != self.slots.len() {
            return Err(BackendError::Length { from: state.slots.len() * dim, to: self.slots.len() * dim });
        }
        for (host, slot) in state.slots.iter().zip(&mut self.slots) {
            backend.upload(host, Dst::new(slot, 0, dim))?;
        }
        Ok(state.step)
    }
}

/// A backend's optimiser blocks without the backend's type.
struct OnDevice<'a, B: Backend> {
    backend: &'a B,
    vectors: &'a mut Vectors<B>,
}

impl<B: Backend> StepBlocks for OnDevice<'_, B> {
    fn adamw(&mut self, hyper: AdamW) {
        let Vectors { theta, grad, slots, dim: n } = &mut *self.vectors;
        let [m, v] = &mut slots[..] else { panic!("AdamW has two state vectors, got {}", slots.len()) };
        let (theta, grad) = (Dst::new(theta, 0, *n), Src::new(grad, 0, *n));
        self.backend.adamw(theta, grad, Dst::new(m, 0, *n), Dst::new(v, 0, *n), hyper);
    }

    fn sgd(&mut self, first: bool, hyper: Sgd) {
        let Vectors { theta, grad, slots, dim: n } = &mut *self.vectors;
        let momentum = slots.first_mut().map(|b| (Dst::new(b, 0, *n), first));
        self.backend.sgd(Dst::new(theta, 0, *n), Src::new(grad, 0, *n), momentum, hyper);
    }
}
