//! `antiphon bench step`: one training step, timed, on a batch that another program can be given too.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use antiphon_kernels::{AdamW, Backend, Coef, Cpu, Dst, Law, Src, gemm};
use antiphon_model::{
    Batch, Checkpoint, Emulator, EmulatorSettings, Mode, Net, Perturbation, QuantisedSource, Shape, Spec,
    Task, TensorSource, Weights, Wiring,
};
use antiphon_tune::method::{self, Start};
use serde::{Deserialize, Serialize};

use crate::args::{BenchEmulator, BenchStep, StepMethod};
use crate::error::{Fail, Failure, Kind};
use crate::machine;

/// How far along a direction a MeZO step looks, and its learning rate: those of the paper's full tuning.
const EPSILON: f32 = 1e-3;
const MEZO_RATE: f64 = 1e-6;

/// The file given as `--tokens`.
#[derive(Deserialize)]
struct Tokens {
    ids: Vec<Vec<u32>>,
}

/// What is printed; the names are those of the PyTorch script that is measured in turn.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    engine: &'static str,
    model: String,
    mode: String,
    threads: usize,
    labelled: f64,
    /// Median.
    step_s: f64,
    best_s: f64,
    cpu_s: f64,
    tokens_per_s: f64,
    rss_mb: f64,
    first_loss: f64,
    last_loss: f64,
    /// Frozen weights.
    weights_mb: f64,
    /// The trainable vector, its gradient and its optimiser's state.
    trainable_mb: f64,
    /// Activations planned for the step.
    planned_mb: f64,
    /// Layers of the model that the step was taken on.
    layers: usize,
    /// Multiply-adds of the matrix products, twice.
    gflop: f64,
    /// `gflop / step_s` over the peak of the matrix product measured in this process.
    peak_fraction: f64,
    peak_gflops: f64,
    kernel_profile: String,
}

