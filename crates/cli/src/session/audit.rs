//! Every delivery of a run of scalars, kept and replayed: whoever holds a run directory can check what its coordinator did.
//!
//! A round in `deliveries.bin` is
//!
//! ```text
//! attempt, 4 bytes; then for each client that counted, ascending:
//!     client, 8 bytes    weight, 8 bytes    length, 4 bytes    its update, packed
//! ```
//!
//! The event log has the digest of each update as it was acknowledged and of the parameters after each round. Replaying takes
//! the updates through the run's own reducer and server step and compares both, from the first round on.

use std::collections::BTreeMap;
use std::fmt;

use antiphon_algo::{Checked, ServerCx, ServerStep};
use antiphon_core::{ClientId, Digest, Noise, Payload, Round, Weight};
use antiphon_protocol::{Contribution, Record, Vector, What, patch};
use antiphon_store::Event;

/// The updates that made a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kept {
    pub(crate) attempt: u32,
    pub(crate) deliveries: Vec<Delivery>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delivery {
    pub(crate) client: ClientId,
    pub(crate) weight: Weight,
    /// As it was sent.
    pub(crate) bytes: Vec<u8>,
}

impl Kept {
    /// What counted in a round; `None` where an update is not there as it was sent.
    pub(crate) fn of(attempt: u32, contributions: &[Contribution]) -> Option<Self> {
        let delivery = |c: &Contribution| {
            let vector = Vector::from_payload(c.update.as_ref()?.payload().clone());
            (vector.digest() == c.digest).then(|| Delivery {
                client: c.client,
                weight: c.weight,
                bytes: vector.bytes().to_vec(),
            })
        };
        let deliveries = contributions.iter().map(delivery).collect::<Option<_>>()?;
        Some(Self { attempt, deliveries })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.attempt.to_le_bytes().to_vec();
        for d in &self.deliveries {
            let packed = patch::pack(&d.bytes);
            out.extend(d.client.0.to_le_bytes());
            out.extend(d.weight.get().to_le_bytes());
            out.extend((packed.len() as u32).to_le_bytes());
            out.extend(packed);
        }
        out
    }

    /// Reads what [`Kept::encode`] wrote of updates of `length` bytes; the error is the first client that cannot be read.
    pub(crate) fn decode(bytes: &[u8], length: usize) -> Result<Self, Option<ClientId>> {
        let (attempt, mut rest) = bytes.split_first_chunk::<4>().ok_or(None)?;
        let mut deliveries = Vec::new();
        while !rest.is_empty() {
            let (client, tail) = rest.split_first_chunk::<8>().ok_or(None)?;
            let client = ClientId(u64::from_le_bytes(*client));
            let mut delivery = || {
                let (weight, tail) = tail.split_first_chunk::<8>()?;
                let (size, tail) = tail.split_first_chunk::<4>()?;
                let (packed, tail) = tail.split_at_checked(u32::from_le_bytes(*size) as usize)?;
                rest = tail;
                let weight = Weight::new(f64::from_le_bytes(*weight)).ok()?;
                Some(Delivery { client, weight, bytes: patch::unpack(packed, length).ok()? })
            };
            deliveries.push(delivery().ok_or(Some(client))?);
        }
        Ok(Self { attempt: u32::from_le_bytes(*attempt), deliveries })
    }
}

/// What the event log says of closed rounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Logged {
    /// Digest of the parameters after each round.
    closed: BTreeMap<Round, Digest>,
    /// Attempt and clients of the round's aggregate.
    counted: BTreeMap<Round, (u32, Vec<ClientId>)>,
    /// Digest and weight of what was acknowledged.
    accepted: BTreeMap<(Round, u32, ClientId), (Digest, Weight)>,
}

impl Logged {
    /// Of the log's events; of a round that was done twice, the last.
    pub(crate) fn read(events: &[Event]) -> Self {
        let mut out = Self::default();
        for event in events.iter().filter(|e| e.kind == "protocol") {
            let Ok(record) = serde_json::from_str::<Record>(&event.json) else { continue };
            match record.what {
                What::Closing { round, attempt, accepted } => {
                    out.counted.insert(round, (attempt, accepted));
                }
                What::Closed { round, theta } => {
                    out.closed.insert(round, theta);
                }
                What::Accepted { round, attempt, client, digest, weight, .. } => {
                    out.accepted.insert((round, attempt, client), (digest, weight));
                }
                _ => {}
            }
        }
        out
    }
}

