//! Emulators for off-site tuning (Xiao, Lin and Han 2023, arXiv:2302.04870): a model whose owner keeps part of it.
//!
//! The blocks of a checkpoint are divided into an adapter at either or both ends, which clients train, and the middle, of
//! which clients get some blocks, frozen. The model of the blocks that a client gets is the *emulator*; what is left out
//! never leaves its owner, who plugs the trained adapter into the whole model. [`Emulator`] is this division; the blocks of
//! the middle that stay are chosen by one of [`RULES`].
//!
//! What stays travels as it is, so dropping blocks withholds weights; it does not hide what the model computes: a client
//! may distil the rest from its answers, where it gets any.
//!
//! The blocks that stay of the middle may then be trained to stand for all of it: `middle`, and `update` for what clients are
//! sent of that.

mod federatedscope;
mod importance;
mod middle;
mod offsite_tuning;
mod rules;
mod update;

use antiphon_core::{ConfigError, registry};

pub use middle::{Joint, Tensors, bottleneck_values, live_tensors, plugged, with_bottlenecks};
pub use rules::{LayerRule, Middle, RULES};
pub use update::{Codec, Made, Update, UpdateError};

use crate::spec::Spec;

/// How a model is divided.
#[derive(Clone, Debug, PartialEq)]
pub struct EmulatorSettings {
    /// First blocks of the model that clients train; 0: none.
    pub adapter_bottom: usize,
    /// Last blocks of the model that clients train; 0: none.
    pub adapter_top: usize,
    /// Share of the blocks between the adapters that the owner keeps back, in `[0, 1)`. Of `n` blocks,
    /// `round(n (1 - drop_rate))` stay, halves rounded to even.
    pub drop_rate: f64,
    /// Which blocks stay: a table with an `id`.
    pub rule: toml::Table,
}

impl EmulatorSettings {
    /// The rule that they name.
    ///
    /// # Errors
    /// No such rule, or settings that it does not have.
    pub fn rule(&self) -> Result<Box<dyn LayerRule>, ConfigError> {
        registry::build("emulator rule", RULES, &self.rule)
    }
}

/// A division that a model does not admit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// The rule is not one.
    #[error(transparent)]
    Rule(#[from] ConfigError),
    /// Nothing to train.
    #[error("`adapter_bottom` and `adapter_top` are both 0: clients would train nothing; try 2 and 2")]
    NoAdapter,
    /// Adapters that leave no middle, or that the model does not have.
    #[error(
        "an adapter of {bottom} + {top} blocks in a model of {layers} leaves no block between them; \
         together at most {} fit",
        layers.saturating_sub(1)
    )]
    NoMiddle {
        /// First blocks.
        bottom: usize,
        /// Last blocks.
        top: usize,
        /// Blocks of the model.
        layers: usize,
    },
    /// Not a share.
    #[error("`drop_rate` is {0}; expected 0 or more and below 1, such as 0.5")]
    Rate(f64),
    /// No block of the middle is left.
    #[error(
        "`drop_rate` {rate} keeps none of the {middle} blocks between the adapters, and an emulator has one or more; {} keeps 1",
        keeps_one(*middle)
    )]
    TooFew {
        /// Asked for.
        rate: f64,
        /// Blocks between the adapters.
        middle: usize,
    },
    /// A rule that looks at what blocks do, and nobody has looked.
    #[error("`{rule}` asks how much each of {layers} blocks does, and {found} were measured")]
    Unmeasured {
        /// The rule's id.
        rule: &'static str,
        /// Blocks of the model.
        layers: usize,
        /// Scores there are.
        found: usize,
    },
    /// A block whose output is no number on the data that it was measured on.
    #[error("block {layer} has no finite influence: the model overflows on the data that it was measured on")]
    Influence {
        /// The first such block.
        layer: usize,
    },
}

/// The drop rate that keeps one of `middle` blocks.
fn keeps_one(middle: usize) -> f64 {
    ((1.0 - 1.0 / middle as f64) * 100.0).round() / 100.0
}

/// Which blocks of a model clients hold, and which of them they train. Blocks are counted as the checkpoint counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    layers: usize,
    adapter: Vec<usize>,
    kept: Vec<usize>,
}

impl Emulator {
    /// Divides a model of `layers` blocks. `influence` is what each of them does to the stream
    /// ([`Influence::scores`](crate::Influence::scores)), for rules that ask for it ([`EmulatorSettings::rule`]); else empty.
    ///
    /// # Errors
    /// Adapters that leave no middle, a rate that is no share or leaves nothing of the middle, scores that a rule lacks.
    pub fn new(layers: usize, settings: &EmulatorSettings, influence: &[f64]) -> Result<Self, EmulatorError> {
        let rule = settings.rule()?;
        let (bottom, top, rate) = (settings.adapter_bottom, settings.adapter_top, settings.drop_rate);
        if bottom == 0 && top == 0 {
            return Err(EmulatorError::NoAdapter);
        }
        let middle = bottom.checked_add(top).and_then(|both| layers.checked_sub(both)).filter(|&m| m > 0);
        let Some(middle) = middle else {
            return Err(EmulatorError::NoMiddle { bottom, top, layers });
        };
        if !(0.0..1.0).contains(&rate) {
            return Err(EmulatorError::Rate(rate));
        }
        let kept = kept_of(middle, rate);
        if kept == 0 {
            return Err(EmulatorError::TooFew { rate, middle });
        }
        let last = layers - top;
        let influence = if rule.measured() {
            if influence.len() != layers {
                return Err(EmulatorError::Unmeasured { rule: rule.id(), layers, found: influence.len() });
            }
            if let Some(layer) = influence.iter().position(|s| !s.is_finite()) {
                return Err(EmulatorError::Influence { layer });
            }
            &influence[bottom..last]
        } else {
            &[]
        };
        let chosen = rule.keep(Middle { blocks: middle, keep: kept, influence });
        Ok(Self {
            layers,
            adapter: (0..bottom).chain(last..layers).collect(),
            kept: (0..bottom).chain(chosen.into_iter().map(|i| bottom + i)).chain(last..layers).collect(),
        })
    }

