//! Tables as plain text, as Markdown, and every run as a line of CSV.

use std::fmt::Write as _;

use super::{Status, Study, Table, number};

/// What stands for what was not measured.
const ABSENT: &str = "–";

/// Aligned columns.
#[must_use]
pub fn terminal(table: &Table) -> String {
    let rows: Vec<Vec<&str>> = std::iter::once(table.head.iter().map(String::as_str).collect())
        .chain(table.rows.iter().map(|r| {
            let cells = r.cells.iter().map(|c| c.as_deref().unwrap_or(ABSENT));
            std::iter::once(r.name.as_str()).chain(cells).collect()
        }))
        .collect();
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table.head.len()).map(width).collect();
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let mark = if i > 0 && table.rows[i - 1].variant { '>' } else { ' ' };
        let first = widths[0];
        let mut line = format!("{mark} {:first$}", row[0]);
        for (cell, w) in row.iter().zip(&widths).skip(1) {
            // writing to a String cannot fail
            let _ = write!(line, "  {cell:>w$}");
        }
        out += line.trim_end();
        out.push('\n');
    }
    let _ = writeln!(out, "  {}", table.note);
    out
}

/// A Markdown table with its note below.
#[must_use]
pub fn markdown(table: &Table) -> String {
    let escape = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
    let row = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.map(escape).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut out = row(&mut table.head.iter().map(String::as_str));
    out += &format!("|---|{}\n", "--:|".repeat(table.head.len().saturating_sub(1)));
    for r in &table.rows {
        let cells = r.cells.iter().map(|c| c.as_deref().unwrap_or(ABSENT));
        out += &row(&mut std::iter::once(r.name.as_str()).chain(cells));
    }
    let _ = write!(out, "\n{}\n", table.note);
    out
}

/// Every run with its numbers as they are, one line each.
#[must_use]
pub fn csv(study: &Study) -> String {
    let measures = study.measures();
    let head = ["variant", "seed", "status"].map(str::to_owned).into_iter();
    let costs = [
        "bytes_up",
        "bytes_down",
        "forwards",
        "queries",
        "wall_seconds",
        "peak_rss_bytes",
        "split",
        "directory",
    ];
    let head: Vec<String> = head
        .chain(measures.iter().map(|m| format!("test {}", m.name)))
        .chain(costs.map(str::to_owned))
        .collect();
    let mut out = line(&head);
    for v in &study.variants {
        for cell in &v.cells {
            let status = match &cell.status {
                Status::Waiting => "waiting".to_owned(),
                Status::Failed(why) => format!("failed: {why}"),
                Status::Finished(_) => "finished".to_owned(),
            };
            let mut fields = vec![v.name.clone(), cell.seed.to_string(), status];
            let Some(c) = cell.measured() else {
                fields.resize(head.len() - 1, String::new());
                fields.push(cell.dir.clone());
                out += &line(&fields);
                continue;
            };
            let text = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
            fields.extend(measures.iter().map(|m| {
                c.test.as_ref().and_then(|t| number(m, t)).map(|x| x.to_string()).unwrap_or_default()
            }));
            fields.extend([c.bytes_up.to_string(), c.bytes_down.to_string()]);
            fields.extend([text(c.forwards), text(c.queries), c.wall_seconds.to_string()]);
            fields.extend([text(c.peak_rss_bytes), c.split.map(|d| d.to_hex()).unwrap_or_default()]);
            fields.push(cell.dir.clone());
            out += &line(&fields);
        }
    }
    out
}

/// RFC 4180: what holds a comma, a quote or a line break is quoted.
fn line(fields: &[String]) -> String {
    let quoted = |f: &String| match f.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", f.replace('"', "\"\"")),
        false => f.clone(),
    };
    format!("{}\n", fields.iter().map(quoted).collect::<Vec<_>>().join(","))
}
