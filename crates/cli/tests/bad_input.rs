//! What cannot be done is refused with the place, what was found and what would work, the documented exit code, and
//! nothing written.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{Toy, config, safetensors, safetensors_file};

const SETTINGS: i32 = 3;
const DATA: i32 = 4;
const MODEL: i32 = 5;
const RUN_DIR: i32 = 6;
const FEDERATION: i32 = 7;

impl Toy {
    /// Runs, expecting a refusal that leaves nothing.
    #[track_caller]
    fn refused(&self, overrides: &[&str], code: i32, words: &[&str]) {
        let ended = self.antiphon(&[&["run", "run.toml", "--out", "runs/x"], overrides].concat());
        ended.says(code, words);
        assert!(!self.path("runs/x").exists(), "something was written");
    }

    /// [`Toy::refused`] after `from` became `to` in the run file, which is put back.
    #[track_caller]
    fn refused_with(&self, from: &str, to: &str, code: i32, words: &[&str]) {
        let text = self.read("run.toml");
        self.edit("run.toml", from, to);
        self.refused(&[], code, words);
        self.write("run.toml", text);
    }
}

#[test]
fn run_files() {
    let toy = Toy::new();
    for (from, to, words) in [
        // keys that nobody knows, in sections read at once and in sections read by a registry
        (
            "[train]",
            "[trian]",
            &["run.toml:29:2", "unknown key `trian`", "did you mean `train`", "29 | [trian]"][..],
        ),
        (
            "micro_batch_size",
            "micro_batchsize",
            &["run.toml:31:1", "`micro_batchsize`", "did you mean `micro_batch_size`"],
        ),
        (
            "lora_alpha",
            "lora_alfa",
            &["run.toml:26:1", "[method]", "`lora_alfa`", "did you mean `lora_alpha`"],
        ),
        // names of nothing
        (
            "\"lora\"",
            "\"lorra\"",
            &["run.toml:24:1", "`lorra`", "did you mean `lora`", "full, houlsby, lora, prompt"],
        ),
        ("\"field\"", "\"feild\"", &["run.toml:17:1", "[data.partition]", "did you mean `field`"]),
        (
            "\"prompt_completion\"",
            "\"prompt_completon\"",
            &["run.toml:10:10", "did you mean `prompt_completion`"],
        ),
        (
            "\"all-linear\"",
            "[\"q_projj\"]",
            &["[method]", "`q_projj` matches nothing", "did you mean `q_proj`"],
        ),
        // other types
        ("1e-2", "\"fast\"", &["run.toml:30:17", "string \"fast\"", "expected a number"]),
        ("lora_r = 2", "lora_r = \"two\"", &["run.toml:25:1", "string \"two\"", "expected a whole number"]),
        ("seed = 7", "seed = -7", &["run.toml:2:8", "`-7`", "expected a whole number, 0 or more"]),
        ("num_rounds = 4", "num_rounds = 1.5", &["run.toml:35:14", "`1.5`", "expected a whole number"]),
        ("[train]", "[train", &["run.toml:29", "expected `]`"]),
        // numbers that make no sense
        ("1e-2", "nan", &["run.toml:30:1", "`learning_rate` is NaN", "finite and above 0"]),
        ("1e-2", "-1e-2", &["run.toml:30:1", "`learning_rate` is -0.01", "finite and above 0"]),
        ("num_rounds = 4", "num_rounds = 0", &["federation.num_rounds = 0", "at least 1"]),
        ("num_rounds = 4", "num_rounds = 5000000000", &["run.toml:35:14", "from 0 to 4294967295"]),
        ("local_steps = 2", "local_steps = 99999999999", &["run.toml:32:15", "from 0 to 4294967295"]),
        ("local_steps = 2", "", &["run.toml:29:2", "needs `local_steps` or `local_epochs`"]),
        ("fraction = 0.67", "fraction = 1.5", &["federation.fraction = 1.5", "a share in (0, 1]"]),
        ("fraction = 0.67", "min_clients = 9", &["[federation]", "`min_clients = 9`", "3 clients"]),
        ("workers = 2", "workers = 100000000", &["run.workers = 100000000", "to 1024"]),
        ("lora_r = 2", "lora_r = 64", &["[method]", "rank 64", "self_attn.q_proj", "at most 16"]),
        ("lora_r = 2", "lora_r = 4000000000", &["[method]", "rank 4000000000", "at most 16"]),
        ("sequence_len = 48", "sequence_len = 1", &["data.sequence_len = 1", "at least 2"]),
        ("[model]", "name = \"../up\"\n[model]", &["run.name = `../up`"]),
        ("\"init:model\"", "\"init:model\"\nhead = \"local\"", &["model.head = \"local\"", "objective.id"]),
    ] {
        toy.refused_with(from, to, SETTINGS, words);
    }
}

