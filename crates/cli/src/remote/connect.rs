//! From a draft to a run: the endpoint is found, probed, and refused if it gives too little.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use antiphon_algo::Checked;
use antiphon_core::{Purpose, Stream};
use antiphon_oracle::cache::{Cache, Cached};
use antiphon_oracle::http::{Found, HttpError, HttpOracle, Way};
use antiphon_oracle::ledger::{Ledger, Metered};
use antiphon_oracle::search::{PromptOf, Purse, Search};
use antiphon_oracle::task::Question;
use antiphon_oracle::{
    Access, EmbedOracle, Grant, Label, LogprobOracle, OracleError, ScoreQuery, TextOracle, Usage,
};
use antiphon_serve::{Running, Served, Settings};

use super::evaluate::ended;
use super::spelled::Spelled;
use super::table::Embeddings;
use super::watched::{Ending, Watched};
use super::{Draft, Needs};
use crate::args::Part;
use crate::error::{Fail, Failure, Kind, oracle as failure};
use crate::oracle::EMBEDDED;
use crate::progress::Progress;
use crate::session::{Blame, Heard, open_base, open_ledger};

/// Tokens that the run's own server reads at most, where the data need no more.
const CONTEXT: usize = 2048;

/// Questions, and random states beside the first, by which the effect of a step is measured.
pub(super) const TRIED: (usize, usize) = (4, 2);

/// A run and its endpoint.
pub(crate) struct Remote {
    pub(super) draft: Draft,
    pub(super) needs: Needs,
    pub(super) found: Found,
    pub(super) granted: Access,
    pub(super) search: Arc<dyn Search>,
    pub(super) plan: Checked,
    pub(super) oracle: Arc<Spelled>,
    /// Typical |Δ loss| of one question between two states of the search at its start, nats.
    pub(super) effect: Option<f64>,
    /// Pays for what is asked before the first round: the run's own ledger, or where it has no directory yet one in memory.
    paying: Arc<Ledger>,
    pub(super) purse: Purse,
    /// The run's own.
    pub(super) ledger: OnceLock<Arc<Ledger>>,
    pub(super) ending: Arc<Ending>,
    pub(super) lines: Vec<String>,
    /// What was last said of held-out data, and under which prompt; where clients calibrate it.
    pub(super) heard: Mutex<Vec<(Part, PromptOf, Heard)>>,
    /// The run's own server; it ends with the run.
    _server: Option<Running>,
}

impl Draft {
    /// How updates become one, for whoever travels.
    pub(crate) fn plan(&self, search: &dyn Search) -> Result<Checked, Failure> {
        let schema = search.schema().fail(Kind::Internal)?;
        match search.server() {
            Some((plan, _)) => plan.check(&schema).fail(Kind::Internal),
            None => {
                let plan = self.file().aggregation.plan().blame(&self.loaded, "aggregation")?;
                plan.check(&schema).blame(&self.loaded, "aggregation")
            }
        }
    }

    /// Plan and costs, before anything is sent. Refuses a budget that the run cannot keep to.
    pub(crate) fn needs(&self) -> Result<(Checked, Needs), Failure> {
        let plan = self.plan(&*self.prepare((1, 1.0))?)?;
        let needs = Needs::of(self, &plan)?;
        needs.afford(self)?;
        Ok((plan, needs))
    }

    /// The ledger of the run in `dir`, or the one that it shares with others; `None` where a run of its own budget has no
    /// directory yet.
    fn ledger(&self, dir: Option<&Path>) -> Result<Option<Ledger>, Failure> {
        let oracle = &self.file().oracle;
        let path = match (&oracle.ledger, dir) {
            (Some(path), _) => self.loaded.path(&path.to_string_lossy()),
            (None, Some(dir)) => dir.join("ledger.sqlite"),
            (None, None) => return Ok(None),
        };
        open_ledger(&path, dir, oracle.terms()).map(Some)
    }

