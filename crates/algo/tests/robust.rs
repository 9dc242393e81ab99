//! Reducers by rank: closed forms, one vote each, and what a minority can do to them.

#![allow(clippy::unwrap_used, reason = "a test")]

mod toys;

use antiphon_algo::*;
use antiphon_core::registry::build;
use antiphon_core::{Noise, Payload, Purpose, Stream};
use proptest::prelude::*;
use toys::*;

fn reducer(text: &str) -> Box<dyn Reducer> {
    build("reducer", REDUCERS, &text.parse().unwrap()).unwrap()
}

fn reduce(text: &str, rows: &[Vec<f32>]) -> Vec<f32> {
    let checked = Plan { layers: vec![], reducer: reducer(text) }.check(&schema(rows[0].len())).unwrap();
    let rows: Vec<_> = rows.iter().map(|r| (1.0, r.clone())).collect();
    round(&checked, &rows).unwrap()
}

const MEDIAN: &str = "id = 'median'";
const TRIMMED: &str = "id = 'trimmed_mean'\ntrim = 0.25";

#[test]
fn closed_forms() {
    let rows = [vec![3.0, -1.0], vec![1.0, 7.0], vec![2.0, 0.0], vec![1e30, -1e30], vec![-5.0, 0.5]];
    assert_eq!(reduce(MEDIAN, &rows), [2.0, 0.0]);
    assert_eq!(reduce(MEDIAN, &rows[..4]), [2.5, -0.5]);
    // one of five left out at either end
    assert_eq!(reduce(TRIMMED, &rows), [2.0, ((0.5 - 1.0) / 3.0) as f32]);
    // below four nothing is
    assert_eq!(reduce(TRIMMED, &rows[..3]), [2.0, 2.0]);
    assert_eq!(reduce("id = 'trimmed_mean'\ntrim = 0.0", &rows[..3]), [2.0, 2.0]);
    assert_eq!(reduce(MEDIAN, &[vec![f32::MAX], vec![f32::MAX]]), [f32::MAX]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Any order of rows and any number of threads give the same bits.
    #[test]
    fn only_the_multiset_of_rows_counts(n in 1_usize..12, d in 1_usize..5000, seed in 0_u64..100) {
        let mut s = Stream::new(seed, Purpose::Test);
        let mut rows: Vec<Vec<f32>> =
            (0..n).map(|_| (0..d).map(|_| s.standard_normal() as f32).collect()).collect();
        let up = plan(vec![], antiphon_algo::reducers::sum::Sum).check(&schema(d)).unwrap().wire().clone();
        for text in [MEDIAN, TRIMMED] {
            let result = |rows: &[Vec<f32>], threads| {
                let mut acc = reducer(text).start(&up);
                rows.iter().for_each(|r| acc.add(Payload::Real(r.clone())).unwrap());
                acc.finish(threads).unwrap()
            };
            let before = result(&rows, 1);
            s.shuffle(&mut rows);
            prop_assert_eq!(result(&rows, 3), before);
        }
    }

    /// Liars below the breakdown point cannot move a coordinate out of the range of the honest.
    #[test]
    fn a_minority_cannot_leave_the_range_of_the_honest(liars in 0_usize..3, seed in 0_u64..200) {
        let (honest, d) = (7, 4);
        let mut s = Stream::new(seed, Purpose::Test);
        let mut rows: Vec<Vec<f32>> =
            (0..honest).map(|_| (0..d).map(|_| s.standard_normal() as f32).collect()).collect();
        let range = |j: usize| {
            let column = rows.iter().map(|r: &Vec<f32>| r[j]);
            (column.clone().fold(f32::INFINITY, f32::min), column.fold(f32::NEG_INFINITY, f32::max))
        };
        let ranges: Vec<_> = (0..d).map(range).collect();
        let lie = |s: &mut Stream| if s.below(2) == 0 { 1e20 } else { -1e20 };
        (0..liars).for_each(|_| rows.push((0..d).map(|_| lie(&mut s)).collect()));
        // 2 of 9 is 22 %
        for text in [MEDIAN, TRIMMED] {
            for (y, (low, high)) in reduce(text, &rows).into_iter().zip(&ranges) {
                prop_assert!(*low <= y && y <= *high, "{}: {} outside {}..{}", text, y, low, high);
            }
        }
    }
}

#[test]
fn what_cannot_be_ranked_is_refused() {
    for (text, stage) in [(MEDIAN, "median"), (TRIMMED, "trimmed_mean")] {
        let refuse = |layers: &str| {
            let table: toml::Table = format!("layers = [{layers}]").parse().unwrap();
            let layers = table["layers"].as_array().unwrap().iter();
            let layers = layers.map(|t| build("layer", LAYERS, t.as_table().unwrap()).unwrap()).collect();
            Plan { layers, reducer: reducer(text) }.check(&schema(3)).unwrap_err()
        };
        let e = refuse("{ id = 'weight', by = 'examples' }").to_string();
        assert!(e.contains(stage) && e.contains("one vote"), "{e}");
        let up = plan(vec![], antiphon_algo::reducers::sum::Sum).check(&schema(3)).unwrap().wire().clone();
        let masked = Contract { view: View::SumOnly, ..up.clone() };
        assert!(reducer(text).accepts(&masked).is_err());
        assert!(reducer(text).accepts(&Contract { carrier: Carrier::Ring, ..up.clone() }).is_err());
        assert!(reducer(text).accepts(&up).is_ok());
    }
    for trim in ["-0.1", "0.5", "nan"] {
        let table = format!("id = 'trimmed_mean'\ntrim = {trim}").parse().unwrap();
        let e = build("reducer", REDUCERS, &table).unwrap_err().to_string();
        assert!(e.contains("trim"), "{e}");
    }
}