#[test]
fn run_files_that_are_none() {
    let toy = Toy::new();
    toy.write("bytes.toml", b"[run]\nname = \"\xff\"");
    toy.write("empty.toml", "");
    toy.antiphon(&["run", "bytes.toml"]).says(SETTINGS, &["bytes.toml:2", "byte 0xff", "UTF-8"]);
    toy.antiphon(&["run", "empty.toml"]).says(SETTINGS, &["empty.toml", "missing key `model`"]);
    toy.antiphon(&["run", "model"]).says(SETTINGS, &["model", "it is a folder"]);
    toy.antiphon(&["run", "rum.toml"]).says(SETTINGS, &["rum.toml", "did you mean `run.toml`"]);
    assert!(!toy.path("runs").exists());
}

#[test]
fn overrides() {
    let toy = Toy::new();
    for (item, code, words) in [
        ("train.learning_rate", 2, &["`train.learning_rate`", "no `=`", "train.learning_rate=1e-3"][..]),
        ("=3", 2, &["`=3`", "key is empty"]),
        ("train.learning_rate.x=3", 2, &["`learning_rate` is a value, not a section"]),
        (
            "train.learning_rat=3",
            SETTINGS,
            &["override `train.learning_rat=3`", "did you mean `learning_rate`"],
        ),
        ("trian.learning_rate=3", SETTINGS, &["override `trian.learning_rate=3`", "did you mean `train`"]),
        ("train..x=3", SETTINGS, &["override `train..x=3`"]),
        ("server.id=sgdmm", SETTINGS, &["override `server.id=sgdmm`", "did you mean `sgdm`"]),
        ("method.lora_alfa=3", SETTINGS, &["override `method.lora_alfa=3`", "did you mean `lora_alpha`"]),
        (
            "aggregation.reducer=krum",
            SETTINGS,
            &["override `aggregation.reducer=krum`", "expected a section"],
        ),
        ("eval.baselines=[\"zero\"]", SETTINGS, &["`eval.baselines=", "did you mean `zero_shot`"]),
        ("data.labels=3", SETTINGS, &["override `data.labels=3`", "expected a list"]),
    ] {
        toy.refused(&[item], code, words);
    }
}