    /// Blocks that clients train, ascending.
    #[must_use]
    pub fn adapter(&self) -> &[usize] {
        &self.adapter
    }

    /// Blocks that clients hold, the adapter's included, ascending.
    #[must_use]
    pub fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// Blocks that never leave the owner, ascending.
    #[must_use]
    pub fn withheld(&self) -> Vec<usize> {
        (0..self.layers).filter(|l| self.kept.binary_search(l).is_err()).collect()
    }

    /// The model that clients hold, of the whole one.
    ///
    /// # Errors
    /// A block that `whole` does not have.
    pub fn spec(&self, whole: &Spec) -> Result<Spec, usize> {
        whole.with_layers(&self.kept)
    }
}

/// Blocks that stay of `n` at a drop rate, as both released programs round: `round(n (1 - rate))` with halves to even.
#[must_use]
pub fn kept_of(n: usize, rate: f64) -> usize {
    (n as f64 * (1.0 - rate)).round_ties_even() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(bottom: usize, top: usize, rate: f64) -> EmulatorSettings {
        let rule = toml::Table::from_iter([("id".to_owned(), "offsite_tuning".into())]);
        EmulatorSettings { adapter_bottom: bottom, adapter_top: top, drop_rate: rate, rule }
    }

    fn refused(layers: usize, s: &EmulatorSettings) -> String {
        Emulator::new(layers, s, &[]).unwrap_err().to_string()
    }

    #[test]
    fn the_ends_are_trained_and_the_middle_is_thinned_out() {
        let e = Emulator::new(14, &settings(2, 2, 0.5), &[]).unwrap();
        assert_eq!(e.adapter(), [0, 1, 12, 13]);
        assert_eq!(e.kept(), [0, 1, 2, 4, 6, 9, 11, 12, 13]);
        assert_eq!(e.withheld(), [3, 5, 7, 8, 10]);
        let last = Emulator::new(6, &settings(0, 2, 0.5), &[]).unwrap();
        assert_eq!((last.adapter(), last.kept()), (&[4, 5][..], &[0, 3, 4, 5][..]));
    }

    #[test]
    fn drop_zero_is_the_model_itself() {
        for (layers, bottom, top) in [(14, 2, 2), (3, 1, 1), (6, 0, 2), (5, 4, 0)] {
            let e = Emulator::new(layers, &settings(bottom, top, 0.0), &[]).unwrap();
            assert_eq!(e.kept(), (0..layers).collect::<Vec<_>>());
            assert!(e.withheld().is_empty());
        }
    }

    #[test]
    fn of_one_block_it_is_the_first() {
        let e = Emulator::new(14, &settings(2, 2, 0.9), &[]).unwrap();
        assert_eq!((e.kept(), e.middle()), (&[0, 1, 2, 12, 13][..], vec![2]));
    }

    #[test]
    fn measured_blocks_are_those_of_the_middle() {
        let rule = toml::Table::from_iter([("id".to_owned(), "importance".into())]);
        let by = |rate, influence: &[f64]| {
            let settings = EmulatorSettings { rule: rule.clone(), ..settings(1, 2, rate) };
            Emulator::new(7, &settings, influence).map(|e| e.middle()).map_err(|e| e.to_string())
        };
        // the ends stay, whatever they do
        let influence = [0.0, 0.4, 0.1, 0.3, 0.2, 0.0, 0.0];
        assert_eq!(by(0.5, &influence), Ok(vec![1, 3]));
        assert_eq!(by(0.75, &influence), Ok(vec![1]));
        assert_eq!(by(0.0, &influence), Ok(vec![1, 2, 3, 4]));
        assert!(by(0.5, &[]).unwrap_err().contains("each of 7 blocks does, and 0 were measured"));
        assert!(by(0.5, &[f64::NAN; 7]).unwrap_err().contains("block 0 has no finite influence"));
    }

    #[test]
    fn refusals_say_what_would_fit() {
        assert!(refused(14, &settings(0, 0, 0.5)).contains("both 0"));
        assert!(refused(4, &settings(2, 2, 0.5)).contains("at most 3 fit"));
        assert!(refused(4, &settings(usize::MAX, 2, 0.5)).contains("at most 3 fit"));
        for rate in [1.0, -0.1, f64::NAN] {
            assert!(refused(14, &settings(2, 2, rate)).contains("below 1"), "{rate}");
        }
        let few = refused(6, &settings(0, 2, 0.9));
        assert!(few.contains("keeps none of the 4") && few.contains("0.75 keeps 1"), "{few}");
        assert!(Emulator::new(6, &settings(0, 2, 0.75), &[]).is_ok());
        let unknown = EmulatorSettings {
            rule: toml::Table::from_iter([("id".to_owned(), "offsite".into())]),
            ..settings(2, 2, 0.5)
        };
        assert!(refused(14, &unknown).contains("offsite_tuning"));
    }
}
