//! The five numbers of off-site tuning, together or not at all.

use antiphon_kernels::Cpu;
use antiphon_report::{Evaluation, OffSite as Numbers};
use antiphon_store::RunDir;
use antiphon_tune::Tuning;

use super::full::full;
use crate::args::Part;
use crate::error::Failure;
use crate::progress::Progress;
use crate::session::{Outcome, Session};

/// The five numbers of a finished run; `None` where there is no emulator. `plugged_in` was measured already.
pub(crate) fn numbers(
    session: &Session,
    dir: &RunDir,
    outcome: &Outcome,
    plugged_in: &Evaluation,
    progress: &Progress,
) -> Result<Option<Numbers>, Failure> {
    let (Some(offsite), Some(settings)) = (&session.offsite, &session.file().emulator) else {
        return Ok(None);
    };
    let emulator = &offsite.emulator;
    progress.stage("testing the emulator");
    let on = |tuning: &Tuning<Cpu>, theta: &[f32]| session.evaluate_on(tuning, theta, Part::Test);
    let zero_shot = on(&offsite.owner, &session.theta)?;
    // an emulator that was trained since is no longer what clients began with
    let emulator_zero_shot = match &offsite.aligner {
        Some(aligner) => aligner.zero_shot(),
        None => on(&session.tuning, &session.theta)?.global,
    };
    let emulator_tuned = on(&session.tuning, &outcome.theta)?;
    progress.stage("tuning the whole model for comparison");
    let full = full(session, &offsite.owner, dir.layout().root(), progress)?;
    let indices = |list: &[usize]| list.iter().map(|&l| l as u64).collect();
    let disclosed = session.disclosed();
    Ok(Some(Numbers {
        rule: settings.rule.get("id").and_then(toml::Value::as_str).unwrap_or_default().to_owned(),
        drop_rate: settings.drop_rate,
        layers: session.base.spec().layers as u64,
        adapter: indices(emulator.adapter()),
        kept: indices(emulator.kept()),
        influence: session.influence().map(<[f64]>::to_vec).unwrap_or_default(),
        held: disclosed.held,
        whole: disclosed.whole,
        sent_once: disclosed.sent_once,
        sent_changes: offsite.aligner.as_ref().map_or(0, |a| a.sent()),
        aligned: session.aligned(&outcome.theta)?,
        zero_shot: zero_shot.global,
        emulator_zero_shot,
        emulator_tuned: emulator_tuned.global,
        plugged_in: plugged_in.global.clone(),
        full: full.global,
    }))
}
