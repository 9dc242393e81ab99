//! A server that says what a test wants it to say.
#![allow(dead_code, reason = "each test binary uses its part")]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What is said to one request.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Json(Value),
    Status(u16, &'static str, Value),
    /// Bytes of a body, announced as longer by so many.
    Cut(String, usize),
    /// Nothing: the connection is closed.
    Gone,
    After(Duration, Box<Said>),
}

/// A request: path, body, head.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) head: String,
}

pub(crate) struct Liar {
    pub(crate) url: String,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

impl Liar {
    /// Answers request number `n` (of those to the path, from 0) by `say(n, request)`.
    pub(crate) fn start(say: impl Fn(usize, &Asked) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, say) = (Arc::clone(&asked), Arc::new(say));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, say) = (Arc::clone(&log), Arc::clone(&say));
                std::thread::spawn(move || serve(stream, &log, &*say));
            }
        });
        Self { url, asked }
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|a| a.path == path).count()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Asked>>, say: &dyn Fn(usize, &Asked) -> Said) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        head.push_str(&line);
        line.clear();
    }
    let Some(path) = head.split(' ').nth(1).map(str::to_owned) else { return };
    let length = head
        .to_ascii_lowercase()
        .split("content-length:")
        .nth(1)
        .map_or(0, |r| r.lines().next().unwrap().trim().parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let asked = Asked { path, body: serde_json::from_slice(&body).unwrap_or(Value::Null), head };
    let number = {
        let mut log = log.lock().unwrap();
        let number = log.iter().filter(|a| a.path == asked.path).count();
        log.push(asked.clone());
        number
    };
    answer(stream, say(number, &asked));
}

fn answer(mut stream: TcpStream, said: Said) {
    let (status, extra, body, missing) = match said {
        Said::Gone => return,
        Said::After(delay, said) => {
            std::thread::sleep(delay);
            return answer(stream, *said);
        }
        Said::Json(v) => (200, "", v.to_string(), 0),
        Said::Status(status, extra, v) => (status, extra, v.to_string(), 0),
        Said::Cut(body, missing) => (200, "", body, missing),
    };
    let length = body.len() + missing;
    let _ = write!(
        stream,
        "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nConnection: close\r\n{extra}Content-Length: {length}\r\n\r\n{body}"
    );
}

/// `/models` with our model.
pub(crate) fn models() -> Said {
    Said::Json(json!({ "data": [{ "id": "m", "max_model_len": 256 }] }))
}

/// An honest echo of each prompt: a token a word, each with log-probability −(its letters)/4.
pub(crate) fn echo(body: &Value) -> Value {
    let prompts = match &body["prompt"] {
        Value::Array(many) => many.clone(),
        one => vec![one.clone()],
    };
    let mut count = 0;
    let choices: Vec<Value> = prompts
        .iter()
        .enumerate()
        .map(|(index, p)| {
            let text = p.as_str().unwrap();
            let tokens: Vec<&str> = text.split_inclusive(|_| false).flat_map(words).collect();
            count += tokens.len();
            let mut scores: Vec<Value> = tokens.iter().map(|t| json!(-(t.len() as f64) / 4.0)).collect();
            scores[0] = Value::Null;
            json!({ "index": index, "text": text, "finish_reason": "length",
                "logprobs": { "tokens": tokens, "token_logprobs": scores } })
        })
        .collect();
    json!({ "model": "m", "choices": choices, "usage": { "prompt_tokens": count, "completion_tokens": 0 } })
}

/// `a b` to `a`, ` b`.
fn words(text: &str) -> Vec<&str> {
    let mut cuts: Vec<usize> = text.match_indices(' ').map(|m| m.0).filter(|at| *at > 0).collect();
    cuts.insert(0, 0);
    cuts.push(text.len());
    cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect()
}
