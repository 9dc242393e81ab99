//! Many sequences in one forward: each holds a run of rows in one cache of keys and values, and joins and leaves at any
//! step, with its prompt or with its next token (scheduling by iteration: Yu et al., Orca, OSDI 2022, section 3.1).
//!
//! Logits of any row can be asked for, a chunk of rows at a time, so that scoring a long prompt does not need
//! `[rows, vocab]`. What a sequence computes does not depend on its company, to the bit.
//!
//! Deliberately missing: paging (a sequence says at the start how long it may become), shared prefixes, prompts in parts.

use std::ops::Range;

use antiphon_kernels::{Backend, Dst, Src};

use crate::batch::Batch;
use crate::net::{Cache, Given, Net, NetError, Past};
use crate::workspace::{Mode, Shape, Workspace};

/// How much a pool serves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRoom {
    /// Rows of one step: tokens, soft prompts included.
    pub step_rows: usize,
    /// Sequences in one step.
    pub sequences: usize,
    /// Positions of the cache, over all sequences.
    pub positions: usize,
    /// Rows whose logits exist at once.
    pub head_rows: usize,
}

/// A sequence's place in the cache. Give it back by [`Pool::close`].
#[derive(Debug)]
pub struct Sequence {
    rows: Range<usize>,
    past: usize,
}

impl Sequence {
    /// Positions that it has taken.
    #[must_use]
    pub fn past(&self) -> usize {
        self.past
    }

    /// Positions that it may take.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.rows.len()
    }
}

/// What a sequence reads in a step: vectors, then tokens. One of them may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Input<'a> {
    /// `[rows, hidden]`, each in the place of a row of the token table.
    pub vectors: &'a [f32],
    /// Token ids.
    pub tokens: &'a [u32],
}

/// One sequence's part in a step.
#[derive(Debug)]
pub struct Feed<'a> {
    /// Who reads.
    pub sequence: &'a mut Sequence,
    /// What.
    pub input: Input<'a>,
    /// First row of `input`, vectors included, whose logits are wanted; they are wanted to its end.
    pub logits_from: usize,
}

/// Caches, activations and logits for sequences that come and go.
#[derive(Debug)]
pub struct Pool<B: Backend> {
    room: PoolRoom,
    /// Free runs of the cache, ascending and apart.
    free: Vec<Range<usize>>,
    cache: Cache<B>,
    ws: Workspace<B>,
    batch: Batch,
    /// Row of the cache for each row of the batch.
    rows: Vec<u32>,
    /// Rows of the batch that come as vectors, and these vectors.
    given_to: Vec<u32>,
    given_host: Vec<f32>,
    given: B::Buf,
    /// `(row of the batch, feed, row of its input)` whose logits are wanted.
    wanted: Vec<(u32, usize, usize)>,
    logits: B::Buf,
    host: Vec<f32>,
}

impl<B: Backend> Pool<B> {
    /// Memory for `room`.
    ///
    /// # Errors
    /// The device has not enough.
    pub fn new(backend: &B, net: &Net<B>, room: PoolRoom) -> Result<Self, NetError> {
        let spec = net.spec();
        let shape = Shape { tokens: room.step_rows, segments: room.sequences, labelled: room.head_rows };
        Ok(Self {
            room,
            free: std::iter::once(0..room.positions).collect(),
            cache: Cache::new(backend, spec, room.positions)?,
            ws: net.workspace(backend, shape, Mode::Infer)?,
            batch: net.batch(),
            rows: Vec::new(),
            given_to: Vec::new(),
            given_host: Vec::new(),
            given: backend.alloc(room.step_rows * spec.hidden)?,
            wanted: Vec::new(),
            logits: backend.alloc(room.head_rows * spec.vocab)?,
            host: vec![0.0; room.head_rows * spec.vocab],
        })
    }

    /// What it serves at once.
    #[must_use]
    pub fn room(&self) -> PoolRoom {
        self.room
    }

