//! Tokenizers: `tokenizer.json` by the `tokenizers` crate, with the special tokens, the policy about them and the chat
//! template that stand in the files beside it.
//!
//! Offsets are bytes of the text that was encoded and cover the white space that a token stands for. Padding and truncation
//! that a file asks for are switched off: lengths are decided where batches are made.
//!
//! Deliberately missing: SentencePiece models and vocabularies without a `tokenizer.json`, pairs of texts.

mod stream;
mod train;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::read_json;
use crate::config::Config;
use crate::template::{ChatMessage, ChatTemplate, SpecialTexts, TemplateError};

pub use stream::TokenStream;
pub use train::{TrainedTokenizer, train_bpe};

/// Bytes of a `tokenizer.json`.
const MAX_BYTES: u64 = 256 << 20;

/// Tokens of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Vocabulary ids.
    pub ids: Vec<u32>,
    /// `[start, end)` in bytes of the text, one per id, starts never decreasing. A token that was inserted (`<s>`,
    /// `[SEP]`) has an empty span where it stands.
    pub offsets: Vec<(usize, usize)>,
}

/// Ids of the tokens that have a meaning beyond their text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Fills a batch.
    pub pad: Option<u32>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<u32>,
}

/// A tokenizer of one checkpoint.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    special: SpecialIds,
    /// What `tokenizer_config.json` says, if it says it; else the post-processor decides.
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    template: Option<ChatTemplate>,
}

/// A tokenizer that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// There is none.
    #[error("{}: no such file{hint}", path.display())]
    NoFile {
        /// Where it should be.
        path: PathBuf,
        /// What is there instead.
        hint: &'static str,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is malformed.
    #[error("{}: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file larger than any tokenizer.
    #[error("{}: {found} bytes; at most {MAX_BYTES} are accepted", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
    },
    /// The tokenizer has ids that the embedding lacks.
    #[error("{}: token {id} (`{token}`) is beyond the {rows} rows of the model's embedding; this tokenizer belongs to another model, or tokens were added without resizing the embedding", path.display())]
    BeyondEmbedding {
        /// The tokenizer's file.
        path: PathBuf,
        /// Its largest id.
        id: u32,
        /// That token.
        token: String,
        /// Rows of the embedding.
        rows: usize,
    },
    /// An id that is no token.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    NoSuchId {
        /// The id.
        id: u32,
        /// Largest id and one.
        vocab: usize,
    },
    /// A text could not be encoded, or ids decoded.
    #[error("the tokenizer failed: {0}")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A vocabulary that training cannot make.
    #[error(
        "a vocabulary of {asked} tokens; byte-level BPE with {specials} special tokens starts at {least}"
    )]
    VocabTooSmall {
        /// Asked for.
        asked: usize,
        /// Special tokens.
        specials: usize,
        /// Bytes and special tokens.
        least: usize,
    },
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl Tokenizer {
    /// Opens the tokenizer of the checkpoint in `dir`. Special tokens come from `tokenizer_config.json`, else
    /// `special_tokens_map.json`, else, by id, `generation_config.json` and `config`.
    pub fn open(dir: &Path, config: Option<&Config>) -> Result<Self, TokenizerError> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            let hint = if dir.join("tokenizer.model").is_file() || dir.join("vocab.json").is_file() {
                "; an older tokenizer is there: `AutoTokenizer.from_pretrained(…).save_pretrained(…)` in transformers \
                 writes the missing file"
            } else {
                "; every recent Hugging Face checkpoint has one"
            };
            return Err(TokenizerError::NoFile { path, hint });
        }
        let inner = load(&path)?;
        let settings = optional(dir, "tokenizer_config.json")?;
        let map = optional(dir, "special_tokens_map.json")?;
        let generation = optional(dir, "generation_config.json")?;
        let by_text = |key: &str| -> Option<u32> {
            [&settings, &map].iter().find_map(|m| text_of(m.get(key)?)).and_then(|t| inner.token_to_id(t))
        };
        let by_id = |key: &str| -> Option<u32> {
            let v = generation.get(key)?;
            let one = v.as_array().and_then(|a| a.first()).unwrap_or(v);
            one.as_u64().and_then(|n| u32::try_from(n).ok())
        };
        let spec = config.map(|c| &c.spec);
        let special = SpecialIds {
            bos: by_text("bos_token").or_else(|| by_id("bos_token_id")).or_else(|| spec?.bos),
            eos: by_text("eos_token")
                .or_else(|| by_id("eos_token_id"))
                .or_else(|| spec?.eos.first().copied()),
            pad: by_text("pad_token").or_else(|| by_id("pad_token_id")).or_else(|| config?.pad),
            unk: by_text("unk_token"),
        };
        let flag = |key: &str| settings.get(key).and_then(Value::as_bool);
        let template = ChatTemplate::find(dir, &settings)?;
        let (add_bos, add_eos) = (flag("add_bos_token"), flag("add_eos_token"));
        Ok(Self { path, inner, special, add_bos, add_eos, template })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens with a meaning of their own.
    #[must_use]
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Largest id and one: the rows that an embedding needs.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.largest().map_or(0, |(_, id)| id as usize + 1)
    }

    fn largest(&self) -> Option<(String, u32)> {
        self.inner.get_vocab(true).into_iter().max_by_key(|&(_, id)| id)
    }

    /// Refuses a model whose embedding has fewer rows than this tokenizer has ids.
    pub fn fits(&self, rows: usize) -> Result<(), TokenizerError> {
        match self.largest() {
            Some((token, id)) if id as usize >= rows => {
                Err(TokenizerError::BeyondEmbedding { path: self.path.clone(), id, token, rows })
            }
            _ => Ok(()),
        }
    }

    /// Tokens of `text`; with `special`, also those that the checkpoint puts around every text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Tokens, TokenizerError> {
        let encoding = self.inner.encode(text, special).map_err(TokenizerError::Failed)?;
        let inserted = encoding.get_special_tokens_mask();
        let mut tokens = Tokens { ids: encoding.get_ids().to_vec(), offsets: Vec::new() };
        let mut at = 0;
        for (&(start, end), &inserted) in encoding.get_offsets().iter().zip(inserted) {
            // the crate puts inserted tokens at 0
            let span = if inserted == 1 { (at, at) } else { (start, end) };
            at = span.1;
            tokens.offsets.push(span);
        }
        if special {
            self.adjust(&mut tokens, inserted, text.len());
        }
        Ok(tokens)
    }

    /// Applies `add_bos_token` and `add_eos_token` where they contradict the post-processor, as transformers does.
    fn adjust(&self, tokens: &mut Tokens, inserted: &[u32], end: usize) {
        let is = |token: Option<u32>, at: Option<usize>| match (token, at) {
            (Some(token), Some(at)) => tokens.ids.get(at) == Some(&token) && inserted.get(at) == Some(&1),
            _ => false,
        };
        let has_bos = is(self.special.bos, Some(0));
        let has_eos =
            is(self.special.eos, tokens.ids.len().checked_sub(1)) && tokens.ids.len() > usize::from(has_bos);
        match (self.add_eos, has_eos, self.special.eos) {
            (Some(true), false, Some(eos)) => {
                tokens.ids.push(eos);
                tokens.offsets.push((end, end));
            }
            (Some(false), true, _) => {
                tokens.ids.pop();
                tokens.offsets.pop();
            }
            _ => {}
        }
        match (self.add_bos, has_bos, self.special.bos) {
            (Some(true), false, Some(bos)) => {
                tokens.ids.insert(0, bos);
                tokens.offsets.insert(0, (0, 0));
            }
            (Some(false), true, _) => {
                tokens.ids.remove(0);
                tokens.offsets.remove(0);
            }
            _ => {}
        }
    }

    /// Whether encoding with special tokens begins a text with the beginning-of-text token.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        let first = self.encode("a", true).ok().and_then(|t| t.ids.first().copied());
        first.is_some() && first == self.special.bos
    }

    /// Text of `ids`; with `skip_special`, without the special tokens among them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        if let Some(&id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(TokenizerError::NoSuchId { id, vocab: self.vocab() });
        }
        self.inner.decode(ids, skip_special).map_err(TokenizerError::Failed)
    }

    /// Turns ids that arrive one by one into text, whole characters at a time.
    #[must_use]
    pub fn stream(&self, skip_special: bool) -> TokenStream<'_> {
        TokenStream::new(self, skip_special)
    }

    /// The token's own text, such as `▁day` or `<s>`.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Id of the token with this own text.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The chat template, if the checkpoint has one.
    #[must_use]
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Replaces the chat template, such as by [`ChatTemplate::named`].
    #[must_use]
    pub fn with_template(mut self, template: ChatTemplate) -> Self {
        self.template = Some(template);
        self
    }

    /// `messages` as one text. The text holds its special tokens already: encode it without adding more.
    pub fn render_chat(
        &self,
        messages: &[ChatMessage<'_>],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizerError> {
        let template = self.template.as_ref().ok_or(TemplateError::None)?;
        let text = |id: Option<u32>| id.and_then(|id| self.inner.id_to_token(id));
        let texts = SpecialTexts {
            bos: text(self.special.bos),
            eos: text(self.special.eos),
            pad: text(self.special.pad),
            unk: text(self.special.unk),
        };
        Ok(template.render(messages, add_generation_prompt, &texts)?)
    }
}

