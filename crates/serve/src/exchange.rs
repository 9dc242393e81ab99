//! A request on its way through the engine: jobs out, events in, pieces of the answer to whoever sends them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::Count;
use crate::choice::{Choice, Piece};
use crate::engine::{Event, Job};
use crate::error::ApiError;
use crate::model::Served;
use crate::request::Work;
use crate::scores::{Ask, Scored};
use crate::settings::Settings;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) served: Served,
    pub(crate) settings: Settings,
    pub(crate) jobs: mpsc::Sender<Job>,
    /// A permit for each sequence that waits or runs.
    pub(crate) queue: Arc<Semaphore>,
    pub(crate) counter: AtomicU64,
    /// Seconds of Unix time at the start.
    pub(crate) started: u64,
}

/// Something for the client.
pub(crate) enum Said<'a> {
    /// Scores of the second and later tokens of a prompt, by the index of the prompt.
    Prompt(usize, Vec<Scored>),
    /// A part of a choice.
    Piece(&'a Piece),
}

/// Raises the flags of sequences that nobody waits for any more.
struct Flags(Vec<Arc<AtomicBool>>);

impl Drop for Flags {
    fn drop(&mut self) {
        self.0.iter().for_each(|f| f.store(true, Ordering::Relaxed));
    }
}

impl App {
    /// Room in the queue for `work`, until it is dropped.
    pub(crate) fn admit(&self, work: &Work) -> Result<OwnedSemaphorePermit, ApiError> {
        let busy = || ApiError::busy(self.settings.queue);
        let count = u32::try_from(work.count()).map_err(|_| busy())?;
        Arc::clone(&self.queue).try_acquire_many_owned(count).map_err(|_| busy())
    }

    /// Answers `work`: `say` hears everything as it comes and returns false when the client is gone.
    pub(crate) async fn exchange(
        &self,
        work: &Work,
        mut say: impl FnMut(Said<'_>) -> bool,
    ) -> Result<Count, ApiError> {
        let arrived = Instant::now();
        let count = work.count();
        let (events, mut heard) = unbounded_channel();
        let flags = Flags((0..count).map(|_| Arc::default()).collect());
        for (index, cancelled) in flags.0.iter().enumerate() {
            let job = Job {
                index,
                prompt: work.prompts[index / work.n].clone(),
                max_tokens: work.max_tokens,
                sampling: work.sampling,
                stream: work.stream.substream(index as u64),
                stop: Arc::clone(&work.stop_ids),
                prompt_scores: prompt_scores(work, index),
                scores: work.scores.clone(),
                events: events.clone(),
                cancelled: Arc::clone(cancelled),
            };
            self.jobs.send(job).map_err(|_| stopped())?;
        }
        drop(events);
        let mut choices: BTreeMap<usize, Choice<'_>> = BTreeMap::new();
        let width = self.served.width();
        let mut used = Count { prompt: work.prompts.iter().map(|p| p.rows(width)).sum(), completion: 0 };
        let mut open = count;
        while open > 0 {
            let left = self.settings.request_timeout.saturating_sub(arrived.elapsed());
            let (index, event) = match tokio::time::timeout(left, heard.recv()).await {
                Err(_) => return Err(timeout(self.settings.request_timeout)),
                Ok(None) => return Err(stopped()),
                Ok(Some(event)) => event,
            };
            let piece = match event {
                Event::Failed(message) => return Err(ApiError::internal(message)),
                Event::Prompt(scores) => {
                    let prompt = &work.prompts[index / work.n];
                    let mut choice =
                        Choice::new(index, &self.served, &work.stops, &prompt.tokens, work.echo, &scores)
                            .map_err(decoding)?;
                    let piece = choice.prompt();
                    choices.insert(index, choice);
                    if index % work.n == 0 && !say(Said::Prompt(index / work.n, scores)) {
                        return Ok(used);
                    }
                    piece
                }
                Event::Token(id, scored) => match choices.get_mut(&index) {
                    // tokens after a stop text are still on their way
                    None => None,
                    Some(choice) => {
                        used.completion += 1;
                        choice.token(id, scored).map_err(decoding)?
                    }
                },
                Event::End { stopped } => match choices.remove(&index) {
                    None => None,
                    Some(choice) => Some(choice.end(stopped).map_err(decoding)?),
                },
            };
            let Some(piece) = piece else { continue };
            if piece.finish.is_some() {
                open -= 1;
                choices.remove(&index);
                flags.0[index].store(true, Ordering::Relaxed);
            }
            if !say(Said::Piece(&piece)) {
                return Ok(used);
            }
        }
        Ok(used)
    }

    /// The number of a request.
    pub(crate) fn number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

/// Scores of the prompt: those that `prompt_logprobs` asks for, with enough for an echo. One choice of each prompt is enough
/// for the former, each needs the latter.
fn prompt_scores(work: &Work, index: usize) -> Option<Ask> {
    let echo = work.scores.clone().filter(|_| work.echo);
    let asked = work.prompt_scores.clone().filter(|_| index.is_multiple_of(work.n));
    match (echo, asked) {
        (Some(e), Some(a)) => Some(Ask { top: e.top.max(a.top), ids: e.ids }),
        (e, a) => e.or(a),
    }
}

fn stopped() -> ApiError {
    ApiError::internal("the engine has stopped; the server's own output says why")
}

fn timeout(limit: Duration) -> ApiError {
    ApiError::timeout(limit.as_secs())
}

fn decoding(e: antiphon_model::tokenizer::TokenizerError) -> ApiError {
    ApiError::internal(e.to_string())
}
