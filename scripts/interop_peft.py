#!/usr/bin/env python3
"""Shows that real peft and transformers read what antiphon writes, and compute the same.

One adapter, of a run:

    python scripts/interop_peft.py --antiphon target/release/antiphon --model MODEL_DIR --adapter RUN/latest
    python scripts/interop_peft.py --antiphon target/release/antiphon --model MODEL_DIR --adapter RUN/latest --merged DIR

Every family and kind of adapter on tiny random models, without training (needs no checkpoint):

    cargo build --release -p antiphon-model --example adapters
    python scripts/interop_peft.py --matrix --antiphon target/release/examples/adapters

For an adapter (LoRA or soft prompt, language model or sequence classification) it is checked that
  - peft loads it without a missing or unexpected key; since peft loads with strict=False, the set of keys in the file is also
    compared with the set that peft itself would save, and each tensor with the one that peft holds;
  - no lora_B is zero, so that the comparison means something;
  - the logits of the last position (or of the classes) and those of `antiphon logits … --json` differ by at most 1e-4;
  - they differ from those of the base model alone;
and for a merged or fully tuned checkpoint, that transformers loads it without missing or unexpected keys, with the same
logits. The matrix also has adapters that peft wrote, read by antiphon.

Runs in any virtual environment with torch, transformers, peft and safetensors. Exit code 0 when all holds.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

TOLERANCE = 1e-4
warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Failed(Exception):
    """A check that does not hold."""


def check(holds, message):
    if not holds:
        raise Failed(message)


def antiphon_logits(command, model, ids, adapter=None):
    args = command.split() + ["logits", str(model), "--ids", " ".join(map(str, ids)), "--json"]
    if adapter is not None:
        args += ["--adapter", str(adapter)]
    done = subprocess.run(args, capture_output=True, text=True)
    check(done.returncode == 0, f"{' '.join(args)} failed:\n{done.stderr}")
    return torch.tensor(json.loads(done.stdout)["logits"], dtype=torch.float64)


def auto_class(task_type, model):
    if task_type == "SEQ_CLS":
        return transformers.AutoModelForSequenceClassification
    check(task_type == "CAUSAL_LM", f"task_type {task_type} is not handled here")
    return transformers.AutoModelForCausalLM


def logits_of(model, ids, task_type):
    model.eval()
    with torch.no_grad():
        tokens = torch.tensor([ids])
        out = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    return (out[0] if task_type == "SEQ_CLS" else out[0, -1]).double()


def compare(what, ours, theirs):
    check(ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} logits, expected {tuple(theirs.shape)}")
    worst = (ours - theirs).abs().max().item()
    check(worst <= TOLERANCE, f"{what}: logits differ by {worst:.3e}, more than {TOLERANCE:.0e}")
    return worst


def sample_ids(vocab, avoid, count=11):
    """Ids spread over the vocabulary, without special ones at its beginning and without padding."""
    ids = [(7 * i * i + 5 * i + vocab // 3) % vocab for i in range(4 * count)]
    return [i for i in ids if i > 2 and i not in avoid][:count]


def check_adapter(command, model_dir, adapter_dir, ids=None):
    adapter_dir = pathlib.Path(adapter_dir)
    config = json.loads((adapter_dir / "adapter_config.json").read_text())
    path = adapter_dir / "adapter_model.safetensors"
    tensors = load_file(path)
    with safe_open(path, "pt") as f:
        check(f.metadata() == {"format": "pt"}, f"header metadata is {f.metadata()}, expected {{'format': 'pt'}}")
    task_type, kind = config["task_type"], config["peft_type"]

    extra = {}
    if task_type == "SEQ_CLS":
        heads = [t for k, t in tensors.items() if k.endswith(("score.weight", "classifier.weight"))]
        check(len(heads) == 1, "a classification adapter needs one head among its tensors")
        extra["num_labels"] = heads[0].shape[0]
    load = auto_class(task_type, model_dir)

    def base_model():
        # the same first values of a head that the adapter replaces
        torch.manual_seed(0)
        return load.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager", **extra)

    base = base_model()
    spec = base.config
    ids = ids or sample_ids(spec.vocab_size, {spec.pad_token_id, spec.eos_token_id})
    alone = logits_of(base, ids, task_type)
    model = PeftModel.from_pretrained(base_model(), adapter_dir)

    # strict=False hides these: load once more and read the report
    report = model.load_adapter(adapter_dir, adapter_name="again")
    mine = lambda keys: [k for k in keys if "again" in k or "prompt" in k or "original_module" in k]
    # peft gives a prompt to its embedding, strictly, beside this report, which therefore lists it; its values are below
    unexpected = [k for k in report.unexpected_keys if not (kind == "PROMPT_TUNING" and k == "prompt_embeddings")]
    check(not unexpected, f"unexpected keys: {unexpected}")
    check(not mine(report.missing_keys), f"missing keys: {mine(report.missing_keys)}")
    held = get_peft_model_state_dict(model, save_embedding_layers=False)
    check(set(held) == set(tensors), f"keys differ from peft's own: {sorted(set(held) ^ set(tensors))}")
    for key, tensor in tensors.items():
        check(torch.equal(held[key].float(), tensor.float()), f"{key}: peft holds other values")
    if kind == "LORA":
        pairs = [k for k in tensors if k.endswith("lora_B.weight")]
        check(pairs, "no lora_B in the file")
        for key in pairs:
            check(tensors[key].abs().max() > 0, f"{key} is zero")

    theirs = logits_of(model, ids, task_type)
    check((theirs - alone).abs().max() > 10 * TOLERANCE, "the adapter changes nothing")
    sidecar = adapter_dir / "antiphon.json"
    if sidecar.exists() and "pooling" in json.loads(sidecar.read_text()):
        return f"keys ok; logits not compared: {sidecar.name} names a pooling that transformers' class does not have"
    worst = compare("adapter", antiphon_logits(command, model_dir, ids, adapter_dir), theirs)
    return f"{kind} {task_type}: {len(tensors)} tensors, logits differ by {worst:.1e}", ids, theirs


def check_theirs(command, model_dir, root, task_type):
    """The other way: an adapter that peft wrote, with patterns and a regular expression, read by antiphon."""
    load = auto_class(task_type, model_dir)
    extra = {"num_labels": 3} if task_type == "SEQ_CLS" else {}
    torch.manual_seed(5)
    base = load.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager", **extra)
    config = LoraConfig(
        task_type=task_type, r=3, lora_alpha=5, use_rslora=True, init_lora_weights=False,
        target_modules=r".*\.(q_proj|v_proj|down_proj|c_attn|mlp\.c_proj|query|intermediate\.dense)",
        rank_pattern={r"1\..*": 2}, alpha_pattern={"q_proj": 7, r"query|c_attn": 2})
    model = get_peft_model(base, config)
    model.save_pretrained(root)
    spec = base.config
    ids = sample_ids(spec.vocab_size, {spec.pad_token_id, spec.eos_token_id})
    theirs = logits_of(model, ids, task_type)
    worst = compare("peft's own adapter", antiphon_logits(command, model_dir, ids, root), theirs)
    return f"written by peft: logits differ by {worst:.1e}"


def check_merged(command, merged_dir, ids, expected, task_type):
    model, report = auto_class(task_type, merged_dir).from_pretrained(
        merged_dir, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        check(not report.get(what), f"merged: {what}: {report.get(what)}")
    theirs = logits_of(model, ids, task_type)
    worst = 0.0 if expected is None else compare("merged, in transformers", theirs, expected)
    worst = max(worst, compare("merged, in antiphon", antiphon_logits(command, merged_dir, ids), theirs))
    what = "full" if expected is None else "merged"
    return f"{what}: logits differ by {worst:.1e}"


def tiny_models(root):
    """A tiny random model of every family, of shapes that no transposition survives."""
    T = transformers
    llama = dict(vocab_size=60, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, pad_token_id=0,
                 bos_token_id=1, eos_token_id=2)
    configs = {
        "llama": T.LlamaConfig(**llama),
        "llama3-tied": T.LlamaConfig(**llama, tie_word_embeddings=True, head_dim=8, rope_parameters=dict(
            rope_type="llama3", rope_theta=1e4, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16)),
        # a window of 8 over two layers: the last of 11 tokens still hears a prompt
        "mistral": T.MistralConfig(**llama, sliding_window=8),
        "qwen2": T.Qwen2Config(**llama),
        "qwen3": T.Qwen3Config(**llama, head_dim=8),
        "gpt2": T.GPT2Config(vocab_size=60, n_embd=24, n_layer=2, n_head=4, n_positions=64, n_inner=20,
                             initializer_range=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        "bert": T.BertConfig(vocab_size=60, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
                             intermediate_size=20, max_position_embeddings=64, initializer_range=0.3),
    }
    for name, config in configs.items():
        torch.manual_seed(3)
        cls = T.AutoModel if name == "bert" else T.AutoModelForCausalLM
        model = cls.from_config(config)
        for key, p in model.named_parameters():
            # biases start at zero and gains at one: give them something to say
            if p.dim() == 1:
                torch.nn.init.normal_(p, mean=0.0 if key.endswith("bias") else 1.0, std=0.2)
        model.save_pretrained(root / name)
        yield name, root / name


def matrix(command):
    failures = 0

    def attempt(name, kind, work):
        nonlocal failures
        try:
            print(f"ok   {name:12} {kind:11} {work()}")
        except (Failed, subprocess.CalledProcessError) as e:
            failures += 1
            print(f"FAIL {name:12} {kind:11} {e}")

    def run(*args):
        subprocess.run(command.split() + list(map(str, args)), check=True)

    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        for name, model in tiny_models(root):
            encoder = name == "bert"
            tasks = ["SEQ_CLS"] if encoder else ["CAUSAL_LM", "SEQ_CLS"]
            kinds = ["lora-cls", "mixed-cls", "prompt-cls"] if encoder else \
                ["lora", "mixed", "prompt", "lora-cls", "prompt-cls"]
            for kind in kinds:
                def adapter(kind=kind):
                    out, merged = root / f"{name}-{kind}", root / f"{name}-{kind}-merged"
                    run("random", model, out, kind)
                    line, ids, logits = check_adapter(command, model, out)
                    if not kind.startswith("prompt"):
                        run("merge", model, out, merged)
                        line += "; " + check_merged(command, merged, ids, logits, tasks[-1 if kind.endswith("cls") else 0])
                    return line
                attempt(name, kind, adapter)
            for task in tasks:
                def theirs(task=task):
                    return check_theirs(command, model, root / f"{name}-{task}-theirs", task)

                def full(task=task):
                    out = root / f"{name}-{task}-full"
                    run("full", model, out, *([3] if task == "SEQ_CLS" else []))
                    return check_merged(command, out, sample_ids(60, {0, 1, 2}), None, task)
                attempt(name, "by peft", theirs)
                attempt(name, "full", full)
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--antiphon", required=True, help="the binary, or the command that runs it")
    parser.add_argument("--model", help="directory of the base model")
    parser.add_argument("--adapter", help="directory of an adapter that antiphon wrote")
    parser.add_argument("--merged", help="directory of a merged checkpoint of the same adapter")
    parser.add_argument("--ids", help="token ids to compare at; some of the vocabulary if not given")
    parser.add_argument("--matrix", action="store_true", help="every family and kind, on tiny random models")
    args = parser.parse_args()
    if args.matrix:
        failures = matrix(args.antiphon)
        print("all hold" if failures == 0 else f"{failures} failed")
        return 1 if failures else 0
    if not (args.model and args.adapter):
        parser.error("--model and --adapter, or --matrix")
    try:
        ids = [int(i) for i in args.ids.split()] if args.ids else None
        result = check_adapter(args.antiphon, args.model, args.adapter, ids)
        if isinstance(result, str):
            print(f"ok   {result}")
            return 0
        line, ids, logits = result
        if args.merged:
            config = json.loads((pathlib.Path(args.adapter) / "adapter_config.json").read_text())
            line += "; " + check_merged(args.antiphon, args.merged, ids, logits, config["task_type"])
        print(f"ok   {line}")
        return 0
    except Failed as e:
        print(f"FAIL {e}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
