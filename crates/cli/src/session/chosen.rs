//! `eval.select = "best"`: the round whose model a run ends with is the one with the least loss on validation data.
//!
//! At an endpoint of text alone, where answers are right or wrong and have no loss, it is the one with the greatest accuracy.
//!
//! Rounds that are not evaluated are not candidates, nor are those whose figure is no number or, at an endpoint, lacks an answer. Of
//! equals the earlier round counts. What was best so far is kept in every checkpoint, so that a resumed run ends with
//! the same bits. Only the vector that travels is kept: what else changes from round to round (heads that stay with their clients,
//! an emulator that is aligned again) is refused beside it (`runfile`).

use antiphon_core::Round;
use antiphon_oracle::Access;
use antiphon_report::{ChosenRound, Metrics};

use crate::error::{Failure, Kind};
use crate::runfile::{RunFile, Select};

/// The best round so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) round: Round,
    /// What it was chosen by, on validation data ([`figure`]).
    pub(crate) figure: f64,
    /// What travelled after it.
    pub(crate) theta: Vec<f32>,
}

impl Chosen {
    /// The slot of checkpoints that holds it.
    pub(crate) const SLOT: &'static str = "best";

    /// The better of what there is and this.
    pub(crate) fn better(
        so_far: Option<Self>,
        round: Round,
        figure: Option<f64>,
        theta: &[f32],
    ) -> Option<Self> {
        let Some(figure) = figure.filter(|f| f.is_finite()) else { return so_far };
        match so_far {
            Some(old) if old.figure <= figure => Some(old),
            _ => Some(Self { round, figure, theta: theta.to_vec() }),
        }
    }

    /// The same for the summary, of a run that was to end with its best round; `rounds_done` where it has found none.
    pub(crate) fn report(best: Option<&Self>, file: &RunFile, rounds_done: u32) -> ChosenRound {
        let round = best.map_or(u64::from(rounds_done), |b| u64::from(b.round.0) + 1);
        match best.map(|b| b.figure) {
            Some(wrong) if by_accuracy(file) => ChosenRound { round, loss: None, accuracy: Some(-wrong) },
            loss => ChosenRound { round, loss, accuracy: None },
        }
    }

    /// Round, figure, vector: little-endian, without padding.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.round.0.to_le_bytes().to_vec();
        out.extend(self.figure.to_le_bytes());
        out.extend(self.theta.iter().flat_map(|v| v.to_le_bytes()));
        out
    }

    /// `None` for anything that [`Chosen::encode`] did not write for a vector of `dim` scalars.
    pub(crate) fn decode(bytes: &[u8], dim: usize) -> Option<Self> {
        let (round, rest) = bytes.split_first_chunk::<4>()?;
        let (figure, rest) = rest.split_first_chunk::<8>()?;
        let figure = f64::from_le_bytes(*figure);
        let (reals, odd) = rest.as_chunks::<4>();
        let whole = odd.is_empty() && reals.len() == dim && figure.is_finite();
        let theta = reals.iter().map(|b| f32::from_le_bytes(*b)).collect();
        whole.then_some(Self { round: Round(u32::from_le_bytes(*round)), figure, theta })
    }

    /// That of a checkpoint's slots, where it keeps one.
    ///
    /// # Errors
    /// A slot that is damaged.
    pub(crate) fn of(slots: &[(String, Vec<u8>)], dim: usize) -> Result<Option<Self>, &'static str> {
        let Some((_, bytes)) = slots.iter().find(|(name, _)| name == Self::SLOT) else { return Ok(None) };
        Self::decode(bytes, dim).map(Some).ok_or("the best round of the checkpoint is damaged")
    }
}

/// What models are chosen by, the less the better: loss, or accuracy with a minus. `None` where it was not measured.
pub(crate) fn figure(file: &RunFile, on: &Metrics) -> Option<f64> {
    if by_accuracy(file) { on.accuracy.map(|a| -a) } else { on.loss }
}

/// Whether evaluation knows right and wrong answers alone. In this process it has losses whatever the search is granted.
fn by_accuracy(file: &RunFile) -> bool {
    file.oracle.endpoint.is_some() && file.oracle.most() == Access::Text
}

/// Refuses a choice where nothing is there to choose by; `validates` says whether something is.
pub(crate) fn check(file: &RunFile, validates: bool) -> Result<(), Failure> {
    if file.eval.select == Select::Last || validates {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Settings,
        "eval.select = \"best\": there are no validation data to choose by; set data.split.validation = 0.1 or \
         data.validation_path",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a run in this process, and of one that is given `oracle` in its `[oracle]`.
    fn file(oracle: &str) -> RunFile {
        let text = format!(
            "[model]\nbase_model = \"m\"\n[data]\npath = \"d\"\npartition = {{ id = \"iid\", clients = 2 }}\n[method]\nid = \"prompt\"\n\
             [search]\nid = \"bdpl\"\n[federation]\nnum_rounds = 6\n[oracle]\n{oracle}"
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn the_least_loss_is_kept_and_the_first_of_equals() {
        let losses = [None, Some(0.7), Some(0.5), Some(f64::NAN), Some(0.5), Some(f64::NEG_INFINITY)];
        let mut best = None;
        for (round, loss) in losses.into_iter().enumerate() {
            let on = Metrics { loss, accuracy: Some(0.1 * round as f64), ..Metrics::default() };
            best = Chosen::better(best, Round(round as u32), figure(&file(""), &on), &[round as f32]);
        }
        assert_eq!(best, Some(Chosen { round: Round(2), figure: 0.5, theta: vec![2.0] }));
        let report = Chosen::report(best.as_ref(), &file(""), 6);
        assert_eq!(report, ChosenRound { round: 3, loss: Some(0.5), accuracy: None });
        let none = Chosen::better(None, Round(5), Some(f64::INFINITY), &[1.0]);
        let report = Chosen::report(none.as_ref(), &file(""), 6);
        assert_eq!(report, ChosenRound { round: 6, loss: None, accuracy: None });
    }

    #[test]
    fn texts_are_chosen_by_how_many_are_right() {
        let text = file("endpoint = \"http://localhost\"\naccess = \"text\"");
        let mut best = None;
        for (round, accuracy) in [Some(0.5), Some(0.7), None, Some(0.7), Some(0.6)].into_iter().enumerate() {
            let on = Metrics { loss: None, accuracy, ..Metrics::default() };
            best = Chosen::better(best, Round(round as u32), figure(&text, &on), &[0.0]);
        }
        let report = Chosen::report(best.as_ref(), &text, 5);
        assert_eq!(report, ChosenRound { round: 2, loss: None, accuracy: Some(0.7) });
    }

    #[test]
    fn it_survives_its_bytes() {
        let chosen = Chosen { round: Round(4), figure: 0.25, theta: vec![1.0, -2.5] };
        let bytes = chosen.encode();
        assert_eq!(Chosen::decode(&bytes, 2), Some(chosen.clone()));
        assert_eq!(Chosen::decode(&bytes, 3), None);
        assert_eq!(Chosen::decode(&bytes[..bytes.len() - 1], 2), None);
        let slots = [(Chosen::SLOT.to_owned(), bytes)];
        assert_eq!(Chosen::of(&slots, 2), Ok(Some(chosen)));
        assert_eq!(Chosen::of(&[], 2), Ok(None));
        assert!(Chosen::of(&slots, 1).is_err());
    }
}
