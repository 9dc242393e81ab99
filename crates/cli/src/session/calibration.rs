//! Label scores calibrated by each client, where the run file asks for it (`eval.calibrate`).
//!
//! Each client fits a scale and a bias for each label ([`Calibration`]) on its validation questions as the prompt that was found
//! answers them, and applies them to its test questions. Both are asked in any case, so nothing more is. What comes out stands
//! beside the same scores without them, renormalised over the labels as well: losses over labels are not those over all words.
//!
//! Deliberately missing: calibration of shared held-out data, which belong to no client.

use std::collections::BTreeMap;

use antiphon_core::ClientId;
use antiphon_oracle::LabelScore;
use antiphon_oracle::calibrate::{Calibration, Scored};
use antiphon_oracle::task::{Question, likeliest};
use antiphon_report::{Calibrated, Evaluation, Fitted, Metrics, Split};

use super::Person;
use crate::args::Part;
use crate::error::{Failure, Kind};
use crate::runfile::RunFile;

/// What an oracle said of each client's questions of one part.
pub(crate) type Heard = BTreeMap<ClientId, Vec<Said>>;

/// Scores of one question.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    scored: Scored,
    /// A label was not named: its score is only a bound.
    censored: bool,
}

impl Said {
    pub(crate) fn of(question: &Question, scores: &[LabelScore]) -> Self {
        Self {
            scored: (scores.iter().map(|s| s.logprob).collect(), question.answer),
            censored: scores.iter().any(|s| s.censored),
        }
    }
}

/// Refuses a calibration of what has no labels, or no questions to fit it on.
pub(crate) fn check(file: &RunFile, words: Option<&[u32]>, people: &[Person]) -> Result<(), Failure> {
    let Some(penalty) = file.eval.calibrate else { return Ok(()) };
    let refuse = |expected: &str| {
        Err(Failure::new(Kind::Settings, format_args!("eval.calibrate = {penalty}: expected {expected}")))
    };
    if words.is_none_or(|w| w.len() < 2) {
        return refuse("answers that are labels: give the data a `verbalizer`");
    }
    if people.iter().all(|p| p.part(Part::Validation).sequences.is_empty()) {
        return refuse("validation questions of clients to fit on: set `data.split.validation`");
    }
    Ok(())
}

/// Fits on `validation`, applies to `test`. `None` without test questions.
pub(crate) fn calibrated(penalty: f64, validation: &Heard, test: &Heard) -> Option<Calibrated> {
    let labels = test.values().flatten().map(|s| s.scored.0.len()).max()?;
    let fits: BTreeMap<ClientId, Fitted> = test
        .keys()
        .map(|id| {
            let known = validation.get(id).into_iter().flatten().filter(|s| !s.censored);
            let examples: Vec<Scored> = known.map(|s| s.scored.clone()).collect();
            let Calibration { scale, bias } = Calibration::fit(&examples, labels, penalty);
            (*id, Fitted { scale, bias, examples: examples.len() as u64 })
        })
        .collect();
    let plain = Calibration::none(labels);
    let own = |id: &ClientId| match fits.get(id) {
        Some(f) => Calibration { scale: f.scale, bias: f.bias.clone() },
        None => plain.clone(),
    };
    Some(Calibrated {
        penalty,
        plain: evaluation(test, |_| plain.clone()),
        calibrated: evaluation(test, own),
        clients: fits,
    })
}

fn evaluation(test: &Heard, by: impl Fn(&ClientId) -> Calibration) -> Evaluation {
    let sums: BTreeMap<ClientId, Sums> = test
        .iter()
        .map(|(id, said)| {
            let calibration = by(id);
            (*id, said.iter().fold(Sums::default(), |sums, s| sums.and(Sums::of(&calibration, s))))
        })
        .collect();
    Evaluation {
        split: Split::Test,
        global: sums.values().fold(Sums::default(), |a, b| a.and(*b)).metrics(),
        per_client: sums.into_iter().map(|(id, s)| (id, s.metrics())).collect(),
    }
}

/// Sums over questions.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    nll: f64,
    right: u64,
    questions: u64,
    censored: u64,
}

impl Sums {
    fn of(calibration: &Calibration, said: &Said) -> Self {
        let (logs, answer) = &said.scored;
        let logs = calibration.apply(logs);
        let best = likeliest(&logs);
        Self {
            nll: -logs.get(*answer).copied().unwrap_or(f64::NAN),
            right: u64::from(best == *answer),
            questions: 1,
            censored: u64::from(said.censored),
        }
    }

    fn and(self, o: Self) -> Self {
        Self {
            nll: self.nll + o.nll,
            right: self.right + o.right,
            questions: self.questions + o.questions,
            censored: self.censored + o.censored,
        }
    }

    fn metrics(self) -> Metrics {
        let n = self.questions as f64;
        let some = self.questions > 0;
        Metrics {
            // a bound is no loss
            loss: Some(self.nll / n).filter(|l| some && self.censored == 0 && l.is_finite()),
            accuracy: some.then(|| self.right as f64 / n),
            examples: self.questions,
            tokens: self.questions,
            ..Metrics::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(logs: [f64; 2], answer: usize) -> Said {
        Said { scored: (logs.to_vec(), answer), censored: false }
    }

    /// One client's model always leans to the first label by 2 nats; the other's does not.
    #[test]
    fn a_client_that_the_model_leans_against_is_righted_and_the_other_left_alone() {
        let lean = |by: f64| {
            let mut all = Vec::new();
            for i in 0..40_u32 {
                let (answer, sure) = ((i % 2) as usize, 0.5 + f64::from(i % 5));
                let toward = if answer == 0 { sure } else { -sure };
                all.push(said([toward + by, 0.0], answer));
            }
            all
        };
        let heard: Heard = [(ClientId(0), lean(2.0)), (ClientId(1), lean(0.0))].into();
        let c = calibrated(1e-3, &heard, &heard).unwrap();
        let loss = |e: &Evaluation, k: u64| e.per_client[&ClientId(k)].loss.unwrap();
        assert!(loss(&c.calibrated, 0) < 0.5 * loss(&c.plain, 0), "{c:?}");
        let bias = |k: u64| c.clients[&ClientId(k)].bias[1] - c.clients[&ClientId(k)].bias[0];
        assert!(bias(0) > 1.0 && bias(1).abs() < 0.3, "{c:?}");
        let accuracy = |e: &Evaluation, k: u64| e.per_client[&ClientId(k)].accuracy.unwrap();
        assert!(accuracy(&c.plain, 0) < 0.9 && accuracy(&c.calibrated, 0) == 1.0, "{c:?}");
        assert_eq!(c.calibrated.global.examples, 80);
    }

    #[test]
    fn who_has_nothing_to_fit_on_keeps_the_scores_as_they_are_and_a_bound_is_no_loss() {
        let one: Heard = [(ClientId(0), vec![said([-0.1, -2.0], 1)])].into();
        let bare = calibrated(0.1, &Heard::new(), &one).unwrap();
        assert_eq!(bare.plain, bare.calibrated);
        assert_eq!(bare.clients[&ClientId(0)].examples, 0);
        let bound: Heard = [(ClientId(0), vec![Said { censored: true, ..said([-0.1, -2.0], 0) }])].into();
        let c = calibrated(0.1, &bound, &bound).unwrap();
        assert_eq!(c.clients[&ClientId(0)].examples, 0);
        assert_eq!((c.calibrated.global.loss, c.calibrated.global.accuracy), (None, Some(1.0)));
        assert!(calibrated(0.1, &Heard::new(), &Heard::new()).is_none());
    }
}