/// The first thing that does not agree.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Disagreement {
    /// A closed round without its deliveries.
    NotKept(Round),
    /// Other clients than those that counted.
    Clients { round: Round, recorded: Vec<ClientId>, found: Vec<ClientId> },
    /// A delivery that is not what was acknowledged.
    Client { round: Round, client: ClientId, why: String },
    /// A round whose result is not what the deliveries make.
    Coordinator { round: Round, recorded: Digest, found: Digest },
    /// A round that cannot be recomputed.
    Round { round: Round, why: String },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |c: &[ClientId]| c.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::NotKept(round) => write!(f, "{round}: its deliveries are not in deliveries.bin"),
            Self::Clients { round, recorded, found } => {
                write!(f, "{round}: the log counts {}, deliveries.bin holds {}", list(recorded), list(found))
            }
            Self::Client { round, client, why } => write!(f, "{round}, {client}: {why}"),
            Self::Coordinator { round, recorded, found } => write!(
                f,
                "{round}, the coordinator: it recorded state {}, the deliveries make {}",
                recorded.to_hex(),
                found.to_hex()
            ),
            Self::Round { round, why } => write!(f, "{round} cannot be recomputed: {why}"),
        }
    }
}

/// Replays rounds from the first and returns the state after the last one that the log closed.
pub(crate) fn replay(
    plan: &Checked,
    server: &mut dyn ServerStep,
    start: Vec<f32>,
    kept: &[(Round, Vec<u8>)],
    logged: &Logged,
    threads: usize,
) -> Result<Vec<f32>, Disagreement> {
    let kept: BTreeMap<Round, &[u8]> = kept.iter().map(|(round, bytes)| (*round, &bytes[..])).collect();
    let (mut theta, mut slots) = (start, plan.slots());
    for (&round, &recorded) in &logged.closed {
        let bytes = kept.get(&round).ok_or(Disagreement::NotKept(round))?;
        let cannot = |why: String| Disagreement::Round { round, why };
        let of = Kept::decode(bytes, plan.wire_bytes()).map_err(|client| match client {
            Some(client) => Disagreement::Client { round, client, why: "its delivery cannot be read".into() },
            None => cannot("its deliveries cannot be read".into()),
        })?;
        let found: Vec<ClientId> = of.deliveries.iter().map(|d| d.client).collect();
        let (attempt, counted) = logged.counted.get(&round).cloned().unwrap_or_default();
        if found != counted || of.attempt != attempt {
            return Err(Disagreement::Clients { round, recorded: counted, found });
        }
        let mut tally = plan.open(&found);
        for Delivery { client, weight, bytes } in of.deliveries {
            let refuse = |why: String| Disagreement::Client { round, client, why };
            let digest = Digest::of(&bytes);
            match logged.accepted.get(&(round, attempt, client)) {
                Some(&acknowledged) if acknowledged == (digest, weight) => {}
                Some((acknowledged, said)) => {
                    return Err(refuse(format!(
                        "the delivery has digest {} and weight {}, what was acknowledged {} and {}",
                        digest.to_hex(),
                        weight.get(),
                        acknowledged.to_hex(),
                        said.get()
                    )));
                }
                None => return Err(refuse("its delivery was never acknowledged".into())),
            }
            let payload = Payload::RealBytes(bytes.into());
            let admitted = plan.admit(payload, weight).map_err(|e| refuse(e.to_string()))?;
            tally.accept(client, admitted).map_err(|e| refuse(e.to_string()))?;
        }
        let mut cx = ServerCx { round, accepted: found.len(), noise: &mut Silence, threads };
        let delta = tally.close(&mut cx, &mut slots).map_err(|e| cannot(e.to_string()))?;
        server.step(&mut theta, &delta, threads).map_err(|e| cannot(e.to_string()))?;
        let found = Vector::from_reals(&theta).digest();
        if found != recorded {
            return Err(Disagreement::Coordinator { round, recorded, found });
        }
    }
    Ok(theta)
}

/// Stands where no layer draws noise: plans that do are refused before a replay.
struct Silence;

impl Noise for Silence {
    fn standard_normal(&mut self) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antiphon_algo::AggregationSettings;
    use antiphon_core::schema::TensorSpec;
    use antiphon_core::{Millis, Schema};

    const D: usize = 40;

    fn plan() -> Checked {
        let schema = Schema::new(vec![TensorSpec { name: "s".into(), shape: vec![D] }]).unwrap();
        AggregationSettings::default().plan().unwrap().check(&schema).unwrap()
    }

    fn server() -> Box<dyn ServerStep> {
        antiphon_algo::server_step(&"id = 'sgdm'\nlearning_rate = 0.5\nmomentum = 0.5".parse().unwrap())
            .unwrap()
    }

