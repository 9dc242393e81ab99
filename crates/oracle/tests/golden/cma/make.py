"""Golden runs of pycma 4.5.0: constants, and searches driven by a portable generator of normals.

    pip install cma==4.5.0; python make.py

Two things are changed in pycma, both without effect on the law of the search: samples are made with the symmetric root of C
(pycma's `B D` depends on signs of eigenvectors), and C begins as the identity (pycma adds 1e-4 along the diagonal for
numpy's sake). The separable search is pycma's machinery with its diagonal sampler and its separable constants. The step size is adapted by path length (CSA) in every
dimension, as in all papers on black-box tuning; pycma 4.5.0 itself prefers two-point adaptation in high dimension.
"""

import json
import math
import warnings

warnings.simplefilter("ignore")
import cma
import numpy as np

assert cma.__version__ == "4.5.0", cma.__version__
MASK = (1 << 64) - 1


class Normals:
    """SplitMix64, 53-bit uniforms, Box and Muller's cosine branch."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return ((z ^ (z >> 31)) >> 11) / 2.0**53

    def __call__(self, rows, columns):
        def one():
            u = 1.0 - self.uniform()
            return math.sqrt(-2.0 * math.log(u)) * math.cos(2 * math.pi * self.uniform())

        return np.array([[one() for _ in range(columns)] for _ in range(rows)]).reshape(rows, columns)


class Symmetric(cma.sampler.GaussFullSampler):
    """Samples with the symmetric root."""

    def sample(self, number, lazy_update_gap=None, same_length=False):
        self.update_now(lazy_update_gap)
        return self.randn(number, self.dimension) @ ((self.B * self.D) @ self.B.T)


class Separable(cma.sampler.GaussDiagonalSampler):
    """The diagonal sampler under the separable learning rates."""

    rates = None

    def parameters(self, mueff=None, lam=None):
        return self.rates


def options(n, lam, seed, kind, mu=None):
    out = {"popsize": lam, "verbose": -9, "randn": Normals(seed), "seed": 1, "CMA_mu": mu,
           "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA}
    if kind == "isotropic":
        out["CMA_on"] = False
    return out


def search(x0, sigma0, lam, seed, kind, mu=None):
    n = len(x0)
    es = cma.CMAEvolutionStrategy(x0, sigma0, options(n, lam, seed, kind, mu))
    if kind == "separable":
        sp = es.sp
        sm = Separable(np.ones(n), randn=es.opts["randn"])
        sm.rates = {"c1": sp.c1_sep, "cmu": sp.cmu_sep}
        sp.weights.finalize_negative_weights(n, sp.c1_sep, sp.cmu_sep)
        sp.cc = sp.cc_sep
        es.sm = sm
    else:
        sm = es.sm
        sm.__class__ = Symmetric
        sm.C = np.eye(n)
        sm.B = np.eye(n)
        sm.D = np.ones(n)
    # initialisation draws nothing, but be sure
    es.opts["randn"].state = seed
    es.sm.randn = es.opts["randn"]
    return es


def constants(n, lam, mu=None):
    es = cma.CMAEvolutionStrategy(n * [0.0], 1.0, options(n, lam, 1, "full", mu))
    sp, csa = es.sp, es.adapt_sigma
    csa.initialize(es)
    p = es.sm.parameters(mueff=sp.weights.mueff, lam=sp.weights.lambda_)
    return {
        "n": n, "lambda": lam, "all_parents": mu is not None, "mirrored": sp.lam_mirr,
        "weights": list(sp.weights), "mu": sp.weights.mu, "mu_eff": sp.weights.mueff,
        "cc": sp.cc, "c1": p["c1"], "cmu": p["cmu"], "cs": csa.cs, "damps": csa.damps,
        "chi": cma.utilities.math.Mh.chiN(n), "eigen_gap": es.sm.lazy_update_gap,
        "cc_sep": sp.cc_sep, "c1_sep": sp.c1_sep, "cmu_sep": sp.cmu_sep,
    }


def sphere(x):
    return float(sum(x**2))


def ellipsoid(x):
    n = len(x)
    return float(sum(10.0 ** (6 * i / (n - 1)) * x[i] ** 2 for i in range(n)))


def rosenbrock(x):
    return float(sum(100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(len(x) - 1)))


FUNCTIONS = {"sphere": sphere, "ellipsoid": ellipsoid, "rosenbrock": rosenbrock}


def run(function, n, lam, kind, generations, seed, missing=False):
    f = FUNCTIONS[function]
    es = search(n * [0.5], 0.3, lam, seed, kind)
    rows = []
    for g in range(generations):
        xs = es.ask()
        fit = [f(x) for x in xs]
        if missing and g % 3 == 1:
            fit[1] = float("nan")
        es.tell(xs, fit)
        if (g + 1) % 5 == 0:
            rows.append({"generation": g + 1, "mean": list(es.mean), "sigma": es.sigma,
                         "variances": list(np.asarray(es.sm.variances))})
    return {"function": function, "n": n, "lambda": lam, "kind": kind, "seed": seed, "missing": missing, "rows": rows}


def injected(n=6, m=4, rounds=3):
    """The server of FedBPT: every generation is foreign, all are parents, and the step size is set from outside."""
    es = search(n * [0.0], 1.0, m, 11, "full", mu=m)
    draws = Normals(5)
    rows = []
    for r in range(rounds):
        xs = [row * (9.0 if i == 1 else 0.7) for i, row in enumerate(draws(m, n))]
        fit = [sphere(x - 1.0) for x in xs]
        es.sigma = 0.9
        es.ask()
        es.tell([x.copy() for x in xs], fit)
        rows.append({"solutions": [list(x) for x in xs], "fitness": fit, "mean": list(es.mean), "sigma": es.sigma,
                     "variances": list(es.sm.variances)})
    return {"n": n, "m": m, "rows": rows}


if __name__ == "__main__":
    json.dump(
        {
            "constants": [constants(500, 20), constants(500, 5), constants(500, 10, 10), constants(64, 20), constants(10, 10),
                          constants(10, 5), constants(4, 4), constants(3, 60), constants(128, 12, 12), constants(2, 3)],
            "runs": [
                run("sphere", 10, 10, "full", 40, 1),
                run("ellipsoid", 10, 10, "full", 60, 2),
                run("rosenbrock", 6, 9, "full", 60, 3),
                run("sphere", 8, 5, "full", 40, 4),
                run("rosenbrock", 5, 5, "full", 40, 5),
                run("ellipsoid", 10, 10, "separable", 60, 6),
                run("ellipsoid", 30, 5, "separable", 40, 7),
                run("sphere", 30, 14, "isotropic", 40, 8),
                run("sphere", 12, 5, "isotropic", 40, 9),
                # an even number is left, so that the median ties with no candidate: numpy breaks ties by machine
            run("sphere", 6, 9, "full", 30, 10, missing=True),
            ],
            "injected": injected(),
        },
        open("pycma.json", "w"),
    )
