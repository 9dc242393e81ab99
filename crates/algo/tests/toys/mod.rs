//! Layers and a reducer that are not residents yet, in their simplest form: what they need of a plan is real, and
//! is what the tests are about.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "test helpers; each test file uses its part"
)]

use std::any::Any;

use antiphon_algo::layer::{carrier_of, real};
use antiphon_algo::*;
use antiphon_core::schema::TensorSpec;
use antiphon_core::{ClientId, Noise, Payload, Round, Schema, Weight};

pub fn schema(d: usize) -> Schema {
    Schema::new(vec![TensorSpec { name: "w".into(), shape: vec![d] }]).unwrap()
}

pub fn plan(layers: Vec<Box<dyn Layer>>, reducer: impl Reducer + 'static) -> Plan {
    Plan { layers, reducer: Box::new(reducer) }
}

/// "Random" noise that is always the same number.
pub struct Always(pub f64);

impl Noise for Always {
    fn standard_normal(&mut self) -> f64 {
        self.0
    }
}

pub fn client(k: u64, weight: f64, cohort: &[ClientId]) -> ClientCx<'_> {
    ClientCx { round: Round(0), client: ClientId(k), cohort, weight: Weight::new(weight).unwrap() }
}

/// Encodes and tallies `xs` (client `k` has weight `xs[k].0`), and closes with noise that is always 1.
pub fn round(plan: &Checked, xs: &[(f64, Vec<f32>)]) -> Result<Vec<f32>, RoundError> {
    let cohort: Vec<ClientId> = (0..xs.len() as u64).map(ClientId).collect();
    let mut tally = plan.open(&cohort);
    for (k, (w, x)) in xs.iter().enumerate() {
        let cx = client(k as u64, *w, &cohort);
        let y = plan.encode(x.clone(), &cx, &mut plan.slots())?;
        tally.accept(cohort[k], plan.admit(y, cx.weight)?).unwrap();
    }
    let mut cx = ServerCx { round: Round(0), accepted: xs.len(), noise: &mut Always(1.0), threads: 2 };
    tally.close(&mut cx, &mut plan.slots())
}

/// Central Gaussian mechanism: `y + N(0, (z C)^2 I)` (McMahan et al. 2018, Algorithm 1). The sensitivity is read from
/// the contract.
#[derive(Debug)]
pub struct Gaussian(pub f64);

impl Layer for Gaussian {
    fn describe(&self) -> String {
        format!("gaussian z={}", self.0)
    }
    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch> {
        if up.carrier == Carrier::Real && up.l2.is_some() {
            return Ok(up.clone());
        }
        Err(Mismatch {
            stage: "gaussian",
            needs: "real coordinates with an l2 bound",
            found: up.clone(),
            remedy: "put `clip` before it, and cap the weights",
        })
    }
    fn sum(
        &self,
        y: Payload,
        up: &Contract,
        cx: &mut ServerCx<'_>,
        _: &mut State,
    ) -> Result<Payload, LayerError> {
        let mut v = real("gaussian", y)?;
        let sigma = self.0 * up.l2.unwrap();
        v.iter_mut().for_each(|c| *c += (sigma * cx.noise.standard_normal()) as f32);
        Ok(Payload::Real(v))
    }
    fn privacy(&self) -> Option<GaussianEvent> {
        Some(GaussianEvent { noise_multiplier: self.0 })
    }
}

/// `round(x 2^bits) mod 2^64`: makes sums exact, and gives masks their group.
#[derive(Debug)]
pub struct FixedPoint(pub i32);

impl Layer for FixedPoint {
    fn describe(&self) -> String {
        format!("fixed_point bits={}", self.0)
    }
    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch> {
        if up.carrier == Carrier::Real && up.l2.is_some() {
            return Ok(Contract { carrier: Carrier::Ring, ..up.clone() });
        }
        Err(Mismatch {
            stage: "fixed_point",
            needs: "real coordinates with an l2 bound, so that none can wrap",
            found: up.clone(),
            remedy: "put `clip` before it",
        })
    }
    fn client(
        &self,
        x: Payload,
        _: &Contract,
        _: &ClientCx<'_>,
        _: &mut State,
    ) -> Result<Payload, LayerError> {
        let scale = 2f64.powi(self.0);
        let word = |c: f32| (f64::from(c) * scale).round() as i64 as u64;
        Ok(Payload::Ring(real("fixed_point", x)?.into_iter().map(word).collect()))
    }
    fn sum(
        &self,
        y: Payload,
        _: &Contract,
        _: &mut ServerCx<'_>,
        _: &mut State,
    ) -> Result<Payload, LayerError> {
        let Payload::Ring(v) = y else { panic!("the contract said ring") };
        let scale = 2f64.powi(self.0);
        Ok(Payload::Real(v.into_iter().map(|c| (c as i64 as f64 / scale) as f32).collect()))
    }
}

