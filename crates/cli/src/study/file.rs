//! The study file: TOML in, typed settings out, and where each key stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use antiphon_report::study::measure;
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::error::{Failure, Kind};
use crate::place::Source;

/// A whole study file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StudySettings {
    /// The run file that every cell begins from, relative to the study file. May be left out where every arm has its own.
    #[serde(default)]
    pub(crate) base: Option<PathBuf>,
    /// Each variant runs once with each of these as `run.seed`. The seed decides the split too, which all variants share.
    pub(crate) seeds: Vec<u64>,
    /// Columns of the tables: `accuracy`, `perplexity`, `bits/byte`, `loss`. Default: all that are measured.
    #[serde(default)]
    pub(crate) metrics: Vec<String>,
    /// Numbers of example forwards at which the curves of the runs are read into tables, ascending.
    #[serde(default)]
    pub(crate) forwards: Vec<u64>,
    /// Keys that every cell sets.
    #[serde(default)]
    pub(crate) set: toml::Table,
    /// For each key a list of values: every combination is a variant.
    #[serde(default)]
    pub(crate) grid: toml::Table,
    /// Named variants, each of which is combined with every point of the grid.
    #[serde(default)]
    pub(crate) arm: Vec<ArmSettings>,
}

/// `[[arm]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArmSettings {
    /// Its name in tables.
    pub(crate) name: String,
    /// Its own run file instead of the study's, relative to the study file.
    #[serde(default)]
    pub(crate) base: Option<PathBuf>,
    /// Keys that it sets, `"train.learning_rate" = 1e-3`. A table with an `id` replaces the whole section.
    #[serde(default)]
    pub(crate) set: toml::Table,
}

/// A study file as read.
#[derive(Clone, Debug)]
pub(crate) struct StudyFile {
    pub(crate) settings: StudySettings,
    /// Its name without the ending.
    pub(crate) name: String,
    /// Where relative paths start.
    pub(crate) dir: PathBuf,
    /// How messages call it.
    place: String,
    source: Source,
    /// Where each key begins, by its path, such as `arm[1].set.search.sigma`.
    places: BTreeMap<String, usize>,
}

impl StudyFile {
    /// Reads and checks `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|e| {
            Failure::new(Kind::Settings, format_args!("cannot read study file {place}: {e}"))
                .with_near_path(path)
        })?;
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let dir = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Self::parse(&text, place, name, dir)
    }

    fn parse(text: &str, place: String, name: String, dir: PathBuf) -> Result<Self, Failure> {
        let source = Source::new(&place, text, &[]);
        let settings: StudySettings = toml::from_str(text).map_err(|e| source.explain(&e))?;
        let mut places = BTreeMap::new();
        if let Ok(root) = DeTable::parse(text) {
            walk(root.get_ref(), "", &mut places);
        }
        let file = Self { settings, name, dir, place, source, places };
        file.check()?;
        Ok(file)
    }

    /// An error about the key at `path`.
    pub(crate) fn refuse(&self, path: &str, message: impl std::fmt::Display) -> Failure {
        self.source.point(self.places.get(path).copied(), &message.to_string())
    }

    /// How messages call it.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// A path of the study file.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        if path.is_absolute() { path.to_owned() } else { self.dir.join(path) }
    }

    fn check(&self) -> Result<(), Failure> {
        let s = &self.settings;
        if s.seeds.is_empty() {
            return Err(
                self.refuse("seeds", "there is no seed; write one at least, three for a spread: [1, 2, 3]")
            );
        }
        if let Some(twice) = first_twice(&s.seeds) {
            return Err(self.refuse("seeds", format_args!("seed {twice} stands twice; each runs once")));
        }
        if let Some(unknown) = s.metrics.iter().find(|m| measure(m).is_none()) {
            let known: Vec<&str> = antiphon_report::results::MEASURES.iter().map(|m| m.name).collect();
            return Err(self
                .refuse("metrics", format_args!("unknown metric `{unknown}`; known: {}", known.join(", "))));
        }
        if s.forwards.windows(2).any(|w| w[0] >= w[1]) || s.forwards.first() == Some(&0) {
            return Err(
                self.refuse("forwards", "expected rising numbers above 0, such as [300, 3000, 30000]")
            );
        }
        if s.arm.is_empty() && s.grid.is_empty() {
            return Err(self.refuse(
                "",
                "nothing to compare: there is neither an [[arm]] nor a key in [grid]; add two arms, or a key with two values",
            ));
        }
        let names: Vec<&str> = s.arm.iter().map(|a| a.name.as_str()).collect();
        if let Some(i) = (0..names.len()).find(|i| names[..*i].contains(&names[*i])) {
            return Err(self.refuse(
                &format!("arm[{i}].name"),
                format_args!("there are two arms `{}`; give each a name of its own", names[i]),
            ));
        }
        for (i, arm) in s.arm.iter().enumerate() {
            if arm.name.trim().is_empty() {
                return Err(self.refuse(&format!("arm[{i}].name"), "an arm needs a name"));
            }
            if arm.base.is_none() && s.base.is_none() {
                return Err(self.refuse(
                    &format!("arm[{i}]"),
                    format_args!(
                        "arm `{}` has no run file: set `base` here or for the whole study",
                        arm.name
                    ),
                ));
            }
        }
        if s.base.is_none() && s.arm.is_empty() {
            return Err(self.refuse("", "there is no run file to begin from: set `base = \"run.toml\"`"));
        }
        Ok(())
    }
}

