//! Everything of a run that is known before anything is sent.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use antiphon_core::ClientId;
use antiphon_oracle::http::Dialect;
use antiphon_oracle::search::{self, Ground, Method, Search};
use antiphon_oracle::task::Question;
use antiphon_oracle::{Access, Label, Soft};
use antiphon_protocol::Policy;
use antiphon_report::{DataReport, Truncation};

use crate::args::Part;
use crate::error::{Fail, Failure, Kind};
use crate::machine;
use crate::progress::Progress;
use crate::runfile::{Loaded, RunFile};
use crate::session::{
    Blame, Person, Tokens, check_calibration, check_choice, gather, in_words, policy, questions, shown,
    something_to_choose,
};

/// Questions of everybody; of held-out data also those of nobody in particular.
pub(crate) type Questions = BTreeMap<ClientId, Arc<[Question]>>;

/// A run without its endpoint.
pub(crate) struct Draft {
    pub(crate) loaded: Loaded,
    pub(crate) tokens: Arc<Tokens>,
    /// Clients, in the order of their ids.
    pub(crate) people: Vec<Person>,
    /// Held-out data of nobody in particular.
    pub(crate) common: Person,
    pub(crate) data: DataReport,
    pub(crate) truncation: Truncation,
    pub(crate) notes: Vec<String>,
    pub(crate) method: Box<dyn Method>,
    /// Positions of the prompt.
    pub(crate) rows: usize,
    /// Tokens that a prompt may be made of.
    candidates: Vec<u32>,
    pub(crate) policy: Policy,
    pub(crate) workers: usize,
    pub(crate) stop: Arc<AtomicBool>,
    train: Questions,
    validation: Questions,
    test: Questions,
}

impl Draft {
    /// Reads tokenizer and data, and refuses what no endpoint could do.
    pub(crate) fn open(loaded: Loaded, progress: &Progress, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        let file = &loaded.settings;
        let only = |section: &str, why: &str| {
            Failure::new(Kind::Settings, format_args!("[{section}]: with `oracle.endpoint` {why}"))
        };
        let table = file.search.as_ref().ok_or_else(|| only("search", "a search is needed"))?;
        let method = search::build(table).blame(&loaded, "search")?;
        let most = file.oracle.most();
        method.check(most).blame(&loaded, "oracle")?;
        file.oracle.check_address().map_err(|e| loaded.source.blame("oracle", &e.to_string()))?;
        let rows = rows(file).map_err(|why| loaded.source.blame("method", &why))?;
        antiphon_tune::method::build(&file.method).blame(&loaded, "method")?;
        let id = |t: &toml::Table| t.get("id").and_then(toml::Value::as_str).map(str::to_owned);
        if id(&file.objective).as_deref() != Some("sft") {
            return Err(only(
                "objective",
                "the probabilities of answers are asked: set objective.id = \"sft\"",
            ));
        }
        antiphon_algo::server_step(&file.server).blame(&loaded, "server")?;

        progress.stage(&format!("reading the tokenizer of {}", file.model.base_model));
        let folder = loaded.path(file.model.base_model.trim_start_matches("init:"));
        let folder = if folder.extension().is_some_and(|e| e == "json") {
            folder.parent().unwrap_or(Path::new("")).to_owned()
        } else {
            folder
        };
        let tokens = Arc::new(Tokens::beside(&folder, file)?);
        let candidates = match method.candidates() {
            Some(text) => tokens.plain(text).map_err(|e| only("search", &format!("candidates: {e}")))?,
            None => Vec::new(),
        };
        progress.stage(&format!("reading the data {}", shown(file)));
        let gathered = gather(&loaded, &tokens, false)?;
        let (people, common) = (gathered.people, gathered.common);
        something_to_choose(&loaded, &*method, gathered.label_words.as_deref())?;
        let by_text = most == Access::Text;
        let mut left_out = 0;
        let mut part = |part: Part, everyone: &mut dyn Iterator<Item = &Person>| -> Questions {
            everyone
                .map(|p| {
                    let all = &p.part(part).sequences;
                    let questions = questions(all, gathered.label_words.as_deref());
                    left_out += all.len() - questions.len();
                    (p.id, if by_text { in_words(&questions, &tokens) } else { questions })
                })
                .collect()
        };
        let train = part(Part::Train, &mut people.iter());
        let validation = part(Part::Validation, &mut people.iter().chain([&common]));
        let test = part(Part::Test, &mut people.iter().chain([&common]));
        let mut notes = gathered.notes;
        if file.oracle.dialect().takes_ids() && !folder.join("tokenizer_config.json").exists() {
            notes.push(format!(
                "{} has no tokenizer_config.json: the token that a text begins with may be missing from what is asked",
                folder.display()
            ));
        }
        if left_out > 0 {
            notes
                .push(format!("{left_out} examples are no questions: their answer is not one run of tokens"));
        }
        if let Some(p) = people.iter().find(|p| train[&p.id].is_empty()) {
            let why = "none of its training examples is a question with an answer";
            return Err(Failure::new(Kind::Data, format_args!("`{}`: {why}", p.name)));
        }
        check_calibration(file, gathered.label_words.as_deref(), &people)?;
        check_choice(file, asks(&validation))?;
        let policy = policy(file);
        policy.check(people.len()).blame(&loaded, "federation")?;
        let workers = if file.run.workers == 0 { machine::cores() } else { file.run.workers };
        Ok(Self {
            data: gathered.data,
            truncation: gathered.truncation,
            tokens,
            people,
            common,
            notes,
            method,
            rows,
            candidates,
            policy,
            workers,
            stop,
            train,
            validation,
            test,
            loaded,
        })
    }

