//! What a run will ask, before anything is sent.

use antiphon_algo::Checked;
use antiphon_oracle::Usage;
use antiphon_oracle::http::{Dialect, HttpOracle};
use antiphon_oracle::search::{Batches, Seeker};
use antiphon_oracle::task::Question;
use antiphon_protocol::size;
use antiphon_report::format::count;
use serde::Serialize;

use super::Draft;
use super::connect::TRIED;
use super::draft::tokens_of;
use super::evaluate::TOGETHER;
use crate::args::Part;
use crate::error::{Failure, Kind};
use crate::runfile::Baseline;

/// Examples and their price: what a run without failures asks at most. A cache stays under it; requests that have to be sent
/// again come on top, and are paid from the budget as well.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Needs {
    /// Examples that clients have evaluated in all rounds, at most.
    pub(crate) search: u64,
    /// Examples of held-out data over all evaluations, the final test and zero-shot among them.
    pub(crate) evaluation: u64,
    /// Examples of random search, as many as the search's, and its evaluations.
    pub(crate) random_search: u64,
    /// Examples before the first round, to see how the endpoint answers.
    pub(crate) probe: u64,
    /// Requests, at most: questions that are asked together share them, as far as the dialect can.
    pub(crate) calls: u64,
    /// Tokens sent, estimated by the local tokenizer.
    pub(crate) prompt_tokens: u64,
    /// Tokens generated.
    pub(crate) completion_tokens: u64,
    /// Money, in millionths.
    pub(crate) micros: u64,
    /// Seconds that the rate of requests allows, at least; how fast the endpoint is, is not known.
    pub(crate) least_seconds: f64,
    /// Bytes of a round from all its clients, exactly.
    pub(crate) bytes_up_per_round: u64,
    /// Bytes of a round to all its clients, exactly.
    pub(crate) bytes_down_per_round: u64,
}

impl Needs {
    /// Best-so-far states of random search that are evaluated on validation data, the last ones: each costs.
    pub(crate) const WAYPOINTS: usize = 4;

    /// Of `draft`, whose clients send what `plan` says.
    pub(crate) fn of(draft: &Draft, plan: &Checked) -> Result<Self, Failure> {
        let file = draft.file();
        let search = draft.prepare((1, 1.0))?;
        let (rounds, cohort) = (u64::from(draft.policy.num_rounds), draft.cohort());
        let unit = Unit::of(draft);
        // the largest clients, so that no choice of a cohort costs more
        let own = draft.questions(Part::Train).values().map(|q| {
            let batches = search.batches(q.len() as u64);
            batches.into_iter().map(|b| unit.asked(b)).fold(Asked::default(), Asked::and)
        });
        let mut each: Vec<Asked> = own.collect();
        each.sort_unstable_by_key(|a| std::cmp::Reverse((a.examples, a.calls)));
        let of_search = each.into_iter().take(cohort).fold(Asked::default(), Asked::and).times(rounds);
        let searched = of_search.examples;
        let held = |part| draft.questions(part).values().map(|q| q.len() as u64).sum::<u64>();
        let evaluated = |part| unit.evaluated(held(part));
        let every = u64::from(file.eval.every_rounds);
        let times = match every {
            0 => 1,
            n => rounds / n + u64::from(!rounds.is_multiple_of(n)),
        };
        let zero_shot = u64::from(file.eval.baselines.contains(&Baseline::ZeroShot));
        let of_evaluation =
            evaluated(Part::Validation).times(times).and(evaluated(Part::Test).times(1 + zero_shot));
        let luck = || {
            // a candidate is asked about everybody's examples at once, and there is one at least
            let all = held(Part::Train).max(1);
            let candidates = unit.asked(Batches { times: (searched / all).max(1), examples: all });
            let waypoints = evaluated(Part::Validation).times(Self::WAYPOINTS as u64);
            candidates.and(waypoints).and(evaluated(Part::Test))
        };
        let of_luck = if file.eval.random_search { luck() } else { Asked::default() };
        let of_probe = unit.probed(draft);
        let Asked { examples, calls } = of_search.and(of_evaluation).and(of_luck).and(of_probe);
        let all = |per_example: f64| (examples as f64 * per_example).ceil() as u64;
        let probe = unit.probe();
        let prompt_tokens = all(unit.prompt_tokens).saturating_add(probe.prompt_tokens);
        let completion_tokens = all(unit.completion_tokens).saturating_add(probe.completion_tokens);
        let usage = Usage { calls, examples, prompt_tokens, completion_tokens, ..Usage::ZERO };
        let up = (size::poll() + size::deliver(plan, Seeker::METRICS)) * cohort as u64;
        let down = (size::work(plan, cohort) + size::accepted()) * cohort as u64;
        Ok(Self {
            search: searched,
            evaluation: of_evaluation.examples,
            random_search: of_luck.examples,
            probe: of_probe.examples,
            calls,
            prompt_tokens,
            completion_tokens,
            micros: file.oracle.prices.prices().priced(usage).micros,
            least_seconds: calls as f64 / file.oracle.requests_per_second,
            bytes_up_per_round: up.total(),
            bytes_down_per_round: down.total(),
        })
    }

