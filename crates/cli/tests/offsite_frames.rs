//! What crosses the wire in off-site tuning: every frame of a round, in both directions, and every change of the emulator,
//! searched for the tensors that the owner keeps, in every element type and code.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};

use antiphon_algo::AggregationSettings;
use antiphon_core::{ClientId, Digest, Millis, Round};
use antiphon_data::Sequence;
use antiphon_kernels::Cpu;
use antiphon_model::emulator::{Codec, EmulatorSettings, Made, Update};
use antiphon_model::{Base, Emulator, Net, Task, Weights};
use antiphon_protocol::{
    Client as Peer, Coordinator, Frame, Gate, LinkError, Policy, Setup, Vector, run_session,
};
use antiphon_sim::{Framed, Meter, Server, VirtualClock, Wire};
use antiphon_tune::method::{self, Start};
use antiphon_tune::{Client, Recipe, TrainSettings, Tuning, estimator, objective, optim, step_shape};
use support::{Toy, VOCAB, codes, config, distinct, occurs};

/// A wire that keeps what it carries.
struct Kept<'a, 'b> {
    inner: &'a Server<'b>,
    frames: &'a Mutex<Vec<Vec<u8>>>,
}

impl Wire for Kept<'_, '_> {
    fn exchange(&mut self, from: ClientId, frame: Frame) -> Result<Frame, LinkError> {
        let mut inner = self.inner;
        self.frames.lock().unwrap().push(frame.to_vec());
        let answer = inner.exchange(from, frame)?;
        self.frames.lock().unwrap().push(answer.to_vec());
        Ok(answer)
    }
}

const CLIENTS: u64 = 3;

fn table(text: &str) -> toml::Table {
    text.parse().unwrap()
}

#[test]
fn no_withheld_tensor_crosses_the_wire() {
    let toy = Toy::new();
    let mut six = config(VOCAB);
    six["num_hidden_layers"] = serde_json::json!(6);
    toy.write("model/config.json", six.to_string());
    toy.checkpoint(distinct);
    let base = Base::open(&toy.path("model").display().to_string(), 0).unwrap();
    let rule = table("id = 'offsite_tuning'");
    let settings = EmulatorSettings { adapter_bottom: 1, adapter_top: 1, drop_rate: 0.5, rule };
    let emulator = Emulator::new(6, &settings, &[]).unwrap();
    assert_eq!(emulator.withheld(), [2, 3]);
    let spec = emulator.spec(base.spec()).unwrap();

    // the adapter in full, so that tensors themselves travel
    let method = method::build(&table("id = 'full'\nlayers_to_transform = [0, 5]")).unwrap();
    let wiring = Arc::new(method.wire(&spec, Task::CausalLm).unwrap());
    let start = Start { spec: &spec, base: base.source(), tokenize: None, seed: 1 };
    let theta = method.init(&wiring, &start).unwrap();
    let backend = Arc::new(Cpu::serial());
    let weights = Weights::load(&*backend, &spec, Task::CausalLm, base.source()).unwrap();
    let net = Net::new(&*backend, weights, Task::CausalLm, Arc::clone(&wiring), 16).unwrap();
    let sequences: Arc<[Sequence]> = (0..4_u32)
        .map(|i| Sequence {
            ids: (0..9).map(|t| (i * 31 + t * 7) % 256).collect(),
            target: vec![true; 9],
            class: None,
        })
        .collect();
    let train: TrainSettings =
        toml::from_str("learning_rate = 1e-2\nmicro_batch_size = 2\nlocal_steps = 2").unwrap();
    let recipe = Recipe {
        objective: objective::build(&table("id = 'sft'")).unwrap(),
        estimator: estimator::build(&table("id = 'backprop'")).unwrap(),
        optimizer: optim::build(&table("id = 'adamw'")).unwrap(),
        train: train.check().unwrap(),
        rounds: 1,
        seed: 1,
    };
    let shape = step_shape([&sequences[..]], 2, 0);
    let tuning = Arc::new(Tuning::new(backend, Arc::new(net), recipe, shape, Arc::default()));

    let plan = AggregationSettings::default().plan().unwrap().check(&wiring.schema).unwrap();
    let roster: Vec<ClientId> = (0..CLIENTS).map(ClientId).collect();
    let policy = Policy {
        num_rounds: 1,
        fraction: 1.0,
        min_clients: 1,
        round_deadline_ms: None,
        join_deadline_ms: None,
        round_attempts: 1,
        history: 0,
    };
    let setup = Setup { plan: plan.clone(), policy, roster: roster.clone(), seed: 1, keep_updates: false };
    let coordinator = Coordinator::new(setup, Round(0), Vector::from_reals(&theta), Millis(0)).unwrap();
    let (meter, clock, frames) = (Meter::default(), VirtualClock::default(), Mutex::new(Vec::new()));
    let mut log: Vec<antiphon_protocol::Record> = Vec::new();
    let server = Server::new(Gate::new(plan.clone()), coordinator, &mut log, &meter, &clock);
    let mut peers: Vec<Peer> = roster.iter().map(|id| Peer::new(*id, plan.clone(), 1)).collect();
    // all join, then each gets its work and delivers
    for _ in 0..2 {
        for peer in &mut peers {
            let id = peer.id();
            let client = Client::new(Arc::clone(&tuning), id, Arc::clone(&sequences), 4).unwrap();
            let mut wire = Kept { inner: &server, frames: &frames };
            let mut link =
                Framed { id, wire: &mut wire, meter: &meter, theta_bytes: 4 * theta.len(), sparse: false };
            run_session(peer, &mut link, &mut &client, &mut plan.slots(), &mut Vec::new()).unwrap();
        }
    }
    let mut sent = frames.into_inner().unwrap();

    let updates = sent.iter().filter(|f| f.len() > 4 * theta.len()).count();
    // work down and an update up for every client
    assert_eq!(updates, 2 * CLIENTS as usize, "of {} frames", sent.len());

    // and the emulator's changes, in every code
    let middle = emulator.wire_middle(&spec, Task::CausalLm).unwrap();
    let mut held = vec![0.0; middle.schema.dim()];
    for (name, range) in &middle.live {
        base.source().get(name).unwrap().0.widen(0, &mut held[range.clone()]);
    }
    let now: Vec<f32> = held.iter().map(|v| v * 1.01 + 1e-3).collect();
    let made = Made { base: base.digest(1), schema: middle.schema.digest() };
    for codec in [Codec::F32, Codec::Int8] {
        sent.push(Update::encode(made, 1, codec, &held, &now));
        sent.push(Update::encode(made, 1, codec, &vec![0.0; held.len()], &now));
    }

    let of =
        |name: &str, layers: &[usize]| layers.iter().any(|l| name.starts_with(&format!("model.layers.{l}.")));
    let (mut looked, mut found) = (0, 0);
    for (name, (_, values)) in toy.tensors(distinct) {
        if name.contains("norm") {
            continue;
        }
        for (code, bytes) in codes(&values) {
            for frame in &sent {
                let here = occurs(frame, &bytes);
                assert!(!(of(&name, &[2, 3]) && here), "{name} as {code}");
                looked += usize::from(of(&name, &[2, 3]));
                found += usize::from(here && of(&name, &[0, 5]) && code == "f32");
            }
        }
    }
    // the search finds what is there: each tensor of the adapter in each client's work
    assert_eq!(found, 2 * 7 * CLIENTS as usize);
    assert!(looked > 500, "{looked}");
    assert_ne!(Digest::of(&sent[0]), Digest::of(&sent[1]));
}
