//! Requests: JSON into what the engine is to do.

use std::sync::Arc;

use antiphon_core::{Purpose, Stream};
use antiphon_model::ChatMessage;
use antiphon_model::generate::Sampling;
use serde::Deserialize;
use serde_json::json;

use crate::engine::Prompt;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::model::Served;
use crate::scores::Ask;
use crate::settings::Settings;
use crate::torch;

/// Stop texts of one request.
const MAX_STOPS: usize = 16;

/// Which endpoint was asked: the shape of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `/v1/completions`
    Completion,
    /// `/v1/chat/completions`
    Chat,
}

/// A request, checked against the model and the limits.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) kind: Kind,
    pub(crate) prompts: Vec<Prompt>,
    /// Sequences for each prompt.
    pub(crate) n: usize,
    pub(crate) max_tokens: usize,
    pub(crate) sampling: Sampling,
    pub(crate) stream: Stream,
    /// Texts before which generation ends.
    pub(crate) stops: Vec<String>,
    /// Tokens that end it.
    pub(crate) stop_ids: Arc<[u32]>,
    /// Whether the prompt comes back before the answer.
    pub(crate) echo: bool,
    pub(crate) scores: Option<Ask>,
    /// What `prompt_logprobs` asked; `echo` with `logprobs` asks for the same scores without it.
    pub(crate) prompt_scores: Option<Ask>,
    /// Tokens are written `token_id:5`, which is unambiguous.
    pub(crate) as_ids: bool,
    /// Answer by server-sent events.
    pub(crate) events: bool,
    /// Usage at the end of these.
    pub(crate) events_usage: bool,
}

impl Work {
    /// Sequences in all.
    pub(crate) fn count(&self) -> usize {
        self.prompts.len() * self.n
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected one text or a list of texts")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn list(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// A prompt: text, ids, or several of either.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, token ids, or a list of either")]
enum Prompts {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    Lists(Vec<Vec<u32>>),
}

#[derive(Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, or a list of parts of type `text`")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize, Default)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// A request on its way through the checks.
pub(crate) struct Reader<'a> {
    served: &'a Served,
    settings: &'a Settings,
    fields: Fields,
}

