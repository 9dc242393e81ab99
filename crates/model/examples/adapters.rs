//! Adapters without training, for `scripts/interop_peft.py`.
//!
//! - `adapters random MODEL OUT KIND`: random values under a wiring of the kind `lora`, `mixed` (other ranks and scales in
//!   some modules), `prompt`, `lora-cls` or `prompt-cls`, written as an adapter.
//! - `adapters merge MODEL ADAPTER OUT`: the merged checkpoint.
//! - `adapters full MODEL OUT [CLASSES]`: every tensor moved at random, as full tuning would, written as a checkpoint.
//! - `adapters logits MODEL [--adapter DIR] --ids "1 5 7"`: as `antiphon logits --json`.

use std::error::Error;
use std::path::Path;

use antiphon_core::{Noise, Purpose, Schema, Stream, TensorSpec};
use antiphon_kernels::Cpu;
use antiphon_model::adapter::{self, About, default_pooling};
use antiphon_model::export::{Precision, read_head, write_model};
use antiphon_model::{
    Base, HeadWiring, LoraPair, Part, Proj, PromptWiring, Role, Spec, Task, Wiring, module_path, names, probe,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["random", model, out, kind] => random(model, Path::new(out), kind),
        ["merge", model, adapter, out] => {
            let base = Base::open(model, 0)?;
            let a = adapter::read(Path::new(adapter), base.spec())?;
            Ok(write_model(Path::new(out), &base, &a.wiring, &a.theta, &a.about, Precision::F32)?)
        }
        ["full", model, out] => full(model, Path::new(out), None),
        ["full", model, out, classes] => full(model, Path::new(out), Some(classes.parse()?)),
        ["logits", model, rest @ ..] => logits(model, rest),
        _ => Err("usage: adapters random MODEL OUT KIND | merge MODEL ADAPTER OUT | full MODEL OUT [CLASSES] | logits MODEL …".into()),
    }
}

/// Appends tensors to a schema in the making.
#[derive(Default)]
struct List(Vec<TensorSpec>, usize);

impl List {
    fn push(&mut self, name: String, shape: &[usize]) -> std::ops::Range<usize> {
        self.0.push(TensorSpec { name, shape: shape.to_vec() });
        let from = self.1;
        self.1 += shape.iter().product::<usize>();
        from..self.1
    }
}

fn random(model: &str, out: &Path, kind: &str) -> Result<()> {
    let base = Base::open(model, 0)?;
    let spec = base.spec();
    let mut list = List::default();
    let mut wiring = Wiring::default();
    let (method, cls) = kind.strip_suffix("-cls").map_or((kind, false), |m| (m, true));
    match method {
        "prompt" => {
            let range = list.push("prompt_embeddings".into(), &[5, spec.hidden]);
            wiring.prompt = Some(PromptWiring { range, tokens: 5 });
        }
        "lora" | "mixed" => lora(spec, method == "mixed", &mut list, &mut wiring),
        other => {
            return Err(format!("no kind `{other}`; known: lora, mixed, prompt, lora-cls, prompt-cls").into());
        }
    }
    let task =
        if cls { Task::Classify { classes: 3, pooling: default_pooling(spec) } } else { Task::CausalLm };
    if cls {
        let name = |part| names::tensor_name(spec, Role::ClassHead(part));
        let weight = list.push(name(Part::Weight), &[3, spec.hidden]);
        let bias = names::class_head_bias(spec).then(|| list.push(name(Part::Bias), &[3]));
        wiring.head = Some(HeadWiring { weight, bias });
    }
    wiring.schema = Schema::new(list.0)?;
    let mut stream = Stream::new(7, Purpose::Test);
    let theta: Vec<f32> = (0..wiring.schema.dim()).map(|_| 0.3 * stream.standard_normal() as f32).collect();
    let about = About { base_model: model.to_owned(), task, labels: Vec::new() };
    Ok(adapter::write(out, spec, &wiring, &theta, &about, None)?)
}

fn lora(spec: &Spec, mixed: bool, list: &mut List, wiring: &mut Wiring) {
    for layer in 0..spec.layers {
        for proj in [Proj::Q, Proj::V, Proj::Qkv, Proj::O, Proj::Down] {
            let Some(((d_out, d_in), path)) = spec.proj_shape(proj).zip(module_path(spec, layer, proj))
            else {
                continue;
            };
            if mixed && proj == Proj::V && layer == 0 {
                continue;
            }
            let (rank, alpha) = if mixed && proj == Proj::O { (2, 5.0) } else { (3, 4.0_f64) };
            let a = list.push(format!("{path}.lora_A.weight"), &[rank, d_in]);
            let b = list.push(format!("{path}.lora_B.weight"), &[d_out, rank]);
            let scale = (alpha / rank as f64) as f32;
            wiring.lora.insert((layer, proj), LoraPair { a, b, rank, scale, dropout: 0.1 });
        }
    }
}

fn full(model: &str, out: &Path, classes: Option<usize>) -> Result<()> {
    let base = Base::open(model, 0)?;
    let spec = base.spec();
    let pooling = default_pooling(spec);
    let task = classes.map_or(Task::CausalLm, |classes| Task::Classify { classes, pooling });
    let mut list = List::default();
    let (mut wiring, mut theta) = (Wiring::default(), Vec::new());
    let mut stream = Stream::new(8, Purpose::Test);
    for t in names::tensors(spec, task) {
        let mut values = vec![0.0; t.shape.iter().product()];
        if let Some((data, _)) = base.source().get(&t.name) {
            data.widen(0, &mut values);
        }
        values.iter_mut().for_each(|v| *v += 0.1 * stream.standard_normal() as f32);
        theta.extend(values);
        let range = list.push(t.name.clone(), &t.shape);
        match (t.role, &mut wiring.head) {
            (Role::ClassHead(Part::Bias), Some(head)) => head.bias = Some(range),
            (Role::ClassHead(_), head) => *head = Some(HeadWiring { weight: range, bias: None }),
            _ => drop(wiring.live.insert(t.name, range)),
        }
    }
    wiring.schema = Schema::new(list.0)?;
    let about = About { base_model: model.to_owned(), task, labels: Vec::new() };
    Ok(write_model(out, &base, &wiring, &theta, &about, Precision::F32)?)
}

fn logits(model: &str, rest: &[&str]) -> Result<()> {
    let option = |name: &str| rest.iter().position(|a| *a == name).and_then(|i| rest.get(i + 1).copied());
    let base = Base::open(model, 0)?;
    let adapter = match (option("--adapter"), &base) {
        (Some(dir), _) => Some(adapter::read(Path::new(dir), base.spec())?),
        (None, Base::Checkpoint(c)) => read_head(c)?,
        (None, Base::Init { .. }) => None,
    };
    let ids = option("--ids").ok_or("--ids is missing")?;
    let ids: Vec<u32> = ids.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
    let logits = probe::last_logits(&Cpu::serial(), &base, adapter.as_ref(), &ids)?;
    #[allow(clippy::print_stdout, reason = "the answer of a command")]
    {
        println!("{}", serde_json::json!({ "logits": logits }));
    }
    Ok(())
}
