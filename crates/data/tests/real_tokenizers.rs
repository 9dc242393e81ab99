//! The seam between prompt and completion under real tokenizers: what is learnt, decoded, is the completion.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it inside test functions; these are their helpers"
)]

mod common;

use std::path::PathBuf;

use antiphon_data::encode::{Policy, Task, Truncation, encode};
use antiphon_data::format::{ReadOptions, read};
use antiphon_data::template::Prompt;
use antiphon_data::{Encoding, Example, Kind, Message, Role, Sequence, Tokenize, TokenizeError};
use antiphon_model::template::{ChatMessage, ChatTemplate};
use antiphon_model::tokenizer::Tokenizer;
use common::{dataset, shared};

struct Real(Tokenizer);

impl Tokenize for Real {
    fn encode(&self, text: &str, special: bool) -> Result<Encoding, TokenizeError> {
        let t = self.0.encode(text, special).map_err(|e| TokenizeError::Encode(e.into()))?;
        Ok(Encoding { ids: t.ids, offsets: t.offsets })
    }
    fn bos(&self) -> Option<u32> {
        self.0.special().bos
    }
    fn eos(&self) -> Option<u32> {
        self.0.special().eos
    }
    fn render_chat(&self, messages: &[Message], add: bool) -> Result<String, TokenizeError> {
        let role = |r: Role| match r {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        };
        let turns: Vec<ChatMessage<'_>> =
            messages.iter().map(|m| ChatMessage { role: role(m.role), content: &m.content }).collect();
        self.0.render_chat(&turns, add).map_err(|e| TokenizeError::Template(e.into()))
    }
}

/// Byte-level BPE, SentencePiece-like BPE with byte fallback, and the two story models' own.
fn tokenizers() -> Vec<(String, Real)> {
    let dirs = ["tokenizers/gpt2", "tokenizers/llama2", "models/stories260k-hf", "models/tinystories-656k"];
    let dirs: Vec<PathBuf> = dirs.iter().filter_map(|d| shared(&format!("data/{d}"))).collect();
    dirs.into_iter()
        .map(|dir| (dir.display().to_string(), Real(Tokenizer::open(&dir, None).unwrap())))
        .collect()
}

fn policy(eos: Option<u32>) -> Policy {
    Policy {
        task: Task::Tokens { verbalizer: None },
        sequence_len: 100_000,
        truncation: Truncation::Error,
        train_on_prompt: false,
        bos: None,
        eos,
    }
}

/// The tokens with loss as text.
fn learnt(s: &Sequence, t: &Real) -> String {
    let ids: Vec<u32> = s.labels().map(|(_, id)| id).collect();
    t.0.decode(&ids, false).unwrap()
}

#[test]
fn what_is_learnt_is_the_completion() {
    let Some(dir) = dataset("gsm8k") else { return };
    for (template, aligned) in [("{question}\n", true), ("Q: {question}\nA: ", false)] {
        let options = ReadOptions { prompt: Some(Prompt::parse(template).unwrap()), ..Default::default() };
        let examples: Vec<Example> =
            read(&[dir.join("test.jsonl")], &options).unwrap().examples.into_iter().take(150).collect();
        for (name, t) in tokenizers() {
            let e = encode(&examples, &policy(None), &t, "x").unwrap();
            assert_eq!(e.report.kept, 150, "{name}");
            if t.0.special().unk.is_some() && name.contains("tinystories") {
                continue; // its vocabulary lacks characters, so that decoding does not give the text back
            }
            let mut whole = 0;
            for (s, example) in e.sequences().iter().zip(&examples) {
                let Kind::Completion { completion, .. } = &example.kind else { panic!() };
                let learnt = learnt(s, &t);
                // never a byte of the prompt; all of the completion but what merged with the prompt's last token
                assert!(completion.ends_with(learnt.trim_start()), "{name}: {learnt:?} in {completion:?}");
                whole += usize::from(learnt.trim_start() == completion);
            }
            if aligned {
                assert_eq!((whole, e.report.straddling), (150, 0), "{name}");
            } else {
                assert_eq!(whole + e.report.straddling, 150, "{name}");
            }
        }
    }
}

#[test]
fn a_space_at_the_end_of_the_prompt_is_the_classic_mistake() {
    let pair = |p: &str, c: &str| {
        vec![Example::new(Kind::Completion { prompt: p.into(), completion: c.into() }, None, 0)]
    };
    for (name, t) in
        tokenizers().into_iter().filter(|(name, _)| name.contains("gpt2") || name.contains("llama2"))
    {
        let good = encode(&pair("It was", " good"), &policy(None), &t, "x").unwrap();
        assert_eq!(
            (good.report.label_tokens, good.report.straddling, good.report.label_bytes),
            (1, 0, 5),
            "{name}"
        );
        // the word merges with the space into one token, which the prompt owns: nothing is left to learn
        let bad = encode(&pair("It was ", "good"), &policy(None), &t, "x").unwrap_err().to_string();
        assert!(bad.contains("merge with the end of the prompt"), "{name}: {bad}");
    }
}

#[test]
fn characters_of_several_tokens_are_not_cut() {
    for (name, t) in tokenizers() {
        let text = |p: &str, c: &str| Kind::Completion { prompt: p.into(), completion: c.into() };
        let e = encode(&[Example::new(text("Smile:\n", "🙂 naïve 中"), None, 0)], &policy(None), &t, "x")
            .unwrap();
        if !name.contains("tinystories") {
            assert_eq!(learnt(&e.sequences()[0], &t).trim_start(), "🙂 naïve 中", "{name}");
        }
        assert_eq!(e.report.label_bytes, "🙂 naïve 中".len(), "{name}");
    }
}

#[test]
fn the_assistants_words_under_chatml() {
    let Some(dir) = dataset("llamafactory-pref") else { return };
    let options = ReadOptions { layout: Some(antiphon_data::format::Layout::Messages), ..Default::default() };
    let examples = read(&[dir.join("kto_en_demo.json")], &options).unwrap().examples;
    for (name, t) in tokenizers().into_iter().filter(|(name, _)| name.contains("gpt2")) {
        let t = Real(t.0.with_template(ChatTemplate::named("chatml").unwrap()));
        let e = encode(&examples[..100], &policy(None), &t, "x").unwrap();
        for (s, example) in e.sequences().iter().zip(&examples) {
            let Kind::Chat { messages } = &example.kind else { panic!() };
            let said = messages.iter().filter(|m| m.role == Role::Assistant);
            let expected: String = said.map(|m| format!("{}<|im_end|>", m.content)).collect();
            // a line break that the answer begins with may merge with the one that ends the generation prompt
            assert!(expected.ends_with(&learnt(s, &t)), "{name}");
            assert!(expected.len() - learnt(s, &t).len() <= 2, "{name}: {expected:?}");
        }
    }
}
