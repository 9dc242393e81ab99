//! Laws of every registered method, and the errors a user meets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use antiphon_core::registry;
use antiphon_model::adapter::{self, About};
use antiphon_model::{Spec, Task, Wiring};
use antiphon_tune::method::{self, Export, METHODS, Method, Start};
use common::{CLASSIFY, Checkpoint, bert, gpt2, llama};

fn parse(text: &str) -> Box<dyn Method> {
    method::build(&text.parse().unwrap()).unwrap()
}

fn refused(text: &str) -> String {
    match method::build(&text.parse().unwrap()) {
        Err(e) => e.to_string(),
        Ok(m) => match m.wire(&llama(), Task::CausalLm) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("`{text}` was accepted"),
        },
    }
}

/// One table for each entry; a method without one fails the law.
fn examples() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("full", "id = 'full'"),
        ("houlsby", "id = 'houlsby'\nbottleneck_size = 3"),
        ("lora", "id = 'lora'\nlora_r = 2\nlora_alpha = 3\ntarget_modules = 'all-linear'"),
        ("prompt", "id = 'prompt'\nnum_virtual_tokens = 4\nprompt_tuning_init = 'random'"),
    ])
}

fn every(check: impl Fn(&str, &dyn Method, &Checkpoint)) {
    let examples = examples();
    let mut cases = 0;
    for entry in METHODS {
        let text = examples.get(entry.id).unwrap_or_else(|| panic!("no example of `{}`", entry.id));
        let method = parse(text);
        assert_eq!(method.id(), entry.id);
        for spec in [llama(), gpt2(), bert()] {
            for task in [Task::CausalLm, CLASSIFY] {
                check(entry.id, &*method, &Checkpoint { spec: spec.clone(), task });
                cases += 1;
            }
        }
    }
    assert_eq!(cases, METHODS.len() * 6);
}

fn ranges(w: &Wiring) -> Vec<std::ops::Range<usize>> {
    let mut all: Vec<_> = w.live.values().cloned().collect();
    for pair in w.lora.values() {
        all.extend([pair.a.clone(), pair.b.clone()]);
    }
    for b in w.bottlenecks.values() {
        all.extend([&b.down, &b.down_bias, &b.up, &b.up_bias].map(Clone::clone));
    }
    all.extend(w.prompt.iter().map(|p| p.range.clone()));
    if let Some(h) = &w.head {
        all.push(h.weight.clone());
        all.extend(h.bias.clone());
    }
    all.sort_by_key(|r| r.start);
    all
}

#[test]
fn the_wiring_is_the_same_on_every_call_and_tiles_the_schema() {
    every(|id, method, model| {
        let (a, b) = (method.wire(&model.spec, model.task), method.wire(&model.spec, model.task));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert_eq!(a, b, "{id}");
        assert_eq!(a.schema.digest(), b.schema.digest());
        let of_schema: Vec<_> = a.schema.iter().map(|(_, r)| r).collect();
        assert_eq!(ranges(&a), of_schema, "{id}: each tensor attaches exactly once");
        assert_eq!(a.head.is_some(), model.task != Task::CausalLm);
    });
}

#[test]
fn first_values_depend_on_the_seed_and_the_checkpoint_alone() {
    every(|id, method, model| {
        let wiring = method.wire(&model.spec, model.task).unwrap();
        let init = |seed| {
            let start = Start { spec: &model.spec, base: model, tokenize: None, seed };
            method.init(&wiring, &start).unwrap()
        };
        let here = init(7);
        assert_eq!(here.len(), wiring.schema.dim());
        let there = std::thread::scope(|s| s.spawn(|| init(7)).join().unwrap());
        assert_eq!(here, there, "{id}");
        let added = !wiring.lora.is_empty() || !wiring.bottlenecks.is_empty() || wiring.prompt.is_some();
        let random = added || wiring.head.is_some();
        assert_eq!(here != init(8), random, "{id}");
        if let Some(head) = &wiring.head {
            let bias = head.bias.clone().unwrap_or(0..0);
            assert!(here[bias].iter().all(|&b| b == 0.0));
            assert!(here[head.weight.clone()].iter().any(|&w| w != 0.0));
        }
    });
}

#[test]
fn settings_build_the_same_method() {
    every(|id, method, model| {
        let again = registry::build("method", METHODS, &method.settings().unwrap()).unwrap();
        assert_eq!(again.settings().unwrap(), method.settings().unwrap(), "{id}");
        assert_eq!(
            again.wire(&model.spec, model.task).unwrap(),
            method.wire(&model.spec, model.task).unwrap()
        );
    });
}

