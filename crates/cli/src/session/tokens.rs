//! The tokenizer of the base model as the data crate wants it.

use std::path::Path;

use antiphon_data::{Encoding, Message, Role, Tokenize, TokenizeError};
use antiphon_model::template::{ChatMessage, ChatTemplate};
use antiphon_model::tokenizer::{Tokenizer, TokenizerError};
use antiphon_model::{Base, Config};
use antiphon_tune::method::SourceError;

use crate::error::{Fail, Failure, Kind};
use crate::runfile::RunFile;

/// Tokenizer and chat template.
pub(crate) struct Tokens(pub(crate) Tokenizer);

impl Tokens {
    /// The tokenizer beside `base`, which must fit its embedding; with the chat template that the run file names, if any.
    pub(crate) fn open(base: &Base, file: &RunFile) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::open(base.dir(), Some(base.config())).fail(Kind::Model)?;
        tokenizer.fits(base.spec().vocab).fail(Kind::Model)?;
        Self::with_template(tokenizer, file)
    }

    /// The tokenizer in `dir`, of a model that is elsewhere.
    pub(crate) fn beside(dir: &Path, file: &RunFile) -> Result<Self, Failure> {
        // special tokens may be named there alone
        let config = Config::read(&dir.join("config.json")).ok();
        let tokenizer = Tokenizer::open(dir, config.as_ref()).fail_at(Kind::Model, "model.base_model");
        Self::with_template(tokenizer.map_err(|f| f.with_near_path(dir))?, file)
    }

    fn with_template(tokenizer: Tokenizer, file: &RunFile) -> Result<Self, Failure> {
        let Some(name) = &file.model.chat_template else { return Ok(Self(tokenizer)) };
        let template = ChatTemplate::named(name).fail_at(Kind::Settings, "model.chat_template")?;
        Ok(Self(tokenizer.with_template(template)))
    }

    /// Ids of `text` without special tokens.
    pub(crate) fn plain(&self, text: &str) -> Result<Vec<u32>, SourceError> {
        Ok(self.0.encode(text, false)?.ids)
    }
}

impl Tokenize for Tokens {
    fn encode(&self, text: &str, special: bool) -> Result<Encoding, TokenizeError> {
        let tokens = self.0.encode(text, special).map_err(|e| TokenizeError::Encode(Box::new(e)))?;
        Ok(Encoding { ids: tokens.ids, offsets: tokens.offsets })
    }

    fn bos(&self) -> Option<u32> {
        self.0.special().bos
    }

    fn eos(&self) -> Option<u32> {
        self.0.special().eos
    }

    fn render_chat(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TokenizeError> {
        let turns: Vec<ChatMessage<'_>> = messages.iter().map(turn).collect();
        self.0.render_chat(&turns, add_generation_prompt).map_err(|e| match e {
            TokenizerError::Template(antiphon_model::template::TemplateError::None) => {
                TokenizeError::NoChatTemplate
            }
            other => TokenizeError::Template(Box::new(other)),
        })
    }
}

fn turn(m: &Message) -> ChatMessage<'_> {
    let role = match m.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    ChatMessage { role, content: &m.content }
}
