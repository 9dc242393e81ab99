//! House rules that a machine can read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of one file without its tests.
const LONGEST: usize = 500;

/// Crates that know the federation and must not know tensors.
const FEDERATED: [&str; 6] = ["core", "algo", "protocol", "sim", "store", "report"];

/// Crates that ask models and must not be able to look inside one.
const SEALED: [&str; 1] = ["oracle"];

/// What looks inside a model.
const INSIDE: [&str; 3] = ["antiphon-kernels", "antiphon-model", "antiphon-tune"];

/// Libraries that numerical crates must not reach.
const NETWORK: [&str; 6] = ["antiphon-serve", "async-nats", "axum", "hyper", "pyo3", "tokio"];

/// Checks every rule and lists every breach.
pub(crate) fn run(root: &Path) -> Result<(), String> {
    println!("== tidy");
    let mut breaches = Vec::new();
    let mut files = Vec::new();
    collect(&root.join("crates"), &mut files).map_err(|e| e.to_string())?;
    files.sort();
    for file in &files {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
        source(&name, &text, &mut breaches);
    }
    dependencies(root, &mut breaches)?;
    if breaches.is_empty() {
        println!("{} files are tidy", files.len());
        return Ok(());
    }
    for breach in &breaches {
        println!("{breach}");
    }
    Err(format!("{} breaches of the house rules", breaches.len()))
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, out)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

/// Rules of one source file.
fn source(name: &str, text: &str, breaches: &mut Vec<String>) {
    let mut breach = |rule: String| breaches.push(format!("{name}: {rule}"));
    let is_test = ["/tests/", "/benches/", "/examples/", "/tests.rs"].iter().any(|dir| name.contains(dir));
    let code: Vec<&str> = text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).collect();
    if !is_test && code.len() > LONGEST {
        breach(format!("{} lines without tests; {LONGEST} are allowed", code.len()));
    }
    if !text.starts_with("//!") {
        breach("a file begins with `//!` and says what it is".into());
    }
    for (number, line) in text.lines().enumerate() {
        let at = number + 1;
        let word = |w: &str| line.contains(w) && !name.ends_with("tidy.rs");
        if word("TODO") || word("FIXME") {
            breach(format!("line {at}: open work belongs in an issue"));
        }
        if word("#[ignore]") {
            breach(format!("line {at}: an ignored test says why"));
        }
        if word("unsafe {") && !name.starts_with("crates/kernels/") {
            breach(format!("line {at}: `unsafe` lives in kernels"));
        }
    }
    if is_test {
        return;
    }
    for (number, line) in code.iter().enumerate() {
        let panics = [".unwrap()", ".expect("].iter().any(|w| line.contains(w))
            && !line.trim_start().starts_with("//");
        let reasoned = code[number.saturating_sub(3)..=number].iter().any(|l| l.contains("Unwrap safety:"));
        if panics && !reasoned && !name.ends_with("tidy.rs") {
            breach(format!("line {}: an unwrap needs a line `// Unwrap safety:`", number + 1));
        }
        let clock = ["Instant::now", "SystemTime::now"].iter().any(|w| line.contains(w));
        if clock && ["core", "algo", "protocol"].iter().any(|c| name.starts_with(&format!("crates/{c}/"))) {
            breach(format!("line {}: time is an argument in the pure crates", number + 1));
        }
    }
}

/// Which crate may reach which, read from the manifests.
fn dependencies(root: &Path, breaches: &mut Vec<String>) -> Result<(), String> {
    for name in FEDERATED {
        let reached = reach(root, name)?;
        if reached.contains("antiphon-kernels") {
            breaches.push(format!("crates/{name}: nothing federated depends on kernels"));
        }
    }
    for name in SEALED {
        let reached = reach(root, name)?;
        for inside in INSIDE.iter().filter(|i| reached.contains(**i)) {
            breaches.push(format!("crates/{name}: black-box access does not depend on {inside}"));
        }
    }
    for name in ["core", "kernels", "model", "tune", "data", "algo"] {
        for library in NETWORK {
            if reach(root, name)?.contains(library) {
                breaches.push(format!("crates/{name}: nothing numerical depends on {library}"));
            }
        }
    }
    Ok(())
}

/// Names that `crates/name` reaches through its manifest and those of the workspace.
fn reach(root: &Path, name: &str) -> Result<BTreeSet<String>, String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![name.to_owned()];
    while let Some(name) = open.pop() {
        let path = root.join("crates").join(&name).join("Cargo.toml");
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let manifest: toml::Table = text.parse().map_err(|e| format!("{}: {e}", path.display()))?;
        let table = manifest.get("dependencies").and_then(toml::Value::as_table);
        for dependency in table.into_iter().flat_map(toml::Table::keys) {
            if seen.insert(dependency.clone())
                && let Some(inner) = dependency.strip_prefix("antiphon-")
            {
                open.push(inner.to_owned());
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(name: &str, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        source(name, text, &mut out);
        out
    }

    #[test]
    fn each_rule_is_seen() {
        assert!(breaches("crates/algo/src/a.rs", "//! A.\nfn f() {}\n").is_empty());
        for (text, rule) in [
            ("fn f() {}\n", "begins with"),
            ("//! A.\n// TODO later\n", "issue"),
            ("//! A.\nlet a = b.unwrap();\n", "Unwrap safety"),
            ("//! A.\nlet t = Instant::now();\n", "time is an argument"),
            ("//! A.\nunsafe { x }\n", "lives in kernels"),
        ] {
            let found = breaches("crates/algo/src/a.rs", text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].contains(rule), "{found:?}");
        }
        let long = format!("//! A.\n{}", "fn f() {}\n".repeat(LONGEST));
        assert!(breaches("crates/algo/src/a.rs", &long)[0].contains("lines without tests"));
    }

    #[test]
    fn the_repository_is_tidy() {
        run(&super::super::root()).unwrap();
    }
}
