//! A run without gradients: the oracle inside this process, the search of `[search]`, and what it has spent.
//!
//! The method (`prompt`) says how many rows a prompt has and what they are before the search; `[search]` finds better ones
//! through the oracle. What travels is the search's state; evaluation and the published adapter use the prompt that the state
//! stands for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use antiphon_algo::{Checked, ServerStep};
use antiphon_core::{ClientId, Purpose, Schema, Stream};
use antiphon_data::Sequence;
use antiphon_kernels::Cpu;
use antiphon_model::{Net, PromptWiring, Task, Weights, Wiring};
use antiphon_oracle::cache::{Cache, Cached};
use antiphon_oracle::ledger::{Ledger, Metered};
use antiphon_oracle::search::{self, Ground, PromptOf, Purse, Search, SearchError, Seeker};
use antiphon_oracle::task::{Loss, Question};
use antiphon_oracle::{Access, EmbedOracle, Grant, Label, OracleError, ScoreQuery, Soft, Usage};
use antiphon_report::{Baseline as Line, Gauge, RoundRecord, Waypoint};
use antiphon_tune::{Tuning, method};

use super::calibration::{Heard, Said};
use super::embedded::Embedded;
use super::sealed::{Inside, Sealed};
use super::{Blame, Person, Session, Tokens, figure, head, open_ledger, recipe};
use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::runfile::{Loaded, RunFile, Select};

/// Everything of a search that does not travel.
pub(crate) struct Searching {
    pub(crate) id: &'static str,
    search: Arc<dyn Search>,
    oracle: Arc<dyn EmbedOracle>,
    /// The base without any prompt: zero-shot.
    pub(crate) plain: Tuning<Cpu>,
    /// Of a sealed encoder, frozen; empty for a language model.
    pub(crate) head: Vec<f32>,
    /// Scalars of a prompt.
    pub(crate) searched: usize,
    purse: Purse,
    ledger: OnceLock<Arc<Ledger>>,
    questions: BTreeMap<ClientId, Arc<[Question]>>,
}

/// What the search is made from, besides the run file.
pub(crate) struct Parts<'a> {
    pub(crate) loaded: &'a Loaded,
    pub(crate) base: &'a antiphon_model::Base,
    pub(crate) weights: &'a Arc<Weights<Cpu>>,
    pub(crate) tuning: &'a Tuning<Cpu>,
    pub(crate) backend: &'a Arc<Cpu>,
    pub(crate) tokens: &'a Tokens,
    pub(crate) people: &'a [Person],
    pub(crate) label_words: Option<&'a [u32]>,
    /// Names of the classes; empty without.
    pub(crate) labels: &'a [String],
    pub(crate) wiring: &'a Wiring,
    pub(crate) theta: &'a [f32],
    pub(crate) stop: &'a Arc<std::sync::atomic::AtomicBool>,
}

/// What a method that brings its own server brings.
pub(crate) type Serving = (Checked, Box<dyn ServerStep>);

impl Parts<'_> {
    /// The prompt, if nothing else is trainable but a head.
    fn prompt(&self) -> Option<&PromptWiring> {
        let head = self.wiring.head.as_ref();
        let scalars = head.map_or(0, |h| h.weight.len() + h.bias.as_ref().map_or(0, ExactSizeIterator::len));
        self.wiring.prompt.as_ref().filter(|p| p.range.len() + scalars == self.theta.len())
    }

    /// The base without a prompt, with room for so many tokens behind the longest example.
    fn plain(&self, room: usize) -> Result<Net<Cpu>, Failure> {
        let net = self.tuning.net();
        // what does not fit the model is a gap of its question
        let longest = (net.limits().max_len + room).min(self.base.spec().max_positions);
        head::bare(self.loaded, self.backend, self.weights, net.task(), longest)
    }

    /// Whoever clients will ask, without ledger and grant. `written`: tokens that it writes behind a question, at most.
    fn oracle(
        &self,
        (task, written): (Task, usize),
        head: &[f32],
        embedding_std: f64,
    ) -> Result<Arc<dyn EmbedOracle>, Failure> {
        let file = &self.loaded.settings;
        let workers = if file.run.workers == 0 { crate::machine::cores() } else { file.run.workers };
        let (backend, plain) = (Arc::clone(self.backend), self.plain(written)?);
        let tokens = Tokens::open(self.base, file)?;
        let identity = (file.model.base_model.clone(), self.base.digest(workers));
        let stop = Arc::clone(self.stop);
        if task == Task::CausalLm {
            return Ok(Arc::new(Embedded::new((backend, plain), tokens, identity, embedding_std, stop)));
        }
        let (wiring, longest) = (Arc::new(self.wiring.clone()), plain.limits().max_len);
        let prompted =
            Net::new(&*backend, Arc::clone(self.weights), task, wiring, longest).fail(Kind::Model)?;
        let inside =
            Inside { plain, prompted, head: head.to_vec(), names: self.labels.to_vec(), embedding_std };
        Ok(Arc::new(Sealed::new(backend, inside, tokens, identity, stop)))
    }
}

