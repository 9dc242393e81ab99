//! The coordinate-wise sum, `y = sum_k x_k`: the only reducer that survives secure aggregation.
//!
//! Over reals each coordinate is summed in f64, one row after the other in the order added (ascending
//! client), and rounded to binary32 once. Fixed order rather than a pairwise tree, because f64 leaves 29
//! spare bits: `n` clients err by at most `(n - 1) 2^-53` of the sum of magnitudes before that one rounding,
//! so a tree would buy nothing, and a left fold lets rows be dropped as they come. Over the ring sums are
//! exact and wrap.
//!
//! Rows are gathered in batches and folded block by block, so that the f64 partial sums stay in the
//! first-level cache: a round of up to [`BATCH`] clients reads every row once and never allocates them.
//! Batches and threads split columns and time, never the order of additions in a column.

use std::any::Any;

use antiphon_core::Payload;
use antiphon_core::registry::{self, Entry};
use serde::Deserialize;

use crate::layer::carrier_of;
use crate::vector::{COLUMNS, by_columns};
use crate::{Accumulator, Carrier, Contract, Mismatch, ReduceError, Reducer};

/// Rows held before they are folded into f64: bounds the memory of a long round to that of `BATCH + 2` rows.
pub const BATCH: usize = 16;

/// Columns folded at a time: 16 KiB of partial sums.
const BLOCK: usize = COLUMNS;

/// Registry line for [`Sum`].
pub const ENTRY: Entry<dyn Reducer> = Entry {
    id: "sum",
    paper: "arXiv:1602.05629",
    about: "coordinate-wise sum; with a weight layer before it, the weighted mean",
    build: |table| {
        registry::settings::<Settings>("sum", table)?;
        Ok(Box::new(Sum))
    },
};

/// The `[aggregation.reducer]` table of `sum`: no settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// `y = sum_k x_k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum;

impl Reducer for Sum {
    fn describe(&self) -> String {
        "sum".into()
    }

    fn accepts(&self, up: &Contract) -> Result<(), Mismatch> {
        if up.summable {
            return Ok(());
        }
        Err(Mismatch {
            stage: "sum",
            needs: "vectors whose sum means the sum of what they stand for",
            found: up.clone(),
            remedy: "remove the layer that is not summable, or let its server half decode each vector",
        })
    }

    fn start(&self, up: &Contract) -> Box<dyn Accumulator> {
        match up.carrier {
            Carrier::Real => Box::new(Reals { len: up.len, folded: None, rows: Vec::new() }),
            Carrier::Ring => Box::new(Ring { len: up.len, total: None }),
        }
    }
}

/// Refuses a row that breaks the contract.
fn fits(len: usize, carrier: Carrier, x: &Payload) -> Result<(), ReduceError> {
    if carrier_of(x) != carrier {
        return Err(ReduceError::Carrier { expected: carrier, found: carrier_of(x) });
    }
    if x.len() != len {
        return Err(ReduceError::Length { expected: len, found: x.len() });
    }
    Ok(())
}

struct Reals {
    len: usize,
    /// Partial sums of the rows that have been dropped, `[len]`.
    folded: Option<Vec<f64>>,
    /// Rows not yet folded, in order.
    rows: Vec<Payload>,
}

impl Reals {
    fn fold(&mut self) {
        let folded = self.folded.get_or_insert_with(|| vec![0.0; self.len]);
        for (i, block) in folded.chunks_mut(BLOCK).enumerate() {
            add_rows(block, &self.rows, i * BLOCK);
        }
        self.rows.clear();
    }
}

/// `sums[j] += rows[0][at + j] + rows[1][at + j] + …`, left to right.
fn add_rows(sums: &mut [f64], rows: &[Payload], at: usize) {
    for row in rows {
        match row {
            Payload::Real(v) => {
                sums.iter_mut().zip(&v[at..]).for_each(|(s, x)| *s += f64::from(*x));
            }
            Payload::RealBytes(b) => {
                let words = b[4 * at..].as_chunks::<4>().0;
                sums.iter_mut().zip(words).for_each(|(s, c)| *s += f64::from(f32::from_le_bytes(*c)));
            }
            // `fits` admits reals only
            Payload::Ring(_) => {}
        }
    }
}

impl Accumulator for Reals {
    fn add(&mut self, x: Payload) -> Result<(), ReduceError> {
        fits(self.len, Carrier::Real, &x)?;
        if self.rows.len() == BATCH {
            self.fold();
        }
        self.rows.push(x);
        Ok(())
    }

    fn merge(&mut self, other: Box<dyn Accumulator>) -> Result<(), ReduceError> {
        let other: Box<dyn Any> = other;
        let other = other.downcast::<Self>().map_err(|_| ReduceError::Merge)?;
        if other.len != self.len {
            return Err(ReduceError::Merge);
        }
        if let Some(theirs) = other.folded {
            self.fold();
            if let Some(ours) = &mut self.folded {
                ours.iter_mut().zip(&theirs).for_each(|(a, b)| *a += b);
            }
        }
        other.rows.into_iter().try_for_each(|row| self.add(row))
    }

    fn finish(self: Box<Self>, threads: usize) -> Result<Payload, ReduceError> {
        if self.rows.is_empty() && self.folded.is_none() {
            return Err(ReduceError::Empty);
        }
        let mut y = vec![0.0_f32; self.len];
        by_columns(threads, &mut y, |at, part| self.columns(part, at));
        Ok(Payload::Real(y))
    }
}

impl Reals {
    /// Writes the columns from `at` on.
    fn columns(&self, y: &mut [f32], at: usize) {
        let mut sums = [0.0_f64; BLOCK];
        for (i, out) in y.chunks_mut(BLOCK).enumerate() {
            let at = at + i * BLOCK;
            let sums = &mut sums[..out.len()];
            match &self.folded {
                Some(f) => sums.copy_from_slice(&f[at..at + out.len()]),
                None => sums.fill(0.0),
            }
            add_rows(sums, &self.rows, at);
            out.iter_mut().zip(&*sums).for_each(|(y, s)| *y = *s as f32);
        }
    }
}

struct Ring {
    len: usize,
    total: Option<Vec<u64>>,
}

impl Ring {
    fn add_words(&mut self, x: Vec<u64>) {
        match &mut self.total {
            None => self.total = Some(x),
            Some(t) => t.iter_mut().zip(&x).for_each(|(t, x)| *t = t.wrapping_add(*x)),
        }
    }
}

impl Accumulator for Ring {
    fn add(&mut self, x: Payload) -> Result<(), ReduceError> {
        fits(self.len, Carrier::Ring, &x)?;
        if let Payload::Ring(x) = x {
            self.add_words(x);
        }
        Ok(())
    }

    fn merge(&mut self, other: Box<dyn Accumulator>) -> Result<(), ReduceError> {
        let other: Box<dyn Any> = other;
        let other = other.downcast::<Self>().map_err(|_| ReduceError::Merge)?;
        if other.len != self.len {
            return Err(ReduceError::Merge);
        }
        if let Some(x) = other.total {
            self.add_words(x);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _: usize) -> Result<Payload, ReduceError> {
        self.total.map(Payload::Ring).ok_or(ReduceError::Empty)
    }
}