#[test]
fn models() {
    let toy = Toy::new();
    toy.refused_with(
        "init:model",
        "init:modle",
        MODEL,
        &["model.base_model", "modle", "did you mean `model`"],
    );
    toy.refused_with("init:model", "modle", MODEL, &["modle: no such directory", "did you mean `model`"]);
    toy.refused_with("init:model", "model", MODEL, &["model: no weights", "model.safetensors"]);

    let good = config(support::VOCAB).to_string();
    for (from, to, words) in [
        (
            "\"hidden_act\"",
            "\"logit_scale\":2.0,\"hidden_act\"",
            &["unknown key `logit_scale`", "not ignored"][..],
        ),
        ("\"hidden_size\":16", "\"hidden_size\":\"x\"", &["`hidden_size` = \"x\"", "a whole number from 1"]),
        ("\"hidden_size\":16", "\"hidden_size\":0", &["`hidden_size` = 0", "a whole number from 1"]),
        ("\"hidden_size\":16", "\"hidden_size\":4000000000000", &["`hidden_size` = 4000000000000"]),
        (
            "\"num_attention_heads\":2",
            "\"num_attention_heads\":3",
            &["multiple of `num_attention_heads` = 3"],
        ),
        (
            "\"model_type\":\"llama\"",
            "\"model_type\":\"lama\"",
            &["`model_type` = \"lama\"", "llama, mistral"],
        ),
        ("\"silu\"", "\"sillu\"", &["`hidden_act` = \"sillu\"", "\"silu\""]),
        ("}", ",}", &["not a JSON object", "line 1"]),
        // a tokenizer larger than the embedding
        ("\"vocab_size\":280", "\"vocab_size\":270", &["tokenizer.json", "beyond the 270 rows"]),
    ] {
        assert!(good.contains(from), "{good}");
        toy.write("model/config.json", good.replacen(from, to, 1));
        let file = if words[0] == "tokenizer.json" { "tokenizer.json" } else { "config.json" };
        toy.refused(&[], MODEL, &[&[file], words].concat());
    }
    toy.write("model/config.json", good);
    let tokenizer = toy.read("model/tokenizer.json");
    toy.write("model/tokenizer.json", &tokenizer[..300]);
    toy.refused(&[], MODEL, &["model/tokenizer.json", "line"]);
    std::fs::remove_file(toy.path("model/tokenizer.json")).unwrap();
    toy.refused(&[], MODEL, &["model/tokenizer.json", "no such file"]);
}

