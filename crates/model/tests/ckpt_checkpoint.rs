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