    /// Finds the endpoint and probes it. `dir`: of a run that goes on. What is sent has been set aside before: of the run's own
    /// ledger where there is one, else of a budget in memory, so that a fresh run which is refused leaves nothing behind.
    pub(crate) fn connect(self, dir: Option<&Path>, progress: &Progress) -> Result<Remote, Failure> {
        let (_, needs) = self.needs()?;
        let oracle = &self.file().oracle;
        let own = self.ledger(dir)?.map(Arc::new);
        let paying = match &own {
            Some(ledger) => Arc::clone(ledger),
            None => Arc::new(Ledger::in_memory(oracle.terms()).fail(Kind::Internal)?),
        };
        let (url, model, server) = if oracle.is_embedded() {
            progress.stage("starting a server of the base model");
            let running = serve(&self)?;
            let name = oracle.model.clone().unwrap_or_else(|| EMBEDDED.to_owned());
            (format!("http://{}/v1", running.address()), name, Some(running))
        } else {
            let url = oracle.endpoint.clone().unwrap_or_default();
            (url, oracle.model.clone().unwrap_or_default(), None)
        };
        let dir = |path: &Path| -> PathBuf { self.loaded.path(&path.to_string_lossy()) };
        progress.stage("probing the endpoint");
        let settings = oracle.http(&url, &model, &dir, self.file().run.seed, Arc::clone(&self.stop));
        let mut settings = settings.map_err(|e| refused(&self, &e))?;
        let by_rows = self.asks_by_rows();
        if by_rows {
            settings.table = Some(Arc::new(Embeddings::open(&self)?));
        }
        let most = HttpOracle::probe_at_most(oracle.dialect(), by_rows, settings.retry.attempts);
        let aside = paying.reserve(most).map_err(|e| failure(&e, Kind::Oracle))?;
        let http = match HttpOracle::connect(settings) {
            Ok(http) => http,
            Err(e) => {
                if e.nothing_sent() {
                    aside.release().map_err(|e| failure(&Box::new(e).into(), Kind::RunDir))?;
                }
                return Err(refused(&self, &e));
            }
        };
        let found = http.found().clone();
        aside.settle(found.usage).map_err(|e| failure(&Box::new(e).into(), Kind::RunDir))?;
        let granted = oracle.access.min(found.access());
        self.method
            .check(granted)
            .blame(&self.loaded, "oracle")
            .map_err(|f| Failure::new(f.kind, format_args!("{f}\nthe probe found:\n{found}")))?;
        if granted == Access::Text && !self.by_text() {
            let advice = "this endpoint gives texts and no scores of labels; oracle.access = \"text\" plans and asks for texts";
            return Err(Failure::new(Kind::Settings, format_args!("{advice}\nthe probe found:\n{found}")));
        }
        if let Some(context) = found.context.filter(|c| *c < self.longest()) {
            return Err(Failure::new(
                Kind::Data,
                format_args!(
                    "the longest question has {} tokens with its prompt and answer, but `{}` reads {context}; a smaller \
                     data.sequence_len or method.num_virtual_tokens would fit",
                    self.longest(),
                    found.answers_as
                ),
            ));
        }
        let tokens = (!oracle.dialect().takes_ids()).then(|| Arc::clone(&self.tokens));
        let provider = oracle.is_embedded().then_some(EMBEDDED);
        let spelled = Arc::new(Spelled::new(http, tokens, provider));
        let search = self.prepare(found.soft.unwrap_or((1, 1.0)))?;
        let plan = self.plan(&*search)?;
        let mut remote = Remote {
            needs,
            granted,
            search,
            plan,
            effect: None,
            paying,
            purse: Purse::default(),
            ledger: own.map_or_else(OnceLock::new, OnceLock::from),
            ending: Arc::new(Ending::new(Arc::clone(&self.stop))),
            lines: self.notes.iter().cloned().chain(found.to_string().lines().map(str::to_owned)).collect(),
            oracle: spelled,
            found,
            heard: Mutex::default(),
            draft: self,
            _server: server,
        };
        remote.try_labels()?;
        remote.try_a_step()?;
        Ok(remote)
    }
}

/// The base model behind a port of this machine, for this run alone.
fn serve(draft: &Draft) -> Result<Running, Failure> {
    let file = draft.file();
    let base = open_base(&draft.loaded)?;
    let context = base.spec().max_positions.min(CONTEXT.max(draft.longest()));
    let name = file.oracle.model.clone().unwrap_or_else(|| EMBEDDED.to_owned());
    let tokenizer = draft.tokens.0.clone();
    let served = Served::new(&base, None, tokenizer, name, Some(context), draft.workers).fail(Kind::Model)?;
    let default = Settings::default();
    let settings = Settings {
        batch_tokens: default.batch_tokens.max(context),
        cache_tokens: default.cache_tokens.max(context),
        // what is not granted is not there either
        prompt_embeds: file.oracle.access >= Access::Embeddings,
        seed: file.run.seed,
        ..default
    };
    Running::start(served, settings, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).fail(Kind::Internal)
}

