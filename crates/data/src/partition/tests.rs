//! Laws over the registry, and what tells one convention from another.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::example::Kind;

/// `n` examples over `classes` classes (unequal sizes), `fields` fields and two files.
fn examples(n: usize, classes: usize, fields: usize) -> Vec<Example> {
    let mut s = Stream::new(11, Purpose::Test);
    (0..n)
        .map(|i| {
            let class = s.below(classes as u64 * 2).min(classes as u64 - 1);
            let text = format!("text {i} about topic{class} topic{class} and thing{}", s.below(9));
            let field = Some(format!("field {}", i % fields));
            Example::new(Kind::Labelled { text, label: format!("c{class}") }, field, usize::from(i > n / 3))
        })
        .collect()
}

/// Settings under which `id` can divide 120 examples or more into `clients`.
fn table(id: &str, clients: usize) -> toml::Table {
    let rest = match id {
        "iid" | "clusters" => String::new(),
        "dirichlet_class" | "dirichlet_flasc" => "alpha = 1.0".into(),
        "dirichlet_client" => "alpha = 2.0".into(),
        "dirichlet_balanced" => "alpha = 1.0\nmin_examples = 3".into(),
        "quantity" => "sigma = 1.0".into(),
        "shards" => "shards_per_client = 2".into(),
        "field" => return "id = 'field'\ntop = 2\nrest = 'pool'".parse().unwrap(),
        "files" => return "id = 'files'".parse().unwrap(),
        _ => panic!("no settings for partitioner `{id}`: add them, so that the laws run over it"),
    };
    format!("id = '{id}'\nclients = {clients}\n{rest}").parse().unwrap()
}

fn run(table: &toml::Table, examples: &[Example], seed: u64) -> Result<Partition, PartitionError> {
    let files = ["a".to_owned(), "b".to_owned()];
    divide(table, &Pool { examples, files: &files }, seed)
}

fn text(toml: &str, examples: &[Example]) -> Result<Partition, PartitionError> {
    run(&toml.parse().unwrap(), examples, 7)
}

fn sizes(p: &Partition) -> Vec<usize> {
    p.clients.iter().map(|c| c.examples.len()).collect()
}

/// Mean over clients of the number of distinct labels.
fn mean_labels(p: &Partition, examples: &[Example]) -> f64 {
    let distinct = |c: &Share| c.examples.iter().map(|&i| examples[i].label()).collect::<BTreeSet<_>>().len();
    p.clients.iter().map(distinct).sum::<usize>() as f64 / p.clients.len() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// `divide` itself checks that each example is in exactly one place and no client is empty.
    #[test]
    fn every_partitioner_divides_and_is_a_function_of_its_seed(
        n in 120_usize..300, clients in 1_usize..7, classes in 1_usize..8, seed in any::<u64>()
    ) {
        let examples = examples(n, classes, 4);
        for entry in PARTITIONERS {
            let table = table(entry.id, clients);
            let p = run(&table, &examples, seed);
            prop_assert!(p.is_ok(), "{}: {p:?}", entry.id);
            prop_assert_eq!(&run(&table, &examples, seed), &p, "{}", entry.id);
            let p = p.unwrap();
            let total: usize = sizes(&p).iter().sum::<usize>() + p.left.len();
            prop_assert_eq!(total, n);
            prop_assert_eq!(p.left.is_empty(), p.left_why.is_empty());
            if !["field", "files"].contains(&entry.id) {
                prop_assert_eq!(p.clients.len(), clients, "{}", entry.id);
            }
        }
    }
}

#[test]
fn ids_are_unique_and_seeds_matter() {
    let ids: BTreeSet<_> = PARTITIONERS.iter().map(|e| e.id).collect();
    assert_eq!(ids.len(), PARTITIONERS.len());
    let examples = examples(200, 5, 4);
    for entry in PARTITIONERS.iter().filter(|e| !["field", "files"].contains(&e.id)) {
        let table = table(entry.id, 5);
        assert_ne!(run(&table, &examples, 1), run(&table, &examples, 2), "{}", entry.id);
    }
}

#[test]
fn small_alpha_gives_each_client_few_labels_and_large_alpha_gives_it_all() {
    let examples = examples(2000, 8, 4);
    for id in ["dirichlet_class", "dirichlet_balanced", "dirichlet_client", "dirichlet_flasc"] {
        let at = |alpha: f64| {
            let min = if id == "dirichlet_client" { "" } else { "min_examples = 1" };
            let p = text(&format!("id = '{id}'\nclients = 8\nalpha = {alpha}\n{min}"), &examples).unwrap();
            mean_labels(&p, &examples)
        };
        assert!(at(0.05) < 5.5, "{id}: {}", at(0.05));
        // the last client of `dirichlet_client` may find a class used up
        assert!(at(1000.0) > 7.5, "{id}: {}", at(1000.0));
    }
}

