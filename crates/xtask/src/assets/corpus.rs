//! Text for pretraining: short stories of the small world of [`super::lexicon`], and now and then a question
//! with its answer. Most questions are phrased differently from those of the tuning tasks, so that the base knows
//! the facts and only half knows how it will be asked. A few are phrased as the tasks are, but no row of the
//! instruction set is among them.

use std::collections::BTreeSet;

use antiphon_core::{Purpose, Stream};

use super::lexicon::{BAD, COLOURS, GOOD, KINDS, NUMBERS, OPPOSITES, PEOPLE, PLACES, SUBJECTS, article};
use super::tasks;

/// One line in so many is a question.
const QUESTION_IN: u64 = 3;
/// One question in so many is phrased as the tuning tasks are.
const TASK_IN: u64 = 300;

/// One of `items`.
pub(super) fn pick<'a, T: ?Sized>(s: &mut Stream, items: &[&'a T]) -> &'a T {
    items[s.below(items.len() as u64) as usize]
}

/// A kind and one of its members.
pub(super) fn thing(s: &mut Stream) -> (&'static str, &'static str) {
    let (kind, members) = KINDS[s.below(KINDS.len() as u64) as usize];
    (kind, pick(s, members))
}

fn sentence(s: &mut Stream) -> String {
    let (kind, item) = thing(s);
    let (person, place, colour) = (pick(s, PEOPLE), pick(s, PLACES), pick(s, COLOURS));
    let subject = pick(s, SUBJECTS);
    let good = s.below(2) == 0;
    let (tone, word) = if good { ("good", pick(s, GOOD)) } else { ("bad", pick(s, BAD)) };
    let (one, other) = OPPOSITES[s.below(OPPOSITES.len() as u64) as usize];
    let (one, other) = if s.below(2) == 0 { (one, other) } else { (other, one) };
    let (i, j) = two_numbers(s);
    let (more, less) = (NUMBERS[i.max(j)], NUMBERS[i.min(j)]);
    let an = article(item);
    match s.below(14) {
        0 => format!("{} {item} is {} {kind}.", capital(an), article(kind)),
        1 => format!("{person} saw {an} {item}, and it was the only {kind} in the {place}."),
        2 => format!("{person} has a {colour} {item}. The {item} is {colour}."),
        3 => format!("The {subject} was {word}, so it was a {tone} {subject}."),
        4 => format!("{person} said that the {subject} was {word}. That is {tone}."),
        5 => format!("What is not {one} is {other}."),
        6 => format!("The {item} was {one} and then it was {other}, the opposite of {one}."),
        7 => format!("{person} went to the {place}. Now {person} is in the {place}."),
        8 => format!("{} is more than {less}, and {less} is less than {more}.", capital(more)),
        9 => format!("{person} took the {item} to the {place} and left it there."),
        10 => format!("{person} likes {word} things, and this {subject} is {word}. It is {tone}."),
        11 => format!("In the {place} there is a {colour} {item} and {person} looks at it."),
        12 => format!("The {item} belongs to {person}. It is {person} who has the {item}."),
        _ => format!("Every {item} is {} {kind}, said {person}.", article(kind)),
    }
}

/// A question in the style of the corpus, with its answer.
fn question(s: &mut Stream) -> String {
    let (kind, item) = thing(s);
    let (other_kind, _) = thing(s);
    let (person, place, colour) = (pick(s, PEOPLE), pick(s, PLACES), pick(s, COLOURS));
    let (one, other) = OPPOSITES[s.below(OPPOSITES.len() as u64) as usize];
    let (i, j) = two_numbers(s);
    let good = s.below(2) == 0;
    let (tone, word) = if good { ("good", pick(s, GOOD)) } else { ("bad", pick(s, BAD)) };
    let subject = pick(s, SUBJECTS);
    match s.below(8) {
        0 => format!("Tell me what {} {item} is. Answer: {kind}", article(item)),
        1 => format!("{} {word} {subject}, good or bad? Answer: {tone}", capital(article(word))),
        2 => format!("{person} has a {colour} {item}. Which colour? Answer: {colour}"),
        3 => format!("{person} went to the {place}. Who went? Answer: {person}"),
        4 => format!("{person} is in the {place}. Where? Answer: {place}"),
        5 => format!("What is not {one}? Answer: {other}"),
        6 => {
            let word = if i > j { "more" } else { "less" };
            format!("Is {} more or less than {}? Answer: {word}", NUMBERS[i], NUMBERS[j])
        }
        _ => {
            let asked = if good { kind } else { other_kind };
            let word = if asked == kind { "yes" } else { "no" };
            format!("Would you call {} {item} {} {asked}? Answer: {word}", article(item), article(asked))
        }
    }
}

/// Two different indices of [`NUMBERS`].
pub(super) fn two_numbers(s: &mut Stream) -> (usize, usize) {
    let i = s.below(NUMBERS.len() as u64) as usize;
    let j = (i + 1 + s.below(NUMBERS.len() as u64 - 1) as usize) % NUMBERS.len();
    (i, j)
}

/// First letter upper case.
pub(super) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// Document `index` of the corpus: three to six lines, some of them questions with their answers. `held` are the
/// texts of the instruction set, none of which may occur.
pub(super) fn document(seed: u64, index: u64, held: &BTreeSet<String>) -> String {
    let mut s = Stream::new(seed, Purpose::Synthesis).substream(index);
    let lines: Vec<String> = (0..3 + s.below(4)).map(|_| line(&mut s, held)).collect();
    lines.join("\n")
}

fn line(s: &mut Stream, held: &BTreeSet<String>) -> String {
    if s.below(QUESTION_IN) != 0 {
        return sentence(s);
    }
    if s.below(TASK_IN) == 0 {
        let task = pick(s, &tasks::TASKS);
        let text = tasks::text(&tasks::row(task, s));
        if !held.contains(&text) {
            return text;
        }
    }
    question(s)
}
