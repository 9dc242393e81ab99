//! Held-out data through the endpoint, out of the run's budget.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use antiphon_core::ClientId;
use antiphon_oracle::search::PromptOf;
use antiphon_oracle::task::Question;
use antiphon_oracle::{Access, Grant, LabelScore, Missing, OracleError, ScoreQuery, TextQuery};
use antiphon_report::{Evaluation, Metrics};

use super::Remote;
use crate::args::Part;
use crate::error::{Failure, Kind, oracle};
use crate::runfile::Select;
use crate::session::{Heard, Person, Said, split};

/// Questions for which budget is set aside at a time: what is set aside covers every retry, and is mostly given back.
pub(super) const TOGETHER: usize = 64;

/// Sums over questions.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    nll: f64,
    tokens: u64,
    right: u64,
    questions: u64,
    /// Without an answer.
    gaps: u64,
    /// Whose answer the endpoint did not name: their loss is only bounded.
    censored: u64,
    /// With labels to choose from.
    choices: u64,
    /// Answered in words, which have no loss.
    unscored: u64,
}

impl Sums {
    fn add(&mut self, question: &Question, scores: Option<&[LabelScore]>) {
        self.questions += 1;
        let Some((scores, own)) = scores.and_then(|s| Some((s, s.get(question.answer)?))) else {
            self.gaps += 1;
            return;
        };
        self.nll -= own.logprob;
        self.tokens += u64::from(own.tokens);
        self.censored += u64::from(own.censored);
        if scores.len() > 1 {
            self.choices += 1;
            let better = |(i, s): (usize, &LabelScore)| {
                i != question.answer
                    && (s.logprob > own.logprob || (s.logprob == own.logprob && i < question.answer))
            };
            self.right += u64::from(!scores.iter().enumerate().any(better));
        }
    }

    /// A text has no probability: accuracy alone.
    fn add_text(&mut self, question: &Question, text: Option<&str>) {
        self.questions += 1;
        self.unscored += 1;
        match text.and_then(|t| question.is_answered_by(t)) {
            Some(right) => {
                self.choices += 1;
                self.right += u64::from(right);
            }
            None => self.gaps += 1,
        }
    }

    fn merge(self, o: Self) -> Self {
        Self {
            nll: self.nll + o.nll,
            tokens: self.tokens + o.tokens,
            right: self.right + o.right,
            questions: self.questions + o.questions,
            gaps: self.gaps + o.gaps,
            censored: self.censored + o.censored,
            choices: self.choices + o.choices,
            unscored: self.unscored + o.unscored,
        }
    }

    /// What was not measured on every question is absent.
    fn metrics(&self, bytes: Option<u64>) -> Metrics {
        let whole = self.gaps == 0 && self.questions > 0;
        let scored = self.censored == 0 && self.unscored == 0;
        let loss = (whole && scored && self.tokens > 0).then(|| self.nll / self.tokens as f64);
        let bytes = bytes.filter(|b| *b > 0);
        Metrics {
            loss,
            perplexity: loss.map(f64::exp),
            bits_per_byte: loss.and(bytes).map(|b| self.nll / (std::f64::consts::LN_2 * b as f64)),
            accuracy: (whole && self.choices == self.questions)
                .then(|| self.right as f64 / self.questions as f64),
            examples: self.questions - self.gaps,
            tokens: self.tokens,
        }
    }
}