#[test]
fn full_tuning_starts_from_the_checkpoint_in_its_order() {
    let model = Checkpoint { spec: gpt2(), task: Task::CausalLm };
    let method = parse("id = 'full'\nunfrozen_parameters = ['.*\\.bias$', 'transformer\\.wte']");
    let wiring = method.wire(&model.spec, model.task).unwrap();
    let start = Start { spec: &model.spec, base: &model, tokenize: None, seed: 1 };
    let theta = method.init(&wiring, &start).unwrap();
    assert_eq!(wiring.schema.tensors()[0].name, "transformer.wte.weight");
    assert!(wiring.schema.tensors()[1..].iter().all(|t| t.name.ends_with(".bias")));
    for (t, range) in wiring.schema.iter() {
        assert_eq!(theta[range], model.tensor(&t.name).unwrap(), "{}", t.name);
    }
}

#[test]
fn lora_starts_with_kaiming_a_and_zero_b() {
    let model = Checkpoint { spec: llama(), task: Task::CausalLm };
    let method = parse("id = 'lora'\nlora_r = 4\nlora_alpha = 8\ntarget_modules = 'all-linear'");
    let wiring = method.wire(&model.spec, model.task).unwrap();
    let start = Start { spec: &model.spec, base: &model, tokenize: None, seed: 1 };
    let theta = method.init(&wiring, &start).unwrap();
    let mut largest: f32 = 0.0;
    for (t, range) in wiring.schema.iter() {
        let values = &theta[range];
        if t.name.ends_with("lora_B.weight") {
            assert!(values.iter().all(|&v| v == 0.0));
        } else {
            let bound = 1.0 / (t.shape[1] as f32).sqrt();
            assert!(values.iter().all(|v| v.abs() <= bound));
            largest = largest.max(values.iter().fold(0.0, |m, v| v.abs().max(m)) / bound);
        }
    }
    assert!(largest > 0.95, "the interval is filled: {largest}");
}

#[test]
fn a_prompt_starts_where_its_settings_say() {
    let model = Checkpoint { spec: llama(), task: Task::CausalLm };
    let init = |text: &str| {
        let method = parse(text);
        let wiring = method.wire(&model.spec, model.task).unwrap();
        let tokenize = |t: &str| Ok(t.bytes().map(|b| u32::from(b - b'a')).collect());
        let start = Start { spec: &model.spec, base: &model, tokenize: Some(&tokenize), seed: 3 };
        method.init(&wiring, &start)
    };
    let table = model.tensor("model.embed_tokens.weight").unwrap();
    let row = |id: usize| &table[8 * id..8 * id + 8];

    // shorter than the prompt: repeated; longer: cut
    let text =
        init("id='prompt'\nnum_virtual_tokens=5\nprompt_tuning_init='text'\nprompt_tuning_init_text='bd'");
    assert_eq!(text.unwrap(), [row(1), row(3), row(1), row(3), row(1)].concat());
    let text =
        init("id='prompt'\nnum_virtual_tokens=2\nprompt_tuning_init='text'\nprompt_tuning_init_text='bde'");
    assert_eq!(text.unwrap(), [row(1), row(3)].concat());

    let sampled = init("id='prompt'\nnum_virtual_tokens=9\nprompt_tuning_init='sample_vocab'").unwrap();
    assert!(sampled.chunks(8).all(|r| (0..20).any(|id| row(id) == r)));

    let random = init("id='prompt'\nnum_virtual_tokens=31\nprompt_tuning_init='random'").unwrap();
    let rms = |v: &[f32]| (v.iter().map(|x| x * x).sum::<f32>() / v.len() as f32).sqrt();
    assert!((rms(&random) / rms(&table) - 1.0).abs() < 0.2, "{} {}", rms(&random), rms(&table));

    let empty =
        init("id='prompt'\nnum_virtual_tokens=2\nprompt_tuning_init='text'\nprompt_tuning_init_text=''");
    assert!(empty.unwrap_err().to_string().contains("no tokens"));
    let unknown =
        init("id='prompt'\nnum_virtual_tokens=2\nprompt_tuning_init='text'\nprompt_tuning_init_text='z'");
    assert!(unknown.unwrap_err().to_string().contains("token 25 in a vocabulary of 20"));
}