#[test]
fn conventions_differ_where_they_say_so() {
    let examples = examples(2000, 8, 4);
    let spread = |p: &Partition| sizes(p).iter().max().unwrap() - sizes(p).iter().min().unwrap();
    let common = "clients = 10\nalpha = 0.3";
    let class = text(&format!("id = 'dirichlet_class'\n{common}"), &examples).unwrap();
    let balanced = text(&format!("id = 'dirichlet_balanced'\n{common}"), &examples).unwrap();
    let client = text(&format!("id = 'dirichlet_client'\n{common}"), &examples).unwrap();
    assert!(spread(&client) <= 1, "{:?}", sizes(&client));
    assert!(spread(&balanced) < spread(&class), "{:?} {:?}", sizes(&balanced), sizes(&class));
    assert!(sizes(&balanced).iter().all(|&s| s >= 40), "the convention's own least size");
    // alpha shared by all classes against alpha per client: the former is the more skewed
    let sum_alpha = mean_labels(&client, &examples);
    let each_alpha = mean_labels(&class, &examples);
    assert!(sum_alpha < each_alpha, "{sum_alpha} {each_alpha}");
}

#[test]
fn shards_hold_few_labels_and_equal_sizes() {
    let examples = examples(600, 6, 4);
    let p = text("id = 'shards'\nclients = 10\nshards_per_client = 2", &examples).unwrap();
    assert!(sizes(&p).iter().all(|&s| s == 60));
    // a shard of 30 touches at most two classes of 50 or more
    assert!(mean_labels(&p, &examples) <= 4.0);
}

#[test]
fn quantity_skews_sizes_and_nothing_else() {
    let examples = examples(3000, 3, 4);
    for law in ["alpha = 0.5", "sigma = 1.2"] {
        let p = text(&format!("id = 'quantity'\nclients = 6\nmin_examples = 50\n{law}"), &examples).unwrap();
        let s = sizes(&p);
        assert!(s.iter().max().unwrap() > &(2 * s.iter().min().unwrap()), "{law}: {s:?}");
        assert!((mean_labels(&p, &examples) - 3.0).abs() < 1e-9);
    }
    let e = text("id = 'quantity'\nclients = 6", &examples).unwrap_err().to_string();
    assert!(e.contains("either `alpha`"), "{e}");
}

#[test]
fn fields_become_clients_and_the_rest_is_accounted_for() {
    let mut examples = examples(50, 3, 3);
    examples.truncate(49); // field 0 has 17, fields 1 and 2 have 16
    examples[0].field = Some("alone".into());
    let all = text("id = 'field'", &examples).unwrap();
    let names: Vec<_> = all.clients.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["alone", "field 0", "field 1", "field 2"]);
    let top = text("id = 'field'\ntop = 2", &examples).unwrap();
    assert_eq!((top.clients.len(), top.left.len()), (2, 17), "ties go to the first name");
    assert_eq!(top.left_why, "2 of 4 values are too small to be a client");
    let pooled = text("id = 'field'\nmin_examples = 2\nrest = 'pool'\nclients = 4", &examples).unwrap();
    assert_eq!((pooled.clients[3].name.as_str(), pooled.clients[3].examples.as_slice()), ("rest", &[0][..]));
    let bytes = text("id = 'field'\nmin_bytes = 200", &examples).unwrap();
    assert_eq!(bytes.clients.len(), 3);
    let e = text("id = 'field'\nclients = 3", &examples).unwrap_err().to_string();
    assert!(e.contains("4 values") && e.contains("`clients = 3`") && e.contains("`top`"), "{e}");
    let e = text("id = 'field'\nmin_examples = 90", &examples).unwrap_err().to_string();
    assert!(e.contains("the largest has 16"), "{e}");
}

