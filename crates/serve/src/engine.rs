//! One thread that owns the model and runs all sequences together, a forward a step.
//!
//! In each step every running sequence reads its last token and waiting prompts join, first come first served, as long
//! as rows and cache are free; so prompts that are only scored share a forward. A sequence draws from its own stream and
//! computes the same bits in any company, so an answer does not depend on who else asks.
//!
//! Deliberately missing: preemption (a sequence reserves its whole length), prompts read in parts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use antiphon_core::Stream;
use antiphon_kernels::{Backend, Cpu};
use antiphon_model::generate::Sampling;
use antiphon_model::pool::{Feed, Input, Pool, PoolRoom, Sequence};
use antiphon_model::{Net, NetError};
use tokio::sync::mpsc::UnboundedSender;

use crate::scores::{Ask, Scored, scored};

/// What one sequence reads first: vectors, then tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Prompt {
    /// `[rows, hidden]`.
    pub(crate) vectors: Arc<[f32]>,
    pub(crate) tokens: Arc<[u32]>,
}

/// One sequence wanted.
#[derive(Debug)]
pub(crate) struct Job {
    /// Its index in the request.
    pub(crate) index: usize,
    pub(crate) prompt: Prompt,
    /// 0 scores the prompt alone.
    pub(crate) max_tokens: usize,
    pub(crate) sampling: Sampling,
    pub(crate) stream: Stream,
    /// Tokens that end it.
    pub(crate) stop: Arc<[u32]>,
    /// Log-probabilities of the prompt's tokens from the second on.
    pub(crate) prompt_scores: Option<Ask>,
    /// Log-probabilities of what is generated.
    pub(crate) scores: Option<Ask>,
    pub(crate) events: UnboundedSender<(usize, Event)>,
    /// Raised by who no longer needs the rest.
    pub(crate) cancelled: Arc<AtomicBool>,
}

/// What happens to a sequence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// The prompt was read; scores of its second and later tokens, if they were asked for.
    Prompt(Vec<Scored>),
    /// A token, with its scores if they were asked for.
    Token(u32, Option<Scored>),
    /// The end: by a stop token, or by length.
    End { stopped: bool },
    /// The engine could not go on with it.
    Failed(String),
}

impl Prompt {
    /// Rows that it takes, of a model of width `hidden`.
    pub(crate) fn rows(&self, hidden: usize) -> usize {
        self.vectors.len() / hidden + self.tokens.len()
    }
}

impl Job {
    fn tell(&self, event: Event) -> bool {
        self.events.send((self.index, event)).is_ok()
    }

    fn unwanted(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.events.is_closed()
    }
}

/// A sequence under way. Its place in the cache stands at the same index of a list of its own.
struct Going {
    job: Job,
    /// The token that it reads next; nothing before its prompt was read.
    last: Option<u32>,
    made: usize,
    /// Of this step: scores of the prompt, and the token chosen.
    scores: Vec<Scored>,
    next: Option<(u32, Option<Scored>)>,
    over: bool,
}

/// What a sequence reads in a step, and from which row on its logits are wanted.
struct Reads {
    prompt: Prompt,
    from: usize,
}

impl Going {
    fn reads(&self, width: usize) -> Reads {
        if let Some(last) = self.last {
            return Reads { prompt: Prompt { tokens: [last].into(), ..Prompt::default() }, from: 0 };
        }
        let prompt = self.job.prompt.clone();
        let rows = prompt.rows(width);
        let from = match (&self.job.prompt_scores, self.job.max_tokens) {
            (Some(_), _) => rows - prompt.tokens.len(),
            (None, 0) => rows,
            (None, _) => rows - 1,
        };
        Reads { prompt, from }
    }

    /// Takes the logits of `row` of what it read.
    fn hear(&mut self, row: usize, logits: &[f32], width: usize, scratch: &mut Vec<(f64, u32)>) {
        if self.last.is_none() {
            let Prompt { vectors, tokens } = &self.job.prompt;
            let next = (row + 1).checked_sub(vectors.len() / width).and_then(|at| tokens.get(at));
            if let (Some(&next), Some(ask)) = (next, &self.job.prompt_scores) {
                self.scores.push(scored(logits, next, ask));
                return;
            }
        }
        if self.job.max_tokens > 0 {
            let id = self.job.sampling.pick(logits, &mut self.job.stream, scratch);
            self.next = Some((id, self.job.scores.as_ref().map(|ask| scored(logits, id, ask))));
        }
    }

