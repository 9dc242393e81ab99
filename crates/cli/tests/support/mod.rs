//! What the tests of the binary share: a model, data and a run file of a few kilobytes, made on the spot, and the program.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test helpers outside of test functions")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use antiphon_core::Digest;
use antiphon_model::tokenizer::train_bpe;

/// Tokens of the toy's vocabulary: the 256 bytes, two specials and a few merges.
pub(crate) const VOCAB: usize = 280;

/// A folder with `model/`, `data.jsonl` and `run.toml`; runs go below it.
pub(crate) struct Toy {
    pub(crate) dir: tempfile::TempDir,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Toy {
    /// A language model from scratch that three clients train by LoRA.
    pub(crate) fn new() -> Self {
        let toy = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(toy.path("model")).unwrap();
        toy.write("model/config.json", config(VOCAB).to_string());
        let words = "the cat sat on the mat and the dog sat on the log so the cat and the dog sat";
        train_bpe(std::iter::once(words), VOCAB, &["<s>", "</s>"])
            .unwrap()
            .save(&toy.path("model"), &[("bos_token", "<s>"), ("eos_token", "</s>")], None)
            .unwrap();
        toy.write("data.jsonl", rows(3, 8));
        toy.write("run.toml", RUN);
        toy
    }

    /// The same with a label for each row, by sequence classification.
    pub(crate) fn classifier() -> Self {
        let toy = Self::new();
        toy.write("data.jsonl", labelled_rows(3, 12));
        toy.write("run.toml", CLASSIFY);
        toy
    }

    /// Six layers of which clients hold four, aligned with public data before the first round and after each.
    pub(crate) fn aligned() -> Self {
        let toy = Self::new();
        let mut six = config(VOCAB);
        six["num_hidden_layers"] = serde_json::json!(6);
        toy.write("model/config.json", six.to_string());
        toy.write("run.toml", format!("{RUN}{ALIGNED}"));
        toy
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Turns [`RUN`] into a federation where who has more than one batch diverges: the second step starts at weights of
    /// 1e20, and the server makes of one step of 1e20 one of 0.01.
    pub(crate) fn let_the_rich_diverge(&self) {
        let text = RUN
            .replace("validation = 0.125", "validation = 0")
            .replace("test = 0.125", "test = 0")
            .replace("learning_rate = 1e-2", "learning_rate = 1e20\noptimizer_state = \"keep\"")
            .replace("local_steps = 2", "local_epochs = 1")
            .replace("fraction = 0.67", "fraction = 1");
        let server = "\n[server]\nid = \"sgdm\"\nlearning_rate = 1e-22\nmomentum = 0.5\n";
        self.write("run.toml", text + server);
    }

    /// Replaces `from`, which must occur, in `name`.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} holds no {from:?}:\n{text}");
        self.write(name, text.replacen(from, to, 1));
    }

    /// Writes `model/model.safetensors` with the weights that the configuration makes, each changed by `change`.
    pub(crate) fn checkpoint(&self, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
        self.write("model/model.safetensors", safetensors(&self.tensors(change)));
        self.edit("run.toml", "\"init:model\"", "\"model\"");
    }

    pub(crate) fn tensors(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Tensor>),
    ) -> BTreeMap<String, Tensor> {
        let config = antiphon_model::Config::read(&self.path("model/config.json")).unwrap();
        let mut tensors: BTreeMap<String, Tensor> =
            antiphon_model::tensors(&config.spec, antiphon_model::Task::CausalLm)
                .into_iter()
                .map(|t| {
                    let len: usize = t.shape.iter().product();
                    let value = |k: usize| ((k * 37 + len) % 101) as f32 * 1e-3 - 0.05;
                    (t.name, (t.shape, (0..len).map(value).collect()))
                })
                .collect();
        change(&mut tensors);
        tensors
    }

