//! Laws of a client's work on real models: it is the gradient it says, and the same bits whatever carries it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use antiphon_algo::{Local, LocalWork, Losses, WorkError};
use antiphon_core::{ClientId, Round};
use antiphon_kernels::{Backend, Cpu, Reference};
use antiphon_tune::{Client, HeldOut, Observer, StepReport, TuneError, Tuning, step_shape};
use common::world::{ADAMW, FULL, LORA, PROMPT, SGD, Setup, client, sequences};
use common::{bert, gpt2};

const PLAIN: &str = "learning_rate=0.1\nmicro_batch_size=6\nlocal_steps=1\nmax_grad_norm=0";

fn close(a: &[f32], b: &[f32], relative: f64) -> Result<(), String> {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut a.iter().zip(b).map(|(x, y)| f64::from(x - y)));
    let size = norm(&mut a.iter().map(|&x| f64::from(x)));
    if off <= relative * size { Ok(()) } else { Err(format!("{off} of {size}")) }
}

fn held_out(set: &[antiphon_data::Sequence]) -> HeldOut<'_> {
    HeldOut { sequences: set, bytes: None, label_words: None }
}

/// One step of plain descent sends `lr · ∇L`: checked against differences of the evaluated loss along `∇L`, which share
/// no code with the backward pass.
#[test]
fn one_step_of_sgd_is_the_gradient_of_the_evaluated_loss() {
    let classify =
        |spec, pooling| Setup { objective: pooling, spec, classes: 3, ..Setup::lm(LORA, SGD, PLAIN) };
    let setups = [
        Setup::lm(LORA, SGD, PLAIN),
        Setup::lm(FULL, SGD, PLAIN),
        Setup::lm(PROMPT, SGD, PLAIN),
        Setup { spec: gpt2(), ..Setup::lm(LORA, SGD, PLAIN) },
        classify(bert(), "id='classification'\npooling='mean'"),
        classify(bert(), "id='classification'\npooling='pooler'"),
        classify(common::llama(), "id='classification'\npooling='last'"),
    ];
    for setup in setups {
        let set = sequences(6, 1, setup.classes as u32);
        let (tuning, start) = setup.build(Reference, std::slice::from_ref(&set));
        let local = client(&tuning, 1, &set).run(&start, Round(0)).unwrap();
        assert_eq!(local.weight.get(), 6.0);
        let gradient: Vec<f64> = local.delta.iter().map(|d| f64::from(d / 0.1)).collect();
        let square: f64 = gradient.iter().map(|g| g * g).sum();
        let loss = |t: f64| {
            let theta: Vec<f32> =
                start.iter().zip(&gradient).map(|(s, g)| (f64::from(*s) + t * g) as f32).collect();
            tuning.evaluate(&theta, held_out(&set)).unwrap().loss().unwrap()
        };
        let t = 1e-2 / square.sqrt();
        let slope = (loss(t) - loss(-t)) / (2.0 * t);
        assert!((slope / square - 1.0).abs() < 2e-3, "{setup:?}: slope {slope}, |g|² {square}");
        assert!((local.metrics["train_loss"] - loss(0.0)).abs() < 1e-5, "{:?}", local.metrics);
    }
}

/// FedMeZO's personalised rates: one step of plain descent at the client's own rate is the common step times `lr_i / lr`, a
/// repetition of a round knows what the round began with, and what is kept survives its bytes.
#[test]
fn a_personalised_rate_is_that_of_the_formula() {
    let train = format!("{PLAIN}\npersonalized_lr={{spread=0.04, rounds=1}}");
    let set = sequences(6, 1, 0);
    let (tuning, start) = Setup::lm(FULL, SGD, &train).build(Cpu::serial(), std::slice::from_ref(&set));
    let client = client(&tuning, 1, &set);
    let run = |round: u32, losses: Option<Losses>| {
        let mut work = &client;
        work.told(losses);
        work.run(&start, Round(round)).unwrap()
    };
    let first = run(0, None);
    let loss = first.metrics["train_loss"];
    assert_eq!((first.metrics["learning_rate"], first.metrics[Local::SHARED_LOSS]), (0.1, loss));
    // behind the mean by half the greatest deviation
    let told = Some(Losses { mean: loss - 0.2, greatest: 0.4 });
    let second = run(1, told);
    let rate = 0.1 + 0.04 * 0.5;
    assert!((second.metrics["learning_rate"] - rate).abs() < 1e-12, "{:?}", second.metrics);
    // the step is on the same examples, all of them, in another order
    let expected: Vec<f32> = first.delta.iter().map(|d| d * (rate / 0.1) as f32).collect();
    close(&expected, &second.delta, 1e-4).unwrap();
    assert_eq!(run(1, told).delta, second.delta);
    let (round, bytes) = client.losses().unwrap();
    assert_eq!(round, Round(1));
    let again = common::world::client(&tuning, 1, &set);
    assert!(again.restore_losses(&bytes) && !again.restore_losses(&bytes[1..]));
    assert_eq!(again.losses(), client.losses());
    client.forget(Round(1));
    assert_eq!(run(1, told).delta, second.delta);
}