/// Whose fault it is that an endpoint cannot be used.
fn refused(draft: &Draft, e: &HttpError) -> Failure {
    match e {
        HttpError::Url { .. }
        | HttpError::Origin { .. }
        | HttpError::NotAllowed { .. }
        | HttpError::Exposed { .. }
        | HttpError::NoModel { .. } => draft.loaded.source.blame("oracle", &e.to_string()),
        HttpError::Key { .. } | HttpError::Certificates { .. } => Failure::new(Kind::Settings, e),
        _ => Failure::new(Kind::Oracle, e),
    }
}

impl Remote {
    /// The endpoint, paid for.
    fn paid(&self) -> Metered<Spelled> {
        Metered::new(Arc::clone(&self.oracle), Arc::clone(&self.paying))
    }

    /// A few questions before the first round.
    fn ask(
        &self,
        batch: &[ScoreQuery],
        soft: Option<&antiphon_oracle::Soft>,
    ) -> Result<Vec<Option<Vec<f64>>>, Failure> {
        let answers = match soft {
            Some(soft) => self.paid().score_soft(soft, batch),
            None => self.paid().score(batch),
        };
        let answers = answers.map_err(ended)?;
        let logs = |item: Result<Vec<antiphon_oracle::LabelScore>, _>| {
            item.ok().map(|scores| scores.iter().map(|s| s.logprob).collect())
        };
        Ok(answers.items.into_iter().map(logs).collect())
    }

    fn some_questions(&self, n: usize) -> Vec<Question> {
        let all = self.draft.questions(Part::Train).values().filter_map(|q| q.first());
        all.take(n).cloned().collect()
    }

    /// How the endpoint sees the labels of the first question.
    fn try_labels(&mut self) -> Result<(), Failure> {
        let Some(question) = self.some_questions(1).pop() else { return Ok(()) };
        if self.granted == Access::Text {
            return self.try_a_text(&question);
        }
        let answers = self.paid().score(&[question.query(&[])]);
        let answers = answers.map_err(|e| match e {
            OracleError::Interrupted => Failure::new(Kind::Interrupted, "stopped"),
            e => Failure::new(Kind::Oracle, format_args!("the labels of the first question: {e}")),
        })?;
        match answers.items.into_iter().next() {
            Some(Ok(scores)) => {
                // a single answer is a row of the client's: it is not shown
                let single = question.labels.len() == 1;
                let words = question.labels.iter().zip(&scores).take(8).map(|(label, s)| {
                    let text = match label {
                        _ if single => "the answer of the first question,".to_owned(),
                        Label::Tokens(ids) => {
                            format!("`{}`", self.draft.tokens.0.decode(ids, true).unwrap_or_default())
                        }
                        Label::Text(text) => format!("`{text}`"),
                    };
                    let bound = if s.censored { ", not among the likeliest" } else { "" };
                    format!("{text} {} {}{bound}", s.tokens, if s.tokens == 1 { "token" } else { "tokens" })
                });
                self.lines.push(format!("  labels: {}", words.collect::<Vec<_>>().join("; ")));
                if scores.iter().all(|s| s.censored) {
                    self.lines.push(
                        "  no label of the first question is among the likeliest tokens: where that is so, all prompts look alike"
                            .to_owned(),
                    );
                }
                Ok(())
            }
            Some(Err(gap)) => Err(Failure::new(
                Kind::Oracle,
                format_args!("the endpoint does not score the labels of the first question: {gap}"),
            )),
            None => Ok(()),
        }
    }

    /// What the endpoint writes behind the first question: by the label that it says, since a text may repeat the question.
    fn try_a_text(&mut self, question: &Question) -> Result<(), Failure> {
        let answers = self.paid().generate(&[question.text_query(&[])]).map_err(|e| match e {
            OracleError::Interrupted => Failure::new(Kind::Interrupted, "stopped"),
            e => Failure::new(Kind::Oracle, format_args!("the first question: {e}")),
        })?;
        let word = |label: Option<&Label>| match label {
            Some(Label::Text(text)) => format!("`{}`", text.trim()),
            _ => "none of its labels".to_owned(),
        };
        match answers.items.first() {
            Some(Ok(text)) => {
                let right = question.is_answered_by(text) == Some(true);
                let judged = if right { "right" } else { "wrong" };
                let what = match &question.labels[..] {
                    [_] => "an answer".to_owned(),
                    _ => format!(
                        "{} for {}",
                        word(question.label_in(text)),
                        word(question.labels.get(question.answer))
                    ),
                };
                self.lines.push(format!("  the first question, without a prompt: {what}, {judged}"));
                Ok(())
            }
            Some(Err(gap)) => Err(Failure::new(
                Kind::Oracle,
                format_args!("the endpoint writes nothing behind the first question: {gap}"),
            )),
            None => Ok(()),
        }
    }

