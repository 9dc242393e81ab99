//! The variants of a study: arms × points of the grid, each a run file and what it overrides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use antiphon_report::study::shown;

use super::file::StudyFile;
use crate::error::Failure;

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// In tables.
    pub(super) name: String,
    /// Names its folder.
    pub(super) slug: String,
    /// The run file.
    pub(super) base: PathBuf,
    /// What it changes, by dotted key.
    pub(super) set: BTreeMap<String, toml::Value>,
    /// Where in the study file each of them stands.
    pub(super) places: BTreeMap<String, String>,
}

impl Variant {
    /// As they stand on the command line.
    pub(super) fn overrides(&self, seed: u64) -> Vec<String> {
        let own = self.set.iter().map(|(key, value)| format!("{key}={value}"));
        own.chain([format!("run.seed={seed}"), format!("run.name={}-seed-{seed}", self.slug)]).collect()
    }

    /// Its settings as text.
    pub(super) fn text(&self) -> BTreeMap<String, String> {
        self.set.iter().map(|(k, v)| (k.clone(), v.to_string())).collect()
    }

    /// Those of the grid that decide who holds which data.
    pub(super) fn data(&self) -> BTreeMap<String, String> {
        let of_grid = |key: &str| self.places.get(key).is_some_and(|p| p.starts_with("grid."));
        self.text().into_iter().filter(|(k, _)| is_data(k) && of_grid(k)).collect()
    }
}

fn is_data(key: &str) -> bool {
    key == "data" || key.starts_with("data.")
}

/// Keys that a study sets by itself.
const OWN: [(&str, &str); 2] =
    [("run.seed", "seeds are listed in `seeds`"), ("run.name", "runs are named after their variant")];

/// Every variant of `file`.
pub(super) fn variants(file: &StudyFile) -> Result<Vec<Variant>, Failure> {
    let s = &file.settings;
    let common = flat(file, &s.set, "set")?;
    let axes: Vec<(String, String, Vec<toml::Value>)> = axes(file)?;
    let whole = [(String::new(), s.base.as_ref(), BTreeMap::new())];
    let arms: Vec<(String, Option<&PathBuf>, Flat)> = if s.arm.is_empty() {
        whole.into()
    } else {
        let arms = s.arm.iter().enumerate().map(|(i, a)| {
            let set = flat(file, &a.set, &format!("arm[{i}].set"))?;
            Ok((a.name.clone(), a.base.as_ref().or(s.base.as_ref()), set))
        });
        arms.collect::<Result<_, Failure>>()?
    };
    let mut out: Vec<Variant> = Vec::new();
    for (name, base, own) in arms {
        for point in points(&axes) {
            let mut set = common.clone();
            set.extend(own.clone());
            for (key, place, value) in &point {
                if set.insert(key.clone(), (value.clone(), place.clone())).is_some() {
                    let message = format!("`{key}` is set elsewhere in this file too; leave one of them out");
                    return Err(file.refuse(place, message));
                }
            }
            let grid = point.iter().map(|(k, _, v)| (k.clone(), v.to_string())).collect();
            let name = [name.clone(), shown(&grid)].into_iter().filter(|n| !n.is_empty());
            let name = name.collect::<Vec<_>>().join(", ");
            out.push(Variant {
                slug: slug(&name),
                name,
                // a file is there: checked when the study was read
                base: base.map(|b| file.path(b)).unwrap_or_default(),
                places: set.iter().map(|(k, (_, place))| (k.clone(), place.clone())).collect(),
                set: set.into_iter().map(|(k, (value, _))| (k, value)).collect(),
            });
        }
    }
    let mut seen = BTreeSet::new();
    for v in &mut out {
        // names that differ in signs alone
        let (plain, mut n) = (v.slug.clone(), 1);
        while !seen.insert(v.slug.clone()) {
            n += 1;
            v.slug = format!("{plain}-{n}");
        }
    }
    for (i, v) in out.iter().enumerate() {
        if let Some(twin) = out[..i].iter().find(|w| w.set == v.set && w.base == v.base) {
            let message = format!("`{}` and `{}` are the same run; leave one out", twin.name, v.name);
            return Err(Failure::new(
                crate::error::Kind::Settings,
                format_args!("{}: {message}", file.place()),
            ));
        }
    }
    Ok(out)
}

/// A value and the place of its key, by dotted key.
type Flat = BTreeMap<String, (toml::Value, String)>;

/// `table` by dotted keys. A table with an `id` is one value, which replaces a section: another choice has other keys.
fn flat(file: &StudyFile, table: &toml::Table, place: &str) -> Result<Flat, Failure> {
    let mut out = Flat::new();
    flatten(table, "", place, &mut |key, value, place| {
        refuse_own(file, &key, &place)?;
        out.insert(key, (value.clone(), place));
        Ok(())
    })?;
    Ok(out)
}

fn flatten(
    table: &toml::Table,
    prefix: &str,
    place: &str,
    each: &mut dyn FnMut(String, &toml::Value, String) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for (key, value) in table {
        let place = format!("{place}.{key}");
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) if !inner.contains_key("id") && !inner.is_empty() => {
                flatten(inner, &key, &place, each)?;
            }
            _ => each(key, value, place)?,
        }
    }
    Ok(())
}

fn refuse_own(file: &StudyFile, key: &str, place: &str) -> Result<(), Failure> {
    match OWN.iter().find(|(own, _)| *own == key) {
        Some((_, why)) => Err(file.refuse(place, format_args!("`{key}` cannot be set here: {why}"))),
        None => Ok(()),
    }
}