/// Loads a `tokenizer.json` with whole offsets, without padding and truncation.
fn load(path: &Path) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let io = |source| TokenizerError::Io { path: path.to_owned(), source };
    let malformed = |source| TokenizerError::Malformed { path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(io)?.len();
    if found > MAX_BYTES {
        return Err(TokenizerError::TooLong { path: path.to_owned(), found });
    }
    let bytes = std::fs::read(path).map_err(io)?;
    let mut json: Value = serde_json::from_slice(&bytes).map_err(|e| malformed(e.into()))?;
    let Some(object) = json.as_object_mut() else { return Err(malformed("expected a JSON object".into())) };
    object.insert("padding".into(), Value::Null);
    object.insert("truncation".into(), Value::Null);
    if let Some(processor) = object.get_mut("post_processor") {
        whole_offsets(processor);
    }
    let bytes = serde_json::to_vec(&json).map_err(|e| malformed(e.into()))?;
    tokenizers::Tokenizer::from_bytes(bytes).map_err(malformed)
}

/// Switches off the trimming of white space from offsets, wherever a post-processor does it.
fn whole_offsets(processor: &mut Value) {
    if let Some(trim) = processor.get_mut("trim_offsets") {
        *trim = Value::Bool(false);
    }
    for inner in processor.get_mut("processors").and_then(Value::as_array_mut).into_iter().flatten() {
        whole_offsets(inner);
    }
}

/// A JSON file that need not be there.
fn optional(dir: &Path, name: &str) -> Result<Map<String, Value>, TokenizerError> {
    let path = dir.join(name);
    if !path.is_file() {
        return Ok(Map::new());
    }
    read_json(&path).map_err(|source| TokenizerError::Malformed { path, source: Box::new(source) })
}

/// A special token's text: a string, or an object with `content`.
fn text_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
