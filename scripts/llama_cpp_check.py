#!/usr/bin/env python3
"""Our client, unchanged, against llama-cpp-python's server from PyPI, with a GGUF made from the embedded base.

    python scripts/llama_cpp_check.py path/to/antiphon

Needs `llama-cpp-python[server]` and `gguf`. A black-box run over `/v1/completions` with echo; its zero-shot test loss must be that of
the same run against our own server, and the run must end. Neither side is then only tested on itself.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PORT = 8137
# float32 in two engines, on labels of a few tokens
SAME = 2e-3


def run(antiphon: str, out: Path, *overrides: str) -> dict:
    small = ["federation.num_rounds=2", "data.split.test=0.05", "data.split.validation=0.9", "eval.max_examples=4",
             "eval.random_search=false", "search.samples=4", "run.workers=1"]
    command = [antiphon, "run", str(ROOT / "examples/black-box-http.toml"), "--out", str(out), *small, *overrides]
    subprocess.run(command, check=True)
    return json.loads((out / "summary.json").read_text())


def main(antiphon: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "base.gguf"
        subprocess.run([sys.executable, str(ROOT / "scripts/make_gguf.py"), str(model)], check=True)
        server = subprocess.Popen(
            [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "base", "--logits_all", "true",
             "--n_ctx", "256", "--host", "127.0.0.1", "--port", str(PORT)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v1/models", timeout=1).read()
                    break
                except OSError:
                    time.sleep(0.2)
            theirs = run(antiphon, Path(folder) / "theirs", f"oracle.endpoint=http://127.0.0.1:{PORT}/v1",
                         "oracle.dialect=completions", "oracle.model=base", "oracle.concurrency=1")
        finally:
            server.terminate()
            server.wait()
        ours = run(antiphon, Path(folder) / "ours")
    loss = lambda s: s["baselines"]["zero_shot"]["eval"]["global"]["loss"]
    queries = theirs["queries"]
    print(f"zero-shot test loss: {loss(theirs):.6f} at llama-cpp-python, {loss(ours):.6f} at ours; {queries['calls']} requests, "
          f"{queries['examples']} examples, noise floor {queries.get('noise_floor')}")
    assert abs(loss(theirs) - loss(ours)) < SAME, "the two servers disagree"
    assert theirs["run"]["rounds_done"] == 2


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
