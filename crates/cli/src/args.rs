//! Command line arguments. Everything a run needs is in its run file; arguments say which file and where.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Post-trains language models across many owners of private data.
#[derive(Debug, Parser)]
#[command(name = "antiphon", version, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    /// Print results as JSON on standard output, and nothing else there.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print no progress.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One function per command, in `commands/`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a commented run file for a model and data.
    Init(Init),
    /// Predict what a run costs before anything runs: parameters, bytes, memory, time.
    Plan(RunFile),
    /// Run a federation: all clients in this process.
    Run(Run),
    /// Continue a run, bit for bit as if it had not stopped.
    Resume(Resume),
    /// Run several variants over several seeds on the same data, and put them beside each other.
    Compare(Compare),
    /// Evaluate a model or a run's adapter on the data of a run file.
    Eval(Eval),
    /// Write a run's result as a peft adapter or a merged checkpoint.
    Export(Export),
    /// Print the logits after a sequence of token ids.
    Logits(Logits),
    /// Continue a prompt.
    Generate(Generate),
    /// Serve a model over HTTP, as OpenAI's API does.
    Serve(Serve),
    /// Measure this machine and this program.
    Bench(Bench),
    /// Read a run and say what is wrong with it, with evidence and a change to try.
    Doctor(Doctor),
    /// Recompute a run of `[scalars]` from what its clients delivered.
    Audit(Audit),
    /// Print a completion script for a shell.
    Completions(Completions),
}

/// A run file with overrides.
#[derive(Debug, Args)]
pub struct RunFile {
    /// The run file (TOML).
    pub file: PathBuf,
    /// Overrides in dotted form, such as `train.learning_rate=1e-3` or `federation.num_rounds=5`.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `antiphon init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Hugging Face directory of the base model.
    pub model: PathBuf,
    /// A data file or folder.
    pub data: PathBuf,
    /// Where to write the run file.
    #[arg(long, short, default_value = "run.toml")]
    pub out: PathBuf,
}

/// Arguments of `antiphon run`.
#[derive(Debug, Args)]
pub struct Run {
    /// What to run.
    #[command(flatten)]
    pub run: RunFile,
    /// The run directory to create [default: runs/NAME-N below the current directory].
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Arguments of `antiphon resume`.
#[derive(Debug, Args)]
pub struct Resume {
    /// A run directory.
    pub dir: PathBuf,
    /// The run file, if it should be compared with the one in the directory.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Keys that change no result, such as a larger `oracle.budget.examples=90000`: the budget, and how an endpoint is asked.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// Arguments of `antiphon compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// The study file (TOML).
    pub file: PathBuf,
    /// Where its runs and its results go; what is there already is read or resumed [default: runs/NAME below the current
    /// directory].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Runs at a time. Each has as many workers as its run file says.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub jobs: usize,
    /// Only say what would run, and how long it would take.
    #[arg(long)]
    pub dry_run: bool,
}

/// A number of things of which one at least is needed.
fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number, 1 or more".to_owned()),
        Ok(n) => Ok(n),
    }
}

/// Arguments of `antiphon eval`.
#[derive(Debug, Args)]
pub struct Eval {
    /// A run directory, or a run file whose base model is evaluated.
    pub run: PathBuf,
    /// An adapter to put on the base model instead of the run's own.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Which part of the data.
    #[arg(long, value_enum, default_value_t = Part::Test)]
    pub part: Part,
}

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What clients train on.
    Train,
    /// What selection looks at.
    Validation,
    /// What tables show.
    Test,
}

/// Arguments of `antiphon export`.
#[derive(Debug, Args)]
pub struct Export {
    /// A run directory.
    pub run: PathBuf,
    /// What to write.
    #[arg(long, value_enum, default_value_t = Target::Merged)]
    pub to: Target,
    /// Where to write it.
    #[arg(long, short)]
    pub out: PathBuf,
    /// Element type of a merged checkpoint.
    #[arg(long, value_enum, default_value_t = ElementType::F32)]
    pub dtype: ElementType,
}

