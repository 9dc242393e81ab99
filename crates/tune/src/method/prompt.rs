//! Prompt tuning (Lester et al. 2021, arXiv:2104.08691): `n` trained rows before the embeddings of every sequence,
//! `prompt_embeddings: [n, hidden]`, with the model frozen.
//!
//! First values, by peft's names: `random` (here `N(0, σ²)` with the standard deviation σ of the checkpoint's embedding;
//! peft draws N(0, 1), far outside what a model has seen), `sample_vocab` (rows of random tokens) and `text` (the rows of a
//! text's tokens, cut or repeated to `n`).

use antiphon_core::registry::{self, ConfigError, Entry};
use antiphon_core::{Noise, Purpose, Stream};
use antiphon_model::names::{self, Role};
use antiphon_model::{PromptWiring, Spec, Task, TensorSource, Wiring};
use serde::{Deserialize, Serialize};

use super::layout::Tensors;
use super::{Export, Method, MethodError, Start, head, read};
use crate::settings::{complete, expect};

pub(super) const ENTRY: Entry<dyn Method> = Entry {
    id: "prompt",
    paper: "arXiv:2104.08691",
    about: "a soft prompt before every sequence of a frozen model",
    build: |t| Ok(Box::new(registry::settings::<Prompt>("prompt", t)?.check()?)),
};

/// peft's name of the tensor.
const NAME: &str = "prompt_embeddings";

/// Settings of prompt tuning, by their names in peft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    /// Rows of the prompt. They take positions from the text.
    num_virtual_tokens: usize,
    /// First values: `random`, `sample_vocab` or `text`.
    prompt_tuning_init: First,
    /// The text of `prompt_tuning_init = "text"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tuning_init_text: Option<String>,
}

/// Where the first rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum First {
    Random,
    SampleVocab,
    Text,
}

impl Prompt {
    fn check(self) -> Result<Self, ConfigError> {
        let n = self.num_virtual_tokens;
        expect(ENTRY.id, "num_virtual_tokens", n as f64, "1 or more", n > 0)?;
        let bad =
            |reason: &str| Err(ConfigError::Invalid { id: ENTRY.id.to_owned(), reason: reason.to_owned() });
        match (self.prompt_tuning_init, &self.prompt_tuning_init_text) {
            (First::Text, None) => bad("`prompt_tuning_init = \"text\"` needs `prompt_tuning_init_text`"),
            (First::Random | First::SampleVocab, Some(_)) => {
                bad("`prompt_tuning_init_text` goes with `prompt_tuning_init = \"text\"`")
            }
            _ => Ok(self),
        }
    }

    /// The tokens whose rows a prompt starts from.
    fn text_ids(&self, start: &Start<'_>) -> Result<Vec<u32>, MethodError> {
        let text = self.prompt_tuning_init_text.as_deref().unwrap_or_default();
        let tokenize = start.tokenize.ok_or(MethodError::NoTokenizer)?;
        let ids = tokenize(text).map_err(MethodError::Tokenize)?;
        if ids.is_empty() {
            return Err(MethodError::NoTokens(text.to_owned()));
        }
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= start.spec.vocab) {
            return Err(MethodError::Token { id, vocab: start.spec.vocab });
        }
        Ok(ids.into_iter().cycle().take(self.num_virtual_tokens).collect())
    }
}

/// The checkpoint's embedding, read by rows.
struct Embedding<'a> {
    start: &'a Start<'a>,
    name: String,
}

impl<'a> Embedding<'a> {
    fn new(start: &'a Start<'a>) -> Self {
        Self { start, name: names::tensor_name(start.spec, Role::TokenEmbedding) }
    }

    fn row(&self, id: usize, out: &mut [f32]) -> Result<(), MethodError> {
        read(self.start.base, &self.name, id * out.len(), out)
    }

    /// Standard deviation over all elements, in binary64.
    fn std(&self) -> Result<f64, MethodError> {
        let (vocab, hidden) = (self.start.spec.vocab, self.start.spec.hidden);
        let mut row = vec![0.0; hidden];
        let (mut sum, mut squares) = (0.0, 0.0);
        for id in 0..vocab {
            self.row(id, &mut row)?;
            for v in row.iter().map(|&v| f64::from(v)) {
                sum += v;
                squares += v * v;
            }
        }
        let n = (vocab * hidden) as f64;
        Ok((squares / n - (sum / n).powi(2)).max(0.0).sqrt())
    }
}

/// Rows of the embedding table for `ids`, `[ids, hidden]`: a prompt of tokens as a soft prompt.
pub fn token_rows(spec: &Spec, base: &dyn TensorSource, ids: &[u32]) -> Result<Vec<f32>, MethodError> {
    let start = Start { spec, base, tokenize: None, seed: 0 };
    let embedding = Embedding::new(&start);
    let mut out = vec![0.0; ids.len() * spec.hidden];
    for (row, &id) in out.chunks_exact_mut(spec.hidden).zip(ids) {
        if id as usize >= spec.vocab {
            return Err(MethodError::Token { id, vocab: spec.vocab });
        }
        embedding.row(id as usize, row)?;
    }
    Ok(out)
}

/// Standard deviation of the entries of the embedding table.
pub fn embedding_std(spec: &Spec, base: &dyn TensorSource) -> Result<f64, MethodError> {
    Embedding::new(&Start { spec, base, tokenize: None, seed: 0 }).std()
}

impl Method for Prompt {
    fn id(&self) -> &'static str {
        ENTRY.id
    }

    fn wire(&self, spec: &Spec, task: Task) -> Result<Wiring, MethodError> {
        let tokens = self.num_virtual_tokens;
        if tokens >= spec.max_positions {
            return Err(MethodError::Prompt { tokens, positions: spec.max_positions });
        }
        let mut tensors = Tensors::default();
        let range = tensors.push(NAME.to_owned(), &[tokens, spec.hidden]);
        let head = head::wire(spec, task, &mut tensors);
        let schema = tensors.schema()?;
        Ok(Wiring { schema, prompt: Some(PromptWiring { range, tokens }), head, ..Wiring::default() })
    }

    fn init(&self, wiring: &Wiring, start: &Start<'_>) -> Result<Vec<f32>, MethodError> {
        let mut theta = vec![0.0; wiring.schema.dim()];
        let mut stream = Stream::keyed(start.seed, Purpose::Init, None, None, NAME);
        if let Some(prompt) = &wiring.prompt {
            let embedding = Embedding::new(start);
            let part = &mut theta[prompt.range.clone()];
            let ids = match self.prompt_tuning_init {
                First::Random => {
                    let std = embedding.std()?;
                    part.fill_with(|| (std * stream.standard_normal()) as f32);
                    Vec::new()
                }
                First::SampleVocab => {
                    (0..prompt.tokens).map(|_| stream.below(start.spec.vocab as u64) as u32).collect()
                }
                First::Text => self.text_ids(start)?,
            };
            for (row, id) in part.chunks_exact_mut(start.spec.hidden).zip(ids) {
                embedding.row(id as usize, row)?;
            }
        }
        head::init(wiring, start.spec, start.seed, &mut theta);
        Ok(theta)
    }

    fn export(&self, _: &Spec, _: &Wiring) -> Export {
        Export::Adapter(None)
    }

    fn settings(&self) -> Result<toml::Table, toml::ser::Error> {
        complete(ENTRY.id, self)
    }
}