    /// Examples in all.
    pub(crate) fn examples(&self) -> u64 {
        [self.search, self.evaluation, self.random_search, self.probe]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Refuses a budget that the run cannot keep to.
    pub(crate) fn afford(&self, draft: &Draft) -> Result<(), Failure> {
        let limits = draft.file().oracle.budget.limits();
        let lines = [
            ("examples", limits.examples, self.examples()),
            ("calls", limits.calls, self.calls),
            ("prompt_tokens", limits.prompt_tokens, self.prompt_tokens),
            ("completion_tokens", limits.completion_tokens, self.completion_tokens),
        ];
        let short = |key: &str, limit: &str, needs: &str| {
            Failure::new(
                Kind::Settings,
                format_args!(
                    "oracle.budget.{key} = {limit}, but this run may need {needs}: {} examples to search, {} to evaluate, {} \
                     for random search, {} to probe; raise it, or ask for fewer rounds, candidates, clients or evaluations",
                    count(self.search),
                    count(self.evaluation),
                    count(self.random_search),
                    count(self.probe)
                ),
            )
        };
        for (key, limit, needs) in lines {
            if let Some(limit) = limit.filter(|limit| *limit < needs) {
                return Err(short(key, &limit.to_string(), &count(needs)));
            }
        }
        match limits.micros.filter(|limit| *limit < self.micros) {
            Some(limit) => Err(short("money", &money(limit), &money(self.micros))),
            None => Ok(()),
        }
    }
}

/// Millionths as an amount.
pub(crate) fn money(micros: u64) -> String {
    format!("{:.4}", micros as f64 / 1e6)
}

/// Examples, and the requests that they take. What cannot be counted is the largest number, which no budget admits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    examples: u64,
    calls: u64,
}

impl Asked {
    fn and(self, other: Self) -> Self {
        Self {
            examples: self.examples.saturating_add(other.examples),
            calls: self.calls.saturating_add(other.calls),
        }
    }

    fn times(self, n: u64) -> Self {
        Self { examples: self.examples.saturating_mul(n), calls: self.calls.saturating_mul(n) }
    }
}

/// What one example costs.
#[derive(Clone, Copy, Debug)]
struct Unit {
    /// Labels of an example, at most: prompts of a dialect that scores prompts.
    labels: u64,
    /// Their tokens, at most.
    label_tokens: u64,
    /// Their beginnings, at most, where each is a request.
    beginnings: Option<u64>,
    /// A text for each example.
    by_text: bool,
    dialect: Dialect,
    /// Prompts that a request holds.
    per_request: u64,
    /// Sent, in the mean over the training data.
    prompt_tokens: f64,
    /// Generated, in the mean over the training data.
    completion_tokens: f64,
}

