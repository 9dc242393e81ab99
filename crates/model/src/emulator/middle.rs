//! The emulator's middle as weights of its own: what alignment trains, and with what both models are compared meanwhile.
//!
//! The blocks that stay of the middle begin as the checkpoint's and are then trained to stand for all of it (Xiao, Lin and
//! Han 2023, arXiv:2302.04870, section 3.3; FedBiOT, arXiv:2406.17706, section 4.2). Both sides hold the same adapter then,
//! as tensors in the place of the checkpoint's ([`plugged`]); bottlenecks, which are nobody's tensors, as modules beside them
//! ([`with_bottlenecks`]).

use std::collections::BTreeMap;
use std::ops::Range;

use antiphon_core::{Schema, SchemaError, TensorSpec};
use antiphon_kernels::FrozenData;

use super::Emulator;
use crate::export::merge;
use crate::names::{self, Part, Role};
use crate::spec::Spec;
use crate::weights::{TensorSource, WeightsError};
use crate::wiring::{Bottleneck, HeadWiring, Task, Wiring};

/// Tensors by name, with their shapes.
pub type Tensors = BTreeMap<String, (FrozenData, Vec<usize>)>;

/// A place where both models are compared, as blocks below it: in the emulator, and in the whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joint {
    /// Blocks of the emulator.
    pub emulator: usize,
    /// Blocks of the whole model.
    pub whole: usize,
}

impl Emulator {
    /// Blocks between the adapters that clients hold, as the checkpoint counts them.
    #[must_use]
    pub fn middle(&self) -> Vec<usize> {
        self.kept.iter().copied().filter(|l| self.adapter.binary_search(l).is_err()).collect()
    }

    /// Whether clients hold every block, so that there is nothing to align.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.kept.len() == self.layers
    }

    /// Where the streams should agree, ascending: what enters a block of the emulator should be what enters the same block
    /// of the whole model, so a block that stays makes up for those that are missing after it. The last is the end of
    /// the middle.
    #[must_use]
    pub fn joints(&self) -> Vec<Joint> {
        let after = |&(i, _): &(usize, &usize)| {
            let whole = self.kept.get(i + 1).copied().unwrap_or(self.layers);
            Joint { emulator: i + 1, whole }
        };
        let of_the_middle = |(_, l): &(usize, &usize)| self.adapter.binary_search(l).is_err();
        self.kept.iter().enumerate().filter(of_the_middle).map(|place| after(&place)).collect()
    }

    /// The middle as the trainable part of the emulator's `spec`, in `state_dict` order. A classification also has its head in
    /// the vector, at the end, since a model of that task has one; alignment leaves it alone.
    ///
    /// # Errors
    /// Never for a `spec` of [`Emulator::spec`].
    pub fn wire_middle(&self, spec: &Spec, task: Task) -> Result<Wiring, SchemaError> {
        let middle = self.middle();
        let (mut tensors, mut live, mut at) = (Vec::new(), BTreeMap::new(), 0);
        for info in names::tensors(spec, task) {
            let inside = info.role.layer().is_some_and(|l| middle.contains(&spec.checkpoint_layer(l)));
            if inside {
                let len: usize = info.shape.iter().product();
                tensors.push(TensorSpec { name: info.name.clone(), shape: info.shape });
                live.insert(info.name, at..at + len);
                at += len;
            }
        }
        let head = match task {
            Task::CausalLm => None,
            Task::Classify { classes, .. } => {
                let module = names::class_head_module(spec);
                let mut push = |leaf: &str, shape: Vec<usize>| {
                    let len: usize = shape.iter().product();
                    tensors.push(TensorSpec { name: format!("{module}.{leaf}"), shape });
                    at += len;
                    at - len..at
                };
                let weight = push("weight", vec![classes, spec.hidden]);
                let bias = names::class_head_bias(spec).then(|| push("bias", vec![classes]));
                Some(HeadWiring { weight, bias })
            }
        };
        Ok(Wiring { schema: Schema::new(tensors)?, live, head, ..Wiring::default() })
    }
}