impl Remote {
    /// `prompt` on `part` of every client and on their union. Numbers of which an answer is missing are absent.
    pub(super) fn evaluate_prompt(&self, prompt: &PromptOf, part: Part) -> Result<Evaluation, Failure> {
        let all = self.draft.questions(part);
        let flat: Vec<(ClientId, &Question)> =
            all.iter().flat_map(|(id, questions)| questions.iter().map(|q| (*id, q))).collect();
        let mut sums: BTreeMap<ClientId, Sums> = BTreeMap::new();
        let mut heard = Heard::new();
        for chunk in flat.chunks(TOGETHER) {
            let questions: Vec<&Question> = chunk.iter().map(|(_, q)| *q).collect();
            let grant = self.grant()?;
            if grant.access() == Access::Text {
                let texts = self.texts(&grant, prompt, &questions)?;
                for ((id, question), text) in chunk.iter().zip(&texts) {
                    sums.entry(*id).or_default().add_text(question, text.as_deref().ok());
                }
                continue;
            }
            let scores = self.scores(&grant, prompt, &questions)?;
            for ((id, question), scores) in chunk.iter().zip(&scores) {
                let scores = scores.as_deref().ok();
                sums.entry(*id).or_default().add(question, scores);
                heard.entry(*id).or_default().extend(scores.map(|s| Said::of(question, s)));
            }
        }
        if self.draft.file().eval.calibrate.is_some() {
            heard.remove(&self.draft.common.id);
            let mut kept = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            // what was chosen among rounds is calibrated on what its own round was told
            let again = part == Part::Validation && self.draft.file().eval.select == Select::Best;
            kept.retain(|(of, by, _)| *of != part || again && by != prompt);
            kept.push((part, prompt.clone(), heard));
        }
        let bytes = |p: &Person| {
            let held = p.part(part);
            held.bytes.filter(|_| all.get(&p.id).is_some_and(|q| q.len() == held.sequences.len()))
        };
        let draft = &self.draft;
        let everyone = || draft.people.iter().chain([&draft.common]);
        let with_data = |p: &&Person| sums.contains_key(&p.id);
        let total: Option<u64> = everyone().filter(with_data).map(bytes).sum();
        let union = sums.values().copied().reduce(Sums::merge);
        Ok(Evaluation {
            split: split(part),
            global: union.map(|s| s.metrics(total)).unwrap_or_default(),
            per_client: draft
                .people
                .iter()
                .filter_map(|p| Some((p.id, sums.get(&p.id)?.metrics(bytes(p)))))
                .collect(),
        })
    }

    /// As [`Self::evaluate_prompt`], for tables: a gap is an error.
    pub(super) fn test(&self, prompt: &PromptOf) -> Result<Evaluation, Failure> {
        let asked: usize = self.draft.questions(Part::Test).values().map(|q| q.len()).sum();
        let eval = self.evaluate_prompt(prompt, Part::Test)?;
        let missing = asked as u64 - eval.global.examples;
        if missing == 0 {
            return Ok(eval);
        }
        Err(Failure::new(Kind::Oracle, format_args!("{missing} of {asked} test questions have no answer")))
    }

    /// What was said of `part` under `prompt`. Asked again only by a run that was resumed after it was said; the cache answers it
    /// then.
    pub(super) fn heard(&self, prompt: &PromptOf, part: Part) -> Result<Heard, Failure> {
        let known = || {
            let kept = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter().find(|(of, by, _)| *of == part && by == prompt).map(|(.., heard)| heard.clone())
        };
        if let Some(heard) = known() {
            return Ok(heard);
        }
        self.evaluate_prompt(prompt, part)?;
        Ok(known().unwrap_or_default())
    }

    fn grant(&self) -> Result<Grant, Failure> {
        let unasked = || Failure::new(Kind::Internal, "questions before the run has a ledger");
        self.purse.get().cloned().ok_or_else(unasked)
    }

    fn texts(
        &self,
        grant: &Grant,
        prompt: &PromptOf,
        questions: &[&Question],
    ) -> Result<Vec<Result<String, Missing>>, Failure> {
        let PromptOf::Tokens(ids) = prompt else { return Err(beyond(grant)) };
        let batch: Vec<TextQuery> = questions.iter().map(|q| q.text_query(ids)).collect();
        grant.text().generate(&batch).map(|a| a.items).map_err(ended)
    }

    fn scores(
        &self,
        grant: &Grant,
        prompt: &PromptOf,
        questions: &[&Question],
    ) -> Result<Vec<Result<Vec<LabelScore>, Missing>>, Failure> {
        let answers = match prompt {
            PromptOf::Soft(soft) => {
                let batch: Vec<ScoreQuery> = questions.iter().map(|q| q.query(&[])).collect();
                grant.embeddings().ok_or_else(|| beyond(grant))?.score_soft(soft, &batch)
            }
            PromptOf::Tokens(ids) => {
                let batch: Vec<ScoreQuery> = questions.iter().map(|q| q.query(ids)).collect();
                grant.logprobs().ok_or_else(|| beyond(grant))?.score(&batch)
            }
        };
        answers.map(|a| a.items).map_err(ended)
    }
}

/// The failure of a run whose oracle does not go on.
pub(super) fn ended(e: OracleError) -> Failure {
    match e {
        OracleError::Interrupted => Failure::new(Kind::Interrupted, "stopped"),
        e => oracle(&e, Kind::Oracle),
    }
}

/// A search is refused before the first round where it needs more than was granted.
fn beyond(grant: &Grant) -> Failure {
    Failure::new(Kind::Internal, format_args!("a prompt that {} access cannot ask about", grant.access()))
}