#[test]
fn what_does_not_fit_says_what_would() {
    let lora = |rest: &str| refused(&format!("id = 'lora'\nlora_alpha = 8\n{rest}"));
    assert!(lora("lora_r = 0\ntarget_modules = 'all-linear'").contains("`lora_r` is 0"));
    let rank = lora("lora_r = 5\ntarget_modules = ['k_proj']");
    assert!(
        rank.contains("rank 5") && rank.contains("k_proj` (4 x 8)") && rank.contains("at most 4"),
        "{rank}"
    );
    let name = lora("lora_r = 2\ntarget_modules = ['q_proj', 'v_prj']");
    assert!(name.contains("`v_prj` matches nothing") && name.contains("did you mean `v_proj`"), "{name}");
    assert!(name.contains("gate_proj"), "{name}");
    assert!(lora("lora_r = 2\ntarget_modules = []").contains("`target_modules` is empty"));
    assert!(lora("lora_r = 2\ntarget_modules = 'q_(proj'").contains("no regular expression"));
    assert!(lora("lora_r = 2\ntarget_modules = ['q_proj']\nlora_dropout = 1.0").contains("lora_dropout"));
    let layer = lora("lora_r = 2\ntarget_modules = ['q_proj']\nlayers_to_transform = [3]");
    assert!(layer.contains("layer 3 of a model with layers 0 to 2"), "{layer}");
    let unused = lora("lora_r = 2\ntarget_modules = ['q_proj']\nrank_pattern = { up_proj = 3 }");
    assert!(unused.contains("`up_proj` matches none of the target modules"), "{unused}");
    assert!(lora("lora_r = 2\ntarget_modules = ['q_proj']\nlora_rank = 3").contains("lora_rank"));

    let full = refused("id = 'full'\nunfrozen_parameters = ['model.layer.0']");
    assert!(full.contains("matches nothing") && full.contains("model.embed_tokens.weight"), "{full}");
    assert!(refused("id = 'full'\nunfrozen_parameters = []").contains("is empty"));

    let prompt = |rest: &str| refused(&format!("id = 'prompt'\n{rest}"));
    assert!(prompt("num_virtual_tokens = 0\nprompt_tuning_init = 'random'").contains("num_virtual_tokens"));
    assert!(prompt("num_virtual_tokens = 32\nprompt_tuning_init = 'random'").contains("leave no room"));
    assert!(
        prompt("num_virtual_tokens = 2\nprompt_tuning_init = 'text'").contains("prompt_tuning_init_text")
    );
}

/// Settings that the model crate accepts as describing the wiring, so real peft finds the same modules.
#[test]
fn every_adapter_can_be_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let about = |task| About { base_model: "base".into(), task, labels: Vec::new() };
    let mut written = 0;
    every(|id, method, model| {
        let wiring = method.wire(&model.spec, model.task).unwrap();
        let Export::Adapter(lora) = method.export(&model.spec, &wiring) else {
            assert_eq!(id, "full");
            return;
        };
        let start = Start { spec: &model.spec, base: model, tokenize: None, seed: 7 };
        let theta = method.init(&wiring, &start).unwrap();
        let about = about(model.task);
        adapter::write(dir.path(), &model.spec, &wiring, &theta, &about, lora.as_ref()).unwrap();
        let back = adapter::read(dir.path(), &model.spec).unwrap();
        assert_eq!((&back.wiring.schema, &back.theta), (&wiring.schema, &theta), "{id}");
    });
    let narrow = [
        (bert(), "['dense']"),
        (bert(), "['query', 'layer.1.output.dense']"),
        (gpt2(), "['c_proj']"),
        (gpt2(), "'.*h\\.1\\..*c_(attn|fc)'"),
        (llama(), "['q_proj', 'v_proj']\nlayers_to_transform = [0, 2]\nrank_pattern = { v_proj = 1 }"),
        (llama(), "'all-linear'\nlayers_to_transform = [1]\nuse_rslora = true"),
    ];
    for (spec, targets) in narrow {
        let text = format!("id = 'lora'\nlora_r = 2\nlora_alpha = 3\ntarget_modules = {targets}");
        let method = parse(&text);
        let wiring = method.wire(&spec, Task::CausalLm).unwrap();
        let Export::Adapter(lora) = method.export(&spec, &wiring) else { panic!("{text}") };
        let theta = vec![0.5; wiring.schema.dim()];
        adapter::write(dir.path(), &spec, &wiring, &theta, &about(Task::CausalLm), lora.as_ref())
            .unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(adapter::read(dir.path(), &spec).unwrap().wiring.schema, wiring.schema, "{text}");
        written += 1;
    }
    assert_eq!(written, 6);
}

