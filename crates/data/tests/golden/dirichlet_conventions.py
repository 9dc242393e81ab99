"""Moments of the four Dirichlet conventions, by numpy, for tests/conventions.rs.

1000 examples of 10 classes (sizes 10, 30, 50, ... 190), 8 clients; mean over 2000 draws of
- the standard deviation of client sizes over their mean,
- the mean over clients of the total variation between a client's label distribution and that of all data.
Written from the descriptions in the papers and the partitioners' heads, not from the Rust code.
Run: python dirichlet_conventions.py > dirichlet_conventions.json
"""

import json

import numpy as np

SIZES = np.arange(10, 200, 20)
N, CLIENTS, DRAWS = int(SIZES.sum()), 8, 2000
PRIOR = SIZES / N


def split_class(counts, k, p):
    cuts = np.diff(np.concatenate([[0], (np.cumsum(p) * SIZES[k]).astype(int)[:-1], [SIZES[k]]]))
    counts[:, k] += cuts


def per_class(rng, alpha, balanced):
    counts = np.zeros((CLIENTS, len(SIZES)), int)
    for k in range(len(SIZES)):
        p = rng.dirichlet(np.repeat(alpha, CLIENTS))
        if balanced:
            p = p * (counts.sum(1) < N / CLIENTS)
            p = p / p.sum()
        split_class(counts, k, p)
    return counts


def per_client(rng, alpha):
    left = SIZES.copy()
    counts = np.zeros((CLIENTS, len(SIZES)), int)
    for j in range(CLIENTS):
        q = rng.dirichlet(alpha * PRIOR)
        for _ in range(N // CLIENTS):
            w = q * (left > 0)
            if w.sum() <= 0:
                w = left.astype(float)
            k = rng.choice(len(SIZES), p=w / w.sum())
            left[k] -= 1
            counts[j, k] += 1
    return counts


def flasc(rng, alpha):
    q = rng.dirichlet(np.repeat(alpha, len(SIZES)), CLIENTS)
    q = q / q.sum(0)
    counts = np.zeros((CLIENTS, len(SIZES)), int)
    for k in range(len(SIZES)):
        split_class(counts, k, q[:, k])
    return counts


def moments(draw, draws=DRAWS, minimum=1):
    rng = np.random.default_rng(0)
    spread, tv = [], []
    while len(spread) < draws:
        counts = draw(rng)
        n = counts.sum(1)
        if n.min() < minimum:
            continue
        spread.append(n.std() / n.mean())
        tv.append((np.abs(counts / n[:, None] - PRIOR).sum(1) / 2).mean())
    return {"size_variation": float(np.mean(spread)), "tv_mean": float(np.mean(tv))}


out = {}
for alpha in (0.3, 2.0):
    out[f"dirichlet_class {alpha}"] = moments(lambda r: per_class(r, alpha, False))
    out[f"dirichlet_balanced {alpha}"] = moments(lambda r: per_class(r, alpha, True))
    out[f"dirichlet_client {alpha}"] = moments(lambda r: per_client(r, alpha), 300)
    out[f"dirichlet_flasc {alpha}"] = moments(lambda r: flasc(r, alpha))
print(json.dumps(out, indent=1))
