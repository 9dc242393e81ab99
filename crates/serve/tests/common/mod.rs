//! A tiny model behind a server, and HTTP by hand, so that nothing of the server is tested on itself.

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use antiphon_model::{Base, ChatTemplate, Tokenizer};
use antiphon_serve::{Running, Served, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const CONTEXT: usize = 128;
pub(crate) const WIDTH: usize = 32;

/// Random weights under the embedded base's tokenizer.
pub(crate) fn base() -> (TempDir, Base, Tokenizer) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/base");
    let dir = tempfile::tempdir().unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(assets.join(file), dir.path().join(file)).unwrap();
    }
    let vocab = Tokenizer::open(dir.path(), None).unwrap().vocab();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": vocab, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": true, "initializer_range": 0.2, "torch_dtype": "float32",
        "bos_token_id": 0, "eos_token_id": 1, "attention_bias": false, "mlp_bias": false,
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let base = Base::open(&format!("init:{}", dir.path().display()), 7).unwrap();
    let tokenizer = Tokenizer::open(dir.path(), Some(base.config())).unwrap();
    (dir, base, tokenizer.with_template(ChatTemplate::named("chatml").unwrap()))
}

/// Room for this model, small enough that requests meet in it.
pub(crate) fn settings() -> Settings {
    Settings { batch: 8, batch_tokens: 256, cache_tokens: 512, prompt_embeds: true, ..Settings::default() }
}

pub(crate) fn start(settings: Settings) -> Running {
    let (_dir, base, tokenizer) = base();
    let served = Served::new(&base, None, tokenizer, "tiny".into(), None, 2).unwrap();
    Running::start(served, settings, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

/// Status, head and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The events of a stream, up to `[DONE]`.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut lines: Vec<&str> = self.body.split("\n\n").filter(|l| !l.is_empty()).collect();
        assert_eq!(lines.pop(), Some("data: [DONE]"), "{self:?}");
        lines.iter().map(|l| serde_json::from_str(l.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }
}

pub(crate) fn send(at: SocketAddr, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    write!(stream, "{head}\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n").unwrap();
    stream.write_all(body).unwrap();
    stream
}

pub(crate) fn receive(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, mut rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = String::new();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        while let Some((size, tail)) = rest.split_once("\r\n") {
            let size = usize::from_str_radix(size, 16).unwrap();
            body.push_str(&tail[..size]);
            rest = tail[size..].strip_prefix("\r\n").unwrap();
        }
    } else {
        body.push_str(rest);
    }
    Answer { status, head: head.to_owned(), body }
}

pub(crate) fn post(at: SocketAddr, path: &str, body: &Value) -> Answer {
    receive(send(at, &format!("POST {path} HTTP/1.1"), body.to_string().as_bytes()))
}

pub(crate) fn get(at: SocketAddr, path: &str) -> Answer {
    receive(send(at, &format!("GET {path} HTTP/1.1"), b""))
}

/// A request to `/v1/completions` with `more` fields, and its answer.
pub(crate) fn complete(at: SocketAddr, more: &Value) -> Value {
    let answer = post(at, "/v1/completions", &with_model(more));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

pub(crate) fn with_model(more: &Value) -> Value {
    let mut body = json!({ "model": "tiny" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}