/// Law 1: an overlay starts as the identity. Compared with the model that has nothing attached.
#[test]
fn a_new_overlay_leaves_the_model_as_it_was() {
    use antiphon_kernels::{Backend, Dst, Reference, Src};
    use antiphon_model::{Mode, Net, Shape, Weights};
    use std::sync::Arc;

    let logits = |model: &Checkpoint, wiring: Wiring, theta: &[f32]| {
        let b = Reference;
        let weights = Weights::load(&b, &model.spec, model.task, model).unwrap();
        let dim = wiring.schema.dim();
        let net = Net::new(&b, weights, model.task, Arc::new(wiring), 16).unwrap();
        let mut params = b.alloc(dim).unwrap();
        b.upload(theta, Dst::new(&mut params, 0, dim)).unwrap();
        let mut batch = net.batch();
        batch.push_tokens(&[3, 1, 4, 1, 5]).unwrap();
        let mut ws = net.workspace(&b, Shape { tokens: 5, segments: 1, labelled: 5 }, Mode::Infer).unwrap();
        net.forward(&b, &params, &batch, &mut ws, None).unwrap();
        let mut out = b.alloc(5 * 20).unwrap();
        net.logits(&b, &params, &batch, &[0, 1, 2, 3, 4], &mut ws, Dst::new(&mut out, 0, 100)).unwrap();
        let mut host = vec![0.0; 100];
        b.download(Src::new(&out, 0, 100), &mut host).unwrap();
        host
    };
    every(|id, method, model| {
        if model.task != Task::CausalLm || !model.spec.causal || id == "prompt" {
            return;
        }
        let wiring = method.wire(&model.spec, model.task).unwrap();
        let start = Start { spec: &model.spec, base: model, tokenize: None, seed: 7 };
        let theta = method.init(&wiring, &start).unwrap();
        let bare = logits(model, Wiring::default(), &[]);
        assert_eq!(logits(model, wiring, &theta), bare, "{id}");
        assert!(bare.iter().any(|&v| v != bare[0]));
    });
}

/// The methods that can be an adapter of off-site tuning, on the ends of a model of five layers.
fn ends() -> [Box<dyn Method>; 2] {
    ["id = 'full'", "id = 'lora'\nlora_r = 2\nlora_alpha = 3\ntarget_modules = 'all-linear'"]
        .map(|text| parse(&format!("{text}\nlayers_to_transform = [0, 4]")))
}

#[test]
fn what_the_ends_of_a_thinned_model_train_is_what_those_of_the_whole_train() {
    for spec in [llama(), gpt2(), bert()] {
        let whole = Spec { layers: 5, ..spec };
        let thinned = whole.with_layers(&[0, 2, 4]).unwrap();
        for task in [Task::CausalLm, CLASSIFY] {
            let base = Checkpoint { spec: whole.clone(), task };
            for method in ends() {
                let of = |spec: &Spec| {
                    let wiring = method.wire(spec, task).unwrap();
                    let start = Start { spec, base: &base, tokenize: None, seed: 7 };
                    (wiring.schema.clone(), method.init(&wiring, &start).unwrap())
                };
                assert_eq!(of(&whole), of(&thinned), "{}", method.id());
                let foreign = of(&whole).0.tensors().iter().filter(|t| t.name.contains(".2.")).count();
                assert_eq!(foreign, 0);
            }
        }
    }
}

#[test]
fn the_layers_of_full_tuning() {
    let wiring = ends()[0].wire(&Spec { layers: 5, ..llama() }, Task::CausalLm).unwrap();
    assert!(wiring.live.keys().all(|n| n.starts_with("model.layers.0.") || n.starts_with("model.layers.4.")));
    assert_eq!(wiring.live.len(), 2 * 9);
    assert!(refused("id = 'full'\nlayers_to_transform = []").contains("`layers_to_transform` is empty"));
    assert!(
        refused("id = 'full'\nlayers_to_transform = [3]").contains("layer 3 of a model with layers 0 to 2")
    );
    let thinned = Spec { layers: 5, ..llama() }.with_layers(&[0, 2, 4]).unwrap();
    let missing = parse("id = 'full'\nlayers_to_transform = [1]").wire(&thinned, Task::CausalLm).unwrap_err();
    assert!(missing.to_string().contains("layers 0, 2, 4"), "{missing}");
}
