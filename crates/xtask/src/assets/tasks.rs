//! The instruction set of the quickstart: eight tasks over the small world, one row an instruction with a
//! one-word answer, in Alpaca's layout with the task's name as a field.

use std::collections::BTreeSet;

use antiphon_core::{Purpose, Stream};
use serde_json::{Value, json};

use super::corpus::{capital, pick, thing, two_numbers};
use super::lexicon::{BAD, COLOURS, GOOD, KINDS, NUMBERS, OPPOSITES, PEOPLE, PLACES, SUBJECTS, article};

/// The tasks, in order of their numbers.
pub(super) const TASKS: [&str; 8] =
    ["kind", "tone", "colour", "person", "place", "opposite", "compare", "member"];

/// A row of `task`.
pub(super) fn row(task: &str, s: &mut Stream) -> Value {
    let (instruction, input, output) = parts(task, s);
    // the answer's space is its own: " tool" is one token, and the prompt ends before it
    json!({ "instruction": instruction, "input": input, "output": format!(" {output}"), "task": task })
}

/// Instruction, input and answer of a row of `task`.
fn parts(task: &str, s: &mut Stream) -> (&'static str, String, &'static str) {
    let (kind, item) = thing(s);
    let (person, place, colour) = (pick(s, PEOPLE), pick(s, PLACES), pick(s, COLOURS));
    let others: Vec<&str> = PEOPLE.iter().copied().filter(|p| *p != person).collect();
    let (other_person, other_item) = (pick(s, &others), thing(s).1);
    let subject = pick(s, SUBJECTS);
    match task {
        "kind" => ("Name the kind.", format!("{person} holds {} {item}.", article(item)), kind),
        "tone" => {
            let good = s.below(2) == 0;
            let words = if good { GOOD } else { BAD };
            let (a, b) = (pick(s, words), pick(s, words));
            let text = match s.below(3) {
                0 => format!("{} {a} {subject}, and {b} too.", capital(article(a))),
                1 => format!("{person} found the {subject} {a} and {b}."),
                _ => format!("{} {subject}! {} people.", capital(a), capital(b)),
            };
            ("Judge the mood.", text, if good { "good" } else { "bad" })
        }
        "colour" => {
            let other = pick(s, COLOURS);
            let text =
                format!("{person} put the {colour} {item} beside {other_person}, near a {other} wall.");
            ("Give the colour of the thing that was moved.", text, colour)
        }
        "person" => {
            let text = format!(
                "{other_person} waited while {person} brought {} {item} to the {place}.",
                article(item)
            );
            ("Name who carried something.", text, person)
        }
        "place" => {
            let from = pick(s, PLACES);
            let text =
                format!("{person} left the {from} with {} {item} and walked to the {place}.", article(item));
            ("Name where the walk ended.", text, place)
        }
        "opposite" => {
            let (one, other) = OPPOSITES[s.below(OPPOSITES.len() as u64) as usize];
            let (one, other) = if s.below(2) == 0 { (one, other) } else { (other, one) };
            ("Say the reverse of the last word.", format!("{person} found the {item} {one}"), other)
        }
        "compare" => {
            let (i, j) = two_numbers(s);
            let text = format!("{person} has {} and {other_person} has {}.", NUMBERS[i], NUMBERS[j]);
            ("Say if the first count is more or less.", text, if i > j { "more" } else { "less" })
        }
        _ => {
            let yes = s.below(2) == 0;
            let asked = if yes { kind } else { KINDS[s.below(KINDS.len() as u64) as usize].0 };
            let text = format!(
                "{} next to {} {other_item}: is the first {} {asked}?",
                capital(item),
                article(other_item),
                article(asked)
            );
            ("Answer yes or no.", text, if asked == kind { "yes" } else { "no" })
        }
    }
}

/// A row as the quickstart's template makes it: prompt and answer in one text.
pub(super) fn text(row: &Value) -> String {
    let part = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    format!("{} {} Answer:{}", part("instruction"), part("input"), part("output"))
}

/// The texts of [`rows`].
pub(super) fn texts(seed: u64, per_task: usize) -> BTreeSet<String> {
    rows(seed, per_task).iter().map(text).collect()
}

/// `per_task` rows of every task, interleaved, without repetition.
pub(super) fn rows(seed: u64, per_task: usize) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for index in 0..per_task {
        for (t, task) in TASKS.iter().enumerate() {
            // a fresh substream for every attempt keeps row `index` independent of the rows before it
            for attempt in 0.. {
                let stream = Stream::new(seed, Purpose::Synthesis);
                let mut s = stream.substream(1 << 40 | (t as u64) << 32 | attempt << 20 | index as u64);
                let row = row(task, &mut s);
                if seen.insert(text(&row)) {
                    out.push(row);
                    break;
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{ROWS_PER_TASK, SEED, lexicon::label_words};
    use super::*;

    #[test]
    fn every_task_has_its_rows_once_and_answers_with_a_label_word() {
        let rows = rows(SEED, ROWS_PER_TASK);
        let words = label_words();
        let mut seen = BTreeSet::new();
        let mut answers = BTreeMap::<String, BTreeMap<String, usize>>::new();
        for row in &rows {
            let part = |key: &str| row[key].as_str().unwrap().to_owned();
            assert!(seen.insert(text(row)), "{row} comes twice");
            let answer = part("output");
            assert!(answer.strip_prefix(' ').is_some_and(|a| words.contains(&a)), "{row}");
            *answers.entry(part("task")).or_default().entry(answer).or_default() += 1;
        }
        assert_eq!(answers.len(), TASKS.len());
        for (task, answers) in answers {
            assert_eq!(answers.values().sum::<usize>(), ROWS_PER_TASK, "{task}");
            // an answer that is always right would make the task none
            let most = answers.values().max().copied().unwrap_or_default();
            assert!(most * 10 <= ROWS_PER_TASK * 6, "{task}: {answers:?}");
        }
    }
}
