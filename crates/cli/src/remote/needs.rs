//! What a run will ask, before anything is sent.

use antiphon_algo::Checked;
use antiphon_oracle::http::Dialect;
use antiphon_oracle::search::Seeker;
use antiphon_oracle::task::Question;
use antiphon_oracle::{Access, Usage};
use antiphon_protocol::size;
use antiphon_report::format::count;
use serde::Serialize;

use super::Draft;
use super::draft::tokens_of;
use crate::args::Part;
use crate::error::{Failure, Kind};
use crate::runfile::Baseline;

/// Examples and their price. The search's are a bound, which a cache stays under; the others are exact without failures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Needs {
    /// Examples that clients have evaluated in all rounds, at most.
    pub(crate) search: u64,
    /// Examples of held-out data over all evaluations, the final test and zero-shot among them.
    pub(crate) evaluation: u64,
    /// Examples of random search, as many as the search's, and its evaluations.
    pub(crate) random_search: u64,
    /// Requests, estimated from the dialect.
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
        // the largest clients, so that no choice of a cohort costs more
        let mut each: Vec<u64> =
            draft.questions(Part::Train).values().map(|q| search.queries(q.len() as u64)).collect();
        each.sort_unstable_by(|a, b| b.cmp(a));
        let searched = rounds * each.iter().take(cohort).sum::<u64>();
        let held = |part| draft.questions(part).values().map(|q| q.len() as u64).sum::<u64>();
        let every = u64::from(file.eval.every_rounds);
        let times = match every {
            0 => 1,
            n => rounds / n + u64::from(!rounds.is_multiple_of(n)),
        };
        let zero_shot = u64::from(file.eval.baselines.contains(&Baseline::ZeroShot));
        let evaluation = times * held(Part::Validation) + (1 + zero_shot) * held(Part::Test);
        let luck = searched + held(Part::Test) + Self::WAYPOINTS as u64 * held(Part::Validation);
        let random_search = if file.eval.random_search { luck } else { 0 };
        let unit = Unit::of(draft);
        let examples = searched + evaluation + random_search;
        let all = |per_example: f64| (examples as f64 * per_example).ceil() as u64;
        let (calls, prompt_tokens, completion_tokens) =
            (all(unit.calls), all(unit.prompt_tokens), all(unit.completion_tokens));
        let usage = Usage { calls, examples, prompt_tokens, completion_tokens, ..Usage::ZERO };
        let up = (size::poll() + size::deliver(plan, Seeker::METRICS)) * cohort as u64;
        let down = (size::work(plan, cohort) + size::accepted()) * cohort as u64;
        Ok(Self {
            search: searched,
            evaluation,
            random_search,
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
        self.search + self.evaluation + self.random_search
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
                     for random search; raise it, or ask for fewer rounds, candidates, clients or evaluations",
                    count(self.search),
                    count(self.evaluation),
                    count(self.random_search)
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

/// What one example costs in the mean over the training data.
struct Unit {
    calls: f64,
    prompt_tokens: f64,
    completion_tokens: f64,
}

impl Unit {
    fn of(draft: &Draft) -> Self {
        let oracle = &draft.file().oracle;
        let dialect = oracle.dialect();
        let several = matches!(dialect, Dialect::Antiphon | Dialect::Vllm);
        let per_request = oracle.prompts_per_request.unwrap_or(if several { 16 } else { 1 }).max(1) as f64;
        let one = |q: &Question| {
            let before = (draft.rows + q.prompt.len()) as f64;
            let labels: Vec<f64> = q.labels.iter().map(|l| tokens_of(l) as f64).collect();
            let (n, all) = (labels.len() as f64, labels.iter().sum::<f64>());
            match dialect {
                // one request for each beginning of a label
                Dialect::Vllm if oracle.access >= Access::Embeddings => {
                    let longest = labels.iter().copied().fold(1.0, f64::max);
                    let requests = if longest > 1.0 { all - n + 1.0 } else { 1.0 };
                    [requests, requests * before + all - n, requests]
                }
                Dialect::Antiphon => [n / per_request, n * before + all, 0.0],
                Dialect::Vllm | Dialect::Completions => [n / per_request, n * before + all, n],
                Dialect::Chat | Dialect::ChatText => [1.0, before, 1.0],
                // a request for each token of each label
                Dialect::LlamaCpp => [all, all * before, all],
            }
        };
        let (mut sum, mut n) = ([0.0; 3], 0.0);
        for q in draft.questions(Part::Train).values().flat_map(|q| q.iter()) {
            sum.iter_mut().zip(one(q)).for_each(|(s, x)| *s += x);
            n += 1.0;
        }
        let [calls, prompt_tokens, completion_tokens] = sum.map(|s| if n > 0.0 { s / n } else { 0.0 });
        Self { calls, prompt_tokens, completion_tokens }
    }
}
