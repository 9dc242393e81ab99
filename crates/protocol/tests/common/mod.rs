//! A plan, and messages for it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test helpers; each test file uses its part"
)]

use std::collections::BTreeMap;

use antiphon_algo::layers::weight::WeightedMean;
use antiphon_algo::reducers::sum::Sum;
use antiphon_algo::{Checked, Plan};
use antiphon_core::schema::TensorSpec;
use antiphon_core::{ClientId, Digest, Payload, Round, Schema, Weight};
use antiphon_protocol::*;

pub const D: usize = 3;

pub fn schema() -> Schema {
    Schema::new(vec![TensorSpec { name: "w".into(), shape: vec![D] }]).unwrap()
}

pub fn mean() -> Checked {
    Plan { layers: vec![Box::new(WeightedMean::examples())], reducer: Box::new(Sum) }
        .check(&schema())
        .unwrap()
}

pub fn theta(v: f32) -> Vector {
    Vector::from_reals(&[v; D])
}

pub fn metrics(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
}

/// An update of weight 2 whose coordinates are all `2 v`.
pub fn deliver(plan: &Checked, round: u32, attempt: u32, base: Digest, v: f32) -> Deliver {
    Deliver {
        round: Round(round),
        attempt,
        plan: plan.digest(),
        schema: plan.schema_digest(),
        base,
        weight: Weight::new(2.0).unwrap(),
        metrics: metrics(&[("train_loss", 0.5)]),
        update: Vector::from_payload(Payload::Real(vec![2.0 * v, 2.0 * v, 2.0 * v, 2.0])),
    }
}

pub fn ids(list: &[u64]) -> Vec<ClientId> {
    list.iter().copied().map(ClientId).collect()
}