#[test]
fn splitting_a_step_into_micro_batches_changes_no_step() {
    let run = |micro: u32, accumulate: u32, backend: Cpu| {
        let train = format!(
            "learning_rate=0.05\nmicro_batch_size={micro}\ngradient_accumulation_steps={accumulate}\nlocal_steps=3"
        );
        let set = sequences(9, 2, 0);
        let (tuning, start) = Setup::lm(LORA, SGD, &train).build(backend, std::slice::from_ref(&set));
        client(&tuning, 1, &set).run(&start, Round(0)).unwrap()
    };
    let whole = run(6, 1, Cpu::serial());
    for (micro, accumulate) in [(3, 2), (1, 6)] {
        let parts = run(micro, accumulate, Cpu::serial());
        close(&whole.delta, &parts.delta, 1e-5).unwrap();
        assert!((whole.metrics["train_loss"] - parts.metrics["train_loss"]).abs() < 1e-6);
    }
}

const FEW: &str = "learning_rate=0.02\nmicro_batch_size=2\ngradient_accumulation_steps=2\nlocal_steps=4";

/// The same bits on any number of threads, on a worker that served others, and beside other clients.
#[test]
fn bits_do_not_depend_on_what_carries_the_work() {
    let dropout = "id='lora'\nlora_r=2\nlora_alpha=4\ntarget_modules='all-linear'\nlora_dropout=0.25";
    for method in [LORA, dropout, FULL, PROMPT] {
        let sets: Vec<_> = (0..4).map(|i| sequences(5 + i, i as u64, 0)).collect();
        let all = |backend: Cpu, concurrent: bool| -> Vec<Vec<f32>> {
            let (tuning, start) = Setup::lm(method, ADAMW, FEW).build(backend, &sets);
            let run = |i: usize| client(&tuning, i as u64, &sets[i]).run(&start, Round(3)).unwrap().delta;
            let deltas = if concurrent {
                std::thread::scope(|s| {
                    let handles: Vec<_> = (0..4).map(|i| s.spawn(move || run(i))).collect();
                    handles.into_iter().map(|h| h.join().unwrap()).collect()
                })
            } else {
                (0..4).map(run).collect()
            };
            assert!(tuning.workers() <= if concurrent { 4 } else { 1 }, "clients share buffers");
            deltas
        };
        let alone: Vec<Vec<f32>> = (0..4)
            .map(|i| {
                let (tuning, start) = Setup::lm(method, ADAMW, FEW).build(Cpu::serial(), &sets);
                client(&tuning, i as u64, &sets[i]).run(&start, Round(3)).unwrap().delta
            })
            .collect();
        assert_eq!(alone, all(Cpu::serial(), false), "{method}: a used worker");
        assert_eq!(alone, all(Cpu::serial(), true), "{method}: beside others");
        assert_eq!(alone, all(Cpu::threads(4), false), "{method}: four threads");
        assert_ne!(alone[0], alone[1]);
    }
}

fn rounds<B: Backend>(c: &mut Client<B>, mut theta: Vec<f32>, rounds: std::ops::Range<u32>) -> Vec<f32> {
    for round in rounds {
        let Local { delta, .. } = c.run(&theta, Round(round)).unwrap();
        theta.iter_mut().zip(&delta).for_each(|(t, d)| *t -= d);
    }
    theta
}

