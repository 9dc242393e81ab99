//! The classification head that a task adds behind every method: `logits = h W^T (+ b)`, first values as transformers
//! gives a new head, `W ~ N(0, 0.02²)` (`initializer_range`) and `b = 0`.

use antiphon_core::{Noise, Purpose, Stream};
use antiphon_model::names::{self, Part, Role};
use antiphon_model::{HeadWiring, Spec, Task, Wiring};

use super::layout::Tensors;

/// `initializer_range` of every family here.
const STD: f64 = 0.02;

/// Appends the head's tensors, if the task has one.
pub(super) fn wire(spec: &Spec, task: Task, tensors: &mut Tensors) -> Option<HeadWiring> {
    let Task::Classify { classes, .. } = task else { return None };
    let name = |part| names::tensor_name(spec, Role::ClassHead(part));
    let weight = tensors.push(name(Part::Weight), &[classes, spec.hidden]);
    let bias = names::class_head_bias(spec).then(|| tensors.push(name(Part::Bias), &[classes]));
    Some(HeadWiring { weight, bias })
}

/// Gives the head its first values; a bias stays zero.
pub(super) fn init(wiring: &Wiring, spec: &Spec, seed: u64, theta: &mut [f32]) {
    if let Some(head) = &wiring.head {
        let name = names::tensor_name(spec, Role::ClassHead(Part::Weight));
        let mut stream = Stream::keyed(seed, Purpose::Init, None, None, &name);
        theta[head.weight.clone()].fill_with(|| (STD * stream.standard_normal()) as f32);
    }
}
