//! A model of some of a checkpoint's blocks is the model whose checkpoint never had the others, bit for bit, and looks up
//! nothing of them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use antiphon_kernels::{Backend, Cpu, FrozenData};
use antiphon_model::names::{self, TensorInfo};
use antiphon_model::{Mode, Net, Spec, Task, TensorSource, Weights, Wiring};

use crate::common::{Random, download, families, fill, methods, task_of, theta, upload};
use crate::laws::{SHAPE, loss};

const KEPT: [usize; 3] = [0, 2, 4];

/// The checkpoint of five blocks under the names of one that has only those of [`KEPT`].
struct Renamed<'a> {
    whole: &'a Random,
    renamed: Vec<(TensorInfo, TensorInfo)>,
}

impl TensorSource for Renamed<'_> {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let (_, whole) = self.renamed.iter().find(|(short, _)| short.name == name)?;
        self.whole.get(&whole.name)
    }
}

/// Notes what is asked for.
struct Asked<'a>(&'a Random, RefCell<BTreeSet<String>>);

impl TensorSource for Asked<'_> {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        self.1.borrow_mut().insert(name.to_owned());
        self.0.get(name)
    }
}

/// Loss and gradients at `params`.
fn step(
    spec: &Spec,
    task: Task,
    source: &dyn TensorSource,
    wiring: Wiring,
    params: &[f32],
) -> (f64, Vec<f32>) {
    let b = Cpu::serial();
    let weights = Weights::load(&b, spec, task, source).unwrap();
    let net = Net::new(&b, weights, task, Arc::new(wiring), spec.max_positions).unwrap();
    let mut batch = net.batch();
    fill(&mut batch);
    let mut ws = net.workspace(&b, SHAPE, Mode::Train).unwrap();
    let mut grads = b.alloc(params.len()).unwrap();
    let loss = loss(&b, &net, &upload(&b, params), &batch, &mut ws, Some(&mut grads));
    (loss.nll, download(&b, &grads))
}

#[test]
fn some_blocks_of_a_checkpoint_are_a_checkpoint_of_those_blocks() {
    for (family, spec) in families() {
        let task = task_of(&spec);
        let whole = Spec { layers: 5, ..spec.clone() };
        let part = whole.with_layers(&KEPT).unwrap();
        let short = Spec { layers: 3, ..spec };
        let source = Random { spec: whole.clone(), task };
        let renamed = Renamed {
            whole: &source,
            renamed: names::tensors(&short, task).into_iter().zip(names::tensors(&part, task)).collect(),
        };
        let pairs = methods(&part, task).into_iter().zip(methods(&short, task));
        for ((method, of_part), (_, of_short)) in pairs.filter(|((_, w), _)| w.schema.dim() > 0) {
            let params = theta(&source, &of_part);
            let asked = Asked(&source, RefCell::default());
            let found = step(&part, task, &asked, of_part, &params);
            let expected = step(&short, task, &renamed, of_short, &params);
            assert_eq!(found, expected, "{family} {method}");
            let dropped: Vec<String> =
                asked.1.into_inner().into_iter().filter(|n| !part_of(&part, task, n)).collect();
            assert!(dropped.is_empty(), "{family}: {dropped:?}");
        }
    }
}

fn part_of(part: &Spec, task: Task, name: &str) -> bool {
    names::tensors(part, task).iter().any(|t| t.name == name)
}

#[test]
fn every_block_is_the_model_and_others_are_refused() {
    let (_, spec) = families().remove(0);
    let whole = Spec { layers: 5, ..spec };
    assert_eq!(whole.with_layers(&[0, 1, 2, 3, 4]).unwrap(), whole);
    assert_eq!(whole.with_layers(&[0, 5]), Err(5));
    assert_eq!(whole.with_layers(&[0, 3, 3]), Err(3));
    let part = whole.with_layers(&KEPT).unwrap();
    assert_eq!(part.with_layers(&[2, 4]).unwrap().kept, Some(vec![2, 4]));
    assert_eq!(part.with_layers(&[1]), Err(1));
    assert_eq!((part.layer_of(4), part.layer_of(1)), (Some(2), None));
}