/// With every example in every step, two rounds of kept state are one round of twice the steps.
#[test]
fn kept_state_continues_and_reset_state_does_not() {
    let run = |steps: u32, n: u32, policy: &str| {
        let train = format!(
            "learning_rate=0.02\nmicro_batch_size=5\nlocal_steps={steps}\noptimizer_state='{policy}'"
        );
        let set = sequences(5, 3, 0);
        let (tuning, start) = Setup::lm(LORA, ADAMW, &train).build(Cpu::serial(), std::slice::from_ref(&set));
        let end = rounds(&mut client(&tuning, 1, &set), start.clone(), 0..n);
        end.iter().zip(&start).map(|(e, s)| e - s).collect::<Vec<f32>>()
    };
    let once = run(6, 1, "reset");
    close(&once, &run(3, 2, "keep"), 1e-4).unwrap();
    assert!(close(&once, &run(3, 2, "reset"), 1e-2).is_err(), "a reset must show");
}

#[test]
fn a_resumed_or_repeated_round_has_the_same_bits() {
    for policy in ["reset", "keep"] {
        let train = format!("{FEW}\noptimizer_state='{policy}'");
        let set = sequences(7, 4, 0);
        let (tuning, start) = Setup::lm(LORA, ADAMW, &train).build(Cpu::serial(), std::slice::from_ref(&set));
        let mut straight = client(&tuning, 1, &set);
        let middle = rounds(&mut straight, start, 0..2);
        let state = straight.state();
        assert_eq!(state.is_some(), policy == "keep");
        let third = straight.run(&middle, Round(2)).unwrap();

        let mut resumed = client(&tuning, 1, &set);
        if let Some((round, bytes)) = &state {
            assert_eq!(*round, Round(1));
            resumed.restore(*round, bytes).unwrap();
            assert!(resumed.restore(*round, &bytes[..bytes.len() - 1]).is_err());
        }
        assert_eq!(resumed.run(&middle, Round(2)).unwrap(), third, "{policy}: resumed");
        assert_eq!(straight.run(&middle, Round(2)).unwrap(), third, "{policy}: repeated");
        assert_eq!(straight.run(&middle, Round(2)).unwrap(), third, "{policy}: repeated twice");
        assert_eq!(straight.state(), resumed.state());
        // as if the round had not been
        straight.forget(Round(2));
        assert_eq!(straight.state(), state);
        straight.forget(Round(2));
        assert_eq!(straight.state(), state, "only that round is forgotten");
    }
}

#[test]
fn an_epoch_touches_every_example_once() {
    struct Units(Mutex<Vec<u64>>);
    impl Observer for Units {
        fn step(&self, client: ClientId, round: Round, report: &StepReport) {
            assert_eq!((client, round), (ClientId(1), Round(0)));
            self.0.lock().unwrap().push(report.units);
        }
    }
    let train = "learning_rate=0.01\nmicro_batch_size=2\ngradient_accumulation_steps=2\nlocal_epochs=2";
    let set = sequences(7, 5, 0);
    let setup = Setup::lm(LORA, SGD, train);
    let (tuning, start) = setup.build(Cpu::serial(), std::slice::from_ref(&set));
    let seen = Arc::new(Units(Mutex::default()));
    let tuning = Arc::new(Arc::try_unwrap(tuning).unwrap().observed(Arc::clone(&seen) as Arc<dyn Observer>));
    let local = client(&tuning, 1, &set).run(&start, Round(0)).unwrap();
    let labelled: usize = set.iter().map(|s| s.label_tokens()).sum();
    let seen = seen.0.lock().unwrap().clone();
    assert_eq!(seen.len(), 4, "two steps a pass: four examples and the three that are left");
    assert_eq!(seen[..2].iter().sum::<u64>(), labelled as u64);
    assert_eq!(seen[2..].iter().sum::<u64>(), labelled as u64);
    assert_eq!(local.metrics["train_steps"], 4.0);
    assert_eq!(local.metrics["train_units"], 2.0 * labelled as f64);
}

