//! A federation of closed form, so that a resumed run can be compared with an uninterrupted one bit for
//! bit: every round's updates depend on the model, the client's kept state, the round and nothing else.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::num::NonZeroU32;
use std::path::Path;

use antiphon_core::{ClientId, Digest, Purpose, Round, Stream};
use antiphon_store::{Checkpoint, Failpoint, Layout, Resume, RunDir, Settings, StoreError, read_metrics};

pub const ROUNDS: u32 = 6;
const CLIENTS: u64 = 3;
/// More than one chunk of 256 KiB, so that a kill can fall inside a file.
const DIM: usize = 70_000;
pub const TOML: &str = "seed = 1\n[federation]\nnum_rounds = 6\n";

pub fn settings(durable: bool) -> Settings {
    Settings { durable, keep_last: NonZeroU32::new(2).unwrap(), keep_every: NonZeroU32::new(3) }
}

#[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
pub struct Line {
    pub round: Round,
    pub sum: f64,
}

pub fn to_bytes(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn from_bytes(v: &[u8]) -> Vec<f32> {
    v.as_chunks::<4>().0.iter().map(|w| f32::from_le_bytes(*w)).collect()
}

/// Begins or resumes the run in `path` and does what is left of it.
pub fn run_to_end(path: &Path, durable: bool, failpoint: Option<Failpoint>) -> Result<Vec<f32>, StoreError> {
    let (mut run, at) = match RunDir::create_with(
        path,
        TOML,
        &serde_json::json!({"profile": "toy"}),
        settings(durable),
        1,
        failpoint.clone(),
    ) {
        Ok(run) => (run, None),
        Err(StoreError::AlreadyARun { .. }) => {
            let (run, at) = RunDir::resume_with(path, 2, failpoint)?;
            (run, Some(at))
        }
        Err(e) => return Err(e),
    };
    finish(&mut run, at)
}

fn finish(run: &mut RunDir, at: Option<Resume>) -> Result<Vec<f32>, StoreError> {
    let mut theta = vec![0.5_f32; DIM];
    let mut momentum = vec![0.0_f32; DIM];
    let mut received = Vec::new();
    if let Some(at) = at {
        if let Some(state) = at.checkpoint {
            assert_eq!(state.slots, [("layer".to_owned(), vec![state.round.0 as u8; 9])]);
            theta = state.theta;
            momentum = state.server.into_iter().next().unwrap().1;
        }
        received = at.updates;
    }
    while run.next_round().0 < ROUNDS {
        let round = run.next_round();
        let mut sum = vec![0.0_f32; DIM];
        for client in (0..CLIENTS).map(ClientId) {
            let (update, kept) = local(run, round, client, &theta)?;
            let bytes = to_bytes(&update);
            if let Some(old) = received.iter().find(|u| u.client == client) {
                assert_eq!(old.bytes, bytes, "an acknowledged update came back changed");
            }
            let new = run.put_update(3, client, &bytes, Digest::of(&bytes))?;
            assert_eq!(new, !received.iter().any(|u| u.client == client));
            run.set_client_state(client, &to_bytes(&kept))?;
            sum.iter_mut().zip(&update).for_each(|(s, u)| *s += u);
        }
        received.clear();
        for ((t, m), s) in theta.iter_mut().zip(&mut momentum).zip(&sum) {
            *m = 0.9 * *m + s / CLIENTS as f32;
            *t -= 0.1 * *m;
        }
        let slot = [round.0 as u8; 9];
        let checkpoint = Checkpoint {
            theta: &theta,
            server: vec![("momentum", &momentum)],
            slots: vec![("layer", &slot)],
        };
        let line = Line { round, sum: theta.iter().map(|x| f64::from(*x)).sum() };
        run.close_round(4, round, &checkpoint, &line)?;
        run.publish(5, |dir| write(&dir.join("model"), &to_bytes(&theta)))?;
    }
    // a kill may fall between the last closing and its publication
    run.publish(5, |dir| write(&dir.join("model"), &to_bytes(&theta)))?;
    run.commit()?;
    run.write_summary(&serde_json::json!({"done": true}))?;
    Ok(theta)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    std::fs::write(path, bytes).map_err(|source| StoreError::Io {
        doing: "write",
        path: path.to_owned(),
        source,
    })
}

fn local(
    run: &RunDir,
    round: Round,
    client: ClientId,
    theta: &[f32],
) -> Result<(Vec<f32>, Vec<f32>), StoreError> {
    let mut kept = run.client_state(client)?.map_or(vec![0.0; 50], |b| from_bytes(&b));
    let mut noise = Stream::keyed(1, Purpose::Test, Some(round), Some(client), "");
    kept.iter_mut().for_each(|k| *k = 0.5 * *k + noise.uniform_f32());
    let update = theta.iter().enumerate().map(|(i, t)| 0.01 * t + kept[i % kept.len()] - 0.6).collect();
    Ok((update, kept))
}

/// What a finished run must look like, whatever happened on the way.
pub fn check_finished(path: &Path, theta: &[f32]) {
    let layout = Layout::new(path);
    assert_eq!(std::fs::read(layout.latest().join("model")).unwrap(), to_bytes(theta));
    let lines: Vec<Line> = read_metrics(&layout.metrics()).unwrap();
    assert_eq!(lines.iter().map(|l| l.round.0).collect::<Vec<_>>(), (0..ROUNDS).collect::<Vec<_>>());
    assert_eq!(lines.last().unwrap().sum, theta.iter().map(|x| f64::from(*x)).sum::<f64>());
    let (run, at) = RunDir::resume(path, 9).unwrap();
    let state = at.checkpoint.unwrap();
    assert!(at.skipped.is_empty());
    assert_eq!((state.round.0, &state.theta[..]), (ROUNDS - 1, theta));
    drop(run);
    let names = |dir: &Path| -> Vec<String> {
        let mut v: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        v.sort();
        v
    };
    // the two newest and every third, counted from one; nothing temporary anywhere
    assert_eq!(names(&path.join("rounds")), ["00002", "00004", "00005"]);
    assert!(names(path).iter().all(|n| !n.starts_with('.')), "{:?}", names(path));
    // per checkpoint: theta, momentum, slot, three client states
    assert_eq!(names(&path.join("blobs")).len(), 3 * 6);
}
