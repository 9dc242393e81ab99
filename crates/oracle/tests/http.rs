//! HTTP oracles against a server that lies, breaks, is slow, asks to wait, or becomes another.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod liar;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use antiphon_oracle::http::{Dialect, HttpError, HttpOracle, HttpSettings, Key, Retry, Table, Way};
use antiphon_oracle::{
    Access, Answers, EmbedOracle, Label, LabelScore, LogprobOracle, Missing, OracleError, Prompt, Query,
    ScoreQuery, Soft, TextOracle, TextQuery, Usage,
};
use liar::{Asked, Liar, Said, echo, models};
use serde_json::{Value, json};

fn quick(url: &str, dialect: Dialect) -> HttpSettings {
    let mut s = HttpSettings::new(url, dialect, "m");
    s.retry = Retry { attempts: 3, base: Duration::from_millis(2), most: Duration::from_millis(200) };
    s.rate = (1e4, 1000);
    s.timeout = Duration::from_secs(20);
    s.breaker = (50, Duration::from_millis(100));
    s.in_flight = 1;
    s
}

fn question(prompt: &str, labels: &[&str]) -> ScoreQuery {
    let labels: Arc<[Label]> = labels.iter().map(|l| Label::Text((*l).into())).collect();
    ScoreQuery { prompt: Prompt::Text(prompt.into()), labels }
}

/// The probe is answered honestly; `say(n, request)` answers the `n`-th question after it.
fn liar(say: impl Fn(usize, &Asked) -> Said + Send + Sync + 'static) -> (Liar, HttpOracle) {
    liar_within(Duration::from_secs(20), say)
}

fn liar_within(
    timeout: Duration,
    say: impl Fn(usize, &Asked) -> Said + Send + Sync + 'static,
) -> (Liar, HttpOracle) {
    let honest = Arc::new(AtomicBool::new(true));
    let (flag, count) = (Arc::clone(&honest), AtomicUsize::new(0));
    let server = Liar::start(move |_, asked| {
        if asked.path == "/v1/models" {
            return models();
        }
        let canary = asked.body["prompt"].as_str().is_some_and(|p| p.contains("quick brown fox"));
        if flag.load(Ordering::SeqCst) || canary {
            return Said::Json(echo(&asked.body));
        }
        say(count.fetch_add(1, Ordering::SeqCst), asked)
    });
    let settings = HttpSettings { timeout, ..quick(&server.url, Dialect::Completions) };
    let oracle = HttpOracle::connect(settings).unwrap();
    honest.store(false, Ordering::SeqCst);
    (server, oracle)
}

/// Asks one question, and checks what every answer must keep.
fn ask(oracle: &HttpOracle, batch: &[ScoreQuery]) -> Result<Answers<Vec<LabelScore>>, OracleError> {
    let answers = oracle.score(batch)?;
    assert_eq!(answers.items.len(), batch.len());
    let most: Usage = batch.iter().map(|q| oracle.at_most(Query::Score(q))).sum();
    let u = answers.usage;
    let within = u.calls <= most.calls
        && u.examples <= most.examples
        && u.prompt_tokens <= most.prompt_tokens
        && u.completion_tokens <= most.completion_tokens
        && u.retries <= most.retries;
    assert!(within, "{u:?} beyond {most:?}");
    Ok(answers)
}

fn missing(oracle: &HttpOracle) -> Missing {
    ask(oracle, &[question("it was a", &[" bad"])]).unwrap().items.remove(0).unwrap_err()
}

