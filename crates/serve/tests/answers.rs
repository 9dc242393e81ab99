//! What a server answers, against the model asked directly.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use antiphon_core::{Purpose, Stream};
use antiphon_kernels::{Backend, Cpu};
use antiphon_model::generate::{Generation, Generator, Room, Sampling};
use antiphon_model::{Net, Task, Weights, probe};
use common::{CONTEXT, base, complete, get, post, settings, start, with_model};
use serde_json::{Value, json};

const IDS: [u32; 6] = [0, 40, 77, 312, 9, 55];

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().filter_map(Value::as_f64).collect()
}

/// `log softmax` at the last position, from the model itself.
fn log_probabilities(ids: &[u32]) -> Vec<f64> {
    let (_dir, base, _) = base();
    let logits = probe::last_logits(&Cpu::serial(), &base, None, ids).unwrap();
    let sum: f64 = logits.iter().map(|v| f64::from(*v).exp()).sum();
    logits.iter().map(|v| f64::from(*v) - sum.ln()).collect()
}

#[test]
fn tokens_are_those_of_the_generator_greedy_and_sampled() {
    let (_dir, base, tokenizer) = base();
    let b = Cpu::serial();
    let weights = Weights::load(&b, base.spec(), Task::CausalLm, base.source()).unwrap();
    let net = Net::new(&b, weights, Task::CausalLm, Default::default(), CONTEXT).unwrap();
    let params = b.alloc(0).unwrap();
    let mut g = Generator::new(&b, &net, Room { sequences: 2, positions: CONTEXT }).unwrap();
    let server = start(settings());
    for (sampling, temperature) in [(Sampling::greedy(), 0.0), (Sampling::nucleus(1.3, 0.9).unwrap(), 1.3)] {
        let options = Generation { max_new_tokens: 10, sampling, stop: Vec::new() };
        let stream = Stream::new(5, Purpose::Generate);
        let expected =
            g.generate(&b, &net, &params, &[&IDS, &IDS], &options, &stream, &mut |_, _| {}).unwrap();
        let found = complete(
            server.address(),
            &json!({ "prompt": IDS, "n": 2, "max_tokens": 10, "temperature": temperature, "top_p": 0.9, "seed": 5,
                "ignore_eos": true, "logprobs": 0, "return_tokens_as_token_ids": true }),
        );
        for (i, expected) in expected.iter().enumerate() {
            let choice = &found["choices"][i];
            let names: Vec<String> = expected.tokens.iter().map(|t| format!("token_id:{t}")).collect();
            assert_eq!(choice["logprobs"]["tokens"], json!(names), "choice {i} at temperature {temperature}");
            let whole = tokenizer.decode(&[&IDS, &expected.tokens[..]].concat(), true).unwrap();
            let prompt = tokenizer.decode(&IDS, true).unwrap();
            assert_eq!(prompt + choice["text"].as_str().unwrap(), whole);
            assert_eq!(choice["finish_reason"], "length");
        }
        assert_eq!(
            found["usage"],
            json!({ "prompt_tokens": 6, "completion_tokens": 20, "total_tokens": 26 })
        );
    }
}

#[test]
fn scores_are_the_models_log_probabilities() {
    let server = start(settings());
    let echo = complete(
        server.address(),
        &json!({ "prompt": IDS, "max_tokens": 0, "echo": true, "logprobs": 3, "logprob_token_ids": [800, 2],
            "return_tokens_as_token_ids": true }),
    );
    let logprobs = &echo["choices"][0]["logprobs"];
    assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
    let found = numbers(&logprobs["token_logprobs"]);
    assert_eq!(found.len(), IDS.len() - 1, "nothing was generated");
    for at in 1..IDS.len() {
        let expected = log_probabilities(&IDS[..at]);
        assert!((found[at - 1] - expected[IDS[at] as usize]).abs() < 1e-5, "position {at}");
        let top = logprobs["top_logprobs"][at].as_object().unwrap();
        for id in [800, 2, IDS[at] as usize] {
            let one = top[&format!("token_id:{id}")].as_f64().unwrap();
            assert!((one - expected[id]).abs() < 1e-5, "position {at}, token {id}");
        }
        let greatest = expected.iter().copied().fold(f64::MIN, f64::max);
        assert!((top.values().next().unwrap().as_f64().unwrap() - greatest).abs() < 1e-5, "likeliest first");
        assert!(top.len() <= 6);
    }
    let prompt = complete(server.address(), &json!({ "prompt": IDS, "max_tokens": 1, "prompt_logprobs": 2 }));
    let positions = prompt["choices"][0]["prompt_logprobs"].as_array().unwrap();
    assert_eq!((positions.len(), &positions[0]), (IDS.len(), &Value::Null));
    for at in 1..IDS.len() {
        let own = &positions[at][IDS[at].to_string()];
        assert_eq!(own["logprob"].as_f64(), Some(found[at - 1]), "the same bits by both ways");
        let rank = 1 + log_probabilities(&IDS[..at]).iter().filter(|p| **p > found[at - 1] + 1e-6).count();
        assert_eq!(own["rank"], rank);
    }
}

