"""Are estimates of the evidence right: six models whose evidence is known, many seeds, each estimate within its stated error or not.

    python benchmarks/evidence.py                     writes benchmarks/results/evidence.json
    python benchmarks/evidence.py --method ais        measures one method again and leaves the others as they are
    python benchmarks/evidence.py --picture docs/images/evidence.png

A row for each model and method: over all seeds, the share of 95% intervals that hold the exact value, the error that is stated beside
the one that is made, densities and seconds. The exact values are closed forms that are written out here, not those of ``lvm.exact``.
``sandwich`` has the bounds of bidirectional annealing on data simulated from a model of ten unknowns.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import betaln, gammaln, logsumexp
from scipy.stats import multivariate_normal

import pyrolvm as lvm

SANDWICHES = 40
"""Data sets that are simulated for the bounds."""

METHODS = ("ais", "bridge", "importance", "iw_bound", "prior")

COLUMNS = {
    "model": "model", "unknowns": "unknowns", "method": "method", "seeds": "seeds", "inside": "inside 95%", "bias": "mean off, nats",
    "made": "rms off", "stated": "rms stated", "trusted": "trusted", "evaluations": "densities",
}  # fmt: skip


def _draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def beta_binomial() -> tuple[lvm.Problem, float]:
    """Five failure rates with one prior, each seen in its own number of trials."""
    tested, broken = np.array([50.0, 20, 35, 8, 120]), np.array([3.0, 0, 5, 1, 7])

    def model(tested: torch.Tensor, broken: torch.Tensor) -> None:
        with pyro.plate("batch", len(tested)):
            rate = pyro.sample("rate", dist.Beta(1.5, 9.0))
            pyro.sample("broken", dist.Binomial(tested, rate), obs=broken)

    ways = gammaln(tested + 1) - gammaln(broken + 1) - gammaln(tested - broken + 1)
    exact = np.sum(ways + betaln(1.5 + broken, 9.0 + tested - broken) - betaln(1.5, 9.0))
    return lvm.Problem(model, _tensor(tested), _tensor(broken)), float(exact)


def regression() -> tuple[lvm.Problem, float]:
    """Six coefficients, sixty rows, known noise."""
    random = _draws(1)
    x = random.normal(size=(60, 6))
    y = x @ random.normal(size=6) + 0.7 * random.normal(size=60)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.5).expand([6]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 0.7), obs=y)

    covariance = 1.5**2 * x @ x.T + 0.49 * np.eye(60)
    return lvm.Problem(model, _tensor(x), _tensor(y)), float(multivariate_normal(np.zeros(60), covariance).logpdf(y))


def schools() -> tuple[lvm.Problem, float]:
    """Eight schools with a fixed spread: a mean, and eight means about it."""
    y, sigma = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def model(sigma: torch.Tensor, y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("school", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, 6.0))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    covariance = 25.0 * np.ones((8, 8)) + np.diag(36.0 + sigma**2)
    return lvm.Problem(model, _tensor(sigma), _tensor(y)), float(multivariate_normal(np.zeros(8), covariance).logpdf(y))


def components() -> tuple[lvm.Problem, float]:
    """Probabilistic principal components at fixed loadings: two factors of each of ten data."""
    random = _draws(2)
    loadings = random.normal(size=(5, 2))
    x = random.normal(size=(10, 2)) @ loadings.T + 0.5 * random.normal(size=(10, 5))

    def model(x: torch.Tensor, loadings: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal((loadings @ z.unsqueeze(-1)).squeeze(-1), 0.5).to_event(1), obs=x)

    covariance = loadings @ loadings.T + 0.25 * np.eye(5)
    exact = multivariate_normal(np.zeros(5), covariance).logpdf(x).sum()
    return lvm.Problem(model, _tensor(x), _tensor(loadings)), float(exact)


def mixture() -> tuple[lvm.Problem, float]:
    """A mixture of two Gaussians with an unknown common shift; the exact value sums over all 4,096 labellings."""
    random = _draws(3)
    y = np.where(random.random(12) < 0.4, -2.0, 1.5) + 0.5 + 1.8 * random.normal(size=12)

    def model(y: torch.Tensor) -> None:
        shift = pyro.sample("shift", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            label = pyro.sample("label", dist.Bernoulli(0.6))
            pyro.sample("y", dist.Normal(shift - 2.0 + 3.5 * label, 1.8), obs=y)

    values = np.array(np.meshgrid(*[[0.0, 1.0]] * 12, indexing="ij")).reshape(12, -1).T
    covariance = 4.0 * np.ones((12, 12)) + 3.24 * np.eye(12)
    weights = values.sum(1) * math.log(0.6) + (12 - values.sum(1)) * math.log(0.4)
    each = multivariate_normal(np.zeros(12), covariance).logpdf(y + 2.0 - 3.5 * values)
    return lvm.Problem(model, _tensor(y)), float(logsumexp(weights + each))


def correlated() -> tuple[lvm.Problem, float]:
    """Twenty means with a correlation of 0.9, each observed once."""
    random = _draws(4)
    covariance = 0.9 * np.ones((20, 20)) + 0.1 * np.eye(20)
    y = np.linalg.cholesky(covariance) @ random.normal(size=20) + 0.2 * random.normal(size=20)

    def model(covariance: torch.Tensor, y: torch.Tensor) -> None:
        mean = pyro.sample("mean", dist.MultivariateNormal(torch.zeros(20, dtype=y.dtype), covariance))
        pyro.sample("y", dist.Normal(mean, 0.2).to_event(1), obs=y)

    exact = multivariate_normal(np.zeros(20), covariance + 0.04 * np.eye(20)).logpdf(y)
    return lvm.Problem(model, _tensor(covariance), _tensor(y)), float(exact)


MODELS: dict[str, Callable[[], tuple[lvm.Problem, float]]] = {
    "mixture": mixture, "beta_binomial": beta_binomial, "regression": regression, "schools": schools, "components": components,
    "correlated": correlated,
}  # fmt: skip


def estimates(problem: lvm.Problem, method: str, seed: int) -> lvm.Evidence:
    """One estimate from the start: of the bound with a guide that leaves it room, of all else as a user would get it."""
    if method == "iw_bound":
        fit = lvm.fit(problem, lvm.guide("mean_field", precondition="none"), seed=seed, progress=False)
        return lvm.evidence(fit, method, seed=seed, progress=False)
    return lvm.evidence(problem, method, seed=seed, progress=False)


def row(name: str, method: str, seeds: int) -> dict[str, Any]:
    """One model by one method over all seeds."""
    problem, exact = MODELS[name]()
    found, seconds = [], []
    for seed in range(seeds):
        started = time.perf_counter()
        found.append(estimates(problem, method, seed))
        seconds.append(time.perf_counter() - started)
    off = np.array([one.value - exact for one in found])
    ends = np.array([one.interval for one in found])
    return {
        "model": name, "unknowns": problem.unconstrained_size, "method": method, "seeds": seeds, "exact": exact,
        "inside": float(np.mean((ends[:, 0] <= exact) & (exact <= ends[:, 1]))), "bias": float(off.mean()),
        "made": float(np.sqrt(np.mean(off**2))), "stated": float(np.sqrt(np.mean([one.error**2 for one in found]))),
        "trusted": float(np.mean([one.reliable for one in found])), "evaluations": int(np.median([one.evaluations for one in found])),
        "seconds": float(np.median(seconds)), "status": "ok",
    }  # fmt: skip


def ten(x: torch.Tensor, y: torch.Tensor) -> None:
    """A logistic regression with nine coefficients and an intercept."""
    intercept = pyro.sample("intercept", dist.Normal(0.0, 2.0))
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([9]).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=intercept + x @ w), obs=y)


def sandwiches(seeds: int) -> list[dict[str, Any]]:
    """Bidirectional annealing on data simulated from a model of ten unknowns."""
    random = _draws(5)
    x = _tensor(random.normal(size=(80, 9)))
    problem = lvm.Problem(ten, x, _tensor((random.random(80) < 0.5) * 1.0))
    rows = []
    for seed in range(seeds):
        found = lvm.evidence(problem, "bidirectional", seed=seed, progress=False)
        assert found.lower is not None and found.upper is not None
        rows.append(
            {"seed": seed, "lower": found.lower, "upper": found.upper, "gap": found.upper - found.lower,
             "lower_error": found.figures["lower_error"], "upper_error": found.figures["upper_error"],
             "rungs": found.figures["rungs"], "seconds": found.seconds}
        )  # fmt: skip
    return rows


def picture(path: Path) -> None:
    """All methods on the model of twenty unknowns, with the exact value."""
    problem, exact = correlated()
    found = {name: estimates(problem, name, 0) for name in METHODS}
    lvm.Evidences(found, exact).plot(path)


def main() -> None:
    """Runs, prints, writes after each row."""
    made = common.parser(__doc__)
    made.add_argument("--seeds", type=int, default=100)
    made.add_argument("--model", action="append", help="only these models")
    made.add_argument("--picture", type=Path, help="write the picture of the model of 20 unknowns, and nothing else")
    args = made.parse_args()
    torch.set_num_threads(1)
    if args.picture:
        picture(args.picture)
        return
    seeds = 3 if args.quick else args.seeds
    before = common.RESULTS / "evidence.json"
    kept = json.loads(before.read_text(encoding="utf-8")) if (args.method or args.model) and before.exists() else {}
    rows: list[dict[str, Any]] = kept.get("rows", [])
    for name in common.chosen(list(MODELS), args.model):
        for method in common.chosen(METHODS, args.method):
            now = row(name, method, seeds)
            rows = [one for one in rows if (one["model"], one["method"]) != (name, method)] + [now]
            rows.sort(key=lambda one: (list(MODELS).index(one["model"]), METHODS.index(one["method"])))
            print(common.table([now], COLUMNS).splitlines()[-1], flush=True)
            common.report("evidence", args, {"rows": rows, "sandwich": kept.get("sandwich", [])})
    sandwich = kept.get("sandwich") or sandwiches(min(seeds, SANDWICHES))
    common.report("evidence", args, {"rows": rows, "sandwich": sandwich})
    print(common.table(rows, COLUMNS))
    widths = [one["gap"] for one in sandwich]
    print(f"sandwich of 10 unknowns: median {np.median(widths):.3f} nats wide, largest {max(widths):.3f}")


if __name__ == "__main__":
    main()