#[test]
fn scores_are_sums_over_the_labels_tokens() {
    let (server, oracle) = liar(|_, asked| Said::Json(echo(&asked.body)));
    assert_eq!((oracle.found().way, oracle.facts().access), (Way::Echo, Access::Logprobs));
    assert_eq!((oracle.facts().context, oracle.facts().noise_floor), (Some(256), Some(0.0)));
    let shown = oracle.found().to_string();
    assert!(shown.contains("logprobs access") && shown.contains("repeat exactly"), "{shown}");
    let batch = [question("it was a", &[" good", " very bad"]), question("so", &[" bad"])];
    let answers = ask(&oracle, &batch).unwrap();
    let items = answers.complete().unwrap();
    let score = |logprob, tokens| LabelScore { logprob, censored: false, tokens };
    assert_eq!(items, [vec![score(-1.25, 1), score(-2.25, 2)], vec![score(-1.0, 1)]]);
    assert_eq!(server.count("/v1/completions"), 3 + 3, "the canary three times, and one request a label");
}

#[test]
fn answers_that_cannot_be_true_are_gaps() {
    type Lie = fn(&mut Value);
    let lies: [(&str, Lie); 9] = [
        ("above 0", |v| v["choices"][0]["logprobs"]["token_logprobs"][3] = json!(0.7)),
        ("expected a log-probability", |v| v["choices"][0]["logprobs"]["token_logprobs"][3] = Value::Null),
        ("no `logprobs`", |v| v["choices"][0]["logprobs"] = Value::Null),
        ("0 tokens", |v| v["choices"][0]["logprobs"] = json!({ "tokens": [], "token_logprobs": [] })),
        ("4 tokens with 3", |v| {
            v["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap().pop();
        }),
        ("prompt tokens", |v| v["usage"]["prompt_tokens"] = json!(5000)),
        ("0 choices", |v| v["choices"] = json!([])),
        ("did not come back", |v| v["choices"][0]["text"] = json!("something else")),
        ("not made of whole tokens", |v| v["choices"][0]["logprobs"]["tokens"][3] = json!("a bad")),
    ];
    for (reason, lie) in lies {
        let (server, oracle) = liar(move |_, asked| {
            let mut v = echo(&asked.body);
            lie(&mut v);
            Said::Json(v)
        });
        let before = server.count("/v1/completions");
        match missing(&oracle) {
            Missing::Malformed { reason: found } => {
                assert!(found.contains(reason), "{found}: expected {reason}")
            }
            other => panic!("{reason}: {other:?}"),
        }
        assert_eq!(server.count("/v1/completions"), before + 1, "{reason}: a lie is not asked for again");
    }
}

#[test]
fn half_a_message_is_asked_for_again_and_no_json_is_not() {
    let (_server, oracle) = liar(|n, asked| {
        let whole = echo(&asked.body).to_string();
        if n < 2 {
            Said::Cut(whole[..whole.len() / 2].into(), whole.len())
        } else {
            Said::Json(echo(&asked.body))
        }
    });
    let answers = ask(&oracle, &[question("it was a", &[" bad"])]).unwrap();
    // two broken, one whole, and the canary after the break
    assert_eq!((answers.usage.calls, answers.usage.retries, answers.usage.examples), (4, 2, 1));
    assert!(answers.complete().is_ok());
    let (_server, oracle) = liar(|_, _| Said::Cut("{\"choices\": [{".into(), 0));
    assert!(matches!(missing(&oracle), Missing::Malformed { .. }));
}

#[test]
fn waiting_is_done_as_asked_and_only_where_it_helps() {
    let later = |after| Said::Status(429, after, json!({ "error": { "message": "slow down" } }));
    // as long as the server says
    let (_server, oracle) =
        liar(
            move |n, asked| if n == 0 { later("Retry-After: 0\r\n") } else { Said::Json(echo(&asked.body)) },
        );
    assert!(ask(&oracle, &[question("it was a", &[" bad"])]).unwrap().complete().is_ok());
    // longer than we wait: a gap that may be retried later
    let (server, oracle) = liar(move |_, _| later("Retry-After: 3600\r\n"));
    let begun = Instant::now();
    let before = server.count("/v1/completions");
    assert_eq!(missing(&oracle), Missing::Busy { after: Some(Duration::from_secs(3600)) });
    assert!(begun.elapsed() < Duration::from_secs(60) && server.count("/v1/completions") == before + 1);
    for (status, times) in
        [(400, 1), (401, 1), (403, 1), (404, 1), (422, 1), (408, 3), (409, 3), (429, 3), (500, 3), (503, 3)]
    {
        let (server, oracle) =
            liar(move |_, _| Said::Status(status, "", json!({ "error": { "message": "no" } })));
        let before = server.count("/v1/completions");
        let found = missing(&oracle);
        assert_eq!(server.count("/v1/completions") - before, times, "status {status}");
        assert_eq!(found.may_retry(), times > 1, "status {status}: {found:?}");
    }
}

#[test]
fn the_slow_and_the_gone_are_gaps_within_their_time() {
    let slow =
        |_, asked: &Asked| Said::After(Duration::from_secs(30), Box::new(Said::Json(echo(&asked.body))));
    let (_server, oracle) = liar_within(Duration::from_secs(2), slow);
    let begun = Instant::now();
    assert!(matches!(missing(&oracle), Missing::Unreachable { .. }));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let (_server, oracle) = liar(|_, _| Said::Gone);
    assert!(matches!(missing(&oracle), Missing::Unreachable { .. }));
}

#[test]
fn a_gap_is_one_questions_own() {
    let (_server, oracle) = liar(|_, asked| {
        if asked.body["prompt"].as_str().unwrap().starts_with("bad") {
            return Said::Status(400, "", json!({ "error": { "message": "context_length_exceeded" } }));
        }
        Said::Json(echo(&asked.body))
    });
    let items = ask(&oracle, &["a b", "bad b", "c d"].map(|p| question(p, &[" x"]))).unwrap().items;
    assert!(items[0].is_ok() && items[2].is_ok());
    assert!(matches!(&items[1], Err(Missing::Refused { status: 400, reason }) if reason.contains("context")));
}

#[test]
fn another_model_ends_the_run() {
    // by its name
    let (_server, oracle) = liar(|_, asked| {
        let mut v = echo(&asked.body);
        v["model"] = json!("m-2");
        Said::Json(v)
    });
    let end = ask(&oracle, &[question("it was a", &[" bad"])]).unwrap_err();
    assert!(
        matches!(&end, OracleError::OtherModel { expected, found } if expected == "m" && found == "m-2"),
        "{end}"
    );
    // by its fingerprint
    let restarted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&restarted);
    let server = Liar::start(move |_, asked| {
        if asked.path == "/v1/models" {
            return models();
        }
        let mut v = echo(&asked.body);
        v["system_fingerprint"] = json!(if flag.load(Ordering::SeqCst) { "fp_2" } else { "fp_1" });
        Said::Json(v)
    });
    let oracle = HttpOracle::connect(quick(&server.url, Dialect::Completions)).unwrap();
    let batch = [question("it was a", &[" bad"])];
    assert!(ask(&oracle, &batch).is_ok());
    restarted.store(true, Ordering::SeqCst);
    assert!(matches!(ask(&oracle, &batch), Err(OracleError::OtherModel { .. })));
}

