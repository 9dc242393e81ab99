//! Answers in OpenAI's JSON.

use serde_json::{Map, Value, json};

use crate::choice::{Piece, Record};
use crate::model::Served;
use crate::request::{Kind, Work};
use crate::scores::Scored;

/// What all parts of one answer share.
pub(crate) struct Frame<'a> {
    pub(crate) served: &'a Served,
    pub(crate) work: &'a Work,
    /// Such as `cmpl-12`.
    pub(crate) id: String,
    /// Seconds of Unix time.
    pub(crate) created: u64,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) prompt: usize,
    pub(crate) completion: usize,
}

impl Count {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        })
    }
}

impl Frame<'_> {
    fn object(&self, part: bool, choices: Value) -> Value {
        let object = match (self.work.kind, part) {
            (Kind::Completion, _) => "text_completion",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
            "choices": choices,
        })
    }

    /// The whole answer. `prompt_scores` are those of the second and later tokens of each prompt.
    pub(crate) fn whole(&self, choices: &[Piece], prompt_scores: &[Vec<Scored>], count: Count) -> Value {
        let choices = choices.iter().map(|c| {
            let mut choice = json!({ "index": c.index });
            match self.work.kind {
                Kind::Completion => choice["text"] = json!(c.text),
                Kind::Chat => {
                    choice["message"] = json!({ "role": "assistant", "content": c.text, "refusal": null })
                }
            }
            choice["logprobs"] = self.logprobs(&c.records);
            choice["finish_reason"] = json!(c.finish);
            if self.work.prompt_scores.is_some() {
                choice["prompt_logprobs"] = self.prompt_logprobs(&prompt_scores[c.index / self.work.n]);
            }
            choice
        });
        let mut whole = self.object(false, choices.collect());
        whole["usage"] = count.json();
        whole
    }

    /// The first part of a streamed chat choice.
    pub(crate) fn role(&self, index: usize) -> Value {
        let delta = json!({ "role": "assistant", "content": "" });
        self.object(
            true,
            json!([{ "index": index, "delta": delta, "logprobs": null, "finish_reason": null }]),
        )
    }

    /// A part of a streamed answer.
    pub(crate) fn part(&self, piece: &Piece) -> Value {
        let mut choice = json!({ "index": piece.index });
        match self.work.kind {
            Kind::Completion => choice["text"] = json!(piece.text),
            Kind::Chat if piece.text.is_empty() => choice["delta"] = json!({}),
            Kind::Chat => choice["delta"] = json!({ "content": piece.text }),
        }
        choice["logprobs"] = self.logprobs(&piece.records);
        choice["finish_reason"] = json!(piece.finish);
        self.object(true, json!([choice]))
    }

    /// The part after the last choice, with the usage alone.
    pub(crate) fn usage(&self, count: Count) -> Value {
        let mut part = self.object(true, json!([]));
        part["usage"] = count.json();
        part
    }

    /// How a token is written.
    fn name(&self, id: u32) -> String {
        if self.work.as_ids { format!("token_id:{id}") } else { self.served.texts[id as usize].clone() }
    }

    fn logprobs(&self, records: &[Record]) -> Value {
        match (&self.work.scores, self.work.kind) {
            (None, _) => Value::Null,
            (Some(_), Kind::Completion) => self.legacy(records),
            (Some(_), Kind::Chat) => {
                let content = records.iter().filter_map(|r| {
                    let scored = r.scored.as_ref()?;
                    let mut token = self.chat_token((r.id, scored.logprob));
                    token["top_logprobs"] = scored.top.iter().map(|t| self.chat_token(*t)).collect();
                    Some(token)
                });
                json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
            }
        }
    }

    fn chat_token(&self, (id, logprob): (u32, f64)) -> Value {
        let text = &self.served.texts[id as usize];
        // part of a character: its bytes are not in its text
        let bytes = (!text.contains(char::REPLACEMENT_CHARACTER)).then_some(text.as_bytes());
        json!({ "token": self.name(id), "logprob": logprob, "bytes": bytes })
    }

    /// The four lists of `/v1/completions`.
    fn legacy(&self, records: &[Record]) -> Value {
        // an echoed prompt may have been scored for `prompt_logprobs` too, which asks for its own number
        let count = self.work.scores.as_ref().map_or(0, |ask| ask.top);
        let top = |scored: &Scored| {
            let mut map = Map::new();
            let own = [(scored.id, scored.logprob)];
            // two tokens may have one text: the likelier stands
            for &(id, logprob) in scored.top.iter().take(count).chain(&scored.asked).chain(&own) {
                map.entry(self.name(id)).or_insert_with(|| json!(logprob));
            }
            Value::Object(map)
        };
        let each = |f: &dyn Fn(&Record) -> Value| records.iter().map(f).collect::<Vec<_>>();
        json!({
            "tokens": each(&|r| json!(self.name(r.id))),
            "token_logprobs": each(&|r| json!(r.scored.as_ref().map(|s| s.logprob))),
            "top_logprobs": each(&|r| json!(r.scored.as_ref().map(top))),
            "text_offset": each(&|r| json!(r.offset)),
        })
    }

    /// In vLLM's form: nothing for the first token, then maps from ids.
    fn prompt_logprobs(&self, scores: &[Scored]) -> Value {
        let entry = |id: u32, logprob: f64, rank: usize| json!({ "logprob": logprob, "rank": rank, "decoded_token": self.served.texts[id as usize] });
        let count = self.work.prompt_scores.as_ref().map_or(0, |ask| ask.top);
        let position = |s: &Scored| {
            let mut map = Map::new();
            map.insert(s.id.to_string(), entry(s.id, s.logprob, s.rank));
            for (rank, &(id, logprob)) in s.top.iter().take(count).enumerate().filter(|(_, t)| t.0 != s.id) {
                map.insert(id.to_string(), entry(id, logprob, rank + 1));
            }
            Value::Object(map)
        };
        std::iter::once(Value::Null).chain(scores.iter().map(position)).collect()
    }
}
