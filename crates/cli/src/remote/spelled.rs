//! Questions in the words of the endpoint: ids where it shares the vocabulary, text by the local tokenizer elsewhere.

use std::borrow::Cow;
use std::sync::Arc;

use antiphon_oracle::http::HttpOracle;
use antiphon_oracle::{
    Answers, EmbedOracle, Facts, Label, LabelScore, LogprobOracle, OracleError, Prompt, Query, ScoreQuery,
    Soft, TextOracle, TextQuery, Usage,
};

use crate::session::Tokens;

/// See the module.
pub(super) struct Spelled {
    inner: HttpOracle,
    facts: Facts,
    /// Spells ids; absent where the endpoint takes ids.
    tokens: Option<Arc<Tokens>>,
}

impl Spelled {
    /// `provider` is who answers, in place of the address, which changes where the server is the run's own.
    pub(super) fn new(inner: HttpOracle, tokens: Option<Arc<Tokens>>, provider: Option<&str>) -> Self {
        let mut facts = inner.facts().clone();
        if let Some(provider) = provider {
            provider.clone_into(&mut facts.identity.provider);
        }
        Self { inner, facts, tokens }
    }

    /// The query as it is sent.
    fn query<'q>(&self, q: &'q ScoreQuery) -> Cow<'q, ScoreQuery> {
        let (Some(tokens), Prompt::Tokens(ids)) = (&self.tokens, &q.prompt) else { return Cow::Borrowed(q) };
        let text = spell(tokens, ids);
        let label = |label: &Label| match label {
            // a word may begin differently after another than alone
            Label::Tokens(own) => {
                let whole = spell(tokens, &[&ids[..], own].concat());
                let after = whole.strip_prefix(&text).filter(|rest| !rest.is_empty());
                Label::Text(after.map_or_else(|| spell(tokens, own), str::to_owned))
            }
            text => text.clone(),
        };
        let labels = q.labels.iter().map(label).collect();
        Cow::Owned(ScoreQuery { prompt: Prompt::Text(text), labels })
    }

    /// The same of a text.
    fn text_query<'q>(&self, q: &'q TextQuery) -> Cow<'q, TextQuery> {
        match (&self.tokens, &q.prompt) {
            (Some(tokens), Prompt::Tokens(ids)) => {
                Cow::Owned(TextQuery { prompt: Prompt::Text(spell(tokens, ids)), ..q.clone() })
            }
            _ => Cow::Borrowed(q),
        }
    }

    fn batch<'q>(&self, batch: &'q [ScoreQuery]) -> Cow<'q, [ScoreQuery]> {
        match self.tokens {
            None => Cow::Borrowed(batch),
            Some(_) => batch.iter().map(|q| self.query(q).into_owned()).collect(),
        }
    }
}

/// The text of `ids`, special tokens left out: the endpoint adds its own. Ids come from this tokenizer, so that none is unknown.
fn spell(tokens: &Tokens, ids: &[u32]) -> String {
    tokens.0.decode(ids, true).unwrap_or_default()
}

impl TextOracle for Spelled {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn at_most(&self, query: Query<'_>) -> Usage {
        match query {
            Query::Score(q) => self.inner.at_most(Query::Score(&self.query(q))),
            Query::Soft(soft, q) => self.inner.at_most(Query::Soft(soft, &self.query(q))),
            Query::At(theta, q) => self.inner.at_most(Query::At(theta, &self.query(q))),
            Query::Text(q) => self.inner.at_most(Query::Text(&self.text_query(q))),
        }
    }

    fn generate(&self, batch: &[TextQuery]) -> Result<Answers<String>, OracleError> {
        let batch: Vec<TextQuery> = batch.iter().map(|q| self.text_query(q).into_owned()).collect();
        self.inner.generate(&batch)
    }
}

impl LogprobOracle for Spelled {
    fn score(&self, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.inner.score(&self.batch(batch))
    }
}

impl EmbedOracle for Spelled {
    fn width(&self) -> usize {
        self.inner.width()
    }

    fn embedding_std(&self) -> f64 {
        self.inner.embedding_std()
    }

    fn score_soft(&self, soft: &Soft, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
        self.inner.score_soft(soft, &self.batch(batch))
    }
}
