//! Refusals, locks, damage and what a resume finds.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod toy;

use std::fs;
use std::path::Path;

use antiphon_core::{ClientId, Digest, Round};
use antiphon_store::{Checkpoint, Layout, RunDir, StoreError, read_metrics};
use serde_json::json;
use toy::{Line, TOML, settings};

fn create(path: &Path, durable: bool) -> RunDir {
    RunDir::create(path, TOML, &json!({"profile": "p"}), settings(durable), 1_767_225_599_999).unwrap()
}

fn close(run: &mut RunDir, theta: &[f32]) {
    let round = run.next_round();
    let checkpoint = Checkpoint { theta, ..Checkpoint::default() };
    run.close_round(2, round, &checkpoint, &Line { round, sum: 0.0 }).unwrap();
}

fn theta_file(path: &Path, theta: &[f32]) -> std::path::PathBuf {
    path.join("blobs").join(Digest::of(&toy::to_bytes(theta)).to_hex())
}

#[test]
fn a_run_knows_what_it_was_created_with() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path(), true));
    let (run, at) = RunDir::resume(dir.path(), 5).unwrap();
    assert_eq!(
        (run.run_toml(), run.meta(), run.settings()),
        (TOML, &json!({"profile": "p"}), settings(true))
    );
    assert_eq!((at.next, at.checkpoint, at.events.len()), (Round(0), None, 1));
}

#[test]
fn one_process_at_a_time_and_the_error_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r");
    let held = create(&path, false);
    let error = RunDir::resume(&path, 5).unwrap_err();
    let expected = format!("in use by process {} since 2025-12-31 23:59:59 UTC", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");
    drop(held);
    assert!(RunDir::resume(&path, 5).is_ok());
}

#[test]
fn a_new_run_takes_no_occupied_directory() {
    let dir = tempfile::tempdir().unwrap();
    let make = |p: &Path| RunDir::create(p, TOML, &json!({}), settings(false), 1);
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let error = make(dir.path()).unwrap_err();
    assert!(matches!(&error, StoreError::NotEmpty { found, .. } if found == "thesis.tex"), "{error}");
    assert!(!dir.path().join("run.lock").exists(), "nothing half-written");
    let path = dir.path().join("r");
    drop(make(&path).unwrap());
    assert!(matches!(make(&path).unwrap_err(), StoreError::AlreadyARun { .. }));
    assert!(matches!(
        RunDir::resume(dir.path(), 1).unwrap_err(),
        StoreError::NoRun { missing: "run.toml", .. }
    ));
}

#[test]
fn an_edited_run_file_is_refused_with_its_changes() {
    let dir = tempfile::tempdir().unwrap();
    drop(create(dir.path(), false));
    let file = Layout::new(dir.path()).run_file();
    fs::write(&file, format!("# a note is no change\n{TOML}")).unwrap();
    assert!(RunDir::resume(dir.path(), 1).is_ok());
    fs::write(&file, TOML.replace("num_rounds = 6", "num_rounds = 60")).unwrap();
    let error = RunDir::resume(dir.path(), 1).unwrap_err().to_string();
    assert!(error.ends_with("\n  federation.num_rounds: 6 -> 60"), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_skipped_and_its_round_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = create(dir.path(), false);
    for i in 0..3 {
        close(&mut run, &[i as f32; 100]);
    }
    drop(run);
    let file = theta_file(dir.path(), &[2.0; 100]);
    let mut bytes = fs::read(&file).unwrap();
    bytes[17] ^= 4;
    fs::write(&file, bytes).unwrap();
    let (mut run, at) = RunDir::resume(dir.path(), 1).unwrap();
    assert_eq!(at.checkpoint.unwrap().theta, [1.0; 100]);
    assert_eq!(at.next, Round(2));
    assert!(matches!(&at.skipped[..], [(Round(2), StoreError::Digest { .. })]), "{:?}", at.skipped);
    let lines: Vec<Line> = read_metrics(&Layout::new(dir.path()).metrics()).unwrap();
    assert_eq!(lines.len(), 2);
    // the round again: the file that was damaged is whole now
    close(&mut run, &[2.0; 100]);
    drop(run);
    let (_, at) = RunDir::resume(dir.path(), 1).unwrap();
    assert_eq!((at.next, at.skipped.len(), at.checkpoint.unwrap().theta), (Round(3), 0, vec![2.0; 100]));
}

#[test]
fn durable_updates_are_there_after_a_death_and_count_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = create(dir.path(), true);
    close(&mut run, &[0.0; 4]);
    assert!(run.put_update(1, ClientId(7), b"seven", Digest::of(b"seven")).unwrap());
    assert!(!run.put_update(1, ClientId(7), b"other", Digest::of(b"other")).unwrap());
    let error = run.put_update(1, ClientId(8), b"eight", Digest::of(b"nine")).unwrap_err();
    assert!(matches!(error, StoreError::UpdateDigest { client: 8, .. }), "{error}");
    assert!(!dir.path().join("blobs").join(Digest::of(b"eight").to_hex()).exists(), "nothing of it stays");
    drop(run);
    let (mut run, at) = RunDir::resume(dir.path(), 1).unwrap();
    let found: Vec<_> = at.updates.iter().map(|u| (u.client, u.bytes.as_slice())).collect();
    assert_eq!(found, [(ClientId(7), b"seven".as_slice())]);
    assert!(!run.put_update(1, ClientId(7), b"seven", Digest::of(b"seven")).unwrap());
    // twice resumed, still once
    drop(run);
    let (mut run, at) = RunDir::resume(dir.path(), 1).unwrap();
    assert_eq!(at.updates.len(), 1);
    close(&mut run, &[1.0; 4]);
    assert!(!dir.path().join("blobs").join(Digest::of(b"seven").to_hex()).exists(), "consumed");
}

