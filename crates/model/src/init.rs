//! Models made from a configuration alone: random weights by the rule of transformers' `_init_weights`.
//!
//! Linear maps and embeddings are `N(0, initializer_range²)`, biases 0, gains of norms 1, and the embedding of the padding
//! token 0 where the family has one. GPT-2 divides the deviation of each block's two output maps by `sqrt(2 · layers)`
//! (Radford et al. 2019, section 2.3). Each tensor has its own stream under its name, so that the values depend on
//! the seed, the name and the index alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use antiphon_core::{Noise, Purpose, Stream};
use antiphon_kernels::FrozenData;

use crate::config::Config;
use crate::names::{self, Part, Role, TensorInfo};
use crate::spec::{Family, Proj, Spec};
use crate::weights::TensorSource;
use crate::wiring::{Pooling, Task};

/// Random weights of a model.
#[derive(Debug)]
pub struct InitWeights {
    tensors: BTreeMap<String, (Arc<[f32]>, Vec<usize>)>,
}

impl InitWeights {
    /// Every tensor of `config`'s model, binary32.
    #[must_use]
    pub fn new(config: &Config, seed: u64) -> Self {
        let tensors = infos(&config.spec)
            .into_iter()
            .map(|t| {
                let mut values = vec![0.0; t.shape.iter().product()];
                fill(config, &t, seed, &mut values);
                (t.name, (values.into(), t.shape))
            })
            .collect();
        Self { tensors }
    }
}

impl TensorSource for InitWeights {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let (values, shape) = self.tensors.get(name)?;
        Some((FrozenData::Owned(Arc::clone(values)), shape.clone()))
    }
}

/// The tensors of every task, classification heads aside.
fn infos(spec: &Spec) -> Vec<TensorInfo> {
    let mut list = names::tensors(spec, Task::CausalLm);
    if spec.pooler {
        let task = Task::Classify { classes: 1, pooling: Pooling::Pooler };
        let pooler = |t: &TensorInfo| matches!(t.role, Role::Pooler(_));
        list.extend(names::tensors(spec, task).into_iter().filter(pooler));
    }
    list
}

fn fill(config: &Config, tensor: &TensorInfo, seed: u64, values: &mut [f32]) {
    let spec = &config.spec;
    let std = match tensor.role {
        Role::EmbeddingNorm(Part::Weight)
        | Role::AttentionNorm(_, Part::Weight)
        | Role::MlpNorm(_, Part::Weight)
        | Role::FinalNorm(Part::Weight)
        | Role::QueryNorm(_)
        | Role::KeyNorm(_) => return values.fill(1.0),
        Role::EmbeddingNorm(Part::Bias)
        | Role::AttentionNorm(_, Part::Bias)
        | Role::MlpNorm(_, Part::Bias)
        | Role::FinalNorm(Part::Bias)
        | Role::Pooler(Part::Bias)
        | Role::ClassHead(Part::Bias)
        | Role::Proj { part: Part::Bias, .. } => return values.fill(0.0),
        Role::Proj { proj: Proj::O | Proj::Down, .. } if spec.family == Family::Gpt2 => {
            config.initializer_range / (2.0 * spec.layers as f64).sqrt()
        }
        _ => config.initializer_range,
    };
    let mut stream = Stream::keyed(seed, Purpose::Init, None, None, &tensor.name);
    values.fill_with(|| (std * stream.standard_normal()) as f32);
    if let (Role::TokenEmbedding, Some(pad)) = (tensor.role, config.pad)
        && spec.family != Family::Gpt2
    {
        let row = pad as usize * spec.hidden;
        values[row..row + spec.hidden].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    fn get(w: &InitWeights, name: &str) -> Vec<f32> {
        match w.get(name) {
            Some((FrozenData::Owned(v), _)) => v.to_vec(),
            other => panic!("{name}: {other:?}"),
        }
    }

    fn std(v: &[f32]) -> f64 {
        (v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / v.len() as f64).sqrt()
    }

    const GPT2: &str = r#"{"model_type":"gpt2","n_embd":48,"n_layer":8,"n_head":2,"vocab_size":300,
        "n_positions":64,"pad_token_id":5,"initializer_range":0.1}"#;

    #[test]
    fn deviations_are_those_of_transformers() {
        let w = InitWeights::new(&config(GPT2), 1);
        for (name, expected) in [
            ("transformer.wte.weight", 0.1),
            ("transformer.h.3.attn.c_attn.weight", 0.1),
            ("transformer.h.3.mlp.c_fc.weight", 0.1),
            ("transformer.h.3.attn.c_proj.weight", 0.025),
            ("transformer.h.7.mlp.c_proj.weight", 0.025),
        ] {
            let found = std(&get(&w, name));
            assert!((found / expected - 1.0).abs() < 0.06, "{name}: {found}");
        }
        assert!(get(&w, "transformer.h.0.ln_1.weight").iter().all(|&v| v == 1.0));
        assert!(get(&w, "transformer.h.0.attn.c_attn.bias").iter().all(|&v| v == 0.0));
        // nn.Embedding of GPT-2 has no padding index
        assert!(std(&get(&w, "transformer.wte.weight")[5 * 48..6 * 48]) > 0.05);
    }

    #[test]
    fn the_padding_row_is_zero_and_the_pooler_is_there() {
        let bert = config(
            r#"{"model_type":"bert","hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,
            "intermediate_size":12,"vocab_size":20,"pad_token_id":3}"#,
        );
        let w = InitWeights::new(&bert, 1);
        let table = get(&w, "bert.embeddings.word_embeddings.weight");
        assert!(table[24..32].iter().all(|&v| v == 0.0) && table[32..40].iter().any(|&v| v != 0.0));
        assert!(std(&get(&w, "bert.pooler.dense.weight")) > 0.0);
    }

    #[test]
    fn values_depend_on_the_seed_and_the_name_alone() {
        let name = "transformer.h.0.mlp.c_fc.weight";
        let of = |text: &str, seed| get(&InitWeights::new(&config(text), seed), name);
        assert_eq!(of(GPT2, 1), of(GPT2, 1));
        assert_ne!(of(GPT2, 1), of(GPT2, 2));
        assert_eq!(of(&GPT2.replace("\"n_layer\":8", "\"n_layer\":2"), 1), of(GPT2, 1));
    }
}