#[test]
fn another_model_after_a_restart_is_known_by_its_scores() {
    let state = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&state);
    let server = Liar::start(move |_, asked| {
        if asked.path == "/v1/models" {
            return models();
        }
        match now.load(Ordering::SeqCst) {
            1 => {
                now.store(2, Ordering::SeqCst);
                Said::Gone
            }
            state => {
                let mut v = echo(&asked.body);
                let scores = v["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap();
                let last = scores.last_mut().unwrap();
                *last = json!(last.as_f64().unwrap() - if state == 2 { 0.5 } else { 0.0 });
                Said::Json(v)
            }
        }
    });
    let oracle = HttpOracle::connect(quick(&server.url, Dialect::Completions)).unwrap();
    let batch = [question("it was a", &[" bad"])];
    assert!(ask(&oracle, &batch).is_ok());
    state.store(1, Ordering::SeqCst);
    let end = ask(&oracle, &batch).unwrap_err();
    assert!(matches!(&end, OracleError::OtherModel { found, .. } if found.contains("scores")), "{end}");
}

#[test]
fn an_endpoint_that_fails_is_left_alone_and_tried_again() {
    let well = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&well);
    let server = Liar::start(move |_, asked| match asked.path.as_str() {
        "/v1/models" => models(),
        _ if flag.load(Ordering::SeqCst) => Said::Json(echo(&asked.body)),
        _ => Said::Status(500, "", json!({})),
    });
    well.store(true, Ordering::SeqCst);
    let mut settings = quick(&server.url, Dialect::Completions);
    settings.breaker = (4, Duration::from_secs(3));
    let oracle = HttpOracle::connect(settings).unwrap();
    well.store(false, Ordering::SeqCst);
    let batch: Vec<ScoreQuery> = (0..5).map(|i| question(&format!("{i} it was"), &[" bad"])).collect();
    let before = server.count("/v1/completions");
    let items = ask(&oracle, &batch).unwrap().items;
    assert_eq!(server.count("/v1/completions") - before, 4, "four failures, then silence");
    assert!(
        matches!(items[0], Err(Missing::Unreachable { .. }))
            && items[2..].iter().all(|i| *i == Err(Missing::NotAsked))
    );
    assert!(matches!(ask(&oracle, &batch), Err(OracleError::Down { failures: 4, .. })));
    well.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(3100));
    assert!(ask(&oracle, &batch).unwrap().complete().is_ok());
}