    /// The run file.
    pub(crate) fn file(&self) -> &RunFile {
        &self.loaded.settings
    }

    /// What is asked about one part of the data.
    pub(crate) fn questions(&self, part: Part) -> &Questions {
        match part {
            Part::Train => &self.train,
            Part::Validation => &self.validation,
            Part::Test => &self.test,
        }
    }

    /// Whether anything is held out to look at during a run.
    pub(crate) fn validates(&self) -> bool {
        asks(&self.validation)
    }

    /// Everything that is ever asked.
    pub(crate) fn every_question(&self) -> impl Iterator<Item = &Question> {
        [&self.train, &self.validation, &self.test]
            .into_iter()
            .flat_map(|q| q.values().flat_map(|q| q.iter()))
    }

    /// The most tokens that the endpoint has to read: prompt, question, answer.
    pub(crate) fn longest(&self) -> usize {
        let answer = |q: &Question| match self.by_text() {
            true => q.text_query(&[]).max_tokens as usize,
            false => q.labels.iter().map(tokens_of).max().unwrap_or(0),
        };
        let length = |q: &Question| q.prompt.len() + answer(q);
        self.rows + self.every_question().map(length).max().unwrap_or(0)
    }

    /// Whether soft prompts go to the endpoint as rows of embeddings, question and all, which vLLM takes.
    pub(crate) fn asks_by_rows(&self) -> bool {
        let oracle = &self.file().oracle;
        oracle.dialect() == Dialect::Vllm && oracle.access >= Access::Embeddings
    }

    /// Whether questions are answered in words, and answers judged by them.
    pub(crate) fn by_text(&self) -> bool {
        self.file().oracle.most() == Access::Text
    }

    /// Clients in a round.
    pub(crate) fn cohort(&self) -> usize {
        self.policy.cohort_size(self.people.len())
    }

    /// The search, on an endpoint that takes rows of `width` numbers like those of a table of embeddings with standard
    /// deviation `std`. A soft prompt begins with rows of zeros: the table is not at hand, and BBT adds to nothing either.
    pub(crate) fn prepare(&self, (width, std): (usize, f64)) -> Result<Arc<dyn Search>, Failure> {
        let width = width.max(1);
        let ground = Ground {
            origin: Soft::new(width, vec![0.0; self.rows * width]).fail(Kind::Settings)?,
            embedding_std: Some(std),
            vocabulary: self.tokens.0.vocab() as u32,
            candidates: self.candidates.clone(),
            seed: self.file().run.seed,
        };
        self.method.prepare(&ground).blame(&self.loaded, "search")
    }
}

/// Whether there is any question.
fn asks(questions: &Questions) -> bool {
    questions.values().any(|q| !q.is_empty())
}

/// Tokens of a label.
pub(super) fn tokens_of(label: &Label) -> usize {
    match label {
        Label::Tokens(ids) => ids.len(),
        Label::Text(text) => text.len(),
    }
}

/// Positions of the prompt that `[method]` asks for.
fn rows(file: &RunFile) -> Result<usize, String> {
    let id = file.method.get("id").and_then(toml::Value::as_str).unwrap_or_default();
    if id != "prompt" {
        return Err(format!("a search finds a prompt and nothing else: `{id}` should be `prompt`"));
    }
    let n = file.method.get("num_virtual_tokens").and_then(toml::Value::as_integer);
    n.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| {
        "`num_virtual_tokens`: expected the number of positions of the prompt, 1 or more".to_owned()
    })
}
