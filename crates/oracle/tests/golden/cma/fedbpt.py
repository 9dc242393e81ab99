"""Three rounds of FedBPT with real pycma objects: server and clients as in NVFlare's research/fed-bpt, with the clamp that
its comments intend. Samples and the initial covariance as in make.py. Clients minimise shifted spheres.

    pip install cma==4.5.0; python fedbpt.py
"""

import json

import numpy as np
from make import Normals, Symmetric, cma

N, CLIENTS, ROUNDS, GENERATIONS, POPULATION, SIGMA, FLOOR = 6, 4, 4, 3, 5, 1.0, 0.5


def symmetric(es, randn):
    es.sm.__class__ = Symmetric
    es.sm.randn = randn


def loss(client, x):
    return 1.0 + float(sum((x - 0.5 * client) ** 2))


options = {"popsize": CLIENTS, "CMA_mu": CLIENTS, "verbose": -9, "seed": 1,
           "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA, "randn": Normals(0)}
server = cma.CMAEvolutionStrategy(N * [0.0], SIGMA, options)
symmetric(server, options["randn"])
server.sm.C, server.sm.B, server.sm.D = np.eye(N), np.eye(N), np.ones(N)
carried = SIGMA
rounds = []
for r in range(ROUNDS):
    reports = []
    for k in range(CLIENTS):
        randn = Normals(1000 * r + k)
        es = server._copy_light(inopts={"popsize": POPULATION, "CMA_mu": None, "randn": randn})
        symmetric(es, randn)
        sigmas = []
        for _ in range(GENERATIONS):
            sigmas.append(es.sigma)
            xs = es.ask()
            es.tell(xs, [loss(k, x) for x in xs])
        parents = cma.recombination_weights.RecombinationWeights(POPULATION).mu
        reports.append((es.mean.copy(), loss(k, es.mean), float(np.sum(np.square(sigmas)))))
    old = np.sqrt(sum(s for _, _, s in reports) / CLIENTS / parents)
    server.sigma = old
    server.ask()
    server.tell([x.copy() for x, _, _ in reports], [f for _, f, _ in reports])
    new = server.sigma
    carried = min(carried, new / old * carried)
    server.sigma = max(carried, FLOOR)
    rounds.append({"means": [list(x) for x, _, _ in reports], "fitness": [f for _, f, _ in reports],
                   "squares": [s for _, _, s in reports], "mean": list(server.mean), "carried": carried,
                   "broadcast": server.sigma, "variances": list(server.sm.variances)})
json.dump({"dim": N, "generations": GENERATIONS, "population": POPULATION, "sigma": SIGMA, "floor": FLOOR,
           "rounds": rounds}, open("fedbpt.json", "w"))