/// Pairwise masks that cancel in the sum, under a key that everyone has: shows where such a layer sits.
#[derive(Debug)]
pub struct Mask;

impl Layer for Mask {
    fn describe(&self) -> String {
        "mask".into()
    }
    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch> {
        if up.carrier == Carrier::Ring && up.summable {
            return Ok(Contract { view: View::SumOnly, ..up.clone() });
        }
        Err(Mismatch {
            stage: "mask",
            needs: "summable ring coordinates",
            found: up.clone(),
            remedy: "put `fixed_point` before it",
        })
    }
    fn client(
        &self,
        x: Payload,
        _: &Contract,
        cx: &ClientCx<'_>,
        _: &mut State,
    ) -> Result<Payload, LayerError> {
        let Payload::Ring(mut v) = x else { panic!("the contract said ring") };
        for &other in cx.cohort.iter().filter(|&&c| c != cx.client) {
            let (lo, hi) = (cx.client.min(other).0, cx.client.max(other).0);
            let mut s = antiphon_core::Stream::new(lo << 32 | hi, antiphon_core::Purpose::Test);
            for c in &mut v {
                let mask = s.next_u64();
                *c = if other > cx.client { c.wrapping_add(mask) } else { c.wrapping_sub(mask) };
            }
        }
        Ok(Payload::Ring(v))
    }
}

/// Keeps the `k` largest coordinates, as (index, value) pairs: what the server must decode for each client.
#[derive(Debug)]
pub struct TopK(pub usize);

impl Layer for TopK {
    fn describe(&self) -> String {
        format!("top_k k={}", self.0)
    }
    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch> {
        Ok(Contract { len: 2 * self.0, summable: false, l2: None, ..up.clone() })
    }
}

/// Remembers how often it was used: client halves count in one slot, the server half in another.
#[derive(Debug)]
pub struct Counts;

impl Layer for Counts {
    fn describe(&self) -> String {
        "counts".into()
    }
    fn contract(&self, up: &Contract) -> Result<Contract, Mismatch> {
        Ok(up.clone())
    }
    fn client(
        &self,
        x: Payload,
        _: &Contract,
        _: &ClientCx<'_>,
        slot: &mut State,
    ) -> Result<Payload, LayerError> {
        slot.entry("client".into()).or_insert_with(|| vec![0.0])[0] += 1.0;
        Ok(x)
    }
    fn sum(
        &self,
        y: Payload,
        _: &Contract,
        cx: &mut ServerCx<'_>,
        slot: &mut State,
    ) -> Result<Payload, LayerError> {
        slot.entry("server".into()).or_insert_with(|| vec![0.0])[0] += cx.accepted as f32;
        Ok(y)
    }
}

/// Coordinate-wise median (Yin et al. 2018, Definition 1).
#[derive(Debug)]
pub struct Median;

impl Reducer for Median {
    fn describe(&self) -> String {
        "median".into()
    }
    fn accepts(&self, up: &Contract) -> Result<(), Mismatch> {
        let refuse = |needs, remedy| Err(Mismatch { stage: "median", needs, found: up.clone(), remedy });
        if up.view == View::SumOnly {
            return refuse("to see each client's vector", "drop `mask`, or reduce with `sum`");
        }
        if up.carrier != Carrier::Real {
            return refuse("real coordinates", "drop `fixed_point`");
        }
        if up.weighted {
            return refuse("vectors in the units of the model, not products with a weight", "drop `weight`");
        }
        Ok(())
    }
    fn start(&self, _: &Contract) -> Box<dyn Accumulator> {
        Box::new(Rows(Vec::new()))
    }
}

struct Rows(Vec<Vec<f32>>);

impl Accumulator for Rows {
    fn add(&mut self, x: Payload) -> Result<(), ReduceError> {
        let found = carrier_of(&x);
        self.0.push(x.into_real().map_err(|_| ReduceError::Carrier { expected: Carrier::Real, found })?);
        Ok(())
    }
    fn merge(&mut self, other: Box<dyn Accumulator>) -> Result<(), ReduceError> {
        let other: Box<dyn Any> = other;
        self.0.extend(other.downcast::<Self>().map_err(|_| ReduceError::Merge)?.0);
        Ok(())
    }
    fn finish(self: Box<Self>, _: usize) -> Result<Payload, ReduceError> {
        let d = self.0.first().ok_or(ReduceError::Empty)?.len();
        let column = |j: usize| {
            let mut c: Vec<f32> = self.0.iter().map(|r| r[j]).collect();
            c.sort_by(f32::total_cmp);
            f32::midpoint(c[(c.len() - 1) / 2], c[c.len() / 2])
        };
        Ok(Payload::Real((0..d).map(column).collect()))
    }
}
