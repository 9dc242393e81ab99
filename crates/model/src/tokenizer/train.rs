//! Byte-level BPE (Radford et al. 2019, section 2.2) trained on texts.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::{Template, TemplateProcessing};
use tokenizers::{AddedToken, TokenizerImpl};

use super::TokenizerError;
use crate::atomic;

/// A tokenizer that was trained and not yet saved.
#[derive(Debug)]
pub struct TrainedTokenizer {
    inner: Inner,
    specials: Vec<String>,
}

type Inner = TokenizerImpl<
    BPE,
    tokenizers::NormalizerWrapper,
    tokenizers::PreTokenizerWrapper,
    tokenizers::PostProcessorWrapper,
    tokenizers::DecoderWrapper,
>;

/// Trains a byte-level BPE of exactly `vocab` tokens, or fewer where the texts have no more pairs: first `specials` in their
/// order, then the 256 bytes, then merges. Words are cut as GPT-2 cuts them. The same texts give the same
/// tokenizer.
pub fn train_bpe<'a>(
    texts: impl Iterator<Item = &'a str> + Send,
    vocab: usize,
    specials: &[&str],
) -> Result<TrainedTokenizer, TokenizerError> {
    let least = 256 + specials.len();
    if vocab < least {
        return Err(TokenizerError::VocabTooSmall { asked: vocab, specials: specials.len(), least });
    }
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(specials.iter().map(|&s| AddedToken::from(s, true)).collect())
        .build();
    let mut inner = Inner::new(BPE::default());
    inner
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_decoder(Some(ByteLevel::new(false, true, true)));
    inner.train(&mut trainer, texts).map_err(TokenizerError::Failed)?;
    Ok(TrainedTokenizer { inner, specials: specials.iter().map(|&s| s.to_owned()).collect() })
}

impl TrainedTokenizer {
    /// Number of tokens.
    #[must_use]
    pub fn vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into `dir`, as transformers loads them. `roles` are pairs such
    /// as `("bos_token", "<s>")` with special tokens of the training; with a `bos_token`, every text begins with it.
    pub fn save(
        mut self,
        dir: &Path,
        roles: &[(&str, &str)],
        chat_template: Option<&str>,
    ) -> Result<(), TokenizerError> {
        for (_, token) in roles {
            if !self.specials.iter().any(|s| s == token) {
                let reason = format!("`{token}` is none of the special tokens {}", self.specials.join(", "));
                return Err(TokenizerError::Failed(reason.into()));
            }
        }
        if let Some((_, bos)) = roles.iter().find(|(role, _)| *role == "bos_token") {
            let id = self.inner.token_to_id(bos).unwrap_or_default();
            let template =
                |text: String| Template::try_from(text).map_err(|e| TokenizerError::Failed(e.into()));
            let processor = TemplateProcessing::builder()
                .single(template(format!("{bos}:0 $A:0"))?)
                .pair(template(format!("{bos}:0 $A:0 {bos}:1 $B:1"))?)
                .special_tokens(vec![((*bos).to_owned(), id)])
                .build()
                .map_err(|e| TokenizerError::Failed(e.into()))?;
            self.inner.with_post_processor(Some(processor));
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TokenizerError::Io { path, source }
        };
        std::fs::create_dir_all(dir).map_err(io(dir))?;
        let path = dir.join("tokenizer.json");
        let text = serde_json::to_string_pretty(&self.inner)
            .map_err(|e| TokenizerError::Malformed { path: path.clone(), source: e.into() })?;
        atomic::write(&path, |w| w.write_all(text.as_bytes())).map_err(io(&path))?;
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        for (role, token) in roles {
            config.insert((*role).to_owned(), json!(token));
        }
        if let Some(template) = chat_template {
            config.insert("chat_template".into(), json!(template));
        }
        let path = dir.join("tokenizer_config.json");
        let text = format!("{:#}\n", Value::Object(config));
        atomic::write(&path, |w| w.write_all(text.as_bytes())).map_err(io(&path))
    }
}