impl<'a> Reader<'a> {
    /// Begins with `body`, which must name the model that is served.
    pub(crate) fn new(body: &[u8], served: &'a Served, settings: &'a Settings) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let model: String = fields.need("model")?;
        if model != served.name {
            return Err(ApiError::no_model(&model, &served.name));
        }
        Ok(Self { served, settings, fields })
    }

    /// A request to `/v1/completions`. `fallback` seeds it if it brings no seed.
    pub(crate) fn completion(mut self, fallback: u64) -> Result<Work, ApiError> {
        let mut work = self.common(Kind::Completion, fallback)?;
        let f = &mut self.fields;
        work.echo = f.or("echo", false)?;
        let ids: Vec<u32> = f.or("logprob_token_ids", Vec::new())?;
        work.as_ids = f.or("return_tokens_as_token_ids", false)?;
        if let Some(top) = f.take("logprobs")? {
            work.scores = Some(self.ask("logprobs", top, ids)?);
        } else if !ids.is_empty() {
            return Err(ApiError::param("logprob_token_ids", "needs `logprobs`, which may be 0"));
        }
        if let Some(top) = self.fields.take("prompt_logprobs")? {
            work.prompt_scores = Some(self.ask("prompt_logprobs", top, Vec::new())?);
            if work.events {
                return Err(ApiError::param("prompt_logprobs", "does not come by stream"));
            }
        }
        self.fields.only("best_of", &[json!(work.n)])?;
        self.fields.only("suffix", &[json!("")])?;
        let given = self.given()?;
        if !given.is_empty() && (work.echo || work.prompt_scores.is_some()) {
            return Err(ApiError::param("prompt_embeds", "vectors have no tokens to echo or to score"));
        }
        let tokens = self.prompts(given.is_empty())?;
        work.prompts = given.into_iter().chain(tokens).collect();
        work.max_tokens = self.fields.or("max_tokens", 16)?;
        if work.max_tokens == 0 && !work.echo && work.prompt_scores.is_none() {
            let message =
                "0 leaves nothing to answer, unless `echo` or `prompt_logprobs` asks for the prompt";
            return Err(ApiError::param("max_tokens", message));
        }
        self.finish(work, "prompt")
    }

    /// A request to `/v1/chat/completions`.
    pub(crate) fn chat(mut self, fallback: u64) -> Result<Work, ApiError> {
        let mut work = self.common(Kind::Chat, fallback)?;
        let top: Option<usize> = self.fields.take("top_logprobs")?;
        if self.fields.or("logprobs", false)? {
            work.scores = Some(self.ask("top_logprobs", top.unwrap_or(0), Vec::new())?);
        } else if top.is_some_and(|top| top > 0) {
            return Err(ApiError::param("top_logprobs", "needs `logprobs: true`"));
        }
        let messages = self.messages()?;
        let turns: Vec<ChatMessage<'_>> =
            messages.iter().map(|(role, content)| ChatMessage { role, content }).collect();
        let text = self.served.tokenizer.render_chat(&turns, true);
        let text = text.map_err(|e| ApiError::param("messages", e.to_string()))?;
        let ids = self.served.encode(&text, false).map_err(|e| ApiError::param("messages", e.to_string()))?;
        let left = self.served.context.saturating_sub(ids.len());
        work.prompts = vec![Prompt { tokens: ids.into(), ..Prompt::default() }];
        let old: Option<usize> = self.fields.take("max_tokens")?;
        work.max_tokens = self.fields.take("max_completion_tokens")?.or(old).unwrap_or(left.max(1));
        if work.max_tokens == 0 {
            return Err(ApiError::param("max_tokens", "expected at least 1"));
        }
        for (name, neutral) in [
            ("tools", json!([])),
            ("tool_choice", json!("none")),
            ("functions", json!([])),
            ("response_format", json!({ "type": "text" })),
            ("modalities", json!(["text"])),
        ] {
            self.fields.only(name, &[neutral])?;
        }
        self.finish(work, "messages")
    }

    /// What both endpoints have.
    fn common(&mut self, kind: Kind, fallback: u64) -> Result<Work, ApiError> {
        let f = &mut self.fields;
        let n = f.or("n", 1)?;
        let temperature: f64 = f.or("temperature", 1.0)?;
        let top_p: f64 = f.or("top_p", 1.0)?;
        let sampling = if temperature == 0.0 {
            Sampling::greedy()
        } else {
            Sampling::nucleus(temperature, top_p).map_err(|e| {
                let name = if e.to_string().starts_with("top_p") { "top_p" } else { "temperature" };
                ApiError::param(name, e.to_string())
            })?
        };
        let stops: Vec<String> = f.take::<OneOrMany<String>>("stop")?.map_or_else(Vec::new, OneOrMany::list);
        if stops.len() > MAX_STOPS || stops.iter().any(String::is_empty) {
            return Err(ApiError::param(
                "stop",
                format!("expected at most {MAX_STOPS} texts, none of them empty"),
            ));
        }
        let stop_ids = if f.or("ignore_eos", false)? { Arc::from([]) } else { Arc::clone(&self.served.stop) };
        let seed: Option<i64> = f.take("seed")?;
        let seed = seed.map_or(fallback, i64::cast_unsigned);
        let events = f.or("stream", false)?;
        let options: StreamOptions = f.or("stream_options", StreamOptions::default())?;
        f.ignore(&["user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"]);
        f.only("store", &[json!(false)])?;
        for penalty in ["presence_penalty", "frequency_penalty"] {
            f.only(penalty, &[json!(0), json!(0.0)])?;
        }
        f.only("logit_bias", &[json!({})])?;
        Ok(Work {
            kind,
            prompts: Vec::new(),
            n,
            max_tokens: 0,
            sampling,
            stream: Stream::new(seed, Purpose::Generate),
            stops,
            stop_ids,
            echo: false,
            scores: None,
            prompt_scores: None,
            as_ids: false,
            events,
            events_usage: options.include_usage,
        })
    }

    /// Scores of the `top` likeliest and of `ids`, within the limits.
    fn ask(&self, param: &str, top: usize, ids: Vec<u32>) -> Result<Ask, ApiError> {
        let most = self.settings.max_logprobs;
        if top > most || ids.len() > most {
            return Err(ApiError::param(param, format!("this server gives at most {most} (--max-logprobs)")));
        }
        self.check_ids("logprob_token_ids", &ids)?;
        Ok(Ask { top, ids: ids.into() })
    }

    fn check_ids(&self, param: &str, ids: &[u32]) -> Result<(), ApiError> {
        let vocab = self.served.vocab();
        match ids.iter().find(|id| **id as usize >= vocab) {
            None => Ok(()),
            Some(id) => {
                Err(ApiError::param(param, format!("token {id} is outside the vocabulary of {vocab}")))
            }
        }
    }

    /// `prompt`, as ids, after the rows of `soft_prompt` if there are some.
    fn prompts(&mut self, needed: bool) -> Result<Vec<Prompt>, ApiError> {
        let soft = match self.fields.take::<String>("soft_prompt")? {
            Some(text) => self.vectors("soft_prompt", &text)?,
            None => Arc::default(),
        };
        let encode =
            |text: &str| self.served.encode(text, true).map_err(|e| ApiError::param("prompt", e.to_string()));
        let lists = match self.fields.take("prompt")? {
            None if needed => return Err(ApiError::param("prompt", "missing")),
            None => return Ok(Vec::new()),
            Some(Prompts::Text(text)) => vec![encode(&text)?],
            Some(Prompts::Tokens(ids)) => vec![ids],
            Some(Prompts::Texts(texts)) => texts.iter().map(|t| encode(t)).collect::<Result<_, _>>()?,
            Some(Prompts::Lists(lists)) => lists,
        };
        for ids in &lists {
            self.check_ids("prompt", ids)?;
            if ids.is_empty() {
                return Err(ApiError::param("prompt", "a prompt without a token"));
            }
        }
        Ok(lists.into_iter().map(|ids| Prompt { vectors: Arc::clone(&soft), tokens: ids.into() }).collect())
    }

    /// `prompt_embeds`: prompts of vectors alone.
    fn given(&mut self) -> Result<Vec<Prompt>, ApiError> {
        let texts =
            self.fields.take::<OneOrMany<String>>("prompt_embeds")?.map_or_else(Vec::new, OneOrMany::list);
        let one =
            |text: &String| Ok(Prompt { vectors: self.vectors("prompt_embeds", text)?, ..Prompt::default() });
        texts.iter().map(one).collect()
    }

    /// Rows of the model's width out of base64 of what `torch.save` writes.
    fn vectors(&self, param: &str, text: &str) -> Result<Arc<[f32]>, ApiError> {
        if !self.settings.prompt_embeds {
            return Err(ApiError::param(param, "this server takes no vectors (--enable-prompt-embeds)"));
        }
        let (shape, values) = torch::read_base64(text).map_err(|e| ApiError::param(param, e.to_string()))?;
        let width = self.served.width();
        match shape[..] {
            [rows, found] if rows > 0 && found == width => {}
            _ => {
                let message = format!("a tensor of shape {shape:?}; expected [rows, {width}]");
                return Err(ApiError::param(param, message));
            }
        }
        if values.iter().any(|v| !v.is_finite()) {
            return Err(ApiError::param(param, "a number that is not finite"));
        }
        Ok(values.into())
    }

    fn messages(&mut self) -> Result<Vec<(String, String)>, ApiError> {
        let messages: Vec<Message> = self.fields.need("messages")?;
        if messages.is_empty() {
            return Err(ApiError::param("messages", "expected at least one"));
        }
        messages
            .into_iter()
            .map(|m| match m.content {
                None => Ok((m.role, String::new())),
                Some(Content::Text(text)) => Ok((m.role, text)),
                Some(Content::Parts(parts)) => match parts.iter().find(|p| p.kind != "text") {
                    Some(p) => Err(ApiError::param(
                        "messages",
                        format!("a part of type `{}`; this model reads text", p.kind),
                    )),
                    None => Ok((m.role, parts.into_iter().map(|p| p.text).collect())),
                },
            })
            .collect()
    }

    /// The last checks: nothing unread, and everything fits.
    fn finish(self, work: Work, prompt_param: &str) -> Result<Work, ApiError> {
        self.fields.finish()?;
        let count = work.prompts.len().saturating_mul(work.n);
        if count == 0 || count > self.settings.queue {
            let message = format!(
                "{} prompts, {} times each; expected 1 to {} in all",
                work.prompts.len(),
                work.n,
                self.settings.queue
            );
            return Err(ApiError::param(if work.n > 1 { "n" } else { prompt_param }, message));
        }
        let context = self.served.context;
        for prompt in &work.prompts {
            let rows = prompt.rows(self.served.width());
            if rows.saturating_add(work.max_tokens) > context {
                return Err(ApiError::context(prompt_param, rows, work.max_tokens, context));
            }
        }
        Ok(work)
    }
}
