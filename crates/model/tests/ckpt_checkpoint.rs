//! Opening checkpoints: real ones, and every way in which one may be wrong.

#![allow(clippy::unwrap_used, reason = "test helpers outside of test functions")]
mod ckpt_common;

use antiphon_kernels::{DType, FrozenData};
use antiphon_model::{Checkpoint, Family, Task};
use ckpt_common::{llama_config, shared, tensors_for, write_checkpoint};
use serde_json::json;

fn values(data: &FrozenData) -> Vec<f32> {
    match data {
        FrozenData::Mapped { file, at, dtype: DType::F32, len } => file.bytes()[*at..at + 4 * len]
            .chunks_exact(4)
            .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
            .collect(),
        other => panic!("not mapped F32: {other:?}"),
    }
}

#[test]
fn stories_open_with_their_shapes() {
    let Some(dir) = shared("models/stories260k-hf") else { return };
    let c = Checkpoint::open(&dir).unwrap();
    assert_eq!((c.spec().family, c.spec().layers, c.spec().kv_heads), (Family::Llama, 5, 4));
    assert_eq!(c.get("model.layers.4.self_attn.k_proj.weight").unwrap().1, [32, 64]);
    assert_eq!(c.get("model.embed_tokens.weight").unwrap().1, [512, 64]);
    assert!(c.get("lm_head.weight").is_none() && c.unread().is_empty());
    c.require(Task::CausalLm).unwrap();
    let total: usize = antiphon_model::tensors(c.spec(), Task::CausalLm)
        .iter()
        .map(|t| t.shape.iter().product::<usize>())
        .sum();
    assert_eq!(total, 260_032);
}

#[test]
fn a_tied_embedding_may_be_stored_as_the_head() {
    let Some(dir) = shared("models/tinystories-656k") else { return };
    let c = Checkpoint::open(&dir).unwrap();
    assert!(c.spec().tied);
    assert_eq!(c.get("model.embed_tokens.weight").unwrap().1, [2048, 128]);
    c.require(Task::CausalLm).unwrap();
}

#[test]
fn an_untied_head_is_its_own_tensor() {
    let Some(dir) = shared("models/llama-2m-fresh") else { return };
    let c = Checkpoint::open(&dir).unwrap();
    c.require(Task::CausalLm).unwrap();
    assert_ne!(
        values(&c.get("lm_head.weight").unwrap().0)[..8],
        values(&c.get("model.embed_tokens.weight").unwrap().0)[..8]
    );
}

#[test]
fn shards_read_like_one_file_and_have_its_digest() {
    let (one, many) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = llama_config(false);
    let tensors = tensors_for(&config);
    write_checkpoint(one.path(), &config, &tensors);
    write_checkpoint(many.path(), &config, &tensors);
    std::fs::remove_file(many.path().join("model.safetensors")).unwrap();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..3 {
        let name = format!("model-0000{}-of-00003.safetensors", shard + 1);
        let part: std::collections::BTreeMap<_, _> = tensors
            .iter()
            .enumerate()
            .filter(|(i, _)| i % 3 == shard)
            .map(|(_, (k, v))| (k.clone(), v.clone()))
            .collect();
        weight_map.extend(part.keys().map(|k| (k.clone(), json!(name))));
        std::fs::write(many.path().join(name), ckpt_common::safetensors(&part)).unwrap();
    }
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": weight_map });
    std::fs::write(many.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let (one, many) = (Checkpoint::open(one.path()).unwrap(), Checkpoint::open(many.path()).unwrap());
    assert_eq!(many.files().len(), 3);
    for (name, (shape, expected)) in &tensors {
        let (data, found) = many.get(name).unwrap();
        assert_eq!((&found, &values(&data)), (shape, expected), "{name}");
    }
    assert_eq!(one.digest(1), many.digest(4));
}

#[test]
fn the_digest_sees_weights_and_configuration_but_not_metadata() {
    type Change<'a> = &'a dyn Fn(&mut serde_json::Map<String, serde_json::Value>, &mut Vec<f32>);
    let digest = |change: Change<'_>| {
        let dir = tempfile::tempdir().unwrap();
        let mut config = llama_config(true);
        let mut tensors = tensors_for(&config);
        change(&mut config, &mut tensors.get_mut("model.norm.weight").unwrap().1);
        write_checkpoint(dir.path(), &config, &tensors);
        Checkpoint::open(dir.path()).unwrap().digest(2)
    };
    let base = digest(&|_, _| ());
    assert_eq!(digest(&|c, _| drop(c.insert("transformers_version".into(), json!("9.9")))), base);
    assert_ne!(digest(&|c, _| drop(c.insert("rope_theta".into(), json!(5e5)))), base);
    assert_ne!(digest(&|_, w| w[3] += 1.0), base);
}