#[test]
fn clipping_bounds_the_step() {
    let train = "learning_rate=1.0\nmicro_batch_size=6\nlocal_steps=1\nmax_grad_norm=0.01";
    let set = sequences(6, 6, 0);
    let (tuning, start) = Setup::lm(LORA, SGD, train).build(Cpu::serial(), std::slice::from_ref(&set));
    let local = client(&tuning, 1, &set).run(&start, Round(0)).unwrap();
    let norm = local.delta.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
    assert!(local.metrics["grad_norm"] > 0.02, "the gradient itself is longer: {:?}", local.metrics);
    assert!((norm - 0.01).abs() < 1e-5, "{norm}");
}

#[test]
fn no_steps_send_no_change() {
    let set = sequences(3, 7, 0);
    let train = "learning_rate=1.0\nmicro_batch_size=2\nlocal_steps=0";
    let (tuning, start) = Setup::lm(LORA, SGD, train).build(Cpu::serial(), std::slice::from_ref(&set));
    let local = client(&tuning, 1, &set).run(&start, Round(0)).unwrap();
    assert!(local.delta.iter().all(|&d| d == 0.0));
    assert!(!local.metrics.contains_key("train_loss"), "{:?}", local.metrics);
}

#[test]
fn what_goes_wrong_is_named() {
    let set = sequences(6, 8, 0);
    let sets = std::slice::from_ref(&set);
    let setup = Setup::lm(LORA, SGD, FEW);
    let (tuning, start) = setup.build(Cpu::serial(), sets);
    let mut c = client(&tuning, 1, &set);
    let short = c.run(&start[1..], Round(0)).unwrap_err();
    assert!(matches!(short, WorkError::Length { expected, found } if expected == found + 1));

    let mut poisoned = start.clone();
    poisoned[0] = f32::NAN;
    let e = c.run(&poisoned, Round(0)).unwrap_err();
    assert!(matches!(e, WorkError::NotFinite { what: "loss", step: 0 }), "{e}");
    assert!(c.run(&start, Round(0)).is_ok(), "the worker is clean again");

    // float overflow at a later step
    let wild = FEW.replace("0.02", "1e30") + "\nmax_grad_norm=0";
    let (diverging, _) = Setup::lm(LORA, SGD, &wild).build(Cpu::serial(), sets);
    let e = client(&diverging, 1, &set).run(&start, Round(0)).unwrap_err();
    assert!(matches!(e, WorkError::NotFinite { .. }), "{e}");

    let stop = Arc::new(AtomicBool::new(false));
    let shape = step_shape(sets.iter().map(|s| &s[..]), 2, 0);
    let (stoppable, _) = setup.build_with(Cpu::serial(), shape, Arc::clone(&stop));
    assert!(client(&stoppable, 1, &set).run(&start, Round(0)).is_ok());
    stop.store(true, Ordering::Relaxed);
    let e = client(&stoppable, 1, &set).run(&start, Round(0)).unwrap_err();
    assert!(matches!(e, WorkError::Interrupted));

    let one: Arc<[_]> = set[..1].into();
    let few = Client::new(Arc::clone(&tuning), ClientId(9), one, 1).unwrap_err();
    assert_eq!(
        few.to_string(),
        "client 9 has 1 training sequences, fewer than `micro_batch_size = 2`; lower it, or leave the client out"
    );

    let mut masked = set.to_vec();
    masked.iter_mut().for_each(|s| s.target.fill(false));
    let masked: Arc<[_]> = masked.into();
    let e = client(&tuning, 1, &masked).run(&start, Round(0)).unwrap_err();
    assert!(e.to_string().contains("no labelled token"), "{e}");

    let mut foreign = set.to_vec();
    foreign[3].ids[0] = 20;
    let foreign: Arc<[_]> = foreign.into();
    let e = client(&tuning, 1, &foreign).run(&start, Round(0)).unwrap_err();
    assert!(e.to_string().contains("sequence 3") && e.to_string().contains("20"), "{e}");
}