pub(super) fn run(a: &BenchStep) -> Result<Report, Failure> {
    if a.batch == 0 || a.seq == 0 || a.steps == 0 || !(a.labelled > 0.0 && a.labelled <= 1.0) {
        return Err(Failure::new(
            Kind::Usage,
            "batch, seq and steps must be above 0, and labelled in (0, 1]",
        ));
    }
    let backend = Cpu::threads(a.threads);
    let checkpoint = Checkpoint::open(&a.model).fail(Kind::Model)?;
    let task = Task::CausalLm;
    let emulator = emulator(a, checkpoint.spec())?;
    let adapter = emulator.as_ref().map(Emulator::adapter);
    let spec = match &emulator {
        None => checkpoint.spec().clone(),
        Some(e) => e.spec(checkpoint.spec()).map_err(|layer| {
            Failure::new(Kind::Internal, format_args!("the emulator keeps layer {layer} of the base"))
        })?,
    };
    let quantised =
        a.dtype.map(|d| QuantisedSource::new(&checkpoint, d.code(), &spec, adapter.unwrap_or_default()));
    let source = quantised.as_ref().map_or(&checkpoint as &dyn TensorSource, |q| q);
    let weights = Weights::load(&backend, &spec, task, source).fail(Kind::Model)?;
    let held_mb = weights.bytes() as f64 / (1 << 20) as f64;
    let (wiring, theta) = trainable(a, &checkpoint, &spec, adapter, task)?;
    let wiring = Arc::new(wiring);
    let d = wiring.schema.dim();
    let net = Net::new(&backend, weights, task, Arc::clone(&wiring), a.seq).fail(Kind::Model)?;

    let (batch, labels) = batch(a, &net)?;
    let shape = Shape { tokens: a.batch * a.seq, segments: a.batch, labelled: labels };
    let mode = match a.method {
        StepMethod::Fwd | StepMethod::Own | StepMethod::Mezo => Mode::Infer,
        StepMethod::Lora | StepMethod::Full => Mode::Train,
    };
    let mut ws = net.workspace(&backend, shape, mode).fail(Kind::Model)?;
    let alloc = |n: usize| backend.alloc(n).fail(Kind::Storage);
    let mut params = alloc(d)?;
    match theta {
        Some(theta) => backend.upload(&theta, Dst::new(&mut params, 0, d)).fail(Kind::Internal)?,
        None => copy_weights(&backend, &checkpoint, &wiring, &mut params)?,
    }
    let trained = if mode == Mode::Train { d } else { 0 };
    let (mut grads, mut m, mut v) = (alloc(trained)?, alloc(trained)?, alloc(trained)?);

    let coef = Coef::Uniform(1.0 / labels as f32);
    let directions = Perturbation::new(&wiring.schema, Law::Gaussian);
    let mut step = |number: u64| -> Result<f64, Failure> {
        if a.method == StepMethod::Mezo {
            let mut loss_at = |scale: f32| -> Result<f64, Failure> {
                ws.perturb(Some(directions.at(number, scale)));
                net.forward(&backend, &params, &batch, &mut ws, None).fail(Kind::Internal)?;
                let loss =
                    net.lm_loss(&backend, &params, &batch, &mut ws, coef, None, None).fail(Kind::Internal)?;
                Ok(loss.nll / loss.rows as f64)
            };
            let (plus, minus) = (loss_at(EPSILON)?, loss_at(-EPSILON)?);
            let slope = (plus - minus) / (2.0 * f64::from(EPSILON));
            directions.at(number, (-MEZO_RATE * slope) as f32).apply(&backend, &mut params);
            return Ok(0.5 * (plus + minus));
        }
        net.forward(&backend, &params, &batch, &mut ws, None).fail(Kind::Internal)?;
        if mode == Mode::Infer {
            let loss =
                net.lm_loss(&backend, &params, &batch, &mut ws, coef, None, None).fail(Kind::Internal)?;
            return Ok(loss.nll / loss.rows as f64);
        }
        backend.fill(Dst::new(&mut grads, 0, d), 0.0);
        let loss = net
            .lm_loss(&backend, &params, &batch, &mut ws, coef, Some(&mut grads), None)
            .fail(Kind::Internal)?;
        net.backward(&backend, &params, &batch, &mut ws, None, &mut grads).fail(Kind::Internal)?;
        let hyper = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: number };
        let (theta, grad) = (Dst::new(&mut params, 0, d), Src::new(&grads, 0, d));
        backend.adamw(theta, grad, Dst::new(&mut m, 0, d), Dst::new(&mut v, 0, d), hyper);
        Ok(loss.nll / loss.rows as f64)
    };
    let (mut wall, mut cpu, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for number in 1..=(a.warmup + a.steps) as u64 {
        let (start, used) = (Instant::now(), machine::cpu_seconds());
        losses.push(step(number)?);
        wall.push(start.elapsed().as_secs_f64());
        cpu.push(machine::cpu_seconds() - used);
    }
    let rss_mb = machine::peak_rss_bytes() as f64 / (1 << 20) as f64;
    let (mut wall, mut cpu) = (wall.split_off(a.warmup), cpu.split_off(a.warmup));
    wall.sort_by(f64::total_cmp);
    cpu.sort_by(f64::total_cmp);
    let mid = wall.len() / 2;
    let peak = gemm::measure_peak(backend.pool());
    let passes = if a.method == StepMethod::Mezo { 2.0 } else { 1.0 };
    let flop = passes * machine::step_flop(&spec, &wiring, shape, mode, a.seq);
    Ok(Report {
        engine: "antiphon",
        model: a.model.display().to_string(),
        mode: format!("{:?}", a.method).to_lowercase(),
        threads: a.threads,
        labelled: a.labelled,
        step_s: wall[mid],
        best_s: wall[0],
        cpu_s: cpu[mid],
        tokens_per_s: shape.tokens as f64 / wall[mid],
        rss_mb,
        first_loss: losses[0],
        last_loss: losses[losses.len() - 1],
        weights_mb: held_mb,
        trainable_mb: 4.0 * (d + 3 * trained) as f64 / (1 << 20) as f64,
        planned_mb: ws.bytes() as f64 / (1 << 20) as f64,
        layers: spec.layers,
        gflop: flop / 1e9,
        peak_fraction: flop / wall[mid] / peak,
        peak_gflops: peak / 1e9,
        kernel_profile: backend.profile(),
    })
}

/// The division that the arguments ask for.
fn emulator(a: &BenchStep, whole: &Spec) -> Result<Option<Emulator>, Failure> {
    let Some(BenchEmulator { bottom, top, drop_rate }) = a.emulator else { return Ok(None) };
    let rule = toml::Table::from_iter([("id".to_owned(), "offsite_tuning".into())]);
    let settings = EmulatorSettings { adapter_bottom: bottom, adapter_top: top, drop_rate, rule };
    Emulator::new(whole.layers, &settings, &[]).map(Some).fail_at(Kind::Usage, "--emulator")
}

