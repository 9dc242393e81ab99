//! Generation with a cache against the same without one.

use antiphon_core::{Purpose, Stream};
use antiphon_kernels::{Backend, Cpu, Dst};
use antiphon_model::generate::{Finish, Generated, Generation, Generator, Room, Sampling};
use antiphon_model::{Mode, Net, NetError, Shape, Task};

use crate::common::{Random, download, families, methods, net, theta, upload};
use crate::shared;

const PROMPTS: [&[u32]; 3] = [&[3, 17, 8, 22, 5], &[9], &[11, 28, 4]];
const POSITIONS: usize = 16;

fn options(sampling: Sampling) -> Generation {
    Generation { max_new_tokens: 8, sampling, stop: Vec::new() }
}

fn generate(net: &Net<Cpu>, params: &[f32], prompts: &[&[u32]], options: &Generation) -> Vec<Generated> {
    let b = Cpu::serial();
    let room = Room { sequences: prompts.len(), positions: POSITIONS };
    let mut g = Generator::new(&b, net, room).unwrap();
    let stream = Stream::new(3, Purpose::Generate);
    g.generate(&b, net, &upload(&b, params), prompts, options, &stream, &mut |_, _| {}).unwrap()
}

/// The whole sequence again for every token.
fn greedy_without_cache(net: &Net<Cpu>, params: &[f32], prompt: &[u32], count: usize) -> Vec<u32> {
    let b = Cpu::serial();
    let params = upload(&b, params);
    let shape = Shape { tokens: POSITIONS, segments: 1, labelled: 1 };
    let mut ws = net.workspace(&b, shape, Mode::Infer).unwrap();
    let mut ids = prompt.to_vec();
    for _ in 0..count {
        let mut batch = net.batch();
        batch.push_tokens(&ids).unwrap();
        net.forward(&b, &params, &batch, &mut ws, None).unwrap();
        let mut out = b.alloc(net.spec().vocab).unwrap();
        let len = b.len(&out);
        net.logits(&b, &params, &batch, batch.last_rows(), &mut ws, Dst::new(&mut out, 0, len)).unwrap();
        let logits = download(&b, &out);
        let best = (0..logits.len()).rev().max_by(|&i, &j| logits[i].total_cmp(&logits[j])).unwrap();
        ids.push(best as u32);
    }
    ids.split_off(prompt.len())
}

fn each(mut check: impl FnMut(&str, &Net<Cpu>, &[f32])) {
    let mut count = 0;
    for (family, spec) in families().into_iter().filter(|(_, s)| s.causal) {
        for (method, wiring) in methods(&spec, Task::CausalLm) {
            if ["full", "lora-all", "prompt"].contains(&method) {
                let start = theta(&Random { spec: spec.clone(), task: Task::CausalLm }, &wiring);
                let net = net(&Cpu::serial(), &spec, Task::CausalLm, wiring);
                check(&format!("{family} {method}"), &net, &start);
                count += 1;
            }
        }
    }
    assert_eq!(count, 18);
}

#[test]
fn a_cache_changes_nothing() {
    each(|name, net, params| {
        let found = generate(net, params, &PROMPTS, &options(Sampling::greedy()));
        for (prompt, found) in PROMPTS.iter().zip(found) {
            assert_eq!(found.tokens, greedy_without_cache(net, params, prompt, 8), "{name}");
            assert_eq!(found.finish, Finish::Length);
        }
    });
}

#[test]
fn a_sequence_does_not_depend_on_its_company() {
    each(|name, net, params| {
        let options = options(Sampling::nucleus(1.5, 0.9).unwrap());
        let together = generate(net, params, &PROMPTS, &options);
        let alone = generate(net, params, &PROMPTS[..1], &options);
        assert_eq!(together[0], alone[0], "{name}");
        assert_eq!(together, generate(net, params, &PROMPTS, &options), "{name}: the same seed");
    });
}

#[test]
fn generation_ends_for_the_reason_it_gives() {
    let (_, spec) = families().swap_remove(0);
    let (_, wiring) = methods(&spec, Task::CausalLm).swap_remove(0);
    let params = theta(&Random { spec: spec.clone(), task: Task::CausalLm }, &wiring);
    let net = net(&Cpu::serial(), &spec, Task::CausalLm, wiring);
    let mut o = Generation { max_new_tokens: 100, ..options(Sampling::nucleus(2.0, 1.0).unwrap()) };
    let full = generate(&net, &params, &PROMPTS[..1], &o).swap_remove(0);
    // a length that nobody could hold is not held
    let longest = Generation { max_new_tokens: usize::MAX, ..o.clone() };
    assert_eq!(generate(&net, &params, &PROMPTS[..1], &longest).swap_remove(0), full);
    // a token needs no position until another follows it
    assert_eq!((full.tokens.len(), full.finish), (POSITIONS - PROMPTS[0].len() + 1, Finish::Positions));
    let stop = full.tokens[4];
    let first = full.tokens.iter().position(|t| *t == stop).unwrap();
    o.stop = vec![stop];
    let stopped = generate(&net, &params, &PROMPTS[..1], &o).swap_remove(0);
    assert_eq!(stopped, Generated { tokens: full.tokens[..first].to_vec(), finish: Finish::Stop(stop) });

    let b = Cpu::serial();
    let mut g = Generator::new(&b, &net, Room { sequences: 1, positions: 4 }).unwrap();
    let stream = Stream::new(3, Purpose::Generate);
    let mut run = |prompts: &[&[u32]]| {
        g.generate(&b, &net, &upload(&b, &params), prompts, &o, &stream, &mut |_, _| {}).unwrap_err()
    };
    assert!(matches!(run(&PROMPTS), NetError::Capacity { found: 3, planned: 1, .. }));
    assert!(matches!(run(&PROMPTS[..1]), NetError::Capacity { found: 5, planned: 4, .. }));
    assert!(matches!(
        Generator::new(&b, &net, Room { sequences: 1, positions: 99 }),
        Err(NetError::Positions { .. })
    ));
}

#[test]
fn a_real_model_goes_on_as_without_a_cache() {
    let Some(dir) = shared::model("stories260k-hf") else { return };
    let net = shared::open(&dir, POSITIONS);
    let prompt = &[1, 403, 407, 261, 378][..];
    let found = generate(&net, &[], &[prompt], &options(Sampling::greedy()));
    assert_eq!(found[0].tokens, greedy_without_cache(&net, &[], prompt, 8));
}
