//! Laws that hold for every registry.

use antiphon_core::Entry;
use antiphon_core::registry::build;

/// Builds one instance for each table of `samples` that names an entry of `list`. `Err` with the reason unless every
/// entry has a sample that builds, ids are unique and made of `a-z 0-9 _`, and each entry names its paper and says what
/// it is. So a law that runs over the result runs over every entry, and a new entry cannot be left out.
pub fn every_entry<T: ?Sized>(
    list: &[&Entry<T>],
    samples: &[&str],
) -> Result<Vec<(&'static str, Box<T>)>, String> {
    for (i, e) in list.iter().enumerate() {
        if list[..i].iter().any(|earlier| earlier.id == e.id) {
            return Err(format!("two entries are called `{}`", e.id));
        }
        if e.id.is_empty() || !e.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            return Err(format!("`{}` is no id", e.id));
        }
        if e.paper.is_empty() || e.about.is_empty() {
            return Err(format!("`{}` has no paper or no description", e.id));
        }
    }
    let mut out = Vec::new();
    for sample in samples {
        let table: toml::Table = sample.parse().map_err(|e| format!("{sample}: {e}"))?;
        let id = table.get("id").and_then(toml::Value::as_str).unwrap_or_default();
        if let Some(entry) = list.iter().find(|e| e.id == id) {
            out.push((entry.id, build("sample", list, &table).map_err(|e| e.to_string())?));
        }
    }
    match list.iter().find(|e| out.iter().all(|(id, _)| *id != e.id)) {
        Some(e) => Err(format!("`{}` has no sample, so no law was tried on it", e.id)),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn entry(id: &'static str, paper: &'static str) -> Entry<str> {
        Entry { id, paper, about: "a test", build: |_| Ok("built".into()) }
    }
    static ONE: Entry<str> = entry("one", "arXiv:1");
    static TWO: Entry<str> = entry("two", "arXiv:2");

    #[test]
    fn an_entry_that_no_law_would_see_is_an_error() {
        let samples = ["id = 'one'", "id = 'one'\nx = 1", "id = 'other'"];
        assert_eq!(every_entry(&[&ONE], &samples).unwrap().len(), 2);
        assert!(every_entry(&[&ONE, &TWO], &samples).unwrap_err().contains("`two` has no sample"));
        assert!(every_entry(&[&ONE, &ONE], &samples).unwrap_err().contains("two entries"));
        assert!(every_entry(&[&entry("One", "x")], &samples).unwrap_err().contains("no id"));
        assert!(every_entry(&[&entry("one", "")], &samples).unwrap_err().contains("no paper"));
    }
}