/// What `export` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// `adapter_config.json` and `adapter_model.safetensors`, as peft loads them.
    Peft,
    /// A whole checkpoint, as transformers loads it.
    Merged,
}

/// Element type of written weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ElementType {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

/// Arguments of `antiphon logits`.
#[derive(Debug, Args)]
pub struct Logits {
    /// Hugging Face directory.
    pub model: PathBuf,
    /// An adapter directory.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Token ids, separated by spaces.
    #[arg(long, value_name = "IDS")]
    pub ids: String,
}

/// Arguments of `antiphon generate`.
#[derive(Debug, Args)]
pub struct Generate {
    /// Hugging Face directory, or a run directory.
    pub model: PathBuf,
    /// An adapter directory.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// The text to continue.
    #[arg(long, short)]
    pub prompt: String,
    /// Render the prompt as a user's message through the model's chat template.
    #[arg(long)]
    pub chat: bool,
    /// Tokens to generate at most.
    #[arg(long, default_value_t = 64)]
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Sample from the smallest set of tokens with this much probability.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// Arguments of `antiphon serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Hugging Face directory, or a run directory.
    pub model: PathBuf,
    /// An adapter directory.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// Address and port; port 0 takes a free one, which is printed.
    #[arg(long, default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// A file with the key that clients must show. Required where other machines can reach the address.
    #[arg(long)]
    pub api_key_file: Option<PathBuf>,
    /// The model's name in requests [default: the directory's name].
    #[arg(long)]
    pub name: Option<String>,
    /// A chat template by name, such as `chatml`, for a model without one or instead of its own.
    #[arg(long)]
    pub chat_template: Option<String>,
    /// Tokens of a prompt with its answer [default: what the model reads, at most 2048].
    #[arg(long)]
    pub context: Option<usize>,
    /// Sequences in one forward.
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    /// Tokens in one forward, at least the context.
    #[arg(long, default_value_t = 2048)]
    pub batch_tokens: usize,
    /// Tokens whose keys and values are kept, over all sequences, at least the context.
    #[arg(long, default_value_t = 8192)]
    pub cache_tokens: usize,
    /// Sequences that wait or run; requests beyond them are answered by 429.
    #[arg(long, default_value_t = 1024)]
    pub queue: usize,
    /// Likeliest tokens that a request may ask for at each position.
    #[arg(long, default_value_t = 20)]
    pub max_logprobs: usize,
    /// Bytes of a request.
    #[arg(long, default_value_t = 8 << 20)]
    pub max_body: usize,
    /// Seconds from a request to the end of its answer.
    #[arg(long, default_value_t = 600)]
    pub request_timeout: u64,
    /// Take input vectors: `prompt_embeds` as vLLM does, and `soft_prompt`.
    #[arg(long)]
    pub enable_prompt_embeds: bool,
    /// Seed of the sampling of requests that bring none.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads [default: the machine's cores].
    #[arg(long)]
    pub threads: Option<usize>,
}

/// Arguments of `antiphon bench`.
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure.
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What `bench` measures.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// One training step.
    Step(BenchStep),
    /// One round without local work.
    Round(BenchRound),
    /// Many clients on one base: peak memory and the speed-up from one to many workers.
    Clients(BenchClients),
    /// Matrix products and the machine's peak.
    Gemm(BenchGemm),
}

/// What a benched step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StepMethod {
    /// Forward only.
    Fwd,
    /// LoRA on q, k, v, o.
    Lora,
    /// All weights.
    Full,
    /// Forward only, on a private binary32 copy of all weights.
    Own,
    /// All weights by MeZO: two forward passes and an update, without a gradient.
    Mezo,
}