#[test]
fn chat_finds_labels_among_the_likeliest_and_text_only_is_text() {
    let say = |top: Value| {
        move |_: usize, asked: &Asked| match asked.path.as_str() {
            "/v1/models" => Said::Status(404, "", json!({})),
            _ if top.is_null() && asked.body["logprobs"] == true => {
                Said::Status(400, "", json!({ "error": { "message": "logprobs are not supported" } }))
            }
            _ => Said::Json(
                json!({ "model": "m-2026", "usage": { "prompt_tokens": 9, "completion_tokens": 1 },
                "choices": [{ "message": { "content": "Yes" }, "logprobs": { "content": [{ "token": "Yes", "logprob": -0.1, "top_logprobs": top }] } }] }),
            ),
        }
    };
    let server = Liar::start(say(
        json!([{ "token": "Yes", "logprob": -0.1 }, { "token": " maybe", "logprob": -3.0 }]),
    ));
    let oracle = HttpOracle::connect(quick(&server.url, Dialect::Chat)).unwrap();
    assert_eq!((oracle.found().way, oracle.facts().identity.model.as_str()), (Way::Next(20), "m-2026"));
    let scores =
        ask(&oracle, &[question("Is it?", &["Yes", "maybe", "No"])]).unwrap().complete().unwrap().remove(0);
    let found: Vec<(f64, bool)> = scores.iter().map(|s| (s.logprob, s.censored)).collect();
    assert_eq!(found, [(-0.1, false), (-3.0, false), (-3.0, true)]);
    let two = ask(&oracle, &[question("Is it?", &["not at all"])]).unwrap_err();
    assert!(matches!(two, OracleError::Question { index: 0, reason } if reason.contains("not one token")));

    let server =
        Liar::start(say(json!([{ "token": "Yes", "logprob": -0.1 }, { "token": "No", "logprob": -0.2 }])));
    let refused = HttpOracle::connect(quick(&server.url, Dialect::Chat)).unwrap();
    assert_eq!(refused.facts().access, Access::Text, "probabilities over 1 are none");

    for dialect in [Dialect::Chat, Dialect::ChatText] {
        let server = Liar::start(say(Value::Null));
        let text = HttpOracle::connect(quick(&server.url, dialect)).unwrap();
        assert_eq!(text.facts().access, Access::Text);
        let q = TextQuery {
            prompt: Prompt::Text("Is it?".into()),
            max_tokens: 3,
            temperature: 0.0,
            seed: 1,
            stop: vec![],
        };
        assert_eq!(text.generate(&[q]).unwrap().complete(), Ok(vec!["Yes".to_owned()]));
        assert!(matches!(text.score(&[question("a", &["b"])]), Err(OracleError::Question { .. })));
        // a server without a chat template says so, and is heard
        let server = Liar::start(|_, asked| match asked.path.as_str() {
            "/v1/models" => models(),
            _ => Said::Status(400, "", json!({ "error": { "message": "the model has no chat template" } })),
        });
        let refused = HttpOracle::connect(quick(&server.url, dialect)).unwrap_err().to_string();
        assert!(refused.contains("no chat template"), "{refused}");
    }
}