    /// A place for a sequence of up to `positions`, soft prompt included; `None` until enough others have closed.
    pub fn open(&mut self, positions: usize) -> Option<Sequence> {
        let at = self.free.iter().position(|r| r.len() >= positions)?;
        let start = self.free[at].start;
        self.free[at].start += positions;
        if self.free[at].is_empty() {
            self.free.remove(at);
        }
        Some(Sequence { rows: start..start + positions, past: 0 })
    }

    /// Gives a sequence's rows back.
    pub fn close(&mut self, sequence: Sequence) {
        let Range { start, end } = sequence.rows;
        if start == end {
            return;
        }
        let at = self.free.partition_point(|r| r.start < start);
        self.free.insert(at, start..end);
        if self.free.get(at + 1).is_some_and(|next| next.start == end) {
            self.free[at].end = self.free.remove(at + 1).end;
        }
        if at > 0 && self.free[at - 1].end == start {
            self.free[at - 1].end = self.free.remove(at).end;
        }
    }

    /// Runs one forward over `feeds`. `hear(feed, row, logits)` gets `[vocab]` for each wanted row of each feed's input,
    /// feeds and rows ascending.
    ///
    /// # Errors
    /// Input that the model or the sequence's place cannot take; no sequence has then moved.
    pub fn step(
        &mut self,
        backend: &B,
        net: &Net<B>,
        params: &B::Buf,
        feeds: &mut [Feed<'_>],
        hear: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), NetError> {
        self.batch.clear();
        for list in [&mut self.rows, &mut self.given_to] {
            list.clear();
        }
        self.given_host.clear();
        self.wanted.clear();
        for (index, feed) in feeds.iter().enumerate() {
            self.add(net, index, feed)?;
        }
        let given = self.given_host.len();
        if given > backend.len(&self.given) {
            let (found, planned) = (self.given_to.len(), self.room.step_rows);
            return Err(NetError::Capacity { what: "vectors", found, planned });
        }
        backend.upload(&self.given_host, Dst::new(&mut self.given, 0, given))?;
        let given = (given > 0).then_some(Given { rows: &self.given, to: &self.given_to });
        let past = Past { cache: &mut self.cache, rows: &self.rows, given };
        net.forward_cached(backend, params, &self.batch, &mut self.ws, past)?;
        for (feed, segment) in feeds.iter_mut().zip(self.batch.segments()) {
            feed.sequence.past += segment.q_len;
        }
        let vocab = net.spec().vocab;
        for chunk in self.wanted.chunks(self.room.head_rows) {
            let rows: Vec<u32> = chunk.iter().map(|w| w.0).collect();
            let len = rows.len() * vocab;
            let logits = Dst::new(&mut self.logits, 0, len);
            net.logits(backend, params, &self.batch, &rows, &mut self.ws, logits)?;
            backend.download(Src::new(&self.logits, 0, len), &mut self.host[..len])?;
            for (&(_, feed, row), logits) in chunk.iter().zip(self.host.chunks(vocab)) {
                hear(feed, row, logits);
            }
        }
        Ok(())
    }

    /// Lays one feed into the batch.
    fn add(&mut self, net: &Net<B>, index: usize, feed: &Feed<'_>) -> Result<(), NetError> {
        let Sequence { rows, past } = &*feed.sequence;
        let before = self.batch.rows();
        let Input { vectors, tokens } = feed.input;
        let width = net.spec().hidden;
        if !vectors.len().is_multiple_of(width) {
            let (found, planned) = (vectors.len(), vectors.len() / width * width);
            return Err(NetError::Capacity { what: "elements of input vectors", found, planned });
        }
        let count = vectors.len() / width;
        let own = self.batch.push_given(count, tokens, *past, rows.start)? as u32;
        self.given_to.extend(own..own + count as u32);
        self.given_host.extend_from_slice(vectors);
        let added = self.batch.rows() - before;
        if past + added > rows.len() {
            let (found, planned) = (past + added, rows.len());
            return Err(NetError::Capacity { what: "positions of a sequence", found, planned });
        }
        let first = (rows.start + past) as u32;
        self.rows.extend(first..first + added as u32);
        let wanted = feed.logits_from..count + tokens.len();
        self.wanted.extend(wanted.map(|row| (own + row as u32, index, row)));
        Ok(())
    }
}
