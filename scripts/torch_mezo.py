#!/usr/bin/env python3
"""A full-weight MeZO step, ours and PyTorch's in turn.

    cargo build --release
    python scripts/torch_mezo.py MODEL_DIR --antiphon target/release/antiphon            # both, in turn
    python scripts/torch_mezo.py MODEL_DIR                                               # PyTorch alone, one JSON line

MODEL_DIR is a Hugging Face causal language model with `tokens.json` beside it: `{"ids": [[…], …]}`, one row a sequence of
`seq + 1` tokens. The step in PyTorch is the one of MeZO's own trainer (Malladi et al. 2023, arXiv:2305.17333, algorithm 1):
the generator is seeded, every parameter is moved in place by `+ε z`, by `-2ε z`, and back, and then by the update, so `z` is
drawn four times a step. Ours draws it three times, on the way into the matrix products, and moves weights only by the update.
Both take the batch of `tokens.json`, two forward passes in inference mode, binary32, `ε = 1e-3`, `lr = 1e-6`.

With `--antiphon` it prints, for each pair of runs, steps per second and their ratio, our step in plain forward passes on the
same private copy of the weights, and peak memory; then the medians. Quote ratios: on a shared machine times do not hold.

Runs in any virtual environment with torch and transformers.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

EPSILON, RATE = 1e-3, 1e-6


def torch_step(a):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(a.threads)
    with open(f"{a.model}/tokens.json") as f:
        ids = torch.tensor(json.load(f)["ids"])[: a.batch, : a.seq + 1]
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    model = AutoModelForCausalLM.from_pretrained(a.model, torch_dtype=torch.float32).eval()
    params = [p for p in model.parameters() if p.requires_grad]

    def loss():
        logits = model(input_ids=x, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]).float(), y.view(-1)).item()

    def move(seed, scale):
        torch.manual_seed(seed)
        for p in params:
            p.add_(torch.normal(0, 1, size=p.shape, dtype=p.dtype), alpha=scale)

    def step(seed):
        move(seed, EPSILON)
        plus = loss()
        move(seed, -2 * EPSILON)
        minus = loss()
        move(seed, EPSILON)
        move(seed, -RATE * (plus - minus) / (2 * EPSILON))
        return 0.5 * (plus + minus)

    wall, cpu, losses = [], [], []
    with torch.inference_mode():
        for seed in range(a.warmup + a.steps):
            w, c = time.perf_counter(), time.process_time()
            losses.append(step(seed))
            wall.append(time.perf_counter() - w)
            cpu.append(time.process_time() - c)
    wall, cpu = sorted(wall[a.warmup :]), sorted(cpu[a.warmup :])
    mid = len(wall) // 2
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return dict(
        engine="torch", model=a.model, mode="mezo", threads=a.threads, step_s=wall[mid], best_s=wall[0], cpu_s=cpu[mid],
        tokens_per_s=x.numel() / wall[mid], rss_mb=rss, first_loss=losses[0], last_loss=losses[-1],
    )


def last_line(command):
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def compare(a):
    common = [f"--{k}={getattr(a, k)}" for k in ("batch", "seq", "threads", "steps", "warmup")]
    theirs = [sys.executable, __file__, a.model, *common]
    ours = [a.antiphon, "bench", "step", a.model, "--tokens", f"{a.model}/tokens.json", *common, "--json", "--method"]
    rows = []
    for _ in range(a.repeats):
        own, mezo, torch = last_line([*ours, "own"]), last_line([*ours, "mezo"]), last_line(theirs)
        if abs(mezo["first_loss"] - torch["first_loss"]) > 0.05:
            sys.exit(f"not the same model or batch: first losses {mezo['first_loss']} and {torch['first_loss']}")
        rows.append(
            dict(
                faster=torch[a.clock] / mezo[a.clock], forwards=mezo[a.clock] / own[a.clock],
                rss=mezo["rss_mb"] / own["rss_mb"], rss_torch=mezo["rss_mb"] / torch["rss_mb"],
            )
        )
        print(
            f"ours {1 / mezo[a.clock]:.2f} steps/s  torch {1 / torch[a.clock]:.2f} steps/s  ratio {rows[-1]['faster']:.2f}  "
            f"a step is {rows[-1]['forwards']:.2f} forward passes  RSS {mezo['rss_mb']:.0f} MB, inference "
            f"{own['rss_mb']:.0f} MB, torch {torch['rss_mb']:.0f} MB"
        )
    for key in rows[0]:
        values = [r[key] for r in rows]
        print(f"{key:>10}: median {statistics.median(values):.2f} (min {min(values):.2f}, max {max(values):.2f})")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--antiphon", help="our binary: measure both in turn")
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--clock", choices=["step_s", "best_s", "cpu_s"], default="step_s", help="median, best, or processor time")
    for name, default in [("batch", 8), ("seq", 128), ("threads", 4), ("steps", 5), ("warmup", 2)]:
        p.add_argument("--" + name, type=int, default=default)
    a = p.parse_args()
    if a.antiphon:
        compare(a)
    else:
        print(json.dumps(torch_step(a)))


if __name__ == "__main__":
    main()