    /// Refuses a search whose steps the endpoint's noise would hide.
    fn try_a_step(&mut self) -> Result<(), Failure> {
        let Some(noise) = self.found.noise_floor.filter(|_| self.granted > Access::Text) else {
            return Ok(());
        };
        let questions = self.some_questions(TRIED.0);
        let mut stream = Stream::keyed(self.draft.file().run.seed, Purpose::Search, None, None, "effect");
        let mut states = vec![self.search.start()];
        states.extend((0..TRIED.1).map(|_| self.search.random(&mut stream)));
        let mut losses: Vec<Vec<Option<f64>>> = Vec::new();
        for state in &states {
            let prompt = self.search.prompt(state).fail(Kind::Settings)?;
            let (prefix, soft) = match &prompt {
                PromptOf::Soft(soft) => (&[][..], Some(soft)),
                PromptOf::Tokens(ids) => (&ids[..], None),
            };
            let batch: Vec<ScoreQuery> = questions.iter().map(|q| q.query(prefix)).collect();
            let logs = self.ask(&batch, soft)?;
            let loss =
                |(q, l): (&Question, &Option<Vec<f64>>)| self.search.loss().of_logs(l.as_ref()?, q.answer);
            losses.push(questions.iter().zip(&logs).map(loss).collect());
        }
        let (first, others) = losses.split_at(1);
        let squares: Vec<f64> = others
            .iter()
            .flat_map(|other| first[0].iter().zip(other))
            .filter_map(|(a, b)| Some(((*a)? - (*b)?).powi(2)))
            .collect();
        if squares.is_empty() {
            return Ok(());
        }
        let effect = (squares.iter().sum::<f64>() / squares.len() as f64).sqrt();
        self.effect = Some(effect);
        if noise > 0.0 && effect <= noise {
            return Err(Failure::new(
                Kind::Settings,
                format_args!(
                    "[search]: one step moves the loss of a question by {effect:.1e} nats, and the endpoint's answers to one \
                     question differ by {noise:.1e}: the search would follow noise; a larger step (`sigma`) or an endpoint \
                     whose answers repeat would do"
                ),
            ));
        }
        Ok(())
    }

    /// The run's own ledger; opened now where the run had no directory before, with what was asked until now.
    fn own_ledger(&self, dir: &Path) -> Result<Arc<Ledger>, Failure> {
        if let Some(ledger) = self.ledger.get() {
            return Ok(Arc::clone(ledger));
        }
        let none = || Failure::new(Kind::Internal, "a run directory without a ledger");
        let ledger = Arc::new(self.draft.ledger(Some(dir))?.ok_or_else(none)?);
        // priced anew where it is booked
        let before = Usage { micros: 0, ..self.paying.spent() };
        let booked = ledger.reserve(before).and_then(|r| Ok(r.settle(before).map_err(Box::new)?));
        booked.map_err(|e| failure(&e, Kind::Oracle))?;
        Ok(ledger)
    }

    /// Opens ledger and cache: from here on clients can ask.
    pub(super) fn open_purse(&self, dir: &Path) -> Result<(), Failure> {
        let oracle = &self.draft.file().oracle;
        let ledger = self.own_ledger(dir)?;
        let asked: Arc<dyn EmbedOracle> = if oracle.caches() {
            let cache = Cache::open(&dir.join("answers.sqlite")).fail(Kind::RunDir)?;
            Arc::new(Cached::new(Arc::clone(&self.oracle), Arc::new(cache)))
        } else {
            Arc::clone(&self.oracle) as Arc<dyn EmbedOracle>
        };
        let paid = Arc::new(Metered::new(asked, Arc::clone(&ledger)));
        let watched = Arc::new(Watched { ending: Arc::clone(&self.ending), inner: paid });
        // a run begins once
        let _ = self.purse.set(Grant::Embeddings(watched).at_most(self.granted));
        let _ = self.ledger.set(ledger);
        Ok(())
    }

    /// What identifies the model, however often it is started: answers of two models cannot be mixed.
    pub(super) fn identity(&self) -> String {
        let id = &self.oracle.facts().identity;
        // where nothing names the model, its scores do, if they repeat
        let canary = match (&self.found.fingerprint, self.found.noise_floor, self.found.way) {
            (None, Some(0.0), Way::Echo | Way::Next(_) | Way::Forced(_)) => self.found.canary,
            _ => None,
        };
        let scores = canary.map_or_else(String::new, |c| format!(" scoring {c}"));
        format!("{} {} {}{scores}", id.provider, id.model, id.fingerprint.to_hex())
    }
}
