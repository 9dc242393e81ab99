//! What this process has used of the machine, and what a step costs in operations.

use antiphon_model::{Base, Branch, Mode, Part, Proj, Role, Shape, Spec, Task, Wiring, tensors};

/// Seconds of processor time of this process, all threads.
pub(crate) fn cpu_seconds() -> f64 {
    // fields 14 and 15, in ticks; the name in field 2 may hold spaces, so count from its closing bracket
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<u64> = rest.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    let ticks = fields.get(11).unwrap_or(&0) + fields.get(12).unwrap_or(&0);
    // USER_HZ is 100 on every Linux that Rust supports
    ticks as f64 / 100.0
}

/// Largest resident set so far; 0 where the system does not say.
pub(crate) fn peak_rss_bytes() -> u64 {
    status_kib("VmHWM:") * 1024
}

/// Resident set now; 0 where the system does not say.
pub(crate) fn rss_bytes() -> u64 {
    status_kib("VmRSS:") * 1024
}

fn status_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Floating point operations of the matrix products and attention of one step: two per multiply-add. Backward costs one
/// product for the gradient of the input where something below is trained, one for that of a live weight.
pub(crate) fn step_flop(spec: &Spec, wiring: &Wiring, shape: Shape, mode: Mode, seq: usize) -> f64 {
    let n = shape.tokens as f64;
    let train = mode == Mode::Train;
    let live: Vec<Role> = tensors(spec, Task::CausalLm)
        .into_iter()
        .filter(|t| wiring.live.contains_key(&t.name))
        .map(|t| t.role)
        .collect();
    let layer_of = |role: &Role| match role {
        Role::FinalNorm(_) | Role::LmHead => spec.layers,
        other => other.layer().unwrap_or(0),
    };
    let lowest = live
        .iter()
        .map(layer_of)
        .chain(wiring.lora.keys().map(|(layer, _)| *layer))
        .chain(wiring.bottlenecks.keys().map(|(layer, _)| *layer))
        .chain(wiring.prompt.iter().map(|_| 0))
        .min()
        .unwrap_or(spec.layers);
    let weight = |layer, proj| live.contains(&Role::Proj { layer, proj, part: Part::Weight });
    let head_weight = live.contains(if spec.tied { &Role::TokenEmbedding } else { &Role::LmHead });
    let projections = [Proj::Q, Proj::K, Proj::V, Proj::Qkv, Proj::O, Proj::Gate, Proj::Up, Proj::Down];
    let mut total = 0.0;
    for layer in 0..spec.layers {
        let backward = train && layer >= lowest;
        for proj in projections {
            let Some((out, inner)) = spec.proj_shape(proj) else { continue };
            let product = 2.0 * n * (out * inner) as f64;
            total += product * (1.0 + f64::from(backward) + f64::from(train && weight(layer, proj)));
            if let Some(pair) = wiring.lora.get(&(layer, proj)) {
                let low = 2.0 * n * (pair.rank * (out + inner)) as f64;
                total += low * if train { 3.0 } else { 1.0 };
            }
        }
        for branch in [Branch::Attention, Branch::Mlp] {
            if let Some(b) = wiring.bottlenecks.get(&(layer, branch)) {
                total += 4.0 * n * (b.width * spec.hidden) as f64 * if train { 3.0 } else { 1.0 };
            }
        }
        let pairs = n * seq as f64 * if spec.causal { 0.5 } else { 1.0 };
        let attention = 4.0 * pairs * (spec.heads * spec.head_dim) as f64;
        total += attention * if backward { 3.5 } else { 1.0 };
    }
    let head = 2.0 * shape.labelled as f64 * (spec.vocab * spec.hidden) as f64;
    total + head * (1.0 + f64::from(train) + f64::from(train && head_weight))
}

/// Scalars of the base model as `task` uses it.
pub(crate) fn parameters(spec: &Spec, task: Task) -> u64 {
    tensors(spec, task)
        .iter()
        .filter(|t| !matches!(t.role, Role::ClassHead(_)))
        .map(|t| t.shape.iter().product::<usize>() as u64)
        .sum()
}

/// Bytes of the base's weights in memory: the mapped files, or the values made from a configuration.
pub(crate) fn weight_bytes(base: &Base) -> u64 {
    match base {
        Base::Checkpoint(c) => c.files().iter().map(|f| f.bytes().len() as u64).sum(),
        Base::Init { .. } => 4 * parameters(base.spec(), Task::CausalLm),
    }
}