/// The live tensors that `theta` holds under `wiring`, as values to put into weights.
#[must_use]
pub fn live_tensors(wiring: &Wiring, theta: &[f32]) -> Tensors {
    let live = wiring.schema.iter().filter(|(t, _)| wiring.live.contains_key(&t.name));
    live.map(|(t, range)| (t.name.clone(), (FrozenData::Owned(theta[range].into()), t.shape.clone())))
        .collect()
}

/// The tensors of the checkpoint that the adapter `theta` changes under `wiring`, as it leaves them: trained values in the
/// place of the checkpoint's, low-rank pairs merged. A classification head is nobody's tensor and not among them.
///
/// # Errors
/// A tensor that `source` lacks.
pub fn plugged(
    source: &dyn TensorSource,
    spec: &Spec,
    wiring: &Wiring,
    theta: &[f32],
) -> Result<Tensors, WeightsError> {
    let mut out = live_tensors(wiring, theta);
    for (&(layer, proj), pair) in &wiring.lora {
        let name = names::tensor_name(spec, Role::Proj { layer, proj, part: Part::Weight });
        let (data, shape) = source
            .get(&name)
            .ok_or_else(|| WeightsError::Missing { name: name.clone(), expected: Vec::new() })?;
        let mut values = vec![0.0; data.len()];
        data.widen(0, &mut values);
        merge(&mut values, pair, theta, &shape, spec.layout);
        out.insert(name, (FrozenData::Owned(values.into()), shape));
    }
    Ok(out)
}

/// `wiring` with the bottlenecks of `adapter`, whose values come after its own: those of [`bottleneck_values`].
///
/// # Errors
/// A tensor that both have.
pub fn with_bottlenecks(wiring: Wiring, adapter: &Wiring) -> Result<Wiring, SchemaError> {
    let mut tensors = wiring.schema.tensors().to_vec();
    let mut at = wiring.schema.dim();
    let mut push = |range: &Range<usize>| {
        tensors.extend(adapter.schema.iter().find(|(_, own)| own == range).map(|(t, _)| t.clone()));
        at += range.len();
        at - range.len()..at
    };
    let moved = |(&place, b): (&_, &Bottleneck)| {
        let [down, down_bias, up, up_bias] = ranges(b).map(&mut push);
        (place, Bottleneck { down, down_bias, up, up_bias, width: b.width })
    };
    let bottlenecks = adapter.bottlenecks.iter().map(moved).collect();
    Ok(Wiring { schema: Schema::new(tensors)?, bottlenecks, ..wiring })
}

/// What the bottlenecks of `adapter` hold in `theta`, in the order of [`with_bottlenecks`].
#[must_use]
pub fn bottleneck_values(adapter: &Wiring, theta: &[f32]) -> Vec<f32> {
    adapter.bottlenecks.values().flat_map(ranges).flat_map(|range| &theta[range.clone()]).copied().collect()
}

fn ranges(b: &Bottleneck) -> [&Range<usize>; 4] {
    [&b.down, &b.down_bias, &b.up, &b.up_bias]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emulator::EmulatorSettings;

    fn emulator(layers: usize, bottom: usize, top: usize, rate: f64) -> Emulator {
        let rule = toml::Table::from_iter([("id".to_owned(), "offsite_tuning".into())]);
        let settings = EmulatorSettings { adapter_bottom: bottom, adapter_top: top, drop_rate: rate, rule };
        Emulator::new(layers, &settings, &[]).unwrap()
    }

    #[test]
    fn a_block_makes_up_for_those_missing_after_it() {
        let e = emulator(14, 2, 2, 0.5);
        assert_eq!(e.middle(), [2, 4, 6, 9, 11]);
        let joints: Vec<_> = e.joints().iter().map(|j| (j.emulator, j.whole)).collect();
        assert_eq!(joints, [(3, 4), (4, 6), (5, 9), (6, 11), (7, 12)]);
        // an adapter at the bottom alone: the end of the middle is the end of the model
        let last = emulator(6, 2, 0, 0.5).joints();
        assert_eq!(last.last().map(|j| (j.emulator, j.whole)), Some((4, 6)));
    }

    #[test]
    fn without_a_drop_every_joint_is_the_same_place_in_both() {
        let e = emulator(6, 1, 1, 0.0);
        assert!(e.is_whole() && e.joints().iter().all(|j| j.emulator == j.whole));
        assert_eq!(e.joints().len(), 4);
    }
}
