//! What an endpoint really gives, asked before anything is asked in earnest.

use std::fmt;

use serde_json::{Value, json};

use super::completions::{echo_body, next_body, read_echo, read_next};
use super::error::HttpError;
use super::rows::Table;
use super::sender::Sender;
use super::settings::{Dialect, HttpSettings};
use super::{chat, forced, llama, rows, score};
use crate::access::Access;
use crate::answer::{Missing, Usage};
use crate::query::{Label, Prompt, TextQuery};

/// The question that is repeated: prompt and label.
pub(super) const CANARY: (&str, &str) = ("The quick brown fox jumps over the lazy", " dog");

/// Most tokens of the canary's request.
pub(super) const CANARY_TOKENS: u64 = 64;

/// Likeliest tokens asked of llama.cpp, which sets no limit.
const LLAMA_TOP: usize = 200;

/// Models that are named where ours is missing.
const LISTED: usize = 20;

/// The canary's scores by text and by input vectors may differ by so much, nats: servers compute in 16 bits.
const OTHER_TABLE: f64 = 0.1;

/// How log-probabilities of labels are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the scored prompt: labels of any length.
    Echo,
    /// Among so many likeliest next tokens: labels of one token.
    Next(usize),
    /// As [`Way::Next`], one request for each token of a label.
    Forced(usize),
    /// Not at all.
    Text,
}

/// What the probe found. Its display is what a user is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Scheme, host and port.
    pub origin: String,
    /// The model's name in answers, which may be longer than in requests.
    pub answers_as: String,
    /// What changes with the model behind the endpoint, if it says.
    pub fingerprint: Option<String>,
    /// Tokens that the model reads, if it says.
    pub context: Option<usize>,
    /// How labels are scored.
    pub way: Way,
    /// Tokens of one label that was tried, where the way shows them.
    pub label_tokens: Option<u32>,
    /// The canary's score.
    pub canary: Option<f64>,
    /// Largest |Δ log p| between repetitions of the canary, nats.
    pub noise_floor: Option<f64>,
    /// Width of soft rows and standard deviation of the table of embeddings, if it takes such rows.
    pub soft: Option<(usize, f64)>,
    /// What the probe cost.
    pub usage: Usage,
}

impl Found {
    /// The tier that this is.
    #[must_use]
    pub fn access(&self) -> Access {
        match (self.way, self.soft) {
            (Way::Text, _) => Access::Text,
            (Way::Echo, Some(_)) => Access::Embeddings,
            _ => Access::Logprobs,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} answers as `{}`: {} access", self.origin, self.answers_as, self.access())?;
        match self.way {
            Way::Echo => write!(f, "  scores: of prompts, labels of any length")?,
            Way::Next(n) => write!(f, "  scores: among the {n} likeliest next tokens, labels of one token")?,
            Way::Forced(n) => {
                write!(f, "  scores: among the {n} likeliest tokens, one request a token of a label")?
            }
            Way::Text => write!(f, "  scores: none")?,
        }
        match self.noise_floor {
            Some(0.0) => write!(f, "; repeat exactly")?,
            Some(noise) => write!(f, "; repeat within {noise:.1e} nats")?,
            None => {}
        }
        if let Some((width, _)) = self.soft {
            write!(f, "\n  soft prompts: rows of {width}")?;
        }
        let fingerprint =
            self.fingerprint.as_deref().unwrap_or("none: another model behind it is noticed by its scores");
        write!(f, "\n  fingerprint: {fingerprint}")?;
        match self.context {
            Some(context) => write!(f, "; context: {context} tokens"),
            None => write!(f, "; context: not said"),
        }
    }
}

