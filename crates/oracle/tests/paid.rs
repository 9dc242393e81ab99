//! Budget and cache around an oracle: what was answered once is not paid twice, what is missing is not kept, and no tier
//! hands out more than it should.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use antiphon_oracle::cache::{Cache, Cached, key};
use antiphon_oracle::ledger::{Ledger, Limits, Metered, Prices, Terms};
use antiphon_oracle::synthetic::{Synthetic, labels};
use antiphon_oracle::{
    Access, EmbedOracle, Grant, Identity, Label, LogprobOracle, Missing, OracleError, Prompt, Query,
    ScoreQuery, Soft, TextOracle, TextQuery, Usage, WeightOracle,
};

fn query(tokens: &[u32]) -> ScoreQuery {
    ScoreQuery { prompt: Prompt::Tokens(tokens.to_vec()), labels: labels(3) }
}

fn text(words: &str, temperature: f64) -> TextQuery {
    TextQuery { prompt: Prompt::Text(words.to_owned()), max_tokens: 1, temperature, seed: 1, stop: vec![] }
}

fn ledger(examples: u64) -> Arc<Ledger> {
    let limits = Limits { examples: Some(examples), ..Limits::NONE };
    let prices = Prices { call: 3, ..Prices::NONE };
    Arc::new(Ledger::in_memory(Terms { limits, prices, durable: false }).unwrap())
}

#[test]
fn what_is_known_is_not_asked_again_and_equal_questions_are_asked_once() {
    let oracle = Arc::new(Synthetic::new(12, 4, 1).unwrap());
    let cached = Arc::new(Cached::new(oracle.clone(), Arc::new(Cache::in_memory().unwrap())));
    let ledger = ledger(100);
    let paid = Metered::new(cached, ledger.clone());
    let batch = [query(&[4, 5]), query(&[6]), query(&[4, 5])];
    let first = paid.score(&batch).unwrap();
    assert_eq!((oracle.asked(), first.usage.examples, first.usage.cache_hits), (2, 2, 1));
    assert_eq!(first.items[0], first.items[2]);
    assert_ne!(first.items[0], first.items[1]);
    let again = paid.score(&batch).unwrap();
    assert_eq!(again.items, first.items);
    assert_eq!((oracle.asked(), again.usage), (2, Usage { cache_hits: 3, ..Usage::ZERO }));
    // and the answers are those of the oracle
    assert_eq!(oracle.score(&batch).unwrap().items, first.items);
    let spent = ledger.spent();
    assert_eq!((spent.examples, spent.cache_hits, spent.micros), (2, 4, 6));
    assert_eq!(ledger.reserved(), Usage::ZERO);
}

#[test]
fn a_batch_that_the_budget_cannot_pay_in_full_is_not_begun() {
    let oracle = Arc::new(Synthetic::new(12, 4, 1).unwrap());
    let ledger = ledger(5);
    let paid = Metered::new(oracle.clone(), ledger.clone());
    paid.score(&[query(&[1]), query(&[2]), query(&[3])]).unwrap();
    let refused = paid.score(&[query(&[4]), query(&[5]), query(&[6])]).unwrap_err();
    assert!(
        matches!(refused, OracleError::Budget { what: "examples", spent: 3, limit: 5, needs: 3 }),
        "{refused}"
    );
    assert_eq!(oracle.asked(), 3);
    paid.score(&[query(&[4]), query(&[5])]).unwrap();
    // an error before anything was sent costs nothing
    let soft = Soft::new(3, vec![0.0; 3]).unwrap();
    assert!(matches!(paid.score_soft(&soft, &[]), Err(OracleError::Width { expected: 4, found: 3 })));
    assert_eq!(ledger.spent().examples, 5);
}

#[test]
fn gaps_are_paid_for_but_not_kept() {
    let oracle = Arc::new(Synthetic::new(12, 4, 1).unwrap().with_gaps(2));
    let paid = Cached::new(oracle.clone(), Arc::new(Cache::in_memory().unwrap()));
    let first = paid.score(&[query(&[1]), query(&[2])]).unwrap();
    assert!(first.items[0].is_ok() && matches!(first.items[1], Err(Missing::Unreachable { .. })));
    assert!(first.clone().complete().is_err());
    let again = paid.score(&[query(&[1]), query(&[2])]).unwrap();
    assert_eq!((again.usage.cache_hits, again.usage.examples), (1, 1));
    assert!(again.items[1].is_ok(), "asked again, as the third question");
}