#[test]
fn llama_cpp_is_forced_token_by_token() {
    // 256 byte tokens; after a token t, t+1 has probability 1/2 and t+2 a quarter
    let server = Liar::start(|_, asked| match asked.path.as_str() {
        "/props" => Said::Json(
            json!({ "model_path": "/models/a.gguf", "default_generation_settings": { "n_ctx": 512 } }),
        ),
        "/tokenize" => Said::Json(
            json!({ "tokens": asked.body["content"].as_str().unwrap().bytes().collect::<Vec<u8>>() }),
        ),
        "/completion" => {
            assert_eq!(
                (&asked.body["cache_prompt"], &asked.body["temperature"]),
                (&json!(false), &json!(-1.0))
            );
            let ids = asked.body["prompt"].as_array().unwrap();
            let last = ids.last().unwrap().as_u64().unwrap();
            let top = json!([{ "id": last + 1, "logprob": 0.5f64.ln() }, { "id": last + 2, "logprob": 0.25f64.ln() }]);
            Said::Json(json!({ "content": "x", "tokens_evaluated": ids.len(), "tokens_predicted": 1,
                "completion_probabilities": [{ "id": last + 1, "logprob": 0.5f64.ln(), "top_logprobs": top }] }))
        }
        other => panic!("{other}"),
    });
    let oracle = HttpOracle::connect(quick(&server.url, Dialect::LlamaCpp)).unwrap();
    assert_eq!(oracle.facts().context, Some(512));
    let before = server.count("/completion");
    let scores =
        ask(&oracle, &[question("a", &["bc", "bd", "c", "z"])]).unwrap().complete().unwrap().remove(0);
    assert_eq!(server.count("/completion") - before, 2, "after `a`, and after `ab`: shared by the labels");
    let ln = f64::ln;
    let expected = [
        (ln(0.5) + ln(0.5), false, 2),
        (ln(0.5) + ln(0.25), false, 2),
        (ln(0.25), false, 1),
        (ln(0.25), true, 1),
    ];
    for (s, (logprob, censored, tokens)) in scores.iter().zip(expected) {
        assert!((s.logprob - logprob).abs() < 1e-12 && (s.censored, s.tokens) == (censored, tokens), "{s:?}");
    }
}

#[test]
fn keys_are_shown_to_the_server_and_to_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "sk-very-secret\n").unwrap();
    let server = Liar::start(|_, asked| match asked.path.as_str() {
        "/v1/models" => models(),
        // a server that repeats the key in its error
        _ => Said::Status(401, "", json!({ "error": { "message": format!("bad key {}", asked.head) } })),
    });
    let mut settings = quick(&server.url, Dialect::Completions);
    settings.key = Some(Key::from_file(&dir.path().join("key")).unwrap());
    let error = HttpOracle::connect(settings.clone()).unwrap_err();
    assert!(server.asked.lock().unwrap().iter().all(|a| a.head.contains("Bearer sk-very-secret")));
    for text in [error.to_string(), format!("{error:?}"), format!("{settings:?}")] {
        assert!(!text.contains("very-secret"), "{text}");
    }
}