#[test]
fn clusters_find_topics() {
    // eight words out of the topic's twelve, four common ones
    let mut s = Stream::new(3, Purpose::Test);
    let examples: Vec<Example> = (0..300)
        .map(|i| {
            let topic = i % 3;
            let own: Vec<String> = (0..8).map(|_| format!("t{topic}w{}", s.below(12))).collect();
            let common: Vec<String> = (0..4).map(|_| format!("common{}", s.below(6))).collect();
            let text = format!("{} {}", own.join(" "), common.join(" "));
            Example::new(Kind::Labelled { text, label: format!("c{topic}") }, None, 0)
        })
        .collect();
    let p = text("id = 'clusters'\nclients = 3", &examples).unwrap();
    let majority = |c: &Share| {
        let mut count = BTreeMap::<_, usize>::new();
        c.examples.iter().for_each(|&i| *count.entry(examples[i].label()).or_default() += 1);
        count.into_values().max().unwrap()
    };
    let pure: usize = p.clients.iter().map(majority).sum();
    assert!(pure >= 290, "{pure} of 300 examples are with their topic");
    let over = text("id = 'dirichlet_client'\nclients = 4\nalpha = 0.1\nover = { clusters = 3 }", &examples);
    assert_eq!(over.unwrap().clients.len(), 4);
    // as many clusters as examples, all texts equal: still one each
    let same: Vec<Example> =
        (0..5).map(|_| Example::new(Kind::Lm { text: "same".into() }, None, 0)).collect();
    assert_eq!(sizes(&text("id = 'clusters'\nclients = 5", &same).unwrap()), [1; 5]);
}

#[test]
fn impossible_divisions_say_what_would_work() {
    let examples = examples(30, 3, 3);
    let e = text("id = 'iid'\nclients = 31", &examples).unwrap_err().to_string();
    assert!(e.contains("31 clients") && e.contains("there are 30") && e.contains("at most 30"), "{e}");
    let e = text("id = 'dirichlet_balanced'\nclients = 2\nalpha = 1.0", &examples).unwrap_err().to_string();
    assert!(e.contains("at least 40 examples need 80"), "{e}");
    let e =
        text("id = 'dirichlet_class'\nclients = 3\nalpha = 0.001\nmin_examples = 10", &examples).unwrap_err();
    assert!(matches!(e, PartitionError::Unattainable { best, min: 10, .. } if best < 10), "{e}");
    let e = text("id = 'clusters'\nclients = 3\nmin_examples = 10", &self::examples(31, 1, 1)).unwrap_err();
    assert!(matches!(e, PartitionError::SmallClient { .. }), "{e}");
    let e = text("id = 'files'\nclients = 3", &examples).unwrap_err().to_string();
    assert!(e.contains("names 2 files"), "{e}");
    let e = text("id = 'files'", &examples[..3]).unwrap_err().to_string();
    assert!(e.contains("b has no examples"), "{e}");
    let plain: Vec<Example> =
        (0..9).map(|i| Example::new(Kind::Lm { text: format!("t{i}") }, None, 0)).collect();
    let e = text("id = 'shards'\nclients = 2\nshards_per_client = 2", &plain).unwrap_err().to_string();
    assert!(e.contains("0 have a label and 0 a field") && e.contains("columns.field"), "{e}");
}

#[test]
fn bad_settings_are_refused() {
    let examples = examples(30, 3, 3);
    for (toml, expected) in [
        ("id = 'dirichlet_clas'\nclients = 2", "did you mean `dirichlet_class`?"),
        ("clients = 2", "needs an `id`"),
        ("id = 'iid'\nclients = 0", "at least 1"),
        ("id = 'dirichlet_class'\nclients = 2\nalpha = 0.0", "positive"),
        ("id = 'dirichlet_client'\nclients = 2\nalpha = nan", "positive"),
        ("id = 'dirichlet_client'\nclients = 2\nalpa = 1.0", "alpa"),
        ("id = 'shards'\nclients = 2\nshards_per_client = 0", "at least 1"),
        ("id = 'shards'\nclients = 2\nshards_per_client = 2\nover = 'labels'", "labels"),
    ] {
        let e = text(toml, &examples).unwrap_err().to_string();
        assert!(e.contains(expected), "{toml}: {e}");
    }
}

/// A division may not change under a seed: runs are compared, and resumed, across versions.
#[test]
fn divisions_are_pinned() {
    let examples = examples(240, 5, 4);
    let digest = |id: &str| {
        let p = run(&table(id, 4), &examples, 42).unwrap();
        antiphon_core::Digest::of(format!("{:?}", p.clients).as_bytes()).to_hex()[..8].to_owned()
    };
    let pinned = [
        ("iid", "6d0c588d"),
        ("dirichlet_class", "21132674"),
        ("dirichlet_balanced", "87c55054"),
        ("dirichlet_client", "54e28614"),
        ("dirichlet_flasc", "9f57b368"),
        ("field", "5fd7a854"),
        ("quantity", "c97ed891"),
        ("shards", "498553b1"),
        ("files", "c7d45230"),
        ("clusters", "924a41ac"),
    ];
    assert_eq!(pinned.map(|(id, _)| id).to_vec(), PARTITIONERS.iter().map(|e| e.id).collect::<Vec<_>>());
    let found: Vec<(&str, String)> = pinned.iter().map(|(id, _)| (*id, digest(id))).collect();
    assert_eq!(found, pinned.map(|(id, d)| (id, d.to_owned())));
}