#[test]
fn weights() {
    const DOWN: &str = "model.layers.1.mlp.down_proj.weight";
    let toy = Toy::new();
    toy.checkpoint(|_| {});
    let whole = std::fs::read(toy.path("model/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    toy.run("runs/good", &["federation.num_rounds=1"]);

    let refused = |bytes: &[u8], words: &[&str]| {
        toy.write("model/model.safetensors", bytes);
        toy.refused(&[], MODEL, &[&["model.safetensors"], words].concat());
    };
    // cut off: before the length, within the header, before its end, within the last tensor
    for cut in [0, 7, 8 + header / 2, 8 + header, whole.len() - 1] {
        refused(&whole[..cut], &[]);
    }
    // lengths that lie
    refused(&[&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(), &[]);
    refused(&[&(whole.len() as u64 * 2).to_le_bytes()[..], &whole[8..]].concat(), &[]);
    refused(&[&whole[..], b"more"].concat(), &[]);
    // headers that lie
    for (tensor, words) in [
        (r#"{"dtype":"F32","shape":[2,2],"data_offsets":[0,8]}"#, &["x"][..]),
        (
            r#"{"dtype":"F32","shape":[18446744073709551615,18446744073709551615],"data_offsets":[0,16]}"#,
            &["x"],
        ),
        (r#"{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#, &["x"]),
        (r#"{"dtype":"F32","shape":[4],"data_offsets":[0,1000000]}"#, &["x"]),
        (r#"{"dtype":"F31","shape":[4],"data_offsets":[0,16]}"#, &["F31"]),
        (r#"{"dtype":"F32","shape":"all","data_offsets":[0,16]}"#, &[]),
        ("3", &[]),
    ] {
        refused(&safetensors_file(&format!("{{\"x\":{tensor}}}"), &[0; 16]), words);
    }
    refused(&safetensors_file("{\"x\":", &[]), &[]);
    refused(&safetensors_file(&"[".repeat(100_000), &[]), &[]);
    let twice = r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#;
    refused(&safetensors_file(&format!("{{\"x\":{twice},\"x\":{twice}}}"), &[0; 16]), &["x"]);
    refused(&safetensors_file(&format!("{{\"x\":{twice},\"y\":{twice}}}"), &[0; 16]), &[]);

    // shapes and names that are not those of the configuration
    let edited = |change: &dyn Fn(&mut std::collections::BTreeMap<String, support::Tensor>)| {
        safetensors(&toy.tensors(|t| change(t)))
    };
    refused(&edited(&|t| t.get_mut(DOWN).unwrap().0 = vec![24, 16]), &[DOWN, "24", "16"]);
    toy.write("model/model.safetensors", edited(&|t| drop(t.remove(DOWN))));
    toy.refused(&[], MODEL, &["model: 1 tensor missing", DOWN]);
}

#[test]
fn data() {
    let toy = Toy::new();
    toy.refused_with("data.jsonl", "dato.jsonl", DATA, &["dato.jsonl", "did you mean `data.jsonl`"]);
    toy.refused_with(
        "\"category\"",
        "\"categori\"",
        DATA,
        &["data.jsonl", "looked for categori", "prompt, completion, category", "did you mean"],
    );
    toy.refused_with(
        "micro_batch_size = 2",
        "micro_batch_size = 7",
        DATA,
        &["`cats`", "has 6 training sequences", "`micro_batch_size = 7`"],
    );
    // nothing of that size is made before it is refused
    toy.refused_with(
        "micro_batch_size = 2",
        "micro_batch_size = 4000000000",
        DATA,
        &["`cats`", "4000000000"],
    );
    toy.refused_with(
        "id = \"field\"",
        "id = \"iid\"\nclients = 1000",
        DATA,
        &["1000 clients", "there are 24", "at most 24"],
    );
    toy.refused_with("validation = 0.125", "validation = 0.9", DATA, &["split.validation = 0.9", "below 1"]);

    let good = support::rows(3, 8);
    let refused = |text: &[u8], words: &[&str]| {
        toy.write("data.jsonl", text);
        toy.refused(&[], DATA, &[&["data.jsonl"], words].concat());
    };
    refused(b"", &["no example"]);
    refused(format!("{good}{{\n").as_bytes(), &["line 25"]);
    refused(&[good.as_bytes(), b"\xff\xfe\n"].concat(), &["line 25", "byte 0xff"]);
    refused(good.replace("\"prompt\"", "\"promt\"").as_bytes(), &["`prompt`", "promt, ", "did you mean"]);
    // everything that would be learnt is empty
    refused(blank_completions(&good).as_bytes(), &["24 of them blank"]);
    // a client with one example, all of it held out or less than a batch
    let alone = r#"{"prompt":"a","completion":"b","category":"frogs"}"#;
    toy.write("data.jsonl", format!("{good}{alone}\n"));
    toy.refused(&[], DATA, &["`frogs`", "1 training sequences", "`micro_batch_size = 2`"]);
    // longer than the model's positions
    let (prompt, completion) = ("a".repeat(300), "b".repeat(300));
    let long =
        serde_json::json!({ "prompt": prompt, "completion": completion, "category": "cats" }).to_string();
    toy.write("data.jsonl", format!("{good}{long}\n"));
    toy.refused(&["data.sequence_len=200"], DATA, &["data.sequence_len = 200", "the model has 64"]);
}

/// `rows` with nothing to learn in any of them.
fn blank_completions(rows: &str) -> String {
    let blank = |line: &str| {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["completion"] = "".into();
        format!("{row}\n")
    };
    rows.lines().map(blank).collect()
}

#[test]
fn labels() {
    let toy = Toy::classifier();
    // a label that only held-out data have
    toy.write("test.jsonl", "{\"text\":\"frogs sat\",\"label\":\"green\",\"domain\":\"frogs\"}\n");
    let text = toy
        .read("run.toml")
        .replace("test = 0.1\n", "")
        .replace("path = \"data.jsonl\"", "path = \"data.jsonl\"\ntest_path = \"test.jsonl\"");
    let before = toy.read("run.toml");
    toy.write("run.toml", text);
    toy.refused(&[], DATA, &["green", "bad, good"]);
    // a list of labels that lacks one
    toy.write("run.toml", before);
    toy.refused(&["data.labels=[\"good\", \"better\"]"], DATA, &["`bad`", "good, better"]);
    // one class is none
    let same = toy.read("data.jsonl").replace("\"bad\"", "\"good\"");
    toy.write("data.jsonl", same);
    toy.refused(&[], DATA, &["at least two labels, found 1: good"]);
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    let toy = Toy::new();
    let search = ["search={id=\"bdpl\"}", "method={id=\"prompt\",num_virtual_tokens=3}"];
    for item in ["oracle.api_key=sk-12345", "oracle.api_key_fd=sk-12345", "oracle={api_key=\"sk-12345\"}"] {
        let ended = toy.antiphon(&[&["run", "run.toml", "--out", "a", item][..], &search].concat());
        ended.says(SETTINGS, &["override `oracle"]);
        assert!(!ended.err.contains("12345"), "{ended:?}");
    }
    let text = toy.read("run.toml");
    for line in ["api_key = \"sk-12345\"", "api_key = sk-12345", "api_key_fd = \"sk-12345\""] {
        toy.write("run.toml", format!("{text}\n[oracle]\n{line}\n"));
        let ended = toy.antiphon(&["run", "run.toml", "--out", "a"]);
        ended.says(SETTINGS, &["run.toml:"]);
        assert!(!ended.err.contains("12345"), "{ended:?}");
        if line.starts_with("api_key = \"") {
            ended.says(SETTINGS, &["name that as `api_key_file`"]);
        }
    }
}

#[test]
fn batches_that_no_machine_holds_are_refused() {
    let toy = Toy::new();
    toy.refused(
        &["train.gradient_accumulation_steps=4000000000"],
        SETTINGS,
        &["gradient_accumulation_steps", "at most"],
    );
    toy.refused(&["train.gradient_accumulation_steps=1000000"], SETTINGS, &["2000000 sequences a step"]);
}

#[test]
fn run_directories() {
    let toy = Toy::new();
    toy.run("runs/a", &["federation.num_rounds=1"]);
    let before = support::snapshot(&toy.path("runs"));
    toy.antiphon(&["run", "run.toml", "--out", "runs/a"])
        .says(RUN_DIR, &["runs/a", "holds a run already", "antiphon resume runs/a"]);
    toy.antiphon(&["run", "run.toml", "--out", "model"])
        .says(RUN_DIR, &["`model` is not empty", "config.json"]);
    toy.antiphon(&["run", "run.toml", "--out", "data.jsonl"]).says(RUN_DIR, &["data.jsonl is a file"]);
    toy.antiphon(&["resume", "model"]).says(RUN_DIR, &["`model` holds no run", "antiphon run FILE"]);
    toy.antiphon(&["resume", "nothing"]).says(RUN_DIR, &["`nothing` holds no run"]);
    assert!(!toy.path("nothing").exists());
    assert_eq!(support::snapshot(&toy.path("runs")), before);
}

/// The bits are those of a run that never heard of the tenth client.
#[test]
fn one_diverging_client_in_ten_changes_only_its_own_status() {
    let toy = Toy::new();
    toy.let_the_rich_diverge();
    let nine = ["ants", "bees", "cats", "dogs", "eels", "foxes", "gnats", "hens", "ibis"].map(|who| (who, 2));
    toy.write("data.jsonl", support::rows_of(nine));
    toy.run("nine", &[]);
    toy.write("data.jsonl", support::rows_of(nine.into_iter().chain([("zebras", 8)])));
    toy.run("ten", &[]);
    assert_eq!(toy.adapter("ten"), toy.adapter("nine"));
    let mut rounds = 0;
    for line in toy.read("ten/metrics.jsonl").lines() {
        let round: serde_json::Value = serde_json::from_str(line).unwrap();
        let statuses: Vec<&str> =
            round["clients"].as_array().unwrap().iter().map(|c| c["status"].as_str().unwrap()).collect();
        assert_eq!(statuses[..9], ["counted"; 9]);
        assert_eq!(statuses[9..], ["not_finite"]);
        rounds += 1;
    }
    assert_eq!(rounds, 4);
}

/// What does not go with an estimator is refused before anything is made, and the message says what would.
#[test]
fn estimators() {
    let toy = Toy::new();
    let zeroth = ["run", "run.toml", "--out", "runs/x", "-q", "estimator.id=zeroth_order"];
    for (more, words) in [
        (&[][..], &["[estimator]", "epsilon"][..]),
        (&["estimator.epsilon=1e-9"], &["[estimator]", "`epsilon` is 0.000000001", "1e-6 to 1"]),
        (&["estimator.epsilon=1e-3"], &["[estimator]", "id = \"sgd\"", "adamw"]),
        (
            &["estimator.epsilon=1e-3", "optimizer.id=sgd"],
            &["[estimator]", "train.max_grad_norm = 1", "set it to 0"],
        ),
        (
            &[
                "estimator.epsilon=1e-3",
                "optimizer.id=sgd",
                "train.max_grad_norm=0",
                "method.lora_dropout=0.1",
            ],
            &["[estimator]", "lora_dropout = 0.1", "set it to 0"],
        ),
        (
            &[
                "estimator={id='backprop'}",
                "aggregation={layers=[{id='weight', by='examples'}], reducer={id='median'}}",
            ],
            &["[aggregation]", "`weight`", "one vote"],
        ),
    ] {
        toy.antiphon(&[&zeroth[..], more].concat()).says(SETTINGS, words);
        assert!(!toy.path("runs/x").exists(), "{more:?}: refused, and yet a run was made");
    }
}

#[test]
fn a_run_that_diverges_says_who_and_why() {
    let toy = Toy::new();
    let ended = toy.antiphon(&["run", "run.toml", "--out", "runs/x", "-q", "train.learning_rate=1e30"]);
    ended.says(FEDERATION, &["round 1 of 4", "client ", "not finite at local step", "lower learning rate"]);
}

/// Mutations of a run file, the same on every machine: whatever comes of it, it is no panic.
#[test]
fn no_run_file_makes_it_panic() {
    let toy = Toy::new();
    let text = support::RUN.replace("num_rounds = 4", "num_rounds = 1");
    let lines: Vec<&str> = text.lines().collect();
    let values = [
        "\"\"",
        "0",
        "-1",
        "1e400",
        "nan",
        "9223372036854775807",
        "[]",
        "{}",
        "\"\\u0000\"",
        "true",
        "x",
        "\"../..\"",
    ];
    let mut cases = Vec::new();
    for (i, line) in lines.iter().enumerate().filter(|(_, l)| !l.is_empty()) {
        let with = |new: &str| {
            let mut copy = lines.clone();
            copy[i] = new;
            copy.join("\n")
        };
        cases.push(with(""));
        if let Some((key, _)) = line.split_once('=') {
            // two values for each line, another two for the next
            for value in values.iter().cycle().skip(5 * i).take(2) {
                cases.push(with(&format!("{key}= {value}")));
            }
        } else {
            cases.push(with(&line[..line.len() - 1]));
        }
    }
    assert!(cases.len() > 60, "{}", cases.len());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = |number: usize| {
        while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let (file, out) = (format!("fuzz-{number}.toml"), format!("fuzz-{number}"));
            toy.write(&file, case);
            let ended = toy.antiphon(&["run", &file, "--out", &out, "-q", "run.workers=1"]);
            let fine = ended.code.is_some_and(|c| (0..=8).contains(&c));
            assert!(fine && !ended.err.contains("panicked"), "{ended:?}\n{case}");
            assert!(ended.code != Some(1), "an internal error: {ended:?}\n{case}");
            if matches!(ended.code, Some(0 | 7)) {
                std::fs::remove_dir_all(toy.path(&out)).unwrap();
            }
            assert!(!toy.path(&out).exists(), "{ended:?}\n{case}");
        }
    };
    std::thread::scope(|s| {
        for number in 0..2 {
            s.spawn(move || worker(number));
        }
    });
}

/// The other commands, on a model, an adapter and a run that are in order, and on what is not.
#[test]
fn other_commands() {
    const USAGE: i32 = 2;
    let toy = Toy::new();
    toy.checkpoint(|_| {});
    toy.run("runs/a", &["federation.num_rounds=1"]);
    let says = |arguments: &[&str], code: i32, words: &[&str]| toy.antiphon(arguments).says(code, words);
    says(&["logits", "model", "--ids", "1 5 7"], 0, &[]);
    says(&["logits", "model", "--ids", "1 280"], MODEL, &["280", "the vocabulary has 280"]);
    says(&["logits", "model", "--ids", "1 -9"], USAGE, &["--ids: `-9`", "whole numbers from 0"]);
    says(&["logits", "model", "--ids", "1 4294967296"], USAGE, &["`4294967296`"]);
    says(&["logits", "model", "--ids", ""], USAGE, &["no ids", "\"1 5 7\""]);
    says(&["logits", "model", "--ids", &"7 ".repeat(65)], MODEL, &["65 tokens", "reads 64"]);
    says(&["logits", "modle", "--ids", "1"], MODEL, &["modle: no such directory"]);
    says(&["logits", "model", "--adapter", "nope", "--ids", "1"], MODEL, &["nope/adapter_config.json"]);
    says(&["generate", "model", "--prompt", "the", "--temperature", "nan"], USAGE, &["temperature NaN"]);
    says(
        &["generate", "model", "--prompt", "the", "--top-p", "2", "--temperature", "1"],
        USAGE,
        &["top_p 2"],
    );
    says(&["generate", "model", "--prompt", "the", "--chat"], MODEL, &["no chat template", "chatml"]);
    says(&["eval", "nope"], SETTINGS, &["nope"]);
    says(&["export", "nope", "--out", "x"], RUN_DIR, &["nope is no run directory"]);
    says(&["export", "runs/a", "--out", "model"], USAGE, &["--out model", "not empty"]);
    says(&["doctor", "model"], RUN_DIR, &["model is no run directory"]);
    says(&["plan", "run.toml", "train.learning_rate=x"], SETTINGS, &["override", "a number"]);
    says(&["init", "model", "data.jsonl", "--out", "run.toml"], USAGE, &["run.toml is there already"]);

    // adapters: cut short, of another shape, with a number that is none
    let adapter = toy.path("runs/a/latest/adapter_model.safetensors");
    let whole = std::fs::read(&adapter).unwrap();
    let on = |words: &[&str]| {
        says(&["logits", "model", "--adapter", "runs/a/latest", "--ids", "1"], MODEL, words);
    };
    std::fs::write(&adapter, &whole[..whole.len() - 1]).unwrap();
    on(&["adapter_model.safetensors"]);
    std::fs::write(&adapter, &whole[..4]).unwrap();
    on(&["adapter_model.safetensors"]);
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let nan = [&whole[..header], &f32::NAN.to_le_bytes(), &whole[header + 4..]].concat();
    std::fs::write(&adapter, nan).unwrap();
    on(&["adapter_model.safetensors", "NaN"]);
    std::fs::write(&adapter, &whole).unwrap();
    toy.edit("runs/a/latest/adapter_config.json", "\"r\": 2", "\"r\": 3");
    on(&["3", "2"]);
}