#[test]
fn an_answer_does_not_depend_on_company() {
    let server = start(settings());
    let at = server.address();
    let ask = |i: u32| {
        let prompt: Vec<u32> = (0..=i % 7).map(|k| 30 + 11 * i + k).collect();
        let body =
            json!({ "prompt": prompt, "max_tokens": 1 + i % 9, "seed": i, "echo": true, "logprobs": 2 });
        complete(at, &body)["choices"].clone()
    };
    let alone: Vec<Value> = (0..24).map(ask).collect();
    let ask = &ask;
    let together: Vec<Value> = std::thread::scope(|s| {
        let asked: Vec<_> = (0..24).map(|i| s.spawn(move || ask(i))).collect();
        asked.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
    // and in one request
    let many = complete(
        at,
        &json!({ "prompt": [[30], [41, 42], [52, 53, 54]], "max_tokens": 0, "echo": true, "logprobs": 2 }),
    );
    for (i, choice) in many["choices"].as_array().unwrap().iter().enumerate() {
        let one = ask(i as u32);
        let count = i + 1;
        assert_eq!(
            choice["logprobs"]["token_logprobs"].as_array().unwrap()[..],
            one[0]["logprobs"]["token_logprobs"].as_array().unwrap()[..count]
        );
    }
    server.stop();
}

#[test]
fn a_stream_is_the_answer_in_parts() {
    let server = start(settings());
    let at = server.address();
    for (path, base) in [
        ("/v1/completions", json!({ "prompt": ["once upon", "a dog"], "n": 2, "logprobs": 2 })),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "hello" }], "n": 2, "logprobs": true, "top_logprobs": 2 }),
        ),
    ] {
        let mut body = with_model(&base);
        body["seed"] = json!(3);
        body["max_tokens"] = json!(9);
        let whole = post(at, path, &body).json();
        body["stream"] = json!(true);
        body["stream_options"] = json!({ "include_usage": true });
        let answer = post(at, path, &body);
        assert!(answer.head.contains("text/event-stream"), "{}", answer.head);
        let mut events = answer.events();
        let usage = events.pop().unwrap();
        assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &json!([])));
        for choice in whole["choices"].as_array().unwrap() {
            let (mut text, mut tokens, mut finish) = (String::new(), Vec::new(), Value::Null);
            for part in events.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == choice["index"]) {
                let piece = if path.contains("chat") { &part["delta"]["content"] } else { &part["text"] };
                text.push_str(piece.as_str().unwrap_or_default());
                let list =
                    &part["logprobs"][if path.contains("chat") { "content" } else { "token_logprobs" }];
                tokens.extend(list.as_array().cloned().unwrap_or_default());
                finish = part["finish_reason"].clone();
            }
            let (expected, list) = if path.contains("chat") {
                (&choice["message"]["content"], &choice["logprobs"]["content"])
            } else {
                (&choice["text"], &choice["logprobs"]["token_logprobs"])
            };
            assert_eq!((&json!(text), &json!(tokens), &finish), (expected, list, &choice["finish_reason"]));
        }
    }
}

#[test]
fn stop_texts_end_an_answer_and_are_no_part_of_it() {
    let server = start(settings());
    let ask = |stop: Value| {
        let body = json!({ "prompt": IDS, "max_tokens": 20, "seed": 1, "ignore_eos": true, "stop": stop });
        complete(server.address(), &body)["choices"][0].clone()
    };
    let whole = ask(Value::Null)["text"].as_str().unwrap().to_owned();
    let chars: Vec<char> = whole.chars().collect();
    let stop: String = chars[chars.len() / 2..][..3].iter().collect();
    let stopped = ask(json!([stop, "never said"]));
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["text"].as_str(), Some(&whole[..whole.find(&stop).unwrap()]));
}

#[test]
fn models_tokens_and_health() {
    let server = start(settings());
    let at = server.address();
    let listed = get(at, "/v1/models").json();
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["max_model_len"]),
        (&json!("tiny"), &json!(CONTEXT))
    );
    assert_eq!(get(at, "/v1/models/tiny").json(), listed["data"][0]);
    assert_eq!(get(at, "/health").status, 200);
    let (_dir, _, tokenizer) = base();
    let found =
        post(at, "/tokenize", &json!({ "prompt": "a good film", "add_special_tokens": false })).json();
    assert_eq!(found["tokens"], json!(tokenizer.encode("a good film", false).unwrap().ids));
    let text = post(at, "/detokenize", &json!({ "tokens": found["tokens"] })).json();
    assert_eq!(text["prompt"], "a good film");
    let answer = complete(at, &json!({ "prompt": "a good film", "max_tokens": 1 }));
    assert_eq!(answer["system_fingerprint"], listed["data"][0]["system_fingerprint"]);
}

#[test]
fn one_seed_one_answer_and_no_seed_another_each_time() {
    let server = start(settings());
    let ask = |seed: Value| {
        let body =
            json!({ "prompt": IDS, "max_tokens": 12, "temperature": 2.0, "ignore_eos": true, "seed": seed });
        complete(server.address(), &body)["choices"][0]["text"].clone()
    };
    assert_eq!(ask(json!(4)), ask(json!(4)));
    assert_ne!(ask(json!(4)), ask(json!(-4)));
    assert_ne!(ask(Value::Null), ask(Value::Null));
}
