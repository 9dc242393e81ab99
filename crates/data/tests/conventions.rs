//! The four Dirichlet conventions against numpy: means over draws of what tells them apart. The numbers are made by
//! `golden/dirichlet_conventions.py`.

use std::collections::BTreeMap;

use antiphon_core::ClientId;
use antiphon_data::heterogeneity::{ClientShape, Heterogeneity};
use antiphon_data::partition::{Pool, divide};
use antiphon_data::{Example, Kind};
use serde::Deserialize;

#[derive(Deserialize)]
struct Moments {
    size_variation: f64,
    tv_mean: f64,
}

#[test]
fn conventions_have_the_moments_that_numpy_finds() {
    let golden: BTreeMap<String, Moments> =
        serde_json::from_str(include_str!("golden/dirichlet_conventions.json")).unwrap();
    assert_eq!(golden.len(), 8);
    let labels = (0..10).flat_map(|k| vec![k; 10 + 20 * k]);
    let examples: Vec<Example> = labels
        .map(|k| Example::new(Kind::Labelled { text: String::new(), label: k.to_string() }, None, 0))
        .collect();
    let files = [String::new()];
    for (name, expected) in golden {
        let (id, alpha) = name.split_once(' ').unwrap();
        let min = if id == "dirichlet_client" { "" } else { "min_examples = 1" };
        let table = format!("id = '{id}'\nclients = 8\nalpha = {alpha}\n{min}").parse().unwrap();
        let draws = 300;
        let (mut spread, mut tv) = (0.0, 0.0);
        for seed in 0..draws {
            let p = divide(&table, &Pool { examples: &examples, files: &files }, seed).unwrap();
            let h = Heterogeneity::measure(p.clients.iter().map(|share| {
                let own: Vec<Example> = share.examples.iter().map(|&i| examples[i].clone()).collect();
                (ClientShape::of(ClientId(0), &share.name, [&own, &[], &[]]), [])
            }));
            spread += h.size_variation / draws as f64;
            tv += h.divergences[0].tv_mean / draws as f64;
        }
        // three standard errors of the mean of 300 draws are below 0.03 everywhere
        let close = |a: f64, b: f64| (a - b).abs() < 0.03;
        assert!(
            close(spread, expected.size_variation),
            "{name}: sizes vary by {spread}, not {}",
            expected.size_variation
        );
        assert!(close(tv, expected.tv_mean), "{name}: total variation {tv}, not {}", expected.tv_mean);
    }
}