#[test]
fn texts_are_kept_at_temperature_zero_only() {
    let oracle = Arc::new(Synthetic::new(12, 4, 1).unwrap());
    let paid = Cached::new(oracle.clone(), Arc::new(Cache::in_memory().unwrap()));
    for expected in [1, 1] {
        paid.generate(&[text("w1 w2", 0.0)]).unwrap();
        assert_eq!(oracle.asked(), expected);
    }
    for expected in [2, 3] {
        paid.generate(&[text("w1 w2", 0.7)]).unwrap();
        assert_eq!(oracle.asked(), expected);
    }
}

#[test]
fn the_key_changes_with_everything_that_changes_an_answer() {
    let id = Identity {
        provider: "a".to_owned(),
        model: "b".to_owned(),
        fingerprint: antiphon_core::Digest([0; 32]),
    };
    let base = query(&[1, 2]);
    let soft = Soft::new(2, vec![0.5; 4]).unwrap();
    let other_soft = Soft::new(2, vec![0.25; 4]).unwrap();
    let relabelled =
        ScoreQuery { labels: [Label::Tokens(vec![0, 1]), Label::Tokens(vec![2])].into(), ..base.clone() };
    let split =
        ScoreQuery { labels: [Label::Tokens(vec![0]), Label::Tokens(vec![1, 2])].into(), ..base.clone() };
    let as_text = ScoreQuery { prompt: Prompt::Text("\u{1}\0\0\0\u{2}\0\0\0".to_owned()), ..base.clone() };
    let mut keys = vec![
        key(&id, Query::Score(&base)),
        key(&id, Query::Score(&query(&[2, 1]))),
        key(&id, Query::Score(&relabelled)),
        key(&id, Query::Score(&split)),
        key(&id, Query::Score(&as_text)),
        key(&id, Query::Soft(&soft, &base)),
        key(&id, Query::Soft(&other_soft, &base)),
        key(&id, Query::At(&[0.5; 4], &base)),
        key(&Identity { provider: "ab".to_owned(), model: String::new(), ..id.clone() }, Query::Score(&base)),
        key(&Identity { fingerprint: antiphon_core::Digest([1; 32]), ..id.clone() }, Query::Score(&base)),
        key(&id, Query::Text(&text("x", 0.0))),
        key(&id, Query::Text(&TextQuery { max_tokens: 2, ..text("x", 0.0) })),
        key(&id, Query::Text(&TextQuery { stop: vec!["y".to_owned()], ..text("x", 0.0) })),
    ];
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), all);
    assert!(keys.iter().all(Option::is_some));
    assert_eq!(key(&id, Query::Text(&text("x", 1.0))), None);
}

#[test]
fn a_cache_outlives_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.sqlite");
    let oracle = Arc::new(Synthetic::new(12, 4, 1).unwrap());
    let soft = Soft::new(4, vec![0.3; 8]).unwrap();
    let ask = || {
        let cached = Cached::new(oracle.clone(), Arc::new(Cache::open(&path).unwrap()));
        (
            cached.score_soft(&soft, &[query(&[1])]).unwrap().items,
            cached.score_at(&[0.1; 4], &[query(&[1])]).unwrap().items,
        )
    };
    let first = ask();
    assert_eq!(oracle.asked(), 2);
    assert_eq!(ask(), first);
    assert_eq!(oracle.asked(), 2);
}

#[test]
fn a_grant_gives_no_more_than_its_tier() {
    let oracle = Arc::new(Synthetic::new(12, 4, 1).unwrap());
    for access in Access::ALL {
        let grant = Grant::Weights(oracle.clone()).at_most(access);
        assert_eq!(grant.access(), access);
        let has = [true, grant.logprobs().is_some(), grant.embeddings().is_some(), grant.weights().is_some()];
        assert_eq!(has, Access::ALL.map(|a| a <= access), "{access}");
        // what was given up does not come back
        assert_eq!(grant.at_most(Access::Weights).access(), access);
    }
}
