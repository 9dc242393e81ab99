//! What differs between two run files.

use std::collections::BTreeMap;
use std::fmt;

/// One setting that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Dotted key, such as `federation.num_rounds` or `layers[1].id`.
    pub key: String,
    /// Before; `None` when it was not there.
    pub old: Option<toml::Value>,
    /// After; `None` when it is gone.
    pub new: Option<toml::Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |v: &Option<toml::Value>| v.as_ref().map_or("(absent)".to_owned(), ToString::to_string);
        write!(f, "{}: {} -> {}", self.key, side(&self.old), side(&self.new))
    }
}

/// What differs between two resolved run files, by key. Order of keys, comments and layout do not count.
#[must_use]
pub fn diff(old: &toml::Table, new: &toml::Table) -> Vec<Change> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    flatten_table("", old, &mut a);
    flatten_table("", new, &mut b);
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter()
        .filter(|k| a.get(*k) != b.get(*k))
        .map(|k| Change { key: k.clone(), old: a.get(k).cloned(), new: b.get(k).cloned() })
        .collect()
}

/// One indented line a change, each after a line break.
pub(crate) fn lines(changes: &[Change]) -> String {
    changes.iter().map(|c| format!("\n  {c}")).collect()
}

fn flatten_table(prefix: &str, table: &toml::Table, out: &mut BTreeMap<String, toml::Value>) {
    for (key, value) in table {
        let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let key = if bare { key.clone() } else { toml::Value::from(key.as_str()).to_string() };
        flatten(if prefix.is_empty() { key } else { format!("{prefix}.{key}") }, value, out);
    }
}

fn flatten(key: String, value: &toml::Value, out: &mut BTreeMap<String, toml::Value>) {
    match value {
        toml::Value::Table(t) if !t.is_empty() => flatten_table(&key, t, out),
        // an array of tables is a list of parts; any other array is one value
        toml::Value::Array(items) if !items.is_empty() && items.iter().all(toml::Value::is_table) => {
            for (i, item) in items.iter().enumerate() {
                flatten(format!("{key}[{i}]"), item, out);
            }
        }
        _ => {
            out.insert(key, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(old: &str, new: &str) -> Vec<String> {
        diff(&old.parse().unwrap(), &new.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn changes_are_named_by_dotted_key() {
        assert_eq!(
            text(
                "seed = 1\ngone = true\n[method]\nlora_r = 8\ntarget_modules = ['q', 'v']\n[[layers]]\nid = 'clip'",
                "seed = 1\n[method]\nlora_r = 16\ntarget_modules = ['q']\n'odd key' = 1\n[[layers]]\nid = 'none'",
            ),
            [
                "gone: true -> (absent)",
                "layers[0].id: \"clip\" -> \"none\"",
                "method.\"odd key\": (absent) -> 1",
                "method.lora_r: 8 -> 16",
                "method.target_modules: [\"q\", \"v\"] -> [\"q\"]",
            ]
        );
    }

    #[test]
    fn layout_is_no_change() {
        assert_eq!(text("a = 1\nb.c = 'x'", "# note\nb = { c = \"x\" }\na = 1"), [""; 0]);
    }
}