/// A checkpoint that `change` spoils before it is written, and the error of opening it.
fn spoiled(change: impl FnOnce(&mut Json, &mut Tensors)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut config = llama_config(false);
    let mut tensors = tensors_for(&config);
    change(&mut config, &mut tensors);
    write_checkpoint(dir.path(), &config, &tensors);
    Checkpoint::open(dir.path()).unwrap_err().to_string()
}

type Json = serde_json::Map<String, serde_json::Value>;
type Tensors = std::collections::BTreeMap<String, (Vec<usize>, Vec<f32>)>;

#[test]
fn tensors_that_do_not_fit_are_refused_with_their_name() {
    const Q: &str = "model.layers.1.self_attn.q_proj.weight";
    let cases = [
        ("1 tensor missing: model.layers.1.self_attn.q_proj.weight", spoiled(|_, t| drop(t.remove(Q)))),
        ("tensors missing", spoiled(|c, _| drop(c.insert("num_hidden_layers".into(), json!(3))))),
        (
            "has shape [8, 9], config.json implies [8, 8]",
            spoiled(|_, t| drop(t.insert(Q.into(), (vec![8, 9], vec![0.0; 72])))),
        ),
        (
            "model.layers.0.self_attn.q_proj.bias; the model would compute something else",
            spoiled(|_, t| {
                drop(t.insert("model.layers.0.self_attn.q_proj.bias".into(), (vec![8], vec![0.0; 8])))
            }),
        ),
        (
            "9 tensors in the files that config.json does not account for",
            spoiled(|c, _| drop(c.insert("num_hidden_layers".into(), json!(1)))),
        ),
        (
            "has shape [20, 8], config.json implies [21, 8]",
            spoiled(|c, _| drop(c.insert("vocab_size".into(), json!(21)))),
        ),
    ];
    for (expected, found) in &cases {
        assert!(found.contains(expected), "expected `{expected}` in: {found}");
    }
}

#[test]
fn heads_and_poolers_are_asked_for_by_the_task() {
    let dir = tempfile::tempdir().unwrap();
    let config = llama_config(false);
    let mut tensors = tensors_for(&config);
    tensors.remove("lm_head.weight");
    tensors.insert("score.weight".into(), (vec![3, 8], vec![0.0; 24]));
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (vec![2], vec![0.0; 2]));
    write_checkpoint(dir.path(), &config, &tensors);
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(
        c.unread(),
        [
            "model.layers.0.self_attn.rotary_emb.inv_freq: a table that positions imply",
            "score.weight: a head of another task"
        ]
    );
    c.require(Task::Classify { classes: 3, pooling: antiphon_model::Pooling::Last }).unwrap();
    let error = c.require(Task::CausalLm).unwrap_err().to_string();
    assert!(error.contains("tie_word_embeddings: true"), "{error}");
}