impl Unit {
    fn of(draft: &Draft) -> Self {
        let oracle = &draft.file().oracle;
        let dialect = oracle.dialect();
        let by_rows = draft.asks_by_rows();
        let several = matches!(dialect, Dialect::Antiphon | Dialect::Vllm);
        let per_request = oracle.prompts_per_request.unwrap_or(if several { 16 } else { 1 }).max(1) as u64;
        let by_text = draft.by_text();
        let one = |q: &Question| {
            let before = (draft.rows + q.prompt.len()) as f64;
            let labels: Vec<f64> = q.labels.iter().map(|l| tokens_of(l) as f64).collect();
            let (n, all) = (labels.len() as f64, labels.iter().sum::<f64>());
            match dialect {
                _ if by_text => [before, f64::from(q.text_query(&[]).max_tokens)],
                // one request for each beginning of a label
                Dialect::Vllm if by_rows => {
                    let requests = beginnings(q) as f64;
                    [requests * before + all - n, requests]
                }
                Dialect::Antiphon => [n * before + all, 0.0],
                Dialect::Vllm | Dialect::Completions => [n * before + all, n],
                Dialect::Chat | Dialect::ChatText => [before, 1.0],
                // a request for each token of each label
                Dialect::LlamaCpp => [all * before, all],
            }
        };
        let (mut sum, mut n) = ([0.0; 2], 0.0);
        for q in draft.questions(Part::Train).values().flat_map(|q| q.iter()) {
            sum.iter_mut().zip(one(q)).for_each(|(s, x)| *s += x);
            n += 1.0;
        }
        let [prompt_tokens, completion_tokens] = sum.map(|s| if n > 0.0 { s / n } else { 0.0 });
        let most = |of: fn(&Question) -> usize| draft.every_question().map(of).max().unwrap_or(1) as u64;
        Self {
            labels: most(|q| q.labels.len()),
            label_tokens: most(|q| q.labels.iter().map(tokens_of).sum()),
            beginnings: by_rows.then(|| most(beginnings)),
            by_text,
            dialect,
            per_request,
            prompt_tokens,
            completion_tokens,
        }
    }

    /// Requests share no prompts of different batches: a batch of 8 is a request, though 16 would fit.
    fn asked(&self, batches: Batches) -> Asked {
        let Batches { times, examples } = batches;
        let together = examples.saturating_mul(self.labels).div_ceil(self.per_request);
        let calls = match self.dialect {
            _ if self.by_text => examples,
            // soft prompts by rows; a question without one is asked like any other
            Dialect::Vllm if let Some(each) = self.beginnings => together.max(examples.saturating_mul(each)),
            Dialect::Antiphon | Dialect::Vllm | Dialect::Completions => together,
            Dialect::Chat | Dialect::ChatText => examples,
            Dialect::LlamaCpp => examples.saturating_mul(self.label_tokens),
        };
        Asked { examples, calls }.times(times)
    }

    /// Held-out data, which are asked in pieces.
    fn evaluated(&self, examples: u64) -> Asked {
        let piece = TOGETHER as u64;
        let whole = self.asked(Batches { times: examples / piece, examples: piece });
        whole.and(self.asked(Batches { times: 1, examples: examples % piece }))
    }

    /// What the endpoint is, by the oracle itself.
    fn probe(&self) -> Usage {
        HttpOracle::probe_at_most(self.dialect, self.beginnings.is_some(), 1)
    }

    /// Before the first round: what the endpoint is, how it sees labels, and, where it gives scores, whether a step shows.
    fn probed(&self, draft: &Draft) -> Asked {
        let calls = self.probe().calls;
        let labels = self.asked(Batches { times: 1, examples: 1 });
        if self.by_text {
            return Asked { examples: 0, calls }.and(labels);
        }
        let examples = TRIED.0.min(draft.people.len()) as u64;
        let steps = self.asked(Batches { times: 1 + TRIED.1 as u64, examples });
        Asked { examples: 0, calls }.and(labels).and(steps)
    }
}

/// Requests of a question that is asked by rows of embeddings: one for each beginning of its labels, which share the empty one.
fn beginnings(q: &Question) -> usize {
    1 + q.labels.iter().map(|l| tokens_of(l).saturating_sub(1)).sum::<usize>()
}