/// Arguments of `antiphon bench step`.
#[derive(Debug, Args)]
pub struct BenchStep {
    /// Hugging Face directory.
    pub model: PathBuf,
    /// JSON with `{"ids": [[…], …]}`, one row a sequence of `seq + 1` tokens.
    #[arg(long)]
    pub tokens: PathBuf,
    /// What is trained.
    #[arg(long, value_enum, default_value_t = StepMethod::Lora)]
    pub method: StepMethod,
    /// Sequences a step.
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Tokens a sequence.
    #[arg(long, default_value_t = 128)]
    pub seq: usize,
    /// Timed steps.
    #[arg(long, default_value_t = 5)]
    pub steps: usize,
    /// Steps before them.
    #[arg(long, default_value_t = 2)]
    pub warmup: usize,
    /// LoRA rank.
    #[arg(long, default_value_t = 8)]
    pub rank: usize,
    /// Threads.
    #[arg(long, default_value_t = 4)]
    pub threads: usize,
    /// Share of each row, at its end, that carries labels.
    #[arg(long, default_value_t = 1.0)]
    pub labelled: f64,
    /// Take the step on an emulator: blocks trained at the bottom and at the top, and the share of the others that is
    /// dropped, such as `2,2,0.5`.
    #[arg(long, value_name = "BOTTOM,TOP,RATE")]
    pub emulator: Option<BenchEmulator>,
    /// How the emulator's frozen blocks are stored [default: as in the checkpoint].
    #[arg(long, value_name = "int8|nf4", requires = "emulator")]
    pub dtype: Option<antiphon_model::EmulatorDtype>,
}

/// The emulator of a benchmark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BenchEmulator {
    /// First blocks, trained.
    pub bottom: usize,
    /// Last blocks, trained.
    pub top: usize,
    /// Share of the others that is dropped.
    pub drop_rate: f64,
}

impl std::str::FromStr for BenchEmulator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let wrong = || format!("`{text}` is not BOTTOM,TOP,RATE, such as 2,2,0.5");
        let [bottom, top, rate] = parts[..] else { return Err(wrong()) };
        let count = |n: &str| n.trim().parse().map_err(|_| wrong());
        let drop_rate = rate.trim().parse().map_err(|_| wrong())?;
        Ok(Self { bottom: count(bottom)?, top: count(top)?, drop_rate })
    }
}

/// Arguments of `antiphon bench round`.
#[derive(Debug, Args)]
pub struct BenchRound {
    /// Clients in the round.
    #[arg(long, default_value_t = 10)]
    pub clients: usize,
    /// Megabytes (10^6 bytes) of trainable state.
    #[arg(long, default_value_t = 1.0)]
    pub megabytes: f64,
    /// Timed rounds.
    #[arg(long, default_value_t = 20)]
    pub rounds: usize,
    /// Sync every update to disk before it is acknowledged.
    #[arg(long)]
    pub durable: bool,
    /// Where the run directory is made [default: the system's temporary folder].
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// Arguments of `antiphon bench clients`.
#[derive(Debug, Args)]
pub struct BenchClients {
    /// Hugging Face directory.
    pub model: PathBuf,
    /// Clients in the federation.
    #[arg(long, default_value_t = 100)]
    pub clients: usize,
    /// Clients in a round.
    #[arg(long, default_value_t = 10)]
    pub sampled: usize,
    /// Local steps.
    #[arg(long, default_value_t = 10)]
    pub local_steps: usize,
    /// Sequences a step.
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Tokens a sequence.
    #[arg(long, default_value_t = 128)]
    pub seq: usize,
    /// LoRA rank.
    #[arg(long, default_value_t = 8)]
    pub rank: usize,
    /// Workers, each with one thread.
    #[arg(long, default_value_t = 4)]
    pub workers: usize,
}

/// Arguments of `antiphon bench gemm`.
#[derive(Debug, Args)]
pub struct BenchGemm {
    /// Threads.
    #[arg(long, default_value_t = 4)]
    pub threads: usize,
}

/// Arguments of `antiphon doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// A run directory.
    pub run: PathBuf,
}

/// Arguments of `antiphon audit`.
#[derive(Debug, Args)]
pub struct Audit {
    /// A run directory.
    pub run: PathBuf,
}

/// Arguments of `antiphon completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}