#[test]
fn a_bare_encoder_with_old_names_opens_and_has_no_pooler() {
    let dir = tempfile::tempdir().unwrap();
    let Some(config) =
        json!({ "model_type": "bert", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 16 })
        .as_object()
        .cloned()
    else {
        unreachable!()
    };
    let mut tensors: Tensors = tensors_for(&config)
        .into_iter()
        .map(|(name, t)| {
            let bare = name.trim_start_matches("bert.").to_owned();
            (
                bare.replace("LayerNorm.weight", "LayerNorm.gamma")
                    .replace("LayerNorm.bias", "LayerNorm.beta"),
                t,
            )
        })
        .collect();
    tensors.insert("cls.predictions.bias".into(), (vec![20], vec![0.0; 20]));
    write_checkpoint(dir.path(), &config, &tensors);
    let c = Checkpoint::open(dir.path()).unwrap();
    assert!(!c.spec().pooler);
    let gamma = c.get("bert.embeddings.LayerNorm.weight").unwrap().0;
    assert_eq!(values(&gamma), tensors["embeddings.LayerNorm.gamma"].1);
    let pooler = Task::Classify { classes: 2, pooling: antiphon_model::Pooling::Pooler };
    let error = c.require(pooler).unwrap_err().to_string();
    assert!(error.contains("choose another pooling"), "{error}");
}

#[test]
fn ends_of_a_text_include_those_of_generation() {
    let dir = tempfile::tempdir().unwrap();
    let config = llama_config(true);
    write_checkpoint(dir.path(), &config, &tensors_for(&config));
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id":[2,7,99]}"#).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().spec().eos, [2, 7]);
}

#[test]
fn directories_that_are_no_checkpoint_say_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let error = || Checkpoint::open(at).unwrap_err().to_string();
    let expect = |part: &str| assert!(error().contains(part), "expected `{part}` in: {}", error());
    assert!(Checkpoint::open(&at.join("none")).unwrap_err().to_string().contains("no such directory"));
    expect("config.json: no such file");
    std::fs::write(at.join("adapter_config.json"), "{}").unwrap();
    expect("this directory holds an adapter");
    let config = serde_json::to_string(&llama_config(false)).unwrap();
    std::fs::write(at.join("config.json"), config).unwrap();
    expect("no weights; expected model.safetensors");
    let file = Checkpoint::open(&at.join("config.json")).unwrap_err().to_string();
    assert!(file.contains(&format!("name the directory that holds it, {}", at.display())), "{file}");
    std::fs::write(at.join("pytorch_model.bin"), "").unwrap();
    expect("pytorch_model.bin can run code");
    let index = at.join("model.safetensors.index.json");
    let shard =
        |file: &str| std::fs::write(&index, json!({ "weight_map": { "x": file } }).to_string()).unwrap();
    std::fs::write(&index, "{}").unwrap();
    expect("`weight_map` is missing");
    for bad in ["../x.safetensors", "/etc/x.safetensors", "a\\x.safetensors", ".x.safetensors", "x.bin"] {
        shard(bad);
        expect("expected the plain name");
    }
    shard("x.safetensors");
    expect("x.safetensors is missing; the index puts 1 tensors there");
    std::fs::write(at.join("x.safetensors"), ckpt_common::file("{}", &[])).unwrap();
    expect("tensor `x` is not in x.safetensors, where the index puts it");
    let y = r#"{"y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    std::fs::write(
        at.join("x.safetensors"),
        ckpt_common::file(
            &y.replace("\"y\"", "\"x\"")
                .replace("}}", "},\"y\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}"),
            &[0; 8],
        ),
    )
    .unwrap();
    expect("tensor `y` is in x.safetensors, but the index does not put it there");
    std::fs::write(at.join("model.safetensors"), "").unwrap();
    expect("model.safetensors: 0 bytes are no safetensors file");
    std::fs::write(at.join("model.safetensors"), ckpt_common::file(y, &[0; 3])).unwrap();
    expect("it is truncated");
    std::fs::write(at.join("model.safetensors"), ckpt_common::file(&y.replace("F32", "I32"), &[0; 4]))
        .unwrap();
    expect("missing");
}

#[test]
fn quantised_weights_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = llama_config(true);
    write_checkpoint(dir.path(), &config, &tensors_for(&config));
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|w| w == b"F32").unwrap();
    bytes[at..at + 3].copy_from_slice(b"I32");
    std::fs::write(&path, bytes).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("element type I32; supported: F32, BF16, F16"), "{error}");
}