#[test]
fn evaluation_adds_up_and_does_not_depend_on_batches() {
    let (a, b) = (sequences(5, 9, 0), sequences(8, 10, 0));
    let union: Arc<[_]> = a.iter().chain(b.iter()).cloned().collect();
    let setup = Setup::lm(PROMPT, SGD, FEW);
    let score = |tuning: &Tuning<Cpu>, theta: &[f32], set: &[_], bytes| {
        tuning.evaluate(theta, HeldOut { bytes, ..held_out(set) }).unwrap()
    };
    let (small, theta) = setup.build(Cpu::serial(), &[Arc::clone(&union)]);
    let (x, y) = (score(&small, &theta, &a, Some(40)), score(&small, &theta, &b, Some(60)));
    let both = x.merge(y);
    let whole = score(&small, &theta, &union, Some(100));
    assert!((both.nll - whole.nll).abs() < 1e-4 * whole.nll);
    assert_eq!((both.units, both.correct, both.sequences), (whole.units, whole.correct, 13));
    assert_eq!(both.bytes, Some(100));
    assert_eq!(x.merge(score(&small, &theta, &b, None)).bits_per_byte(), None);
    let bits = whole.nll / 2f64.ln() / 100.0;
    assert!((whole.bits_per_byte().unwrap() - bits).abs() < 1e-12);
    assert!((whole.perplexity().unwrap().ln() - whole.loss().unwrap()).abs() < 1e-12);

    let large = step_shape([&union[..]], 13, 3);
    let (wide, _) = setup.build_with(Cpu::serial(), large, Arc::default());
    let at_once = score(&wide, &theta, &union, None);
    assert!((at_once.nll - whole.nll).abs() < 1e-4 * whole.nll);
    assert_eq!(at_once.correct, whole.correct);

    let tiny = antiphon_model::Shape { tokens: 4, segments: 2, labelled: 1 };
    let (cramped, _) = setup.build_with(Cpu::serial(), tiny, Arc::default());
    assert!(matches!(cramped.evaluate(&theta, held_out(&union)), Err(TuneError::TooLarge { .. })));
}

/// An answer and the token that ends it: the label words are those of the first labelled row, whatever comes after.
#[test]
fn label_words_are_read_where_the_answer_begins() {
    let mut set = sequences(12, 11, 0).to_vec();
    for s in &mut set {
        let (last, len) = (s.target.len() - 1, s.ids.len());
        s.target.fill(false);
        (s.target[last], s.target[last - 1]) = (true, len > 2);
    }
    let set: Arc<[_]> = set.into();
    let first = |s: &antiphon_data::Sequence| s.labels().next().unwrap().1;
    let (tuning, theta) = Setup::lm(LORA, SGD, FEW).build(Cpu::serial(), std::slice::from_ref(&set));
    let share = |w: u32| set.iter().filter(|s| first(s) == w).count() as f64 / 12.0;
    assert!(set.iter().all(|s| s.label_tokens() == 2));
    for w in [first(&set[0]), first(&set[1])] {
        let held_out = HeldOut { label_words: Some(&[w]), ..held_out(&set) };
        assert_eq!(tuning.evaluate(&theta, held_out).unwrap().word_accuracy(), Some(share(w)));
    }
}

/// Sequences with one label each: among all tokens the label words' accuracy is the ordinary accuracy, among the right word
/// alone it is 1, and a wrong word alone gives 0.
#[test]
fn label_words_are_compared_among_themselves() {
    let mut set = sequences(12, 11, 0).to_vec();
    for s in &mut set {
        let last = s.target.len() - 1;
        s.target.fill(false);
        s.target[last] = true;
    }
    let set: Arc<[_]> = set.into();
    for method in [LORA, PROMPT] {
        let (tuning, theta) = Setup::lm(method, SGD, FEW).build(Cpu::serial(), std::slice::from_ref(&set));
        let words = |words: &[u32]| {
            let held_out = HeldOut { label_words: Some(words), ..held_out(&set) };
            tuning.evaluate(&theta, held_out).unwrap()
        };
        let all: Vec<u32> = (0..20).collect();
        let s = words(&all);
        assert_eq!(s.word_accuracy(), s.accuracy(), "{method}");
        let labels: Vec<u32> = set.iter().map(|s| *s.ids.last().unwrap()).collect();
        let share = |w: u32| labels.iter().filter(|&&l| l == w).count() as f64 / 12.0;
        for w in [labels[0], 3] {
            assert_eq!(words(&[w]).word_accuracy(), Some(share(w)));
        }
        let pair = words(&[labels[0], labels[1]]).word_accuracy().unwrap();
        assert!(pair <= share(labels[0]) + share(labels[1]));
    }
}