/// Asks the first questions.
pub(super) fn probe(settings: &HttpSettings, origin: &str, sender: &Sender) -> Result<Found, HttpError> {
    let failed = |what| move |missing| HttpError::Probe { origin: origin.to_owned(), what, missing };
    let mut found = Found {
        origin: origin.to_owned(),
        answers_as: settings.model.clone(),
        fingerprint: None,
        context: None,
        way: Way::Text,
        label_tokens: None,
        canary: None,
        noise_floor: None,
        soft: None,
        usage: Usage::ZERO,
    };
    if settings.dialect == Dialect::LlamaCpp {
        let props = sender
            .call("//props", None, 0, &mut found.usage, |v| Ok(v.clone()))
            .map_err(failed("its properties"))?;
        found.fingerprint = Some(properties(&props));
        let n_ctx = props.pointer("/default_generation_settings/n_ctx").and_then(Value::as_u64);
        found.context = n_ctx.map(|n| n as usize);
    } else {
        match sender.call("/models", None, 0, &mut found.usage, |v| Ok(score::list(v, "data")?.to_vec())) {
            Ok(listed) => about(settings, origin, &listed, sender, &mut found)?,
            // not every server lists its models
            Err(Missing::Refused { status: 404 | 405, .. }) => {}
            Err(missing) => return Err(failed("its models")(missing)),
        }
    }
    let mut last = None;
    for way in ways(settings.dialect) {
        match canary(settings, way, sender, &mut found.usage) {
            Ok(first) => {
                (found.way, found.canary) = (way, Some(first.logprob));
                found.label_tokens = Some(first.tokens).filter(|_| way == Way::Echo);
                found.answers_as = first.model.unwrap_or(found.answers_as);
                found.fingerprint = first.fingerprint.or(found.fingerprint);
                break;
            }
            Err(
                missing @ (Missing::Refused { status: 400 | 404 | 405 | 422 | 501, .. }
                | Missing::Malformed { .. }),
            ) => {
                last = Some(missing);
            }
            Err(missing) => return Err(failed("a first question")(missing)),
        }
    }
    if found.way == Way::Text {
        if matches!(settings.dialect, Dialect::Chat | Dialect::ChatText) {
            writes(settings, sender, &mut found.usage).map_err(failed("a text"))?;
        }
        // dialects with exact scores that give none are set up wrongly, and say so
        return match (settings.dialect, last) {
            (Dialect::Antiphon | Dialect::Vllm | Dialect::LlamaCpp, Some(missing)) => {
                Err(failed("scores of a prompt")(missing))
            }
            _ => Ok(Found { soft: None, ..found }),
        };
    }
    let mut noise = 0f64;
    for _ in 0..2 {
        let again = canary(settings, found.way, sender, &mut found.usage)
            .map_err(failed("the same question again"))?;
        noise = noise.max((again.logprob - found.canary.unwrap_or(again.logprob)).abs());
    }
    found.noise_floor = Some(noise);
    if let Some(table) = settings.table.as_deref() {
        let vectors = failed("the same question as input vectors (`vllm serve --enable-prompt-embeds`)");
        let by_vectors = canary_by_rows(settings, table, sender, &mut found.usage).map_err(vectors)?;
        if let Some((vectors, text)) = by_vectors.zip(found.canary)
            && (vectors - text).abs() > OTHER_TABLE.max(10.0 * noise)
        {
            return Err(HttpError::OtherTable { origin: origin.to_owned(), vectors, text });
        }
        found.soft = Some((table.width(), table.std()));
    }
    Ok(found)
}

/// Refuses a chat endpoint that refuses to write: it says why in its own words, since the question is ours.
fn writes(settings: &HttpSettings, sender: &Sender, usage: &mut Usage) -> Result<(), Missing> {
    let (prompt, most) = (Prompt::Text(CANARY.0.into()), CANARY_TOKENS);
    let query = TextQuery { prompt, max_tokens: 1, temperature: 0.0, seed: 0, stop: Vec::new() };
    let body = chat::text_body(&settings.model, CANARY.0, &query);
    usage.prompt_tokens += most;
    // what it writes, and how it counts, is seen when it is asked in earnest
    sender.call("/chat/completions", Some(&body), most, usage, |_| Ok(()))
}

/// The canary's score by input vectors, or `None` where its prompt and label share a token.
fn canary_by_rows(
    settings: &HttpSettings,
    table: &dyn Table,
    sender: &Sender,
    usage: &mut Usage,
) -> Result<Option<f64>, Missing> {
    let model = settings.model.as_str();
    let mut ids = |text: &str| {
        let body = json!({ "model": model, "prompt": text, "add_special_tokens": true });
        sender.call("//tokenize", Some(&body), 0, usage, llama::read_tokenize)
    };
    let (prompt, whole) = (ids(CANARY.0)?, ids(&format!("{}{}", CANARY.0, CANARY.1))?);
    let Some(label) = whole.strip_prefix(&prompt[..]).filter(|l| !l.is_empty()) else { return Ok(None) };
    let scores = forced::scores(&[label], |beginning, next| {
        let ids = [&prompt[..], beginning].concat();
        let tensor = rows::tensor(table, None, &ids).map_err(|id| Missing::Malformed {
            reason: format!("the table of embeddings has no token {id}"),
        })?;
        let (body, most) = (rows::body(model, &tensor, next), ids.len() as u64);
        usage.prompt_tokens += most;
        let mut read = sender.call("/completions", Some(&body), most, usage, |v| rows::read(most, v))?;
        Ok::<_, Missing>(read.items.swap_remove(0))
    })?;
    Ok(scores.first().filter(|s| !s.censored).map(|s| s.logprob))
}

fn ways(dialect: Dialect) -> Vec<Way> {
    match dialect {
        Dialect::Antiphon | Dialect::Vllm => vec![Way::Echo],
        Dialect::Completions => vec![Way::Echo, Way::Next(20), Way::Next(5)],
        Dialect::Chat => vec![Way::Next(20), Way::Next(5)],
        Dialect::LlamaCpp => vec![Way::Forced(LLAMA_TOP)],
        Dialect::ChatText => Vec::new(),
    }
}