    /// The program with `arguments`, in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_antiphon"));
        command.args(arguments).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn antiphon(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().unwrap())
    }

    /// Starts the program.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs `run.toml` into `out`, which must work.
    #[track_caller]
    pub(crate) fn run(&self, out: &str, overrides: &[&str]) -> Ended {
        let ended = self.antiphon(&[&["run", "run.toml", "--out", out], overrides].concat());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended
    }

    /// `summary.json` of `run`.
    #[track_caller]
    pub(crate) fn summary(&self, run: &str) -> serde_json::Value {
        serde_json::from_str(&self.read(&format!("{run}/summary.json"))).unwrap()
    }

    /// Loss on validation data after each round of `run`.
    #[track_caller]
    pub(crate) fn losses(&self, run: &str) -> Vec<f64> {
        let loss = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["eval"]["global"]["loss"].as_f64().unwrap()
        };
        self.read(&format!("{run}/metrics.jsonl")).lines().map(loss).collect()
    }

    /// The first round of `run` with the least loss on validation data, counted from 1, and that loss.
    #[track_caller]
    pub(crate) fn best_round(&self, run: &str) -> (usize, f64) {
        let losses = self.losses(run);
        let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
        (1 + losses.iter().position(|l| *l == least).unwrap(), least)
    }

    /// Runs `run.toml` into `out` with one seed after the other until the best round lies `before` rounds or more before a last
    /// that is worse; gives the seed as an override.
    #[track_caller]
    pub(crate) fn run_past_its_best(&self, out: &str, overrides: &[&str], before: usize) -> String {
        let seed = (1..60).map(|n| format!("run.seed={n}")).find(|seed| {
            let _ = std::fs::remove_dir_all(self.path(out));
            self.run(out, &[overrides, &[seed.as_str()]].concat());
            let ((best, least), losses) = (self.best_round(out), self.losses(out));
            best + before <= losses.len() && losses[losses.len() - 1] > least
        });
        seed.unwrap_or_else(|| panic!("{overrides:?}: the last round is the best of every seed"))
    }

    /// Identifies the adapter in `run`.
    #[track_caller]
    pub(crate) fn adapter(&self, run: &str) -> Digest {
        let path = self.path(run).join("latest/adapter_model.safetensors");
        Digest::of(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }
}

impl From<Output> for Ended {
    fn from(o: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("messages are UTF-8");
        Self { code: o.status.code(), out: text(o.stdout), err: text(o.stderr) }
    }
}

impl Ended {
    /// Ended with `code` and a message that holds each of `words`.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let missing: Vec<&&str> = words.iter().filter(|w| !self.err.contains(**w)).collect();
        assert!(missing.is_empty(), "{missing:?} not in:\n{}", self.err);
    }
}

/// Shape and values.
pub(crate) type Tensor = (Vec<usize>, Vec<f32>);

/// A small Llama.
pub(crate) fn config(vocab: usize) -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": vocab, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 64, "tie_word_embeddings": true,
    })
}

/// `each` rows of prompt and completion for every one of `clients` categories.
pub(crate) fn rows(clients: usize, each: usize) -> String {
    let mut text = String::new();
    for (c, who) in ["cats", "dogs", "mice"].iter().enumerate().take(clients) {
        for i in 0..each {
            let row = serde_json::json!({
                "prompt": format!("what do {who} do, {i}?"),
                "completion": format!(" the {who} sat on {} logs", (i * 7 + c) % 10),
                "category": who,
            });
            writeln!(text, "{row}").unwrap();
        }
    }
    text
}

/// So many rows for each category.
pub(crate) fn rows_of<'a>(categories: impl IntoIterator<Item = (&'a str, usize)>) -> String {
    let mut text = String::new();
    for (who, count) in categories {
        for i in 0..count {
            let (prompt, completion) =
                (format!("what do {who} do, {i}?"), format!(" the {who} sat on {i} logs"));
            let row = serde_json::json!({ "prompt": prompt, "completion": completion, "category": who });
            writeln!(text, "{row}").unwrap();
        }
    }
    text
}

/// `each` rows of text and label for every one of `clients` domains.
pub(crate) fn labelled_rows(clients: usize, each: usize) -> String {
    let mut text = String::new();
    for who in ["cats", "dogs", "mice"].iter().take(clients) {
        for i in 0..each {
            let label = ["good", "bad"][i % 2];
            let row = serde_json::json!({
                "text": format!("{who} number {i} sat {}", ["well", "ill"][i % 2]),
                "label": label, "domain": who,
            });
            writeln!(text, "{row}").unwrap();
        }
    }
    text
}

/// A safetensors file of F32 tensors.
pub(crate) fn safetensors(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        let from = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, data.len()] });
        header.insert(name.clone(), entry);
    }
    safetensors_file(&serde_json::Value::Object(header).to_string(), &data)
}