impl Searching {
    /// The search that the run file asks for; `None` where it asks for gradients. Refuses what the oracle does not give.
    pub(crate) fn open(parts: &Parts<'_>) -> Result<Option<Self>, Failure> {
        let loaded = parts.loaded;
        let file = &loaded.settings;
        let Some(table) = &file.search else { return Ok(None) };
        let method = search::build(table).blame(loaded, "search")?;
        method.check(file.oracle.access).blame(loaded, "oracle")?;
        let spec = parts.base.spec();
        let only = |why: &str| Failure::new(Kind::Settings, format_args!("[search]: {why}"));
        let Some(prompt) = parts.prompt() else {
            return Err(only("it searches a prompt and nothing else: set method.id = \"prompt\""));
        };
        let task = parts.tuning.net().task();
        if let Task::Classify { .. } = task {
            if spec.causal {
                return Err(only(
                    "this model continues texts and is asked for the probabilities of answers: set objective.id = \"sft\"; \
                     classes are asked of an encoder",
                ));
            }
            if file.model.head_shots.is_none() {
                return Err(only(
                    "an encoder that is asked for classes needs a head before it is sealed: set model.head_shots = 16, \
                     examples of each class that no client gets",
                ));
            }
        }
        let embedding_std = method::embedding_std(spec, parts.base.source()).fail(Kind::Model)?;
        let candidates = match method.candidates() {
            Some(text) => parts.tokens.plain(text).map_err(|e| only(&format!("candidates: {e}")))?,
            None => Vec::new(),
        };
        let ground = Ground {
            origin: Soft::new(spec.hidden, &parts.theta[prompt.range.clone()]).fail(Kind::Model)?,
            embedding_std: Some(embedding_std),
            vocabulary: spec.vocab as u32,
            candidates,
            seed: file.run.seed,
        };
        let search = method.prepare(&ground).blame(loaded, "search")?;
        let head = parts.wiring.head.as_ref().map_or_else(Vec::new, |h| head::of(h, parts.theta));
        let ask = |p: &Person| match task {
            Task::CausalLm => questions(&p.train.sequences, parts.label_words),
            Task::Classify { .. } => class_questions(&p.train.sequences, parts.labels),
        };
        if task == Task::CausalLm {
            something_to_choose(loaded, &*method, parts.label_words)?;
        }
        let text = file.oracle.access == Access::Text;
        let spelled = |asked: Arc<[Question]>| if text { in_words(&asked, parts.tokens) } else { asked };
        let questions: BTreeMap<ClientId, Arc<[Question]>> =
            parts.people.iter().map(|p| (p.id, spelled(ask(p)))).collect();
        let tokens = |q: &Question| q.text_query(&[]).max_tokens as usize;
        let written = match text && task == Task::CausalLm {
            true => questions.values().flat_map(|q| q.iter()).map(tokens).max().unwrap_or(0),
            false => 0,
        };
        let plain = Tuning::new(
            Arc::clone(parts.backend),
            Arc::new(parts.plain(0)?),
            recipe(loaded)?,
            parts.tuning.shape(),
            Arc::clone(parts.stop),
        );
        Ok(Some(Self {
            id: method.need().method,
            search,
            oracle: parts.oracle((task, written), &head, embedding_std)?,
            plain,
            head,
            searched: prompt.range.len(),
            purse: Purse::default(),
            ledger: OnceLock::new(),
            questions,
        }))
    }

