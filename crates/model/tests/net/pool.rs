//! Sequences that join and leave a pool against each of them alone.

use antiphon_kernels::{Backend, Cpu, Dst};
use antiphon_model::pool::{Feed, Input, Pool, PoolRoom, Sequence};
use antiphon_model::{Mode, Net, NetError, Role, Shape, Task, tensor_name};

use crate::common::{Random, download, families, methods, net, theta, upload};

const LONG: [u32; 5] = [3, 17, 8, 22, 5];
const SHORT: [u32; 1] = [9];
const OTHER: [u32; 3] = [11, 28, 4];

fn pool(net: &Net<Cpu>, positions: usize) -> Pool<Cpu> {
    let room = PoolRoom { step_rows: 64, sequences: 4, positions, head_rows: 2 };
    Pool::new(&Cpu::serial(), net, room).unwrap()
}

/// Feed, row of its input, logits.
type Heard = ((usize, usize), Vec<f32>);

/// One step; logits of each wanted row.
fn step(
    pool: &mut Pool<Cpu>,
    net: &Net<Cpu>,
    params: &[f32],
    feeds: &mut [Feed<'_>],
) -> Result<Vec<Heard>, NetError> {
    let b = Cpu::serial();
    let mut heard = Vec::new();
    let mut hear = |feed, row, logits: &[f32]| heard.push(((feed, row), logits.to_vec()));
    pool.step(&b, net, &upload(&b, params), feeds, &mut hear)?;
    Ok(heard)
}

fn tokens<'a>(sequence: &'a mut Sequence, ids: &'a [u32], logits_from: usize) -> Feed<'a> {
    Feed { sequence, input: Input { tokens: ids, vectors: &[] }, logits_from }
}

/// Logits at every row of one sequence, by one forward without a cache.
fn all_rows(net: &Net<Cpu>, params: &[f32], ids: &[u32]) -> Vec<Vec<f32>> {
    let b = Cpu::serial();
    let prompt = net.limits().prompt;
    let rows = ids.len() + prompt;
    let shape = Shape { tokens: rows, segments: 1, labelled: rows };
    let mut ws = net.workspace(&b, shape, Mode::Infer).unwrap();
    let mut batch = net.batch();
    batch.push_tokens(ids).unwrap();
    let params = upload(&b, params);
    net.forward(&b, &params, &batch, &mut ws, None).unwrap();
    let wanted: Vec<u32> = (prompt as u32..rows as u32).collect();
    let mut out = b.alloc(wanted.len() * net.spec().vocab).unwrap();
    let len = b.len(&out);
    net.logits(&b, &params, &batch, &wanted, &mut ws, Dst::new(&mut out, 0, len)).unwrap();
    download(&b, &out).chunks(net.spec().vocab).map(<[f32]>::to_vec).collect()
}

fn each(mut check: impl FnMut(&str, &Random, &Net<Cpu>, &[f32])) {
    for (family, spec) in families().into_iter().filter(|(_, s)| s.causal) {
        for (method, wiring) in methods(&spec, Task::CausalLm) {
            if ["lora-all", "prompt"].contains(&method) {
                let source = Random { spec: spec.clone(), task: Task::CausalLm };
                let start = theta(&source, &wiring);
                let net = net(&Cpu::serial(), &spec, Task::CausalLm, wiring);
                check(&format!("{family} {method}"), &source, &net, &start);
            }
        }
    }
}

#[test]
fn every_row_of_every_sequence_is_what_it_is_alone() {
    each(|name, _, net, params| {
        let mut pool = pool(net, 64);
        let mut open = || pool.open(12).unwrap();
        let (mut a, mut b, mut c) = (open(), open(), open());
        // a joins first, then decodes while b and c join
        let first = step(&mut pool, net, params, &mut [tokens(&mut a, &LONG[..4], 0)]).unwrap();
        let second = step(
            &mut pool,
            net,
            params,
            &mut [tokens(&mut b, &SHORT, 0), tokens(&mut a, &LONG[4..], 0), tokens(&mut c, &OTHER, 1)],
        )
        .unwrap();
        let order: Vec<_> = second.iter().map(|h| h.0).collect();
        assert_eq!(order, [(0, 0), (1, 0), (2, 1), (2, 2)], "{name}");
        let (long, other) = (all_rows(net, params, &LONG), all_rows(net, params, &OTHER));
        for (row, heard) in first.iter().map(|h| &h.1).enumerate() {
            assert_eq!(heard, &long[row], "{name}: row {row} of the prompt");
        }
        assert_eq!(second[0].1, all_rows(net, params, &SHORT)[0], "{name}");
        assert_eq!(second[1].1, long[4], "{name}: the row that was decoded");
        assert_eq!([&second[2].1, &second[3].1], [&other[1], &other[2]], "{name}");
    });
}

#[test]
fn vectors_from_the_table_are_the_tokens() {
    each(|name, source, net, params| {
        let (table, _) = source.values(&tensor_name(net.spec(), Role::TokenEmbedding)).unwrap();
        let width = net.spec().hidden;
        let vectors: Vec<f32> =
            LONG.iter().flat_map(|&id| table[id as usize * width..][..width].to_vec()).collect();
        let expected = all_rows(net, params, &LONG).split_off(3);
        for count in [LONG.len(), 2] {
            let mut pool = pool(net, 64);
            let (mut a, mut b) = (pool.open(12).unwrap(), pool.open(12).unwrap());
            let input = Input { vectors: &vectors[..count * width], tokens: &LONG[count..] };
            let given = Feed { sequence: &mut a, input, logits_from: 3 };
            let heard = step(&mut pool, net, params, &mut [tokens(&mut b, &SHORT, 0), given]).unwrap();
            assert_eq!([&heard[1].1, &heard[2].1], [&expected[0], &expected[1]], "{name}, {count} vectors");
        }
    });
}

#[test]
fn rows_of_the_cache_come_back_and_what_does_not_fit_moves_nobody() {
    let (_, spec) = families().into_iter().find(|(_, s)| s.causal).unwrap();
    let net = net(&Cpu::serial(), &spec, Task::CausalLm, Default::default());
    let mut pool = pool(&net, 10);
    let (a, mut b, c) = (pool.open(4).unwrap(), pool.open(3).unwrap(), pool.open(3).unwrap());
    assert!(pool.open(1).is_none());
    pool.close(a);
    pool.close(c);
    assert!(pool.open(5).is_none(), "7 rows are free, in runs of 4 and 3");
    let too_long = step(&mut pool, &net, &[], &mut [tokens(&mut b, &LONG, 0)]);
    assert!(matches!(too_long, Err(NetError::Capacity { found: 5, planned: 3, .. })), "{too_long:?}");
    assert_eq!(b.past(), 0);
    step(&mut pool, &net, &[], &mut [tokens(&mut b, &OTHER, 2)]).unwrap();
    assert_eq!((b.past(), b.capacity()), (3, 3));
    pool.close(b);
    assert_eq!(pool.open(10).map(|s| s.capacity()), Some(10), "runs grow together again");
}
