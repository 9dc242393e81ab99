"""The quickstart over several seeds: does the federated model beat the mean client by more than two standard deviations?

    python3 scripts/quickstart_study.py [--antiphon target/release/antiphon] [--seeds 1 2 3 4 5] [--out runs/study]

Needs nothing beyond Python's standard library. Each seed changes everything that is random in the run: the division of
the data among clients, the held-out parts, the order of examples, the initial adapter. Writes a Markdown table to
standard output and exits with 1 when the margin is two standard deviations or less.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def accuracies(summary):
    """Test accuracy of each line of the table, all on the union of the clients' test data, and the run's seconds."""
    base = summary["baselines"]
    alone = [m["accuracy"] for m in base["local_only"]["on_union"].values()]
    return {
        "base": base["zero_shot"]["eval"]["global"]["accuracy"],
        "worst client": min(alone),
        "mean client": statistics.mean(alone),
        "federated": summary["federated"]["global"]["accuracy"],
        "centralised": base["centralised"]["eval"]["global"]["accuracy"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--antiphon", default=str(ROOT / "target/release/antiphon"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, default=ROOT / "runs/quickstart-study")
    parser.add_argument("overrides", nargs="*", help="further KEY=VALUE for every run, such as run.workers=2")
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("a standard deviation needs two seeds")
    rows, seconds = {}, {}
    for seed in args.seeds:
        out = args.out / f"seed-{seed}"
        begun = time.monotonic()
        if not (out / "summary.json").exists():
            command = [args.antiphon, "run", str(ROOT / "examples/quickstart.toml"), "--quiet", "--out", str(out)]
            subprocess.run([*command, f"run.seed={seed}", *args.overrides], check=True, stdout=subprocess.DEVNULL)
            seconds[seed] = time.monotonic() - begun
        summary = json.loads((out / "summary.json").read_text())
        if summary["run"]["seed"] != seed:
            sys.exit(f"{out} holds a run of seed {summary['run']['seed']}")
        rows[seed] = accuracies(summary)
    lines = list(next(iter(rows.values())))
    print("| seed | " + " | ".join(lines) + " | federated − mean client |")
    print("|---|" + "---|" * (len(lines) + 1))
    percent = lambda x: f"{100 * x:.1f}"
    for seed, row in rows.items():
        margin = row["federated"] - row["mean client"]
        print(f"| {seed} | " + " | ".join(percent(row[k]) for k in lines) + f" | {percent(margin)} |")
    table = {k: [row[k] for row in rows.values()] for k in lines}
    margins = [f - m for f, m in zip(table["federated"], table["mean client"])]
    columns = [*table.values(), margins]
    spread = [f"{percent(statistics.mean(c))} ± {percent(statistics.stdev(c))}" for c in columns]
    print("| mean ± s.d. | " + " | ".join(spread) + " |")
    deviations = statistics.mean(margins) / max(statistics.stdev(margins), 1e-12)
    print(f"\nMargin: {percent(statistics.mean(margins))} points of accuracy, {deviations:.1f} standard deviations over seeds.")
    if seconds:
        print(f"Wall time of a run: {min(seconds.values()):.0f} to {max(seconds.values()):.0f} s.")
    sys.exit(0 if deviations > 2 else 1)


if __name__ == "__main__":
    main()
