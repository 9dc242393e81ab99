"""Writes noise.json: perturbations by their definition, in numpy and binary64.

    python noise.py

Philox4x32-10 is written out and checked against Random123's first known answer. Box and Muller's formula is the one in
the head of crates/kernels/src/cpu/noise.rs.
"""

import json
import math
import pathlib

import numpy as np

MASK = 0xFFFFFFFF


def philox(key, counter):
    k, c = list(key), list(counter)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def word(key, high, i):
    block = i // 4
    return philox(key, [block & MASK, block >> 32, high & MASK, high >> 32])[i % 4]


def signed(w):
    return w - (1 << 32) if w >> 31 else w


def z(law, key, high, i):
    if law == "rademacher":
        return -1.0 if word(key, high, i) >> 31 else 1.0
    pair = i // 2 * 2
    radius, angle = word(key, high, pair), word(key, high, pair + 1)
    u = float(np.float32(radius >> 1) * 2.0**-31 + 2.0**-32)
    u = float(np.float32(u))
    r = math.sqrt(-2 * math.log(u))
    theta = signed(angle) * (math.pi / 2 / 2**31)
    if angle & 1:
        theta = math.pi - theta
    return r * (math.sin(theta) if i % 2 else math.cos(theta))


assert philox([0, 0], [0] * 4)[0] == 0x6627E8D5, "Random123's known answer"
cases = []
for law in ["gaussian", "rademacher"]:
    for key, high, first in [([0, 0], 0, 0), ([0xDEADBEEF, 7], 5, 30), ([1, 2], 3 << 33, (1 << 34) - 9)]:
        cases.append(
            dict(law=law, key=key, high=high, first=first, z=[float(f"{z(law, key, high, first + i):.9g}") for i in range(40)])
        )
path = pathlib.Path(__file__).with_name("noise.json")
path.write_text(json.dumps(dict(cases=cases), indent=None, separators=(",", ":")) + "\n")