/// A file with this header and these data.
pub(crate) fn safetensors_file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Values that no two tensors and no two layers share, so that bytes tell whose they are.
pub(crate) fn distinct(tensors: &mut BTreeMap<String, Tensor>) {
    for (name, (_, values)) in tensors.iter_mut() {
        let own = name.bytes().fold(7_u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
        for (i, v) in values.iter_mut().enumerate() {
            // no sequence of one tensor is, shifted, nearly that of another, which eight bits would not tell apart
            let mut x = own ^ (i as u32).wrapping_mul(0x9e37_79b9);
            x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
            x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
            let mixed = (x ^ x >> 16) >> 16;
            *v = if name.contains("norm") { 1.0 } else { 0.4 * (mixed as f32 / 65_536.0 - 0.5) };
        }
    }
}

/// The beginning of a tensor in every element type and code that a program might write it in, by name.
pub(crate) fn codes(values: &[f32]) -> Vec<(&'static str, Vec<u8>)> {
    let first = &values[..8];
    let bf16 = |v: f32| ((v.to_bits() + 0x7fff + (v.to_bits() >> 16 & 1)) >> 16) as u16;
    // of normal numbers, which is all there are
    let f16 = |v: f32| {
        let (bits, sign) = (v.to_bits() & 0x7fff_ffff, (v.to_bits() >> 16 & 0x8000) as u16);
        let rounded = bits + 0xfff + (bits >> 13 & 1);
        sign | ((rounded >> 13) as i32 - (112 << 10)).max(0) as u16
    };
    let largest = |block: &[f32]| block.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let int8 = |block: usize| -> Vec<u8> {
        let step = 127.0 / largest(&values[..block.min(values.len())]);
        values[..24].iter().map(|v| (v * step).round_ties_even() as i8 as u8).collect()
    };
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
    let uint8 =
        values[..24].iter().map(|v| ((v - low) / (high - low) * 255.0).round_ties_even() as u8).collect();
    vec![
        ("f64", first.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect()),
        ("f32", first.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ("bf16", first.iter().flat_map(|&v| bf16(v).to_le_bytes()).collect()),
        ("f16", first.iter().flat_map(|&v| f16(v).to_le_bytes()).collect()),
        ("int8 of the tensor", int8(usize::MAX)),
        ("int8 in blocks of 256", int8(256)),
        ("int8 in blocks of 64", int8(64)),
        ("uint8 from least to largest", uint8),
    ]
}

/// Whether `needle` occurs in `bytes`.
pub(crate) fn occurs(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle)
}

/// Everything under `dir` with its content, by relative path.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out);
            } else {
                out.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(dir, dir, &mut out);
    out
}

/// The toy's run file.
pub(crate) const RUN: &str = r#"[run]
seed = 7
workers = 2

[model]
base_model = "init:model"

[data]
path = "data.jsonl"
format = "prompt_completion"
sequence_len = 48

[data.columns]
field = "category"

[data.partition]
id = "field"

[data.split]
validation = 0.125
test = 0.125

[method]
id = "lora"
lora_r = 2
lora_alpha = 4
target_modules = "all-linear"

[train]
learning_rate = 1e-2
micro_batch_size = 2
local_steps = 2

[federation]
num_rounds = 4
fraction = 0.67

[eval]
every_rounds = 2
baselines = []
"#;

/// FedBiOT's alternation, for the end of a run file.
pub(crate) const ALIGNED: &str = r#"
[emulator]
adapter_bottom = 1
adapter_top = 1
drop_rate = 0.5
rule = { id = "offsite_tuning" }
align_every = 1
send = "int8"
public = { share = 0.25 }
distill = { steps = 6, learning_rate = 3e-3, micro_batch_size = 2, language_model = 1.0, hidden = 3.0 }
align = { steps = 3, learning_rate = 3e-3, micro_batch_size = 2, hidden = 3.0, kl = 1.0, hidden_at = "layers" }
"#;

/// The toy's run file for classification with heads that stay with their clients.
pub(crate) const CLASSIFY: &str = r#"[run]
seed = 7
workers = 2

[model]
base_model = "init:model"
head = "local"

[data]
path = "data.jsonl"
format = "labelled"
sequence_len = 48

[data.columns]
field = "domain"

[data.partition]
id = "field"

[data.split]
validation = 0.1
test = 0.1

[method]
id = "lora"
lora_r = 2
lora_alpha = 4
target_modules = "all-linear"

[objective]
id = "classification"
pooling = "last"

[train]
learning_rate = 1e-2
micro_batch_size = 2
local_steps = 2

[federation]
num_rounds = 4
fraction = 0.67

[eval]
every_rounds = 0
baselines = []
"#;