/// The most that [`probe`] spends where each request is sent `attempts` times; `by_rows`: with a table of embeddings.
pub(super) fn at_most(dialect: Dialect, by_rows: bool, attempts: u32) -> Usage {
    let (ways, attempts) = (ways(dialect).len() as u64, u64::from(attempts.max(1)));
    // every way once, the one that works twice more; without any a text is asked
    let canaries = if ways == 0 { 1 } else { ways + 2 };
    // llama.cpp is asked for the canary's ids too
    let each = if dialect == Dialect::LlamaCpp { 2 } else { 1 };
    // two texts into ids, and a token of the label has a byte at least
    let (ids, rows) = if by_rows { (2, CANARY.1.len() as u64) } else { (0, 0) };
    let requests = 1 + each * canaries + ids + rows;
    Usage {
        calls: requests * attempts,
        retries: requests * (attempts - 1),
        // counted when it is sent, and for every attempt that failed
        prompt_tokens: (canaries + rows) * (1 + attempts) * CANARY_TOKENS,
        ..Usage::ZERO
    }
}

/// What `/models` says of ours.
fn about(
    settings: &HttpSettings,
    origin: &str,
    listed: &[Value],
    sender: &Sender,
    found: &mut Found,
) -> Result<(), HttpError> {
    let id = |m: &Value| m.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(model) = listed.iter().find(|m| id(m) == settings.model) else {
        let (origin, model) = (origin.to_owned(), settings.model.clone());
        let found = listed.iter().take(LISTED).map(|m| sender.name(&id(m))).collect();
        return Err(HttpError::NoModel { origin, model, found });
    };
    let count = |name: &str| model.get(name).and_then(Value::as_u64).map(|n| n as usize);
    found.context = count("max_model_len").or(count("context_length"));
    found.fingerprint = model.get("system_fingerprint").and_then(Value::as_str).map(|f| sender.name(f));
    let std = model.get("embedding_std").and_then(Value::as_f64);
    if settings.dialect == Dialect::Antiphon {
        found.soft = count("hidden_size").zip(std).filter(|(width, std)| *width > 0 && *std > 0.0);
    }
    Ok(())
}

/// What changes with the model behind llama.cpp.
fn properties(props: &Value) -> String {
    let parts = ["model_path", "build_info", "chat_template", "model_alias"]
        .map(|k| props.get(k).map(Value::to_string));
    let text: Vec<String> = parts.into_iter().flatten().collect();
    blake3::hash(text.join("\n").as_bytes()).to_hex()[..16].to_owned()
}

/// The canary's answer.
pub(super) struct Canary {
    pub(super) logprob: f64,
    tokens: u32,
    model: Option<String>,
    fingerprint: Option<String>,
}

/// Asks the canary by `way`.
pub(super) fn canary(
    settings: &HttpSettings,
    way: Way,
    sender: &Sender,
    usage: &mut Usage,
) -> Result<Canary, Missing> {
    let (prompt, label) = (Prompt::Text(CANARY.0.into()), [Label::Text(CANARY.1.into())]);
    let (dialect, model) = (settings.dialect, settings.model.as_str());
    let said = |v: &Value, name: &str| v.get(name).and_then(Value::as_str).map(|said| sender.name(said));
    let answer = |v: &Value, logprob, tokens| {
        let (model, fingerprint) = (said(v, "model"), said(v, "system_fingerprint"));
        Canary { logprob, tokens, model, fingerprint }
    };
    let most = CANARY_TOKENS;
    usage.prompt_tokens += most;
    match way {
        Way::Text => Err(Missing::NotAsked),
        Way::Echo => {
            let Some(joined) = score::Joined::new(&prompt, &label[0]) else { return Err(Missing::NotAsked) };
            let body = echo_body(dialect, model, &[&joined], None);
            sender.call("/completions", Some(&body), most, usage, |v| {
                let read = read_echo(dialect, &[&joined], most, v)?;
                let score = read.items.into_iter().next().ok_or("no score")?.map_err(|m| m.to_string())?;
                Ok(answer(v, score.logprob, score.tokens))
            })
        }
        Way::Next(top) if dialect == Dialect::Chat => {
            let body = chat::next_body(model, CANARY.0, top);
            sender.call("/chat/completions", Some(&body), most, usage, |v| {
                Ok(answer(v, chat::read_next(&label, most, v)?.items[0][0].logprob, 1))
            })
        }
        Way::Next(top) => {
            let body = next_body(dialect, model, &prompt, &label, top);
            sender.call("/completions", Some(&body), most, usage, |v| {
                Ok(answer(v, read_next(&label, most, v)?.items[0][0].logprob, 1))
            })
        }
        Way::Forced(top) => {
            let body = llama::tokenize_body(CANARY.0, true);
            let ids = sender.call("//tokenize", Some(&body), 0, usage, llama::read_tokenize)?;
            let body = llama::next_body(&ids, top);
            sender.call("//completion", Some(&body), most, usage, |v| {
                let top = llama::read_next(most, v)?.items.swap_remove(0);
                let likeliest = top.values().copied().fold(f64::NEG_INFINITY, f64::max);
                Ok(answer(&Value::Null, likeliest, 1))
            })
        }
    }
}
