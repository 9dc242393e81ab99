//! Tables of a study: text in cells, the first column names the row.

use super::curve::{Curve, Pays, Threshold, thresholds};
use super::line::lines;
use super::{Measure, Spread, Study, Variant, own};
use crate::format::{bytes, count, seconds};

/// Rows of equal length under a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns; the first is empty.
    pub head: Vec<String>,
    /// Rows.
    pub rows: Vec<Row>,
    /// What the numbers were computed on.
    pub note: String,
}

/// A row of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Whether it is a variant, and not a line to compare with.
    pub variant: bool,
    /// Behind the name; what was not measured is absent.
    pub cells: Vec<Option<String>>,
}

/// Results and costs of every variant, after the lines they are compared with.
#[must_use]
pub fn results(study: &Study) -> Table {
    let measures = study.measures();
    let mut head: Vec<String> = std::iter::once(String::new())
        .chain(measures.iter().map(|m| m.name.to_owned()))
        .chain(["sent", "forwards", "queries", "time", "memory", "seeds"].map(str::to_owned))
        .collect();
    let own = own::names(study);
    let mut rows: Vec<Row> = lines(study, |m| &m.lines)
        .iter()
        .filter(|line| !own.iter().any(|n| *n == line.key))
        .map(|line| {
            let value = |m: &Measure| {
                let all: Option<Vec<f64>> = line.values.values().map(|n| n.get(m.name).copied()).collect();
                Spread::of(&all?).map(|s| spread(s, m.text))
            };
            let mut cells: Vec<Option<String>> = measures.iter().map(value).collect();
            cells.extend([const { None }; 5]);
            cells.push(Some(line.values.len().to_string()));
            Row { name: line.name.clone(), variant: false, cells }
        })
        .collect();
    rows.extend(study.variants.iter().map(|v| of_variant(v, &measures)));
    // a column that nobody measured says nothing
    for column in (0..head.len() - 1).rev() {
        if rows.iter().all(|r| r.cells[column].is_none()) {
            head.remove(column + 1);
            rows.iter_mut().for_each(|r| drop(r.cells.remove(column)));
        }
    }
    Table { head, rows, note: note(study) }
}

fn of_variant(v: &Variant, measures: &[Measure]) -> Row {
    let quality = |m: &Measure| Some(spread(v.spread(|c| super::number(m, c.test.as_ref()?))?, m.text));
    let mean = |of: &dyn Fn(&super::Measured) -> Option<f64>, text: fn(f64) -> String| {
        v.spread(of).map(|s| text(s.mean))
    };
    let whole = |x: f64| count(x.round() as u64);
    let mut cells: Vec<Option<String>> = measures.iter().map(quality).collect();
    cells.extend([
        mean(&|c| Some((c.bytes_up + c.bytes_down) as f64), bytes),
        mean(&|c| c.forwards.map(|n| n as f64), whole),
        mean(&|c| c.queries.map(|n| n as f64), whole),
        mean(&|c| Some(c.wall_seconds), seconds),
        mean(&|c| c.peak_rss_bytes.map(|n| n as f64), bytes),
        Some(format!("{} of {}", v.finished().count(), v.cells.len())),
    ]);
    Row { name: v.name.clone(), variant: true, cells }
}

/// What the tables of results stand on.
fn note(study: &Study) -> String {
    let n = study.seeds.len();
    let over = match n {
        1 => "One seed: there is no spread".to_owned(),
        n => format!("Mean ± standard deviation over at most {n} seeds"),
    };
    let examples: Vec<u64> = study.finished().filter_map(|c| c.test.as_ref().map(|t| t.examples)).collect();
    let on = match (examples.iter().min(), examples.iter().max()) {
        (Some(a), Some(b)) if a == b => format!(": {} examples", count(*a)),
        (Some(a), Some(b)) => format!(": {} to {} examples", count(*a), count(*b)),
        _ => String::new(),
    };
    format!(
        "{over}, on the test data of all clients together{on}. Every variant of a seed on the same data has the same \
         division and the same held-out rows. Costs are means; sent is up and down."
    )
}

/// The measure `m` on validation data at the study's numbers of forwards; `None` where nothing is to be read.
#[must_use]
pub fn budgets(study: &Study, m: &Measure) -> Option<Table> {
    let curves = Curve::all(study);
    let head = study.forwards.iter().map(|n| count(*n));
    let rows: Vec<Row> = curves
        .iter()
        .map(|c| Row {
            name: c.name.clone(),
            variant: !c.line,
            cells: study.forwards.iter().map(|n| Some(spread(c.at(*n, m)?, m.text))).collect(),
        })
        .filter(|r| r.cells.iter().any(Option::is_some))
        .collect();
    let note = format!(
        "{} on validation data of all clients together, after so many example forwards, read off one run a seed: the last \
         evaluation until then.",
        m.name
    );
    let head = std::iter::once(String::new()).chain(head).collect();
    (!rows.is_empty() && !study.forwards.is_empty()).then_some(Table { head, rows, note })
}

/// From where on each variant pays; `None` where no run measured a line on its way.
#[must_use]
pub fn pays(study: &Study) -> Option<Table> {
    let measures = study.measures();
    let mut head = vec![String::new()];
    let mut rows: Vec<Row> = Vec::new();
    for m in &measures {
        head.extend(["base", "random search"].map(|line| format!("{}: beats {line}", m.name)));
        for (i, (v, Threshold { base, random })) in thresholds(study, m).into_iter().enumerate() {
            if rows.len() == i {
                rows.push(Row { name: v.name.clone(), variant: true, cells: Vec::new() });
            }
            let text = |pays| match pays {
                Pays::From(forwards) => count(forwards),
                Pays::Never => "never".to_owned(),
            };
            rows[i].cells.extend([base.map(text), random.map(text)]);
        }
    }
    let note = "Example forwards from which on every evaluation of every seed was better, on validation data. Random search \
                stands beside searches only."
        .to_owned();
    let any = rows.iter().any(|r| r.cells.iter().any(Option::is_some));
    any.then_some(Table { head, rows, note })
}

/// `93.0 % ± 1.3 %`, or the value alone.
pub(super) fn spread(s: Spread, text: fn(f64) -> String) -> String {
    match s.deviation {
        Some(d) => format!("{} ± {}", text(s.mean), text(d)),
        None => text(s.mean),
    }
}