/// The first value that an earlier one equals.
fn first_twice(values: &[u64]) -> Option<u64> {
    (0..values.len()).find(|i| values[..*i].contains(&values[*i])).map(|i| values[i])
}

/// Records where each key begins.
fn walk(table: &DeTable<'_>, prefix: &str, out: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let name: &str = key.get_ref();
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        out.insert(path.clone(), key.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, &path, out),
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    if let Some(inner) = item.get_ref().as_table() {
                        let path = format!("{path}[{i}]");
                        out.insert(path.clone(), item.span().start);
                        walk(inner, &path, out);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StudyFile, String> {
        let name = "study".to_owned();
        StudyFile::parse(text, "study.toml".to_owned(), name, PathBuf::new()).map_err(|f| f.message)
    }

    #[track_caller]
    fn refused(text: &str, words: &[&str]) {
        let message = parse(text).unwrap_err();
        let missing: Vec<&&str> = words.iter().filter(|w| !message.contains(**w)).collect();
        assert!(missing.is_empty(), "{missing:?} not in:\n{message}");
    }

    #[test]
    fn what_makes_no_study_is_refused_with_its_line() {
        let head = "base = \"run.toml\"\nseeds = [1, 2]\n";
        refused(head, &["study.toml: nothing to compare", "[[arm]]", "[grid]"]);
        refused("base = \"run.toml\"\nseeds = []\n[grid]\n", &["study.toml:2:1", "no seed"]);
        refused("seeds = [1, 1]\n[grid]\n\"run.workers\" = [1]", &["study.toml:1:1", "seed 1 stands twice"]);
        refused("seeds = [1]\n[grid]\n\"run.workers\" = [1]", &["base = "]);
        refused(
            &format!("{head}seed = [1]\n"),
            &["study.toml:3:1", "unknown key `seed`", "did you mean `seeds`"],
        );
        refused(&format!("{head}metrics = [\"acc\"]"), &["study.toml:3:1", "`acc`", "accuracy"]);
        refused(&format!("{head}forwards = [3, 2]"), &["study.toml:3:1", "rising"]);
        let arms = "[[arm]]\nname = \"a\"\n[[arm]]\nname = \"a\"\n";
        refused(&format!("{head}{arms}"), &["study.toml:6:1", "two arms `a`"]);
        refused("seeds = [1]\n[[arm]]\nname = \"a\"\n", &["arm `a` has no run file"]);
    }

    #[test]
    fn keys_are_found_however_they_are_written() {
        let text = "base = \"r\"\nseeds = [1]\n[grid]\n\"a.b\" = [1]\nc.d = [2]\n[[arm]]\nname = \"x\"\nset = { \"e.f\" = 1 }\n";
        let file = parse(text).unwrap();
        for (path, line) in [("grid.a.b", "4:1"), ("grid.c.d", "5:3"), ("arm[0].set.e.f", "8:9")] {
            assert!(file.refuse(path, "x").message.starts_with(&format!("study.toml:{line}: x")), "{path}");
        }
    }
}