/// The keys of the grid with their places and values.
fn axes(file: &StudyFile) -> Result<Vec<(String, String, Vec<toml::Value>)>, Failure> {
    let mut out = Vec::new();
    flatten(&file.settings.grid, "", "grid", &mut |key, value, place| {
        refuse_own(file, &key, &place)?;
        let refuse = |why: String| Err(file.refuse(&place, why));
        let Some(values) = value.as_array() else {
            return refuse(format!(
                "`{key}` of the grid is {value}; expected a list of values, such as [{value}]"
            ));
        };
        if values.is_empty() {
            return refuse(format!("`{key}` of the grid has no value; list those to compare"));
        }
        if let Some(i) = (0..values.len()).find(|i| values[..*i].contains(&values[*i])) {
            return refuse(format!("`{key}` of the grid has {} twice", values[i]));
        }
        out.push((key, place.clone(), values.clone()));
        Ok(())
    })?;
    Ok(out)
}

/// One value of every axis, the last axis fastest; one empty point without axes.
fn points(axes: &[(String, String, Vec<toml::Value>)]) -> Vec<Vec<(String, String, toml::Value)>> {
    axes.iter().fold(vec![Vec::new()], |points, (key, place, values)| {
        let with = |point: &Vec<_>, value: &toml::Value| {
            let mut point = point.clone();
            point.push((key.clone(), place.clone(), value.clone()));
            point
        };
        points.iter().flat_map(|p| values.iter().map(move |v| with(p, v))).collect()
    })
}

/// A name that can be a folder's.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_')));
    let joined = words.filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-").to_lowercase();
    // a name of signs alone, or one that hides
    let plain = joined.trim_start_matches(['.', '-']);
    if plain.is_empty() { "variant".to_owned() } else { plain.chars().take(80).collect() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(text: &str) -> Result<Vec<Variant>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("study.toml");
        std::fs::write(&path, format!("base = \"run.toml\"\nseeds = [1]\n{text}")).unwrap();
        let read = StudyFile::read(Path::new(&path)).and_then(|f| variants(&f));
        read.map_err(|f| f.message)
    }

    #[test]
    fn arms_times_grid() {
        let text = "[set]\n\"run.workers\" = 1\n[grid]\n\"train.learning_rate\" = [1e-3, 1e-2]\n\
                    [[arm]]\nname = \"LoRA\"\nset = { method = { id = \"lora\" }, \"method.lora_r\" = 2 }\n\
                    [[arm]]\nname = \"all\"\nset.method.id = \"full\"\n";
        let all = of(text).unwrap();
        let names: Vec<&str> = all.iter().map(|v| v.name.as_str()).collect();
        let expected = [
            "LoRA, learning_rate = 0.001",
            "LoRA, learning_rate = 0.01",
            "all, learning_rate = 0.001",
            "all, learning_rate = 0.01",
        ];
        assert_eq!(names, expected);
        assert_eq!(all[0].slug, "lora-learning_rate-0.001");
        // a section first, then the keys in it
        let overrides = all[0].overrides(3);
        assert_eq!(
            overrides,
            [
                "method={ id = \"lora\" }",
                "method.lora_r=2",
                "run.workers=1",
                "train.learning_rate=0.001",
                "run.seed=3",
                "run.name=lora-learning_rate-0.001-seed-3"
            ]
        );
    }

    #[test]
    fn what_cannot_be_varied_is_refused() {
        for (text, words) in [
            ("[grid]\n\"train.learning_rate\" = []\n", vec!["study.toml:4:1", "no value"]),
            (
                "[grid]\n\"train.learning_rate\" = 1e-3\n",
                vec!["study.toml:4:1", "expected a list", "[0.001]"],
            ),
            ("[grid]\n\"run.workers\" = [1, 1]\n", vec!["has 1 twice"]),
            ("[grid]\nrun.seed = [1, 2]\n", vec!["study.toml:4:5", "`seeds`"]),
            (
                "set = { \"run.workers\" = 1 }\n[grid]\n\"run.workers\" = [2]\n",
                vec!["study.toml:5:1", "elsewhere"],
            ),
            ("[[arm]]\nname = \"a\"\n[[arm]]\nname = \"b\"\n", vec!["`a` and `b` are the same run"]),
        ] {
            let message = of(text).unwrap_err();
            assert!(words.iter().all(|w| message.contains(w)), "{words:?} not in:\n{message}");
        }
    }

    #[test]
    fn folders_are_told_apart() {
        assert_eq!(slug("../a b/ü"), "a-b");
        assert_eq!(slug("÷"), "variant");
        let all =
            of("[[arm]]\nname = \"a+\"\n[[arm]]\nname = \"a-\"\nset = { \"run.workers\" = 3 }\n").unwrap();
        assert_eq!([&all[0].slug, &all[1].slug], ["a", "a-2"]);
    }

    #[test]
    fn the_grid_decides_the_data_and_an_arm_does_not() {
        let text = "[grid]\n\"data.partition.alpha\" = [0.5]\n[[arm]]\nname = \"a\"\nset = { \"data.sequence_len\" = 8 }\n";
        let all = of(text).unwrap();
        assert_eq!(
            all[0].data().into_iter().collect::<Vec<_>>(),
            [("data.partition.alpha".to_owned(), "0.5".to_owned())]
        );
    }
}
