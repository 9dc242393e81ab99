#!/usr/bin/env python3
"""What a client holds off-site: peak memory and time of a step on emulators of one model, each in a process of its own.

    cargo build --release
    python scripts/offsite_memory.py MODEL_DIR --antiphon target/release/antiphon

MODEL_DIR holds a Hugging Face checkpoint and `tokens.json`, {"ids": [[…], …]}. For every drop rate, and for the whole model with the same
layers trained: peak resident set, what it should be (frozen weights as stored, the trainable vector with gradient and optimiser state,
planned activations), and how far what was saved lies from what should have been. Exits 1 where that is more than `--within`.
"""

import argparse
import json
import subprocess
import sys


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model")
    p.add_argument("--antiphon", required=True)
    p.add_argument("--method", default="lora", choices=["lora", "full"])
    p.add_argument("--adapter", default="2,2", help="layers trained at the bottom and at the top")
    p.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.8])
    p.add_argument("--dtypes", nargs="*", default=["int8", "nf4"], help="also at the highest rate, with the middle stored so")
    p.add_argument("--within", type=float, default=0.1)
    for name, default in [("batch", 4), ("seq", 256), ("threads", 4), ("steps", 2), ("warmup", 1)]:
        p.add_argument("--" + name, type=int, default=default)
    a = p.parse_args()

    def step(*more):
        command = [a.antiphon, "bench", "step", a.model, "--tokens", f"{a.model}/tokens.json", "--json", "--method", a.method]
        command += [f"--{k}={getattr(a, k)}" for k in ("batch", "seq", "threads", "steps", "warmup")]
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
        r = json.loads(done.stdout.splitlines()[-1])
        r["parts_mb"] = r["weights_mb"] + r["trainable_mb"] + r["planned_mb"]
        return r

    runs = [(f"{rate}", step("--emulator", f"{a.adapter},{rate}")) for rate in a.rates]
    runs += [(f"{d} at {a.rates[-1]}", step("--emulator", f"{a.adapter},{a.rates[-1]}", "--dtype", d)) for d in a.dtypes]
    whole = step()
    base, worst = runs[0][1], 0.0
    print("| drop rate | layers | weights | trainable | activations | peak RSS | saved | should save | off by | step |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, r in [("all layers trained", whole), *runs]:
        saved, should = base["rss_mb"] - r["rss_mb"], base["parts_mb"] - r["parts_mb"]
        off = saved / should - 1 if r not in (base, whole) and should > 0 else None
        # with a dtype this process reads the checkpoint's blocks to make the codes, and their pages count
        worst = max(worst, abs(off or 0.0) if name in map(str, a.rates) else 0.0)
        print(
            f"| {name} | {r['layers']} | {r['weights_mb']:.0f} | {r['trainable_mb']:.0f} | {r['planned_mb']:.0f} | {r['rss_mb']:.0f} MB | "
            f"{saved:.0f} | {should:.0f} | {'' if off is None else f'{off:+.1%}'} | {r['step_s']:.2f} s |"
        )
    if worst > a.within:
        sys.exit(f"what was saved is off by {worst:.1%}, more than {a.within:.0%}")


main()