/// Replaces the text at `path`, or the whole list there by texts.
fn poison(v: &mut Value, path: &str, with: &str) {
    match v.pointer_mut(path) {
        Some(Value::Array(items)) => items.iter_mut().for_each(|i| *i = json!(with)),
        Some(other) => *other = json!(with),
        None => v[path.trim_start_matches('/')] = json!(with),
    }
}

/// Every place of an answer in which a server can say what it likes.
const PLACES: [&str; 9] = [
    "/model",
    "/system_fingerprint",
    "/choices",
    "/choices/0/index",
    "/choices/0/text",
    "/choices/0/logprobs",
    "/choices/0/logprobs/tokens",
    "/choices/0/logprobs/token_logprobs",
    "/usage/prompt_tokens",
];

/// What a run prints where a question has no answer, or the run ends.
fn printed(oracle: &HttpOracle) -> String {
    match oracle.score(&[question("it was a", &[" bad"])]) {
        Ok(answers) => format!("{:?}", answers.items),
        Err(e) => format!("{e} {e:?}"),
    }
}

#[test]
fn no_answer_gets_a_key_or_a_row_printed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), "sk-very-secret\n").unwrap();
    for text in ["Patient Jane Roe has the flu", "sk-very-\u{1}secret", "sk-very-secret"] {
        for place in PLACES {
            let honest = Arc::new(AtomicBool::new(true));
            let flag = Arc::clone(&honest);
            let server = Liar::start(move |_, asked| {
                if asked.path == "/v1/models" {
                    return models();
                }
                let mut v = echo(&asked.body);
                v["system_fingerprint"] = json!("fp");
                if !flag.load(Ordering::SeqCst) {
                    poison(&mut v, place, text);
                }
                Said::Json(v)
            });
            let mut settings = quick(&server.url, Dialect::Completions);
            settings.key = Some(Key::from_file(&dir.path().join("key")).unwrap());
            let oracle = HttpOracle::connect(settings.clone()).unwrap();
            honest.store(false, Ordering::SeqCst);
            let mut said = printed(&oracle);
            // and while it is probed
            match HttpOracle::connect(settings) {
                Ok(oracle) if !text.contains("Jane") => {
                    said += &format!("{} {:?}", oracle.found(), oracle.facts())
                }
                Err(e) if !text.contains("Jane") => said += &format!("{e} {e:?}"),
                _ => {}
            }
            assert!(!said.contains("secret") && !said.contains("Jane"), "{place}: {said}");
        }
    }
}

#[test]
fn what_is_said_of_a_question_is_not_repeated_and_a_code_is_told() {
    for (code, told) in [("context_length_exceeded", true), ("because of Jane", false)] {
        let (_server, oracle) = liar(move |_, asked| {
            Said::Status(
                400,
                "",
                json!({ "error": { "message": format!("no: {}", asked.body), "code": code } }),
            )
        });
        let Missing::Refused { status: 400, reason } = missing(&oracle) else { panic!("{code}") };
        assert!(!reason.contains("it was a") && !reason.contains("Jane"), "{reason}");
        assert!(reason.contains("not shown"), "{reason}");
        assert_eq!(reason.contains(code), told, "{reason}");
    }
}

#[test]
fn a_name_without_end_is_cut_and_still_told_from_another() {
    let last = Arc::new(AtomicUsize::new(0));
    let state = Arc::clone(&last);
    let server = Liar::start(move |_, asked| match asked.path.as_str() {
        "/v1/models" => models(),
        _ => {
            let mut v = echo(&asked.body);
            v["system_fingerprint"] =
                json!("f".repeat(3_000_000) + &state.load(Ordering::SeqCst).to_string());
            Said::Json(v)
        }
    });
    let oracle = HttpOracle::connect(quick(&server.url, Dialect::Completions)).unwrap();
    assert!(oracle.found().to_string().len() < 1000);
    let batch = [question("it was a", &[" bad"])];
    assert!(ask(&oracle, &batch).is_ok());
    last.store(1, Ordering::SeqCst);
    let end = ask(&oracle, &batch).unwrap_err();
    assert!(matches!(end, OracleError::OtherModel { .. }) && end.to_string().len() < 1000, "{end}");
}