    /// Reports the step and says whether more is to come.
    fn report(&mut self) -> bool {
        let read_prompt = self.last.is_none();
        if read_prompt && !self.job.tell(Event::Prompt(std::mem::take(&mut self.scores))) {
            return false;
        }
        let Some((id, scores)) = self.next.take() else {
            self.job.tell(Event::End { stopped: false });
            return false;
        };
        if self.job.stop.contains(&id) {
            self.job.tell(Event::End { stopped: true });
            return false;
        }
        self.made += 1;
        self.last = Some(id);
        if !self.job.tell(Event::Token(id, scores)) {
            return false;
        }
        if self.made == self.job.max_tokens {
            self.job.tell(Event::End { stopped: false });
            return false;
        }
        true
    }
}

/// The model on its device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) backend: Cpu,
    pub(crate) net: Net<Cpu>,
    pub(crate) params: <Cpu as Backend>::Buf,
}

/// The thread's state.
pub(crate) struct Engine {
    device: Arc<Device>,
    pool: Pool<Cpu>,
    waiting: VecDeque<Job>,
    going: Vec<Going>,
    sequences: Vec<Sequence>,
    scratch: Vec<(f64, u32)>,
}

impl Engine {
    pub(crate) fn new(device: Arc<Device>, room: PoolRoom) -> Result<Self, NetError> {
        let pool = Pool::new(&device.backend, &device.net, room)?;
        Ok(Self {
            device,
            pool,
            waiting: VecDeque::new(),
            going: Vec::new(),
            sequences: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Serves until every sender of `jobs` is gone and all work is done.
    pub(crate) fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut open = true;
        while open || !self.waiting.is_empty() || !self.going.is_empty() {
            if open && self.waiting.is_empty() && self.going.is_empty() {
                match jobs.recv() {
                    Ok(job) => self.waiting.push_back(job),
                    Err(_) => open = false,
                }
            }
            loop {
                match jobs.try_recv() {
                    Ok(job) => self.waiting.push_back(job),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => {
                        open = false;
                        break;
                    }
                }
            }
            self.drop_unwanted();
            self.admit();
            self.step();
        }
    }

    fn drop_unwanted(&mut self) {
        self.waiting.retain(|job| !job.unwanted());
        self.going.iter_mut().for_each(|g| g.over = g.job.unwanted());
        self.remove_ended();
    }

    fn remove_ended(&mut self) {
        for at in (0..self.going.len()).rev() {
            if self.going[at].over {
                // the order matters to nobody: each sequence is its own
                self.going.swap_remove(at);
                self.pool.close(self.sequences.swap_remove(at));
            }
        }
    }

    /// Lets waiting prompts in while there is room for them.
    fn admit(&mut self) {
        let room = self.pool.room();
        let virtual_rows = self.device.net.limits().prompt;
        let mut rows = self.going.len();
        while let Some(job) = self.waiting.front() {
            let prompt = job.prompt.rows(self.device.net.spec().hidden) + virtual_rows;
            if self.going.len() == room.sequences || rows + prompt > room.step_rows {
                return;
            }
            // the last token that is made is never read
            let positions = prompt + job.max_tokens.saturating_sub(1);
            let Some(sequence) = self.pool.open(positions) else { return };
            let Some(job) = self.waiting.pop_front() else { return };
            rows += prompt;
            self.going.push(Going { job, last: None, made: 0, scores: Vec::new(), next: None, over: false });
            self.sequences.push(sequence);
        }
    }

    /// One forward over everything that is under way.
    fn step(&mut self) {
        if self.going.is_empty() {
            return;
        }
        let Device { backend, net, params } = &*self.device;
        let width = net.spec().hidden;
        let reads: Vec<Reads> = self.going.iter().map(|g| g.reads(width)).collect();
        let mut feeds: Vec<Feed<'_>> = reads
            .iter()
            .zip(&mut self.sequences)
            .map(|(Reads { prompt, from }, sequence)| {
                let input = Input { vectors: &prompt.vectors, tokens: &prompt.tokens };
                Feed { sequence, input, logits_from: *from }
            })
            .collect();
        let (going, scratch) = (&mut self.going, &mut self.scratch);
        let result = self.pool.step(backend, net, params, &mut feeds, &mut |feed, row, logits| {
            going[feed].hear(row, logits, width, scratch);
        });
        for g in &mut self.going {
            g.over = match &result {
                Ok(()) => !g.report(),
                Err(e) => {
                    g.job.tell(Event::Failed(e.to_string()));
                    true
                }
            };
        }
        self.remove_ended();
    }
}
