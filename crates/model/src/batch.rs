//! Which tokens a step sees, as control data on the host.
//!
//! Sequences lie end to end without padding; each is its own attention [`Segment`]. A soft prompt takes the first rows
//! of every segment. Rows outside every segment are padding (the padded layout exists for devices that want fixed
//! strides, and for the test that it changes nothing). A batch is refilled in place: [`Batch::clear`] and the `push`
//! functions allocate nothing while the rows stay within what was reserved.

use antiphon_kernels::Segment;

use crate::wiring::{Pooling, Task};

/// The id of a row that is no token: a row of a soft prompt, or padding.
pub const NO_TOKEN: u32 = u32::MAX;

/// What a batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ids are below this.
    pub vocab: usize,
    /// Rows of the longest sequence, the soft prompt included.
    pub max_len: usize,
    /// Rows of the soft prompt before each sequence.
    pub prompt: usize,
    /// What is asked.
    pub task: Task,
}

/// A sequence that this model cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// No tokens.
    #[error("sequence {sequence} of the batch is empty")]
    Empty {
        /// Index in the batch.
        sequence: usize,
    },
    /// More tokens than positions.
    #[error(
        "sequence {sequence} has {tokens} tokens after {before} positions, and the model reads {max_len}: truncate it"
    )]
    TooLong {
        /// Index in the batch.
        sequence: usize,
        /// Tokens found.
        tokens: usize,
        /// Positions taken before them: a soft prompt, or a cache.
        before: usize,
        /// Positions.
        max_len: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {position} of sequence {sequence} is {id}, and the vocabulary has {vocab} entries")]
    Id {
        /// Index in the batch.
        sequence: usize,
        /// Index in the sequence.
        position: usize,
        /// The id found.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A label on a row that does not exist, or out of order.
    #[error("a label of sequence {sequence} stands on row {row}, and rows must ascend below {tokens}")]
    LabelRow {
        /// Index in the batch.
        sequence: usize,
        /// The row found.
        row: usize,
        /// Tokens of the sequence.
        tokens: usize,
    },
    /// A label that is no token, or no class.
    #[error("a label of sequence {sequence} is {label}, and there are {count}")]
    Label {
        /// Index in the batch.
        sequence: usize,
        /// The label found.
        label: u32,
        /// Size of the vocabulary, or number of classes.
        count: usize,
    },
    /// A class where next tokens are asked, or the reverse.
    #[error("the batch is for {task:?}, and a sequence came with labels of the other kind")]
    Task {
        /// What the batch is for.
        task: Task,
    },
}

/// Rows, segments and labels of one step.
#[derive(Clone, Debug)]
pub struct Batch {
    limits: Limits,
    /// Rows reserved for each sequence; `None` lays them end to end.
    stride: Option<usize>,
    pub(crate) ids: Vec<u32>,
    pub(crate) positions: Vec<u32>,
    pub(crate) types: Vec<u32>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) label_rows: Vec<u32>,
    pub(crate) labels: Vec<u32>,
    pub(crate) classes: Vec<u32>,
    /// Row of the prompt (`from`) that lands on row `to`.
    pub(crate) prompt_from: Vec<u32>,
    pub(crate) prompt_to: Vec<u32>,
    pub(crate) first_rows: Vec<u32>,
    pub(crate) last_rows: Vec<u32>,
    /// `0, 1, 2, …`, as long as the rows: the other side of a gather.
    pub(crate) iota: Vec<u32>,
}