#[test]
fn labels_cannot_have_more_than_the_whole_probability() {
    let (_server, oracle) = liar(|_, asked| {
        let mut v = echo(&asked.body);
        for score in v["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap().iter_mut().skip(1)
        {
            *score = json!(-0.1);
        }
        Said::Json(v)
    });
    let two = ask(&oracle, &[question("it was a", &[" good", " bad"])]).unwrap().items.remove(0);
    assert!(matches!(&two, Err(Missing::Malformed { reason }) if reason.contains("add up")), "{two:?}");
    assert!(ask(&oracle, &[question("it was a", &[" good"])]).unwrap().complete().is_ok());
}

#[test]
fn an_endpoint_that_refuses_every_question_is_left_alone() {
    for status in [400, 307, 422] {
        let server = Liar::start(move |n, asked| match asked.path.as_str() {
            "/v1/models" => models(),
            _ if n < 3 => Said::Json(echo(&asked.body)),
            _ => Said::Status(status, "", json!({ "error": "no" })),
        });
        let mut settings = quick(&server.url, Dialect::Completions);
        settings.breaker = (5, Duration::from_secs(30));
        let oracle = HttpOracle::connect(settings).unwrap();
        let batch = ["a b", "c d"].map(|p| question(p, &[" x"]));
        let ends = |_| match ask(&oracle, &batch) {
            Err(OracleError::Down { .. }) => true,
            Ok(answers) => answers.items.iter().any(Result::is_ok),
            Err(e) => panic!("{e}"),
        };
        let at = (0..7).position(ends);
        assert!(matches!(at, Some(2..=5)), "status {status}: {at:?}");
    }
}

#[test]
fn a_redirect_is_not_followed_and_a_missing_model_is_named() {
    let server =
        Liar::start(|_, _| Said::Status(307, "Location: http://127.0.0.1:1/v1/models\r\n", json!({})));
    let error = HttpOracle::connect(quick(&server.url, Dialect::Completions)).unwrap_err();
    assert!(
        matches!(error, HttpError::Probe { missing: Missing::Refused { status: 307, .. }, .. }),
        "{error}"
    );
    let server = Liar::start(|_, _| Said::Json(json!({ "data": [{ "id": "a" }, { "id": "b" }] })));
    let error = HttpOracle::connect(quick(&server.url, Dialect::Completions)).unwrap_err().to_string();
    assert!(error.contains("no model `m`; it has: a, b"), "{error}");
}

#[test]
fn noise_is_measured_and_a_stop_is_heard() {
    let server = Liar::start(|n, asked| match asked.path.as_str() {
        "/v1/models" => models(),
        _ => {
            let mut v = echo(&asked.body);
            let scores = v["choices"][0]["logprobs"]["token_logprobs"].as_array_mut().unwrap();
            *scores.last_mut().unwrap() = json!(-1.0 - 0.01 * n as f64);
            Said::Json(v)
        }
    });
    let settings = quick(&server.url, Dialect::Completions);
    let stop = Arc::clone(&settings.stop);
    let oracle = HttpOracle::connect(settings).unwrap();
    assert!((oracle.facts().noise_floor.unwrap() - 0.02).abs() < 1e-9);
    stop.store(true, Ordering::SeqCst);
    assert!(matches!(ask(&oracle, &[question("a b", &[" c"])]), Err(OracleError::Interrupted)));
}

/// Three tokens of two numbers; a token's row is its id, twice.
#[derive(Debug)]
struct Small;

impl Table for Small {
    fn width(&self) -> usize {
        2
    }

    fn std(&self) -> f64 {
        1.0
    }

    fn push(&self, id: u32, rows: &mut Vec<f32>) -> bool {
        rows.extend([id as f32; 2]);
        id < 30
    }
}

/// A vLLM whose words are `token_id`s by their place, and whose answer to vectors scores the canary by `scored`.
fn vllm(scored: f64) -> (Liar, Result<HttpOracle, HttpError>) {
    let server = Liar::start(move |_, asked| match asked.path.as_str() {
        "/v1/models" => models(),
        "/tokenize" => {
            let words = asked.body["prompt"].as_str().unwrap().split(' ').count() as u32;
            Said::Json(json!({ "tokens": (0..words).collect::<Vec<_>>() }))
        }
        _ if asked.body["prompt_embeds"].is_string() => {
            let named: serde_json::Map<String, Value> = asked.body["logprob_token_ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| (format!("token_id:{id}"), json!(scored - id.as_f64().unwrap() + 8.0)))
                .collect();
            Said::Json(json!({ "model": "m", "choices": [{ "logprobs": { "top_logprobs": [named] } }],
                "usage": { "prompt_tokens": 1, "completion_tokens": 1 } }))
        }
        _ => {
            // with the token that follows, which vLLM cannot leave out
            let mut honest = echo(&asked.body);
            let logprobs = &mut honest["choices"][0]["logprobs"];
            logprobs["tokens"].as_array_mut().unwrap().push(json!(" x"));
            logprobs["token_logprobs"].as_array_mut().unwrap().push(json!(-1));
            let text = honest["choices"][0]["text"].as_str().unwrap().to_owned() + " x";
            honest["choices"][0]["text"] = json!(text);
            Said::Json(honest)
        }
    });
    let settings = HttpSettings { table: Some(Arc::new(Small)), ..quick(&server.url, Dialect::Vllm) };
    let oracle = HttpOracle::connect(settings);
    (server, oracle)
}

#[test]
fn soft_prompts_go_to_vllm_as_rows_if_the_table_is_its_own() {
    // ` dog`, four letters, is the ninth word
    let (server, oracle) = vllm(-1.0);
    let oracle = oracle.unwrap();
    assert_eq!((oracle.found().access(), oracle.width()), (Access::Embeddings, 2));
    let soft = Soft::new(2, vec![0.5; 4]).unwrap();
    let ids = |ids: &[u32]| Label::Tokens(ids.to_vec());
    let q = |prompt: &[u32], labels: &[Label]| ScoreQuery {
        prompt: Prompt::Tokens(prompt.to_vec()),
        labels: labels.into(),
    };
    let questions = [
        q(&[3, 4], &[ids(&[11]), ids(&[12])]),
        q(&[3, 99], &[ids(&[11])]),
        q(&[3], &[ids(&[11, 12]), ids(&[13])]),
    ];
    let before = server.count("/v1/completions");
    let answers = oracle.score_soft(&soft, &questions).unwrap();
    assert_eq!(server.count("/v1/completions") - before, 3, "one, none, and two beginnings");
    let scores =
        |at: usize| answers.items[at].as_ref().unwrap().iter().map(|s| s.logprob).collect::<Vec<_>>();
    assert_eq!((scores(0), scores(2)), (vec![-4.0, -5.0], vec![-9.0, -6.0]));
    assert!(matches!(&answers.items[1], Err(Missing::Malformed { reason }) if reason.contains("token 99")));
    let most: Usage = questions.iter().map(|q| oracle.at_most(Query::Soft(&soft, q))).sum();
    assert!(answers.usage.prompt_tokens <= most.prompt_tokens && answers.usage.calls <= most.calls);
    // another model's table
    let error = vllm(-1.5).1.unwrap_err();
    assert!(matches!(error, HttpError::OtherTable { .. }), "{error}");
    assert!(error.to_string().contains("-1.500 by its vectors and -1.000 by its text"), "{error}");
}
