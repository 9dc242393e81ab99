"""Blocks that the released programs keep, by running their own functions.

    python layers.py OFFSITE_TUNING/offsite_tuning/utils.py FEDERATEDSCOPE/federatedscope/llm/offsite_tuning/utils.py

Only the two functions are taken out of the files, so that torch is not needed.
"""

import ast
import json
import pathlib
import sys
import types


def function(path, name):
    """The function `name` of a file, with `nn.ModuleList` as a list and a silent logger."""
    tree = ast.parse(pathlib.Path(path).read_text())
    node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    scope = {
        "nn": types.SimpleNamespace(ModuleList=list),
        "logger": types.SimpleNamespace(info=lambda _: None),
    }
    exec(compile(ast.Module([node], []), path, "exec"), scope)
    return scope[name]


def attempt(run):
    try:
        return run()
    except ZeroDivisionError:
        return None


choose = function(sys.argv[1], "uniform_choose_layers")
drop_layer = function(sys.argv[2], "model_drop_layer")
cases = []
for n in [6, 8, 9, 10, 11, 13, 18, 20, 22, 24, 26, 28, 30, 31, 44, 46, 48]:
    for drop in [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]:
        m = round(n * (1 - drop))
        layers = list(range(n))
        kept = {
            # Offsite-Tuning is told how many stay
            "offsite_tuning": attempt(lambda: choose(layers, m)),
            "federatedscope": attempt(lambda: drop_layer(layers, drop)),
        }
        cases.append({"n": n, "drop": drop, "kept": kept})
lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
pathlib.Path(__file__).with_name("layers.json").write_text(f"[\n{lines}\n]\n")
