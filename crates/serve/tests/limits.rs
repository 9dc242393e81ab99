//! Bad requests, strangers, too many, too slow, and the end.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use antiphon_serve::{ApiKey, Running, ServeError, Served, Settings};
use common::{CONTEXT, base, get, post, receive, send, settings, start, with_model};
use serde_json::json;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

#[test]
fn bad_requests_name_their_parameter() {
    let server = start(settings());
    let long: Vec<u32> = vec![5; CONTEXT];
    for (path, body, status, param, code) in [
        (COMPLETIONS, json!({ "model": "other", "prompt": "a" }), 404, "model", "model_not_found"),
        (COMPLETIONS, json!({ "prompt": "a" }), 400, "model", ""),
        (COMPLETIONS, with_model(&json!({})), 400, "prompt", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": [] })), 400, "prompt", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": [[]] })), 400, "prompt", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": { "a": 1 } })), 400, "prompt", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": [4_000_000] })), 400, "prompt", ""),
        (
            COMPLETIONS,
            with_model(&json!({ "prompt": long, "max_tokens": 1 })),
            400,
            "prompt",
            "context_length_exceeded",
        ),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "max_tokens": 1e18 })), 400, "max_tokens", ""),
        (
            COMPLETIONS,
            with_model(&json!({ "prompt": "a", "max_tokens": u64::MAX })),
            400,
            "prompt",
            "context_length_exceeded",
        ),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "max_tokens": 0 })), 400, "max_tokens", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "temperature": -1 })), 400, "temperature", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "top_p": 0 })), 400, "top_p", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "logprobs": 21 })), 400, "logprobs", ""),
        (
            COMPLETIONS,
            with_model(&json!({ "prompt": "a", "logprob_token_ids": [1] })),
            400,
            "logprob_token_ids",
            "",
        ),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "n": 0 })), 400, "prompt", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "n": 1u64 << 62 })), 400, "n", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "stop": "" })), 400, "stop", ""),
        (
            COMPLETIONS,
            with_model(&json!({ "prompt": "a", "presence_penalty": 0.5 })),
            400,
            "presence_penalty",
            "",
        ),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "logit_bias": { "5": 1 } })), 400, "logit_bias", ""),
        (COMPLETIONS, with_model(&json!({ "prompt": "a", "top_k": 5 })), 400, "top_k", "unknown_parameter"),
        (COMPLETIONS, with_model(&json!({ "prompt_embeds": "AAAA" })), 400, "prompt_embeds", ""),
        (CHAT, with_model(&json!({ "messages": [] })), 400, "messages", ""),
        (
            CHAT,
            with_model(&json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] })),
            400,
            "messages",
            "",
        ),
        (
            CHAT,
            with_model(&json!({ "messages": [{ "role": "user", "content": "a" }], "top_logprobs": 2 })),
            400,
            "top_logprobs",
            "",
        ),
        (
            CHAT,
            with_model(&json!({ "messages": [{ "role": "user", "content": "a" }], "tools": [{}] })),
            400,
            "tools",
            "",
        ),
    ] {
        let answer = post(server.address(), path, &body);
        let error = &answer.json()["error"];
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert_eq!(error["param"], param, "{body}: {error}");
        assert_eq!(error["code"].as_str().unwrap_or(""), code, "{body}: {error}");
        assert!(error["message"].as_str().unwrap().len() > 10 && error["type"].is_string());
    }
    let raw = |head: &str, body: &[u8]| receive(send(server.address(), head, body)).status;
    assert_eq!(raw("POST /v1/completions HTTP/1.1", b"{\"model\": \"tiny\", \"prom"), 400);
    assert_eq!(raw("POST /v1/completions HTTP/1.1", b"\xff\xfe"), 400);
    assert_eq!(raw("GET /v1/completions HTTP/1.1", b""), 405);
    assert_eq!(raw("GET /nothing HTTP/1.1", b""), 404);
    assert_eq!(get(server.address(), "/v1/models/other").status, 404);
}

#[test]
fn a_key_opens_everything_but_health() {
    let server = start(Settings { api_key: ApiKey::new("sk-right"), ..settings() });
    let at = server.address();
    let with = |line: &str| receive(send(at, &format!("GET /v1/models HTTP/1.1{line}"), b"")).status;
    assert_eq!(with("\r\nAuthorization: Bearer sk-right"), 200);
    for wrong in [
        "",
        "\r\nAuthorization: Bearer sk-wrong",
        "\r\nAuthorization: sk-right",
        "\r\nAuthorization: Bearer ",
    ] {
        assert_eq!(with(wrong), 401, "{wrong:?}");
    }
    assert_eq!(post(at, COMPLETIONS, &json!({})).status, 401, "before the body is looked at");
    assert_eq!(get(at, "/health").status, 200);
}

