//! What the owner's alignments will take, for `plan`.

use antiphon_data::Sequence;
use antiphon_model::{Mode, Shape, Spec, Wiring};
use antiphon_tune::Align;

use super::Aligner;
use crate::machine;
use crate::session::Session;

/// Of all alignments of a run together, the distillation among them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Price {
    /// Sequences that pass forward through both models, those that are only measured on included.
    pub(crate) forwards: u64,
    /// Floating point operations of both models, forward and backward.
    pub(crate) flop: f64,
    /// Bytes of a change to the clients of a round, where each of them took part in the round before.
    pub(crate) bytes_per_round: u64,
}

impl Session {
    /// What the alignments of the run take; `None` where there is none.
    pub(crate) fn alignment_price(&self) -> Option<Price> {
        let aligner = self.aligner()?;
        let (changes, each) = aligner.changes(self.policy.num_rounds);
        let cohort = self.policy.cohort_size(self.people.len()) as u64;
        let mut price = Price { bytes_per_round: each * cohort, ..Price::default() };
        for (how, times) in aligner.plans().into_iter().zip([1, changes]) {
            if let Some(how) = how {
                let one = self.once(aligner, how);
                price.forwards += u64::from(times) * one.forwards;
                price.flop += f64::from(times) * one.flop;
            }
        }
        Some(price)
    }

    /// One alignment: its steps on the public data, then distances on what was held out, before and after, and on the rest.
    fn once(&self, aligner: &Aligner, how: &Align) -> Price {
        let (train, held_out) = (&aligner.public.train, &aligner.public.held_out);
        let stepped = how.steps as usize * (how.micro_batch_size as usize).min(train.len());
        let looked = 2 * held_out.len() + train.len();
        let next_tokens = how.terms.language_model + how.terms.kl > 0.0;
        let (student, whole, frozen) = (self.spec(), self.base.spec(), Wiring::default());
        let middle = aligner.middle();
        let pass = |spec: &Spec, wiring: &Wiring, mode, head: bool| {
            let all: Vec<&Sequence> = train.iter().chain(held_out.iter()).collect();
            let labelled = if head { all.iter().map(|s| s.label_tokens()).sum() } else { 0 };
            let shape = Shape { tokens: all.iter().map(|s| s.len()).sum(), segments: all.len(), labelled };
            let flop = machine::step_flop(spec, wiring, shape, mode, shape.tokens / all.len().max(1));
            flop / all.len().max(1) as f64
        };
        let step = pass(student, middle, Mode::Train, next_tokens)
            + pass(whole, &frozen, Mode::Infer, how.terms.kl > 0.0);
        let look = pass(student, middle, Mode::Infer, !self.classify())
            + pass(whole, &frozen, Mode::Infer, !self.classify());
        Price {
            forwards: (stepped + looked) as u64,
            flop: stepped as f64 * step + looked as f64 * look,
            bytes_per_round: 0,
        }
    }
}