    /// Of what travels.
    pub(crate) fn schema(&self) -> Result<Schema, Failure> {
        self.search.schema().fail(Kind::Internal)
    }

    /// What travels first.
    pub(crate) fn start(&self) -> Vec<f32> {
        self.search.start()
    }

    /// The server's part, where the method brings its own.
    pub(crate) fn server(&self) -> Result<Option<Serving>, Failure> {
        let Some((plan, step)) = self.search.server() else { return Ok(None) };
        Ok(Some((plan.check(&self.schema()?).fail(Kind::Internal)?, step)))
    }

    /// Every client.
    pub(crate) fn seekers(&self, seed: u64) -> Result<Vec<Seeker>, Failure> {
        let seeker = |(id, questions): (&ClientId, &Arc<[Question]>)| {
            let (search, purse) = (Arc::clone(&self.search), Arc::clone(&self.purse));
            Seeker::new(search, purse, Arc::clone(questions), *id, seed).fail_at(Kind::Data, id)
        };
        self.questions.iter().map(seeker).collect()
    }

    /// Opens the ledger of the run in `dir`: from here on clients can ask.
    pub(crate) fn begin(&self, loaded: &Loaded, dir: &Path) -> Result<(), Failure> {
        let oracle = &loaded.settings.oracle;
        // its answers cost time alone, so that a loss of power may take back what it took
        let ledger = Arc::new(open_ledger(&dir.join("ledger.sqlite"), Some(dir), oracle.terms())?);
        let asked: Arc<dyn EmbedOracle> = if oracle.caches() {
            let cache = Cache::open(&dir.join("answers.sqlite")).fail(Kind::RunDir)?;
            Arc::new(Cached::new(Arc::clone(&self.oracle), Arc::new(cache)))
        } else {
            Arc::clone(&self.oracle)
        };
        let paid = Arc::new(Metered::new(asked, Arc::clone(&ledger)));
        // a run begins once
        let _ = self.purse.set(Grant::Embeddings(paid).at_most(oracle.access));
        let _ = self.ledger.set(ledger);
        Ok(())
    }

    /// What the run has cost, earlier parts of it included.
    pub(crate) fn spent(&self) -> Usage {
        self.ledger.get().map_or(Usage::ZERO, |l| l.spent())
    }

    /// Where the search stands in `state`.
    pub(crate) fn gauge(&self, state: &[f32]) -> Gauge {
        let search::Gauge { entropy, sigma } = self.search.gauge(state);
        Gauge { entropy, sigma }
    }

    /// Examples that clients have evaluated in all rounds, at most: `cohort` of them in each of `rounds`.
    pub(crate) fn queries(&self, rounds: u32, cohort: usize) -> u64 {
        let mut each: Vec<u64> =
            self.questions.values().map(|q| self.search.queries(q.len() as u64)).collect();
        // the largest clients, so that no choice of a cohort costs more
        each.sort_unstable_by(|a, b| b.cmp(a));
        u64::from(rounds).saturating_mul(each.into_iter().take(cohort).fold(0, u64::saturating_add))
    }