/// The wiring and first values of what the step trains, on the blocks `adapter` alone if there are any.
/// Where they are the checkpoint's own and nothing else is kept of them, they are left to [`copy_weights`].
fn trainable(
    a: &BenchStep,
    checkpoint: &Checkpoint,
    spec: &Spec,
    adapter: Option<&[usize]>,
    task: Task,
) -> Result<(Wiring, Option<Vec<f32>>), Failure> {
    let text = match a.method {
        StepMethod::Fwd => return Ok((Wiring::default(), Some(Vec::new()))),
        StepMethod::Lora => format!(
            "id = 'lora'\nlora_r = {}\nlora_alpha = {}\ntarget_modules = ['q_proj', 'k_proj', 'v_proj', 'o_proj']",
            a.rank,
            2 * a.rank
        ),
        StepMethod::Full | StepMethod::Own | StepMethod::Mezo => "id = 'full'".to_owned(),
    };
    let mut table: toml::Table = text.parse().fail(Kind::Internal)?;
    if let Some(adapter) = adapter {
        let layers = adapter.iter().map(|&l| toml::Value::from(l as i64)).collect();
        table.insert("layers_to_transform".to_owned(), toml::Value::Array(layers));
    }
    let method = method::build(&table).fail(Kind::Usage)?;
    let wiring = method.wire(spec, task).fail(Kind::Model)?;
    if matches!(a.method, StepMethod::Own | StepMethod::Mezo) {
        return Ok((wiring, None));
    }
    let theta =
        method.init(&wiring, &Start { spec, base: checkpoint, tokenize: None, seed: 0 }).fail(Kind::Model)?;
    Ok((wiring, Some(theta)))
}

/// Widens the checkpoint's tensors into the trainable vector, a piece at a time: no second copy on the host.
fn copy_weights(
    backend: &Cpu,
    checkpoint: &Checkpoint,
    wiring: &Wiring,
    params: &mut <Cpu as Backend>::Buf,
) -> Result<(), Failure> {
    let mut piece = vec![0.0; 1 << 16];
    for (name, range) in &wiring.live {
        let missing = || Failure::new(Kind::Model, format_args!("the checkpoint has no tensor `{name}`"));
        let (data, _) = checkpoint.get(name).ok_or_else(missing)?;
        for at in (0..range.len()).step_by(piece.len()) {
            let count = piece.len().min(range.len() - at);
            data.widen(at, &mut piece[..count]);
            let to = Dst::new(&mut *params, range.start + at, count);
            backend.upload(&piece[..count], to).fail(Kind::Internal)?;
        }
    }
    Ok(())
}

/// The first `batch` rows of the token file, and how many labels they carry.
fn batch(a: &BenchStep, net: &Net<Cpu>) -> Result<(Batch, usize), Failure> {
    let rows = read_tokens(&a.tokens)?;
    let mut batch = net.batch();
    let masked = (a.seq as f64 * (1.0 - a.labelled)).round_ties_even() as usize;
    let mut labels = Vec::new();
    for index in 0..a.batch {
        let row = rows.get(index).filter(|r| r.len() > a.seq).ok_or_else(|| {
            let place = a.tokens.display();
            let (found, expected) = (rows.get(index).map_or(0, Vec::len), a.seq + 1);
            Failure::new(
                Kind::Data,
                format_args!("{place}: row {index} has {found} ids, expected {expected} or more"),
            )
        })?;
        labels.clear();
        labels.extend((masked..a.seq).map(|r| (r, row[r + 1])));
        batch.push(&row[..a.seq], labels.iter().copied()).fail(Kind::Data)?;
    }
    let count = batch.labels().len();
    Ok((batch, count))
}

fn read_tokens(path: &Path) -> Result<Vec<Vec<u32>>, Failure> {
    let place = path.display();
    let text = std::fs::read_to_string(path).fail_at(Kind::Data, place)?;
    let tokens: Tokens = serde_json::from_str(&text).fail_at(Kind::Data, path.display())?;
    Ok(tokens.ids)
}