#[test]
fn an_address_for_all_needs_a_key_and_limits_hold_one_sequence() {
    let run = |settings, address: [u8; 4]| {
        let (_dir, base, tokenizer) = base();
        let served = Served::new(&base, None, tokenizer, "tiny".into(), None, 1).unwrap();
        Running::start(served, settings, SocketAddr::from((address, 0))).unwrap_err()
    };
    assert!(matches!(run(settings(), [0, 0, 0, 0]), ServeError::Open { .. }));
    let small = Settings { cache_tokens: CONTEXT - 1, ..settings() };
    assert!(matches!(run(small, [127, 0, 0, 1]), ServeError::Room { needed: CONTEXT, .. }));
}

#[test]
fn bodies_and_queues_have_an_end() {
    let server = start(Settings { max_body: 200, queue: 3, ..settings() });
    let at = server.address();
    let ask = |n: usize, text: &str| {
        post(at, COMPLETIONS, &with_model(&json!({ "prompt": text, "n": n, "max_tokens": 2 })))
    };
    assert_eq!(ask(1, &"x".repeat(300)).status, 413);
    assert_eq!(ask(4, "a").status, 400, "more than would ever fit");
    // while one long request holds the queue, another is told to come back
    let long =
        with_model(&json!({ "prompt": "a", "n": 3, "max_tokens": 40, "ignore_eos": true, "stream": true }));
    let busy = (0..50).find_map(|_| {
        let held = send(at, "POST /v1/completions HTTP/1.1", long.to_string().as_bytes());
        let answer = ask(3, "b");
        receive(held);
        (answer.status == 429).then_some(answer)
    });
    let busy = busy.expect("50 attempts to meet");
    assert!(busy.head.to_ascii_lowercase().contains("retry-after: 1"), "{}", busy.head);
    assert_eq!(busy.json()["error"]["code"], "queue_full");
    assert_eq!(ask(3, "b").status, 200, "and served later");
}

#[test]
fn the_slow_are_let_go() {
    let quick = Duration::from_millis(300);
    let server = start(Settings { read_timeout: quick, ..settings() });
    let at = server.address();
    // a head that never ends
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\n").unwrap();
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
    assert!(begun.elapsed() < Duration::from_secs(10));
    // a body that never ends
    let mut stream = TcpStream::connect(at).unwrap();
    stream
        .write_all(
            b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 99\r\n\r\n{",
        )
        .unwrap();
    assert_eq!(receive(stream).status, 408);
}

#[test]
fn a_request_over_its_time_is_answered_and_leaves_nothing_behind() {
    let server = start(Settings { request_timeout: Duration::ZERO, ..settings() });
    let body = with_model(&json!({ "prompt": "a", "n": 8, "max_tokens": 40, "ignore_eos": true }));
    let mut late = 0;
    for _ in 0..20 {
        let answer = post(server.address(), COMPLETIONS, &body);
        // an answer that is there when the clock is first looked at is given
        if answer.status != 200 {
            assert_eq!((answer.status, &answer.json()["error"]["type"]), (408, &json!("timeout_error")));
            late += 1;
        }
    }
    assert!(late > 0, "20 answers in no time at all");
    // returns only when the engine has nothing left
    server.stop();
}

#[test]
fn clients_that_go_away_free_their_places() {
    let server = start(Settings { queue: 8, ..settings() });
    let at = server.address();
    let body =
        with_model(&json!({ "prompt": "a", "n": 8, "max_tokens": 40, "ignore_eos": true, "stream": true }));
    for _ in 0..30 {
        drop(send(at, "POST /v1/completions HTTP/1.1", body.to_string().as_bytes()));
    }
    let begun = Instant::now();
    while post(at, COMPLETIONS, &with_model(&json!({ "prompt": "a", "n": 8, "max_tokens": 1 }))).status != 200
    {
        assert!(begun.elapsed() < Duration::from_secs(30), "places were lost");
    }
}

#[test]
fn stopping_finishes_what_is_open() {
    let server = start(settings());
    let at = server.address();
    let body = with_model(&json!({ "prompt": "a", "max_tokens": 40, "ignore_eos": true, "stream": true }));
    let mut held = send(at, "POST /v1/completions HTTP/1.1", body.to_string().as_bytes());
    // the first byte of the answer: the request is in
    let mut first = [0];
    std::io::Read::read_exact(&mut held, &mut first).unwrap();
    server.stop();
    let mut rest = first.to_vec();
    std::io::Read::read_to_end(&mut held, &mut rest).unwrap();
    let text = String::from_utf8(rest).unwrap();
    assert!(text.contains("\"finish_reason\":\"length\"") && text.contains("[DONE]"), "{text}");
    assert!(TcpStream::connect(at).is_err(), "nobody listens any more");
}
