"""FedKSeed and DeComFL on a quadratic, by their papers, in numpy: writes scalars.json.

Inputs are the seeds that each client draws and the directions of those seeds, as the crate makes them (Philox and BLAKE3 are
pinned by other tests); `updates_are_those_of_numpy` fails when they change and lets nothing else into the arithmetic.

    cargo run -p antiphon-tune --example scalar_inputs | python scalars.py > scalars.json
"""

import json
import sys

import numpy as np


def loss(w, a):
    return 0.5 * np.sum(a * (w - 1.0) ** 2)


def slope(w, z, a, eps, two_point):
    # what is added is the binary32 nearest to epsilon
    eps = float(np.float32(eps))
    if two_point:
        return (loss(w + eps * z, a) - loss(w - eps * z, a)) / (2 * eps)
    return (loss(w + eps * z, a) - loss(w, a)) / eps


def fedkseed(run, a, start, lr, z):
    """main.py, server.py and mezo_optimizer.py of the reference: A accumulates, weights are rebuilt from it each round."""
    accumulated, history = {}, []
    for clients in run["seeds"]:
        rebuilt = start - lr * sum((A * z[s] for s, A in accumulated.items()), np.zeros_like(start))
        local = []
        for steps in clients:
            w, found = rebuilt.copy(), {}
            for (s,) in steps:
                g = slope(w, z[s], a, run["epsilon"], True)
                w -= lr * g * z[s]
                found[s] = found.get(s, 0.0) + g
            local.append(found)
        for found in local:
            for s, g in found.items():
                accumulated[s] = accumulated.get(s, 0.0) + g / len(local)
        history.append(start - lr * sum((A * z[s] for s, A in accumulated.items()), np.zeros_like(start)))
    state = [accumulated.get(s, 0.0) for s in run["pool"]]
    return state, history


def decomfl(run, a, start, lr, z):
    """Algorithms 1 to 3: every client replays the log, takes K steps of P directions, uploads K P slopes; they are averaged."""
    log, w, history = [], start.copy(), []
    for clients in run["seeds"]:
        uploads = []
        for steps in clients:
            own, found = w.copy(), []
            for directions in steps:
                g = [slope(own, z[s], a, run["epsilon"], run["two_point"]) for s in directions]
                own -= lr * np.mean([gi * z[s] for gi, s in zip(g, directions)], axis=0)
                found.append(g)
            uploads.append(found)
        mean = np.mean(uploads, axis=0)
        for g, directions in zip(mean, clients[0]):
            w = w - lr * np.mean([gi * z[s] for gi, s in zip(g, directions)], axis=0)
        log.extend(mean.reshape(-1).tolist())
        history.append(w.copy())
    return log, history


def main():
    given = json.load(sys.stdin)
    a, start, lr = np.array(given["a"]), np.array(given["start"]), given["learning_rate"]
    for run in given["runs"]:
        z = {s: np.array(v) for s, v in run["z"].items()}
        state, history = (fedkseed if "fedkseed" in run["scalars"] else decomfl)(run, a, start, lr, z)
        run["state"], run["weights"] = state, [h.tolist() for h in history]
        for key in ("pool", "epsilon", "two_point"):
            run.pop(key)
    json.dump(given, sys.stdout, indent=None)
    print()


main()
