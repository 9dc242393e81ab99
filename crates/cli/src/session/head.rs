//! The classification head of `model.head_shots`: fitted once, before the first round, to examples that no client has.
//!
//! Whoever runs the federation has these few labelled examples. The encoder is frozen and reads them without a prompt; the head
//! is the logistic regression on what it reads ([`antiphon_tune::probe`]).

use std::sync::Arc;

use antiphon_data::Sequence;
use antiphon_kernels::{Backend, Cpu, Dst};
use antiphon_model::{HeadWiring, Net, NetError, Reader, Task, Wanted, Weights, Wiring};
use antiphon_tune::method::head_alone;
use antiphon_tune::probe::Probe;

use super::Blame;
use crate::error::{Fail, Failure, Kind};
use crate::runfile::Loaded;

/// Sequences that share a forward.
const TOGETHER: usize = 16;

/// The net of `weights` under nothing but a head, for texts of up to `longest` tokens.
pub(super) fn bare(
    loaded: &Loaded,
    backend: &Cpu,
    weights: &Arc<Weights<Cpu>>,
    task: Task,
    longest: usize,
) -> Result<Net<Cpu>, Failure> {
    let wiring = Arc::new(head_alone(weights.spec(), task).blame(loaded, "method")?);
    Net::new(backend, Arc::clone(weights), task, wiring, longest).fail(Kind::Model)
}

/// Puts the head fitted to `public` into `theta`, the first values of `wiring`.
pub(super) fn fit(
    loaded: &Loaded,
    (backend, weights): (&Cpu, &Arc<Weights<Cpu>>),
    task: Task,
    public: &[Sequence],
    wiring: &Wiring,
    theta: &mut [f32],
) -> Result<(), Failure> {
    let (Task::Classify { classes: count, .. }, Some(head)) = (task, &wiring.head) else {
        return Err(Failure::new(Kind::Internal, "a head is fitted to a classification"));
    };
    let longest = public.iter().map(Sequence::len).max().unwrap_or(1);
    let net = bare(loaded, backend, weights, task, longest)?;
    let features = features(backend, &net, public).fail(Kind::Model)?;
    let classes: Option<Vec<u32>> = public.iter().map(|s| s.class).collect();
    let classes = classes.ok_or_else(|| Failure::new(Kind::Internal, "a public example has no class"))?;
    let width = net.spec().hidden;
    let probe = Probe { features: &features, width, classes: &classes, count, bias: head.bias.is_some() };
    let fitted = probe.fit().fail_at(Kind::Data, "model.head_shots")?;
    let (weight, bias) = fitted.split_at(count * width);
    theta[head.weight.clone()].copy_from_slice(weight);
    if let Some(range) = &head.bias {
        theta[range.clone()].copy_from_slice(bias);
    }
    Ok(())
}

/// What the head reads of each sequence, `[sequences, hidden]`. The head itself does not matter to it.
fn features(backend: &Cpu, net: &Net<Cpu>, sequences: &[Sequence]) -> Result<Vec<f32>, NetError> {
    let texts: Vec<&[u32]> = sequences.iter().map(|s| &s.ids[..]).collect();
    let dim = net.wiring().schema.dim();
    let mut nothing = backend.alloc(dim)?;
    backend.fill(Dst::new(&mut nothing, 0, dim), 0.0);
    Reader::new(backend, net, TOGETHER)?.read(backend, net, &nothing, &texts, Wanted::Features)
}

/// The head in `theta`, weight and bias one after the other: the trainable vector of [`bare`].
pub(super) fn of(head: &HeadWiring, theta: &[f32]) -> Vec<f32> {
    let bias = head.bias.clone().map_or(&[][..], |range| &theta[range]);
    [&theta[head.weight.clone()], bias].concat()
}
