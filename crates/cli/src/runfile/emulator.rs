//! `[emulator]` of a run file.

use antiphon_model::EmulatorSettings;
use antiphon_model::emulator::Codec;
use antiphon_tune::AlignSettings;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Kind};

/// `[emulator]`: off-site tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmulatorSection {
    /// First blocks of the model that clients train; 0: none.
    pub adapter_bottom: usize,
    /// Last blocks of the model that clients train; 0: none.
    pub adapter_top: usize,
    /// Share of the blocks between the adapters that the owner keeps back, in `[0, 1)`. Of `n` blocks,
    /// `round(n (1 - drop_rate))` stay, halves rounded to even.
    pub drop_rate: f64,
    /// Which blocks stay: a table with an `id`.
    pub rule: toml::Table,
    /// How the middle's linear maps are stored at clients and sent to them: `int8` or `nf4`. Absent: as in the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<antiphon_model::EmulatorDtype>,
    /// What the owner aligns the emulator on; needed by `distill`, `align` and the rule `importance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<PublicSettings>,
    /// How the emulator's middle is trained once, before the first round, to stand for the whole middle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<AlignSettings>,
    /// How it is aligned again between rounds, with the adapter of that round in both models; needs `align_every`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align: Option<AlignSettings>,
    /// Rounds from one alignment to the next; needs `align`. After the last round there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub align_every: Option<u32>,
    /// How a change of the emulator is sent to clients: `f32` (exact) or `int8` (a quarter of the bytes).
    #[serde(default)]
    pub send: Codec,
}

/// `[emulator.public]`: data that the owner may see. Either `path` or `share`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublicSettings {
    /// A file or a folder, read as `[data]` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Share of the examples of `data.path`, in `(0, 1)`, that no client gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Share of the public sequences, in `(0, 1)`, that alignment is measured on and never trained on.
    #[serde(default = "a_fifth")]
    pub validation: f64,
    /// Keys of `[data]` that are different for `path`, such as `{ format = "text" }`.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub data: toml::Table,
}

fn a_fifth() -> f64 {
    0.2
}

impl EmulatorSection {
    /// The division alone.
    pub fn division(&self) -> EmulatorSettings {
        EmulatorSettings {
            adapter_bottom: self.adapter_bottom,
            adapter_top: self.adapter_top,
            drop_rate: self.drop_rate,
            rule: self.rule.clone(),
        }
    }

    /// Whether the middle that clients hold is trained at all.
    pub fn aligns(&self) -> bool {
        self.distill.is_some() || self.align.is_some()
    }

    /// Refuses keys that need others, and values out of range.
    pub(super) fn check(&self, name: &str) -> Result<(), Failure> {
        let refuse = |why: &str| Err(Failure::new(Kind::Settings, format_args!("{name}: {why}")));
        match (&self.align, self.align_every) {
            (Some(_), None) => return refuse("[emulator.align] needs `emulator.align_every`, such as 1"),
            (None, Some(_)) => {
                return refuse("`emulator.align_every` needs [emulator.align], which says how to align");
            }
            (Some(_), Some(0)) => {
                return refuse(
                    "emulator.align_every = 0: expected 1 or more; leave [emulator.align] out for never",
                );
            }
            _ => {}
        }
        if self.dtype.is_some() && self.aligns() {
            return refuse(
                "emulator.dtype stores a middle that nobody trains, and [emulator.distill] or [emulator.align] train it: \
                 leave one of them out; `emulator.send = \"int8\"` sends the changes of an alignment in fewer bytes",
            );
        }
        let measured = self.division().rule().is_ok_and(|rule| rule.measured());
        let Some(public) = &self.public else {
            if measured {
                return refuse(
                    "emulator.rule measures what each layer does, which needs [emulator.public]: `path`, or `share` of the \
                     data that no client gets; `offsite_tuning` and `federatedscope` look at no data",
                );
            }
            if self.aligns() {
                return refuse(
                    "[emulator.distill] and [emulator.align] need [emulator.public]: `path`, or `share` of the data that \
                     no client gets",
                );
            }
            return Ok(());
        };
        match (&public.path, public.share) {
            (Some(_), Some(_)) => return refuse("[emulator.public] has both `path` and `share`; keep one"),
            (None, None) => return refuse("[emulator.public] needs `path` or `share`"),
            (None, Some(_)) if !public.data.is_empty() => {
                return refuse("emulator.public.data is for `path`: a `share` is read as [data] says");
            }
            (None, Some(share)) if !(share > 0.0 && share < 1.0) => {
                return refuse(&format!(
                    "emulator.public.share = {share}: expected above 0 and below 1, such as 0.1"
                ));
            }
            _ => {}
        }
        let validation = public.validation;
        if !(validation > 0.0 && validation < 1.0) {
            return refuse(&format!(
                "emulator.public.validation = {validation}: expected above 0 and below 1, such as 0.2"
            ));
        }
        Ok(())
    }
}