    type Ran = (Vec<(Round, Vec<u8>)>, Vec<Event>, Vec<f32>);

    /// Two rounds of two clients: what is kept, and what a coordinator logs of it.
    fn run() -> Ran {
        let (plan, mut server) = (plan(), server());
        let (mut theta, mut kept, mut records) = (vec![0.0; D], Vec::new(), Vec::new());
        for round in [Round(0), Round(1)] {
            let ids = [ClientId(2), ClientId(5)];
            let mut tally = plan.open(&ids);
            let mut of = Kept::default();
            for client in ids {
                let mut x = vec![0.0_f32; D + 1];
                let weight = Weight::new(client.0 as f64).unwrap();
                (x[3 + round.0 as usize], x[20], x[D]) = (1.5 * client.0 as f32, -0.25, client.0 as f32);
                let v = Vector::from_reals(&x);
                let digest = v.digest();
                of.deliveries.push(Delivery { client, weight, bytes: v.bytes().to_vec() });
                let payload = v.to_payload(antiphon_algo::Carrier::Real);
                tally.accept(client, plan.admit(payload, weight).unwrap()).unwrap();
                let (attempt, bytes, metrics) = (0, 164, BTreeMap::new());
                records.push(What::Accepted { round, attempt, client, digest, bytes, weight, metrics });
            }
            let mut cx = ServerCx { round, accepted: 2, noise: &mut Silence, threads: 1 };
            let delta = tally.close(&mut cx, &mut plan.slots()).unwrap();
            server.step(&mut theta, &delta, 1).unwrap();
            records.push(What::Closing { round, attempt: 0, accepted: ids.to_vec() });
            records.push(What::Closed { round, theta: Vector::from_reals(&theta).digest() });
            kept.push((round, of.encode()));
        }
        let event = |(i, what): (usize, What)| Event {
            seq: i as i64 + 1,
            unix_ms: 0,
            round: None,
            kind: "protocol".into(),
            json: serde_json::to_string(&Record { at_ms: Millis(0), what }).unwrap(),
        };
        (kept, records.into_iter().enumerate().map(event).collect(), theta)
    }

    fn verdict(kept: &[(Round, Vec<u8>)], events: &[Event]) -> Result<Vec<f32>, Disagreement> {
        replay(&plan(), &mut *server(), vec![0.0; D], kept, &Logged::read(events), 1)
    }

    #[test]
    fn what_a_coordinator_did_is_recomputed() {
        let (kept, events, theta) = run();
        assert_eq!(verdict(&kept, &events), Ok(theta));
        assert!(kept[0].1.len() < 2 * 4 * D, "packed");
    }

    /// Any bit of what clients sent names the round, and the client where it can be told.
    #[test]
    fn every_flipped_bit_is_noticed_in_its_round() {
        let (kept, events, _) = run();
        for round in 0..2 {
            for bit in 0..8 * kept[round].1.len() {
                let mut bad = kept.clone();
                bad[round].1[bit / 8] ^= 1 << (bit % 8);
                let e = verdict(&bad, &events).unwrap_err();
                let named = match &e {
                    Disagreement::Clients { round, .. }
                    | Disagreement::Client { round, .. }
                    | Disagreement::Round { round, .. } => *round,
                    other => panic!("bit {bit}: {other}"),
                };
                assert_eq!(named.0 as usize, round, "bit {bit}: {e}");
            }
        }
        // the last scalar of the second client
        let mut bad = kept.clone();
        let last = bad[1].1.len() - 9;
        bad[1].1[last] ^= 1;
        let e = verdict(&bad, &events).unwrap_err();
        assert!(matches!(e, Disagreement::Client { round: Round(1), client: ClientId(5), .. }), "{e}");
        assert_eq!(verdict(&kept[..1], &events), Err(Disagreement::NotKept(Round(1))));
    }

    #[test]
    fn a_coordinator_that_recorded_something_else_is_named() {
        let (kept, mut events, _) = run();
        for event in &mut events {
            let mut record: Record = serde_json::from_str(&event.json).unwrap();
            if let What::Closed { round: Round(1), theta } = &mut record.what {
                *theta = Digest::of(b"another state");
            }
            event.json = serde_json::to_string(&record).unwrap();
        }
        let e = verdict(&kept, &events).unwrap_err();
        assert!(matches!(e, Disagreement::Coordinator { round: Round(1), .. }), "{e}");
        assert!(e.to_string().contains("coordinator"));
    }
}