#[test]
fn outside_durable_mode_an_update_is_a_digest() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = create(dir.path(), false);
    run.put_update(1, ClientId(7), b"seven", Digest::of(b"seven")).unwrap();
    run.commit().unwrap();
    drop(run);
    let (_, at) = RunDir::resume(dir.path(), 1).unwrap();
    assert!(at.updates.is_empty());
    let update = at.events.iter().find(|e| e.kind == "update").unwrap();
    assert!(update.json.contains(&Digest::of(b"seven").to_hex()));
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
}

#[test]
fn client_state_counts_from_the_closing_and_is_carried_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = create(dir.path(), false);
    run.set_client_state(ClientId(1), b"one").unwrap();
    assert_eq!(run.client_state(ClientId(1)).unwrap(), None);
    close(&mut run, &[0.0]);
    assert_eq!(run.client_state(ClientId(1)).unwrap().unwrap(), b"one");
    run.set_client_state(ClientId(2), b"two").unwrap();
    for i in 1..6 {
        close(&mut run, &[i as f32]);
    }
    run.set_client_state(ClientId(1), b"lost with the open round").unwrap();
    drop(run);
    let (run, at) = RunDir::resume(dir.path(), 1).unwrap();
    assert_eq!(at.checkpoint.unwrap().clients, [ClientId(1), ClientId(2)]);
    assert_eq!(run.client_state(ClientId(1)).unwrap().unwrap(), b"one");
    assert_eq!(run.client_state(ClientId(2)).unwrap().unwrap(), b"two");
}

#[test]
fn a_lost_tail_of_the_log_is_an_error_in_durable_mode_and_a_step_back_otherwise() {
    for durable in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut run = create(dir.path(), durable);
        close(&mut run, &[0.0]);
        drop(run);
        let log = Layout::new(dir.path()).log();
        let early = fs::read(&log).unwrap();
        let (mut run, _) = RunDir::resume(dir.path(), 1).unwrap();
        // who goes on commits the row of the resume, which the next checkpoint then names
        run.commit().unwrap();
        close(&mut run, &[1.0]);
        drop(run);
        fs::write(&log, early).unwrap();
        match RunDir::resume(dir.path(), 1) {
            Err(StoreError::LogCut { round: Round(1), .. }) => assert!(durable),
            Ok((_, at)) => assert_eq!((durable, at.next), (false, Round(1))),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn rounds_are_closed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = create(dir.path(), false);
    let error = run.close_round(1, Round(3), &Checkpoint::default(), &json!({"round": 3})).unwrap_err();
    assert_eq!(error.to_string(), "round 3 cannot be closed now: round 0 comes next");
}

#[test]
fn every_bit_of_a_checkpointed_vector_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let theta: Vec<f32> = [f32::NAN, -0.0, f32::MIN_POSITIVE / 8.0, f32::INFINITY, 1.5].repeat(40_000);
    let mut run = create(dir.path(), false);
    let checkpoint = Checkpoint {
        theta: &theta,
        server: vec![("momentum", &theta[..3]), ("empty", &[])],
        slots: vec![("a", b"x"), ("b", b"")],
    };
    run.close_round(1, Round(0), &checkpoint, &Line { round: Round(0), sum: 0.0 }).unwrap();
    drop(run);
    let state = RunDir::resume(dir.path(), 1).unwrap().1.checkpoint.unwrap();
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&state.theta), bits(&theta));
    assert_eq!(bits(&state.server[0].1), bits(&theta[..3]));
    assert_eq!((state.server[1].0.as_str(), state.server[1].1.len()), ("empty", 0));
    assert_eq!(state.slots, [("a".to_owned(), b"x".to_vec()), ("b".to_owned(), vec![])]);
}