    /// Refuses a budget that the run cannot keep to.
    pub(crate) fn afford(&self, loaded: &Loaded, rounds: u32, cohort: usize) -> Result<(), Failure> {
        let needs = self.queries(rounds, cohort);
        match loaded.settings.oracle.budget.examples {
            Some(limit) if limit < needs => Err(Failure::new(
                Kind::Settings,
                format_args!(
                    "oracle.budget.examples = {limit}, but {rounds} rounds of {cohort} clients may take {needs}; \
                     raise it, or ask for fewer rounds, candidates or clients"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The trainable vector of the prompt that `state` stands for, a sealed head behind it.
    pub(crate) fn whole(&self, session: &Session, state: &[f32]) -> Result<Vec<f32>, Failure> {
        let mut rows = match self.search.prompt(state).fail(Kind::Federation)? {
            PromptOf::Soft(soft) => soft.values().to_vec(),
            PromptOf::Tokens(ids) => {
                method::token_rows(session.spec(), session.base.source(), &ids).fail(Kind::Model)?
            }
        };
        rows.extend(&self.head);
        Ok(rows)
    }

    /// Random search with as many queries as `rounds` have asked, cached ones included, on everybody's examples in one place: the
    /// line that every search must beat. Not paid from the run's budget. What a kill undid was spent, and is not counted.
    pub(crate) fn luck(&self, session: &Session, rounds: &[RoundRecord]) -> Result<Line, Failure> {
        let begun = Instant::now();
        let all: Vec<Question> = self.questions.values().flat_map(|q| q.iter().cloned()).collect();
        let asked: u64 = rounds.iter().filter_map(|r| r.spent).map(|s| s.queries()).sum();
        let candidates = (asked / all.len().max(1) as u64).max(1);
        let grant = Grant::Embeddings(Arc::clone(&self.oracle)).at_most(session.file().oracle.access);
        let mut stream = Stream::keyed(session.file().run.seed, Purpose::Search, None, None, "random search");
        let luck =
            search::random_search(&*self.search, &grant, &all, candidates, &mut stream, session.workers);
        let better = luck.map_err(|e| match e {
            SearchError::Oracle(OracleError::Interrupted) => Failure::new(Kind::Interrupted, "stopped"),
            e => Failure::new(Kind::Internal, e),
        })?;
        let seen = if session.validates() { &better[..] } else { &[] };
        let curve = seen
            .iter()
            .map(|l| Ok(Waypoint { forwards: l.asked, eval: session.evaluate(&l.state, Part::Validation)? }));
        let mut curve = curve.collect::<Result<Vec<Waypoint>, Failure>>()?;
        // what is allowed to the search is allowed to luck
        let selects = session.file().eval.select == Select::Best;
        let chosen = if selects { best_waypoint(session.file(), &curve) } else { None };
        let best = chosen.map(|i| &better[i]).or(better.last());
        let whole = candidates * all.len() as u64;
        // nothing better was found until the end
        if let Some(last) = curve.last().filter(|w| w.forwards < whole).cloned() {
            curve.push(Waypoint { forwards: whole, ..last });
        }
        let best = best.map_or_else(|| self.search.start(), |l| l.state.clone());
        Ok(Line {
            eval: session.evaluate(&best, Part::Test)?,
            steps: Some(candidates),
            examples_seen: Some(whole),
            seconds: Some(begun.elapsed().as_secs_f64()),
            curve,
        })
    }

    /// What the model says of `part` of each client's data under the prompt that `state` stands for. Not paid from the run's
    /// budget, as no evaluation in this process is.
    pub(super) fn heard(&self, session: &Session, state: &[f32], part: Part) -> Result<Heard, Failure> {
        let prompt = self.search.prompt(state).fail(Kind::Federation)?;
        let interrupted = |e| match e {
            OracleError::Interrupted => Failure::new(Kind::Interrupted, "stopped"),
            e => Failure::new(Kind::Internal, e),
        };
        let mut heard = Heard::new();
        for person in &session.people {
            let own = questions(&person.part(part).sequences, session.label_words.as_deref());
            let answers = match &prompt {
                PromptOf::Soft(soft) => {
                    let batch: Vec<ScoreQuery> = own.iter().map(|q| q.query(&[])).collect();
                    self.oracle.score_soft(soft, &batch)
                }
                PromptOf::Tokens(ids) => {
                    let batch: Vec<ScoreQuery> = own.iter().map(|q| q.query(ids)).collect();
                    self.oracle.score(&batch)
                }
            };
            let items = answers.map_err(interrupted)?.items;
            let said = own.iter().zip(&items).filter_map(|(q, s)| Some(Said::of(q, s.as_ref().ok()?)));
            heard.insert(person.id, said.collect());
        }
        Ok(heard)
    }

    /// Who answers, for the summary.
    pub(crate) fn provider(&self) -> String {
        let id = &self.oracle.facts().identity;
        format!("{} {}", id.provider, id.model)
    }
}

/// The first waypoint with the least figure, of those that have one.
pub(crate) fn best_waypoint(file: &RunFile, curve: &[Waypoint]) -> Option<usize> {
    let known = curve.iter().enumerate().filter_map(|(i, w)| Some((i, figure(file, &w.eval.global)?)));
    known.filter(|(_, figure)| figure.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
}

/// What a client asks: each sequence up to its answer, and the label words or else the answer itself. Sequences whose labelled
/// tokens are not one run, or that begin with their answer, are left out.
pub(crate) fn questions(sequences: &[Sequence], words: Option<&[u32]>) -> Arc<[Question]> {
    let words: Option<Arc<[Label]>> = words.map(|w| w.iter().map(|id| Label::Tokens(vec![*id])).collect());
    let question = |s: &Sequence| {
        let labels: Vec<(usize, u32)> = s.labels().collect();
        let (first, id) = *labels.first()?;
        let prompt = s.ids[..=first].to_vec();
        if let Some(all) = &words {
            let answer = all.iter().position(|l| *l == Label::Tokens(vec![id]))?;
            return Some(Question { prompt, labels: Arc::clone(all), answer });
        }
        let together = labels.windows(2).all(|w| w[1].0 == w[0].0 + 1);
        let own = Label::Tokens(labels.iter().map(|(_, id)| *id).collect());
        together.then(|| Question { prompt, labels: [own].into(), answer: 0 })
    };
    sequences.iter().filter_map(question).collect()
}

/// Refuses a loss that compares labels where scores are granted and a question has one: it would always be 0.
pub(crate) fn something_to_choose(
    loaded: &Loaded,
    method: &dyn search::Method,
    words: Option<&[u32]>,
) -> Result<(), Failure> {
    let loss = method.loss();
    let of_text = loss.access() == Access::Text && loaded.settings.oracle.most() == Access::Text;
    if !loss.compares() || of_text || words.is_some_and(|w| w.len() > 1) {
        return Ok(());
    }
    let other = match loss {
        Loss::ZeroOne => ", or oracle.access = \"text\", where what is written is compared with the answer",
        _ => "",
    };
    Err(Failure::new(
        Kind::Settings,
        format_args!(
            "search.loss = \"{}\" needs labels to choose from, and these questions have one answer each: give the data a \
             `verbalizer`, or set loss = \"nll\"{other}",
            loss.id()
        ),
    ))
}

/// The same questions with labels in words, to compare texts with.
pub(crate) fn in_words(questions: &[Question], tokens: &Tokens) -> Arc<[Question]> {
    let word = |label: &Label| match label {
        Label::Tokens(ids) => Label::Text(tokens.0.decode(ids, true).unwrap_or_default()),
        Label::Text(text) => Label::Text(text.clone()),
    };
    // examples of a task share their labels
    let mut last: Option<[Arc<[Label]>; 2]> = None;
    let mut spelled = |labels: &Arc<[Label]>| match &last {
        Some([ids, words]) if Arc::ptr_eq(ids, labels) => Arc::clone(words),
        _ => {
            let words: Arc<[Label]> = labels.iter().map(word).collect();
            last = Some([Arc::clone(labels), Arc::clone(&words)]);
            words
        }
    };
    questions.iter().map(|q| Question { labels: spelled(&q.labels), ..q.clone() }).collect()
}

/// The same of sequences that have a class: the names of all classes are asked.
fn class_questions(sequences: &[Sequence], names: &[String]) -> Arc<[Question]> {
    let labels: Arc<[Label]> = names.iter().map(|n| Label::Text(n.clone())).collect();
    let question = |s: &Sequence| {
        let answer = s.class? as usize;
        Some(Question { prompt: s.ids.clone(), labels: Arc::clone(&labels), answer })
    };
    sequences.iter().filter_map(question).collect()
}

impl Session {
    /// The whole trainable vector of what travels: a search's state stands for a prompt, scalars for what they moved.
    pub(crate) fn meant<'a>(&self, travelled: &'a [f32]) -> Result<Cow<'a, [f32]>, Failure> {
        match (&self.searching, &self.scalars) {
            (Some(s), _) => Ok(s.whole(self, travelled)?.into()),
            (None, Some(s)) => Ok(s.whole(travelled)?.to_vec().into()),
            (None, None) => Ok(travelled.into()),
        }
    }
}
