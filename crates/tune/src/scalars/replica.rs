//! The trainable vector of a state, made once and moved along.
//!
//! A replica keeps `S` (see [`super::fixed`]) and what it was made of. Asked for another state it adds what differs, and
//! because the sum is one of integers the result is that of a sum from the start, to the bit. So catching up costs the scalars
//! that changed, not all of them, and one replica serves all clients of a process: it is a function of the state.
//!
//! Memory: [`Replica::BYTES`] a trainable scalar.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use antiphon_core::Schema;
use antiphon_kernels::{Backend, Dst, Noise, Src};
use antiphon_model::Perturbation;

use super::{Directions, Scalars, ScalarsError, Terms, fixed};

/// Elements of a direction that are made at a time: they and their sums stay in a core's cache over all seeds.
const PIECE: usize = 4096;

/// A model that follows a state.
pub struct Replica<B: Backend> {
    backend: Arc<B>,
    scalars: Arc<dyn Scalars>,
    noise: Perturbation,
    origin: Vec<f32>,
    threads: usize,
    held: Mutex<Held>,
}

impl<B: Backend> fmt::Debug for Replica<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replica({} of {} scalars)", self.origin.len(), self.scalars.schema().dim())
    }
}

/// The state at hand and what it stands for.
struct Held {
    state: Vec<f32>,
    terms: Terms,
    sums: Vec<i64>,
    weights: Arc<[f32]>,
}

impl Held {
    /// Where every replica begins.
    fn first(origin: &[f32], state: Vec<f32>) -> Self {
        Self { state, terms: Terms::default(), sums: vec![0; origin.len()], weights: origin.into() }
    }
}

/// Elements of one tensor, with their sums.
struct Piece<'a> {
    block: u32,
    noise: Noise,
    sums: &'a mut [i64],
}

impl<B: Backend> Replica<B> {
    /// Memory for each scalar of the trainable vector: where it began, where it is, and the exact sum between.
    pub const BYTES: usize = 2 * size_of::<f32>() + size_of::<i64>();

    /// A replica that begins at `origin`, of `trained`. Up to `threads` threads make directions; they change no bit.
    #[must_use]
    pub fn new(
        backend: Arc<B>,
        scalars: Arc<dyn Scalars>,
        trained: &Schema,
        origin: Vec<f32>,
        threads: usize,
    ) -> Self {
        let held = Held::first(&origin, vec![0.0; scalars.schema().dim()]);
        let noise = Perturbation::new(trained, scalars.frame().law);
        Self { backend, scalars, noise, origin, threads: threads.max(1), held: Mutex::new(held) }
    }

    /// The method.
    #[must_use]
    pub fn scalars(&self) -> &dyn Scalars {
        &*self.scalars
    }

    /// The first state: nothing has moved.
    #[must_use]
    pub fn start(&self) -> Vec<f32> {
        vec![0.0; self.scalars.schema().dim()]
    }

    /// The trainable vector of `state`.
    pub fn at(&self, state: &[f32]) -> Result<Arc<[f32]>, ScalarsError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
        if held.state.len() == state.len() && held.state.iter().zip(state).all(same) {
            return Ok(Arc::clone(&held.weights));
        }
        let terms = self.scalars.terms(state)?;
        terms.check()?;
        let since = terms.since(&held.terms);
        if let Err(e) = self.add(&since, &mut held.sums) {
            *held = Held::first(&self.origin, self.start());
            return Err(e);
        }
        let step = self.scalars.frame().unit * fixed::STEP;
        let weight = |(w, s): (&f32, &i64)| (f64::from(*w) + step * *s as f64) as f32;
        held.weights = self.origin.iter().zip(&held.sums).map(weight).collect();
        held.terms = terms;
        held.state = state.to_vec();
        Ok(Arc::clone(&held.weights))
    }

    /// Adds every term to the sums, which mean nothing if that fails.
    fn add(&self, terms: &Terms, sums: &mut [i64]) -> Result<(), ScalarsError> {
        let buffers: Vec<B::Buf> =
            (0..self.threads).map(|_| self.backend.alloc(PIECE)).collect::<Result<_, _>>()?;
        let pieces = Mutex::new(self.pieces(sums).into_iter());
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
        let worker = |mut buffer: B::Buf| -> Result<(), ScalarsError> {
            let mut z = vec![0.0; PIECE];
            while let Some(piece) = next() {
                for (&(_, seed), &c) in terms.0.range((piece.block, 0)..=(piece.block, u64::MAX)) {
                    let z = &mut z[..piece.sums.len()];
                    self.direction(Noise { high: seed, ..piece.noise }, &mut buffer, z)?;
                    fixed::accumulate(piece.sums, c, z);
                }
            }
            Ok(())
        };
        let worker = &worker;
        std::thread::scope(|s| {
            let all: Vec<_> = buffers.into_iter().map(|buffer| s.spawn(move || worker(buffer))).collect();
            let joined = all.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
            joined.fold(Ok(()), Result::and)
        })
    }

    /// `sums` cut at tensors and at every [`PIECE`] elements.
    fn pieces<'a>(&self, mut sums: &'a mut [i64]) -> Vec<Piece<'a>> {
        let mut out = Vec::new();
        for (range, noise) in self.noise.tensors() {
            let block = self.scalars.frame().blocks.partition_point(|b| b.end <= range.start) as u32;
            let (own, rest) = sums.split_at_mut(range.len());
            sums = rest;
            for (i, sums) in own.chunks_mut(PIECE).enumerate() {
                out.push(Piece { block, noise: noise.skip(i * PIECE), sums });
            }
        }
        out
    }

    /// Elements of a direction from `noise.first` on, times [`fixed::Z_SCALE`].
    fn direction(&self, noise: Noise, buffer: &mut B::Buf, z: &mut [f32]) -> Result<(), ScalarsError> {
        let n = z.len();
        self.backend.fill(Dst::new(buffer, 0, n), 0.0);
        self.backend.add_noise(Noise { scale: fixed::Z_SCALE, ..noise }, Dst::new(buffer, 0, n));
        Ok(self.backend.download(Src::new(buffer, 0, n), z)?)
    }
}

impl<B: Backend> Directions for Replica<B> {
    fn dot(&self, seed: u64, block: Range<usize>, x: &[f32]) -> Result<f64, ScalarsError> {
        let mut buffer = self.backend.alloc(PIECE)?;
        let mut z = vec![0.0; PIECE];
        let mut sum = 0.0;
        let inside = |r: &Range<usize>| block.start <= r.start && r.end <= block.end;
        for (range, noise) in self.noise.tensors().filter(|(r, _)| inside(r)) {
            for (i, x) in x[range].chunks(PIECE).enumerate() {
                let z = &mut z[..x.len()];
                self.direction(Noise { high: seed, ..noise.skip(i * PIECE) }, &mut buffer, z)?;
                sum += fixed::project(z, x);
            }
        }
        Ok(sum / f64::from(fixed::Z_SCALE))
    }
}
