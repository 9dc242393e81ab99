//! Plain text and TREC lines.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{FormatError, Problem};
use super::table::{Place, Table};

/// How plain text becomes documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Splitter {
    /// Blocks `NAME:` and speech, separated by blank lines (a play). The name becomes the field; the text of an
    /// example is the block as it stands, its `NAME:` line included. A block without a name goes on with the last one.
    Speaker,
    /// Blocks separated by blank lines.
    Paragraph,
    /// One document a line.
    Line,
    /// One document a file.
    Whole,
    /// Documents separated by this marker, such as `<|endoftext|>`.
    Marker(String),
}

impl Splitter {
    /// Names for messages.
    pub const KNOWN: [&'static str; 5] = ["speaker", "paragraph", "line", "whole", "{ marker = \"…\" }"];

    /// As the run file spells it.
    #[must_use]
    pub fn id(&self) -> &'static str {
        match self {
            Self::Speaker => "speaker",
            Self::Paragraph => "paragraph",
            Self::Line => "line",
            Self::Whole => "whole",
            Self::Marker(_) => "marker",
        }
    }
}

/// Cuts `text` into documents: column `text`, and `speaker` where the splitter finds one.
pub fn read(file: &Path, text: &str, splitter: &Splitter) -> Result<Table, FormatError> {
    let one = |docs: Vec<(u64, String)>| {
        let rows = docs.into_iter().map(|(line, doc)| (Place::Line(line), vec![Value::String(doc)]));
        Table::of_cells(file, vec!["text".to_owned()], rows)
    };
    Ok(match splitter {
        Splitter::Speaker => return speakers(file, text),
        Splitter::Paragraph => one(blocks(text)),
        Splitter::Line => one(text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.trim().is_empty())
            .map(|(i, l)| (i as u64 + 1, l.to_owned()))
            .collect()),
        Splitter::Whole => one(vec![(1, text.to_owned())]),
        Splitter::Marker(marker) => {
            let mut line = 1;
            let mut docs = Vec::new();
            for doc in text.split(marker.as_str()) {
                if !doc.trim().is_empty() {
                    docs.push((line, doc.trim_matches(['\n', '\r']).to_owned()));
                }
                line += doc.matches('\n').count() as u64;
            }
            one(docs)
        }
    })
}

/// Runs of lines between blank lines, with the number of their first line.
fn blocks(text: &str) -> Vec<(u64, String)> {
    let mut blocks: Vec<(u64, String)> = Vec::new();
    let mut open = false;
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            open = false;
            continue;
        }
        match blocks.last_mut() {
            Some((_, block)) if open => {
                block.push('\n');
                block.push_str(line);
            }
            _ => blocks.push((i as u64 + 1, line.to_owned())),
        }
        open = true;
    }
    blocks
}

fn speakers(file: &Path, text: &str) -> Result<Table, FormatError> {
    let mut rows: Vec<(Place, String, String)> = Vec::new();
    for (line, block) in blocks(text) {
        let name = block.lines().next().and_then(|l| l.trim_end().strip_suffix(':'));
        match name.filter(|n| !n.contains(':') && n.len() <= 60) {
            Some(name) => {
                let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
                rows.push((Place::Line(line), name, block + "\n"));
            }
            None => match rows.last_mut() {
                Some((_, _, speech)) => {
                    speech.push('\n');
                    speech.push_str(&block);
                    speech.push('\n');
                }
                None => return Err(FormatError::new(file, Problem::NoSpeaker)),
            },
        }
    }
    let cells = |(place, name, speech): (Place, String, String)| (place, vec![name.into(), speech.into()]);
    Ok(Table::of_cells(file, vec!["speaker".to_owned(), "text".to_owned()], rows.into_iter().map(cells)))
}

/// Lines `LABEL text` or `COARSE:fine text`: columns `label` (the coarse one), `fine` (empty without a colon), `text`.
pub fn read_trec(file: &Path, text: &str) -> Result<Table, FormatError> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let place = Place::Line(i as u64 + 1);
        let Some((tag, question)) = line.split_once(' ') else {
            return Err(FormatError::at(
                file,
                place,
                Problem::WrongCell {
                    column: "label".to_owned(),
                    expected: "a label, a space and a text",
                    found: format!("`{line}`"),
                },
            ));
        };
        let (label, fine) = tag.split_once(':').unwrap_or((tag, ""));
        rows.push((place, vec![label.into(), fine.into(), question.trim_end().into()]));
    }
    let columns = ["label", "fine", "text"].map(str::to_owned).to_vec();
    Ok(Table::of_cells(file, columns, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str, splitter: &Splitter) -> Vec<String> {
        let t = read(Path::new("a.txt"), text, splitter).unwrap();
        t.rows.iter().map(|r| r.cells["text"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn plain_text_is_cut_as_asked() {
        let text = "a\nb\n\n\nc\n";
        assert_eq!(texts(text, &Splitter::Paragraph), ["a\nb", "c"]);
        assert_eq!(texts(text, &Splitter::Line), ["a", "b", "c"]);
        assert_eq!(texts(text, &Splitter::Whole), [text]);
        let marker = Splitter::Marker("<|x|>".into());
        assert_eq!(texts("one\n<|x|>\ntwo\n\nmore<|x|>\n", &marker), ["one", "two\n\nmore"]);
    }

    #[test]
    fn a_play_is_cut_by_speaker() {
        let play = "First  Citizen:\nSpeak.\n\n\nALL:\nSpeak, speak.\nAgain: speak.\n\nno name here\n";
        let t = read(Path::new("a.txt"), play, &Splitter::Speaker).unwrap();
        let row = |i: usize| {
            (t.rows[i].cells["speaker"].as_str().unwrap(), t.rows[i].cells["text"].as_str().unwrap())
        };
        assert_eq!(t.rows.len(), 2);
        assert_eq!(row(0), ("First Citizen", "First  Citizen:\nSpeak.\n"));
        assert_eq!(row(1), ("ALL", "ALL:\nSpeak, speak.\nAgain: speak.\n\nno name here\n"));
        assert_eq!(t.rows[1].place, Place::Line(5));
        let e = read(Path::new("a.txt"), "no names\n", &Splitter::Speaker).unwrap_err().to_string();
        assert!(e.contains("paragraph, line, whole"), "{e}");
    }

    #[test]
    fn trec_lines() {
        let t = read_trec(Path::new("t.all"), "DESC:def What is an atom ?\n4 Where ?\n").unwrap();
        assert_eq!(t.rows[0].cells["label"], "DESC");
        assert_eq!(t.rows[0].cells["fine"], "def");
        assert_eq!(t.rows[1].cells["text"], "Where ?");
        assert!(read_trec(Path::new("t.all"), "alone\n").unwrap_err().to_string().contains("line 1"));
    }
}
