//! A source with some of its tensors in codes: what an emulator's frozen middle travels and lies as.
//!
//! Norms and biases stay as they are, as in QLoRA (arXiv:2305.14314): they are a thousandth of a block and everything goes
//! through them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use antiphon_kernels::{Code, FrozenData, Quantised};
use serde::{Deserialize, Serialize};

use crate::names::{self, Part, Role};
use crate::spec::Spec;
use crate::weights::TensorSource;
use crate::wiring::Task;

/// How an emulator's frozen blocks are stored where they are not stored as in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmulatorDtype {
    /// 8 bits an element, 64 to a scale.
    Int8,
    /// 4 bits an element, 64 to a scale (QLoRA, arXiv:2305.14314).
    Nf4,
}

impl EmulatorDtype {
    /// The code.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Int8 => Code::Int8,
            Self::Nf4 => Code::Nf4,
        }
    }
}

impl FromStr for EmulatorDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Int8, Self::Nf4].into_iter().find(|d| d.code().name() == name).ok_or_else(|| {
            format!("`{name}` is not among `int8` and `nf4`; leave it out to keep the checkpoint's")
        })
    }
}

/// See the module.
pub struct QuantisedSource<'a> {
    source: &'a dyn TensorSource,
    code: Code,
    names: BTreeSet<String>,
}

impl fmt::Debug for QuantisedSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuantisedSource[{} tensors, {}]", self.names.len(), self.code)
    }
}

impl<'a> QuantisedSource<'a> {
    /// `source` with the weights of the linear maps of `spec`'s blocks in `code`, but for the blocks in `but`, which are
    /// counted as the checkpoint counts them.
    #[must_use]
    pub fn new(source: &'a dyn TensorSource, code: Code, spec: &Spec, but: &[usize]) -> Self {
        let chosen = |role: Role| match role {
            Role::Proj { layer, part: Part::Weight, .. } => !but.contains(&spec.checkpoint_layer(layer)),
            _ => false,
        };
        let tensors = names::tensors(spec, Task::CausalLm).into_iter().filter(|t| chosen(t.role));
        Self { source, code, names: tensors.map(|t| t.name).collect() }
    }

    /// Names of the tensors in codes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

impl TensorSource for QuantisedSource<'_> {
    fn get(&self, name: &str) -> Option<(FrozenData, Vec<usize>)> {
        let (data, shape) = self.source.get(name)?;
        // numbers that are none are reported where they are, not by the block that they spoil
        if !self.names.contains(name) || data.first_non_finite().is_some() {
            return Some((data, shape));
        }
        let mut wide = vec![0.0; data.len()];
        data.widen(0, &mut wide);
        Some((FrozenData::Quantised(Arc::new(Quantised::new(self.code, &wide))), shape))
    }
}

#[cfg(test)]
mod tests {
    use antiphon_kernels::Cpu;

    use super::*;
    use crate::config::Config;
    use crate::init::InitWeights;
    use crate::weights::Weights;

    const GPT2: &str =
        r#"{"model_type":"gpt2","n_embd":48,"n_layer":5,"n_head":2,"vocab_size":300,"n_positions":64}"#;

    #[test]
    fn maps_of_the_frozen_blocks_are_in_codes_and_nothing_else() {
        let config = Config::parse(GPT2).unwrap();
        let source = InitWeights::new(&config, 3);
        // blocks 0, 2 and 4 of 5, of which 0 and 4 are trained: 2 alone is quantised
        let spec = config.spec.with_layers(&[0, 2, 4]).unwrap();
        let q = QuantisedSource::new(&source, Code::Int8, &spec, &[0, 4]);
        let mut names: Vec<&str> = q.names().collect();
        names.sort_unstable();
        let maps = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
        assert_eq!(names, maps.map(|m| format!("transformer.h.2.{m}.weight")));
        for info in names::tensors(&spec, Task::CausalLm) {
            let ((found, shape), (own, own_shape)) =
                (q.get(&info.name).unwrap(), source.get(&info.name).unwrap());
            assert_eq!((shape, found.len()), (own_shape, own.len()), "{}", info.name);
            let coded = matches!(found, FrozenData::Quantised(_));
            assert_eq!(coded, names.contains(&info.name.as_str()), "{}", info.name);
            let [mut a, mut b] = [(); 2].map(|()| vec![0.0; own.len()]);
            found.widen(0, &mut a);
            own.widen(0, &mut b);
            let largest = b.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            let bound = if coded { largest / 250.0 } else { 0.0 };
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= bound), "{}", info.name);
        }
        let cpu = Cpu::serial();
        let bytes =
            |source: &dyn TensorSource| Weights::load(&cpu, &spec, Task::CausalLm, source).unwrap().bytes();
        let quantised = 12 * 48 * 48;
        assert_eq!(bytes(&source) - bytes(&q), 4 * quantised - Code::Int8.bytes(quantised));
    }

    #[test]
    fn an_unknown_dtype_is_refused_with_what_would_do() {
        assert_eq!("nf4".parse(), Ok(EmulatorDtype::Nf4));
        let refused = "int4".parse::<EmulatorDtype>().unwrap_err();
        assert!(refused.contains("int8") && refused.contains("nf4"), "{refused}");
    }
}