impl Batch {
    /// An empty batch, sequences end to end. Made by [`crate::Net::batch`].
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            stride: None,
            ids: Vec::new(),
            positions: Vec::new(),
            types: Vec::new(),
            segments: Vec::new(),
            label_rows: Vec::new(),
            labels: Vec::new(),
            classes: Vec::new(),
            prompt_from: Vec::new(),
            prompt_to: Vec::new(),
            first_rows: Vec::new(),
            last_rows: Vec::new(),
            iota: Vec::new(),
        }
    }

    /// The same batch with each sequence at a multiple of `stride` rows, the rest of its rows padding. A sequence longer
    /// than `stride` is refused like one longer than the model.
    #[must_use]
    pub fn padded(mut self, stride: usize) -> Self {
        self.limits.max_len = self.limits.max_len.min(stride);
        self.stride = Some(stride);
        self
    }

    /// Reserves memory for `rows` rows in `segments` sequences, so that filling allocates nothing.
    pub fn reserve(&mut self, rows: usize, segments: usize) {
        for v in [&mut self.ids, &mut self.positions, &mut self.types, &mut self.label_rows, &mut self.labels]
        {
            v.reserve(rows.saturating_sub(v.len()));
        }
        for v in [&mut self.classes, &mut self.first_rows, &mut self.last_rows] {
            v.reserve(segments.saturating_sub(v.len()));
        }
        let virtual_rows = segments * self.limits.prompt;
        for v in [&mut self.prompt_from, &mut self.prompt_to] {
            v.reserve(virtual_rows.saturating_sub(v.len()));
        }
        self.segments.reserve(segments.saturating_sub(self.segments.len()));
        self.iota.extend(self.iota.len() as u32..rows as u32);
    }

    /// Elements for which memory is held, over all lists: constant while refilling allocates nothing.
    #[must_use]
    pub fn reserved(&self) -> usize {
        let lists = [
            &self.ids,
            &self.positions,
            &self.types,
            &self.label_rows,
            &self.labels,
            &self.classes,
            &self.prompt_from,
            &self.prompt_to,
            &self.first_rows,
            &self.last_rows,
            &self.iota,
        ];
        lists.iter().map(|v| v.capacity()).sum::<usize>() + self.segments.capacity()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        for v in [
            &mut self.ids,
            &mut self.positions,
            &mut self.types,
            &mut self.label_rows,
            &mut self.labels,
            &mut self.classes,
            &mut self.prompt_from,
            &mut self.prompt_to,
            &mut self.first_rows,
            &mut self.last_rows,
        ] {
            v.clear();
        }
        self.segments.clear();
    }

    /// Adds a sequence of `ids` whose row `r` is to predict `token` for each `(r, token)` of `labels`, rows ascending.
    /// Rows count the sequence's own tokens from 0: a soft prompt carries no labels.
    ///
    /// # Errors
    /// Ids, labels or lengths that the model cannot read; the batch is then as before.
    pub fn push(
        &mut self,
        ids: &[u32],
        labels: impl IntoIterator<Item = (usize, u32)>,
    ) -> Result<(), BatchError> {
        if self.limits.task != Task::CausalLm {
            return Err(BatchError::Task { task: self.limits.task });
        }
        let (sequence, before) = (self.segments.len(), self.label_rows.len());
        self.check(ids, self.limits.prompt)?;
        let at = self.rows() + self.limits.prompt;
        let mut next = 0;
        let mut fault = None;
        for (row, label) in labels {
            if row < next || row >= ids.len() {
                fault = Some(BatchError::LabelRow { sequence, row, tokens: ids.len() });
            } else if label as usize >= self.limits.vocab {
                fault = Some(BatchError::Label { sequence, label, count: self.limits.vocab });
            }
            if fault.is_some() {
                break;
            }
            next = row + 1;
            self.label_rows.push((at + row) as u32);
            self.labels.push(label);
        }
        if let Some(fault) = fault {
            self.label_rows.truncate(before);
            self.labels.truncate(before);
            return Err(fault);
        }
        self.append(ids.iter().copied(), ids.len(), self.limits.prompt);
        Ok(())
    }

    /// Adds a sequence of `ids` of class `class`.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_class(&mut self, ids: &[u32], class: u32) -> Result<(), BatchError> {
        let Task::Classify { classes, .. } = self.limits.task else {
            return Err(BatchError::Task { task: self.limits.task });
        };
        if class as usize >= classes {
            return Err(BatchError::Label { sequence: self.segments.len(), label: class, count: classes });
        }
        self.check(ids, self.limits.prompt)?;
        self.classes.push(class);
        self.append(ids.iter().copied(), ids.len(), self.limits.prompt);
        Ok(())
    }

    /// Adds a sequence without labels, for inference of either task.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_tokens(&mut self, ids: &[u32]) -> Result<(), BatchError> {
        self.check(ids, self.limits.prompt)?;
        self.append(ids.iter().copied(), ids.len(), self.limits.prompt);
        Ok(())
    }

    /// Adds `ids` at the end of a sequence whose first `past` positions lie in a cache, its keys from row `k_at` of the
    /// cache. No prompt is added: it is in the cache.
    pub(crate) fn push_decode(&mut self, ids: &[u32], past: usize, k_at: usize) -> Result<(), BatchError> {
        let prompt = if past == 0 { self.limits.prompt } else { 0 };
        self.check(ids, past + prompt)?;
        self.append(ids.iter().copied(), ids.len(), prompt);
        self.place(past, k_at);
        Ok(())
    }

    /// Puts the last sequence after its `past`, which starts at row `k_at` of the cache.
    fn place(&mut self, past: usize, k_at: usize) {
        if let Some(s) = self.segments.last_mut() {
            s.k_at = k_at;
            s.k_len = past + s.q_len;
            self.positions[s.q_at..s.q_at + s.q_len].iter_mut().for_each(|p| *p += past as u32);
        }
    }

    /// As [`Self::push_decode`], with `count` rows that come as vectors before `ids`, of which there may then be none; gives
    /// the first row of the sequence's own.
    pub(crate) fn push_given(
        &mut self,
        count: usize,
        ids: &[u32],
        past: usize,
        k_at: usize,
    ) -> Result<usize, BatchError> {
        let prompt = if past == 0 { self.limits.prompt } else { 0 };
        let (sequence, max_len, before) = (self.segments.len(), self.limits.max_len, past + prompt + count);
        if before > max_len {
            return Err(BatchError::TooLong { sequence, tokens: count, before: past + prompt, max_len });
        }
        if count == 0 || !ids.is_empty() {
            self.check(ids, before)?;
        }
        let first = self.rows() + prompt;
        self.append(
            std::iter::repeat_n(NO_TOKEN, count).chain(ids.iter().copied()),
            count + ids.len(),
            prompt,
        );
        self.place(past, k_at);
        Ok(first)
    }

    /// Refuses tokens that do not fit after `before` positions.
    fn check(&self, ids: &[u32], before: usize) -> Result<(), BatchError> {
        let Limits { vocab, max_len, .. } = self.limits;
        let sequence = self.segments.len();
        if ids.is_empty() {
            return Err(BatchError::Empty { sequence });
        }
        if before + ids.len() > max_len {
            return Err(BatchError::TooLong { sequence, tokens: ids.len(), before, max_len });
        }
        match ids.iter().position(|&id| id as usize >= vocab) {
            Some(position) => Err(BatchError::Id { sequence, position, id: ids[position], vocab }),
            None => Ok(()),
        }
    }

    /// Positions count the prompt's rows, as transformers does when it is given embeddings.
    fn append(&mut self, ids: impl Iterator<Item = u32>, count: usize, prompt: usize) {
        let at = self.rows();
        let len = prompt + count;
        let stride = self.stride.unwrap_or(len);
        self.ids.extend(std::iter::repeat_n(NO_TOKEN, prompt));
        self.ids.extend(ids);
        self.positions.extend(0..len as u32);
        self.types.extend(std::iter::repeat_n(0, len));
        self.segments.push(Segment::square(at, len));
        self.prompt_from.extend(0..prompt as u32);
        self.prompt_to.extend(at as u32..(at + prompt) as u32);
        self.first_rows.push(at as u32);
        self.last_rows.push((at + len - 1) as u32);
        self.ids.resize(at + stride, NO_TOKEN);
        self.positions.resize(at + stride, 0);
        self.types.resize(at + stride, NO_TOKEN);
        self.iota.extend(self.iota.len() as u32..self.ids.len() as u32);
    }

    /// Rows, prompts and padding included, `n`.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// Sequences.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Rows that are to predict a token, `m`.
    #[must_use]
    pub fn label_rows(&self) -> &[u32] {
        &self.label_rows
    }

    /// The token to predict at each of the label rows.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Class of each sequence.
    #[must_use]
    pub fn classes(&self) -> &[u32] {
        &self.classes
    }

    /// Row of the last token of each sequence.
    #[must_use]
    pub fn last_rows(&self) -> &[u32] {
        &self.last_rows
    }

    /// The rows that the head reads, where they are not all: those with a label, or one a sequence.
    pub(crate) fn head_rows(&self) -> Option<&[u32]> {
        let rows = match self.limits.task {
            Task::CausalLm => &self.label_rows,
            Task::Classify { pooling: Pooling::Cls | Pooling::Pooler, .. } => &self.first_rows,
            Task::Classify { pooling: Pooling::Last, .. } => &self.last_rows,
            Task::Classify { pooling: Pooling::Mean, .. } => return None,
        };
        (!rows.is_empty() && rows.len() < self.rows()).then_some(rows)
    }

    /// What the batch may hold.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }
}
