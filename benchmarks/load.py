"""Large problems: seconds, peak memory, and distance from the exact posterior.

    python benchmarks/load.py
    python benchmarks/load.py --quick

Each load in a fresh process: a linear regression on 1,000,000 rows in minibatches, by a default fit and by steps that decay;
100,000 local latents about a common mean in minibatches; NUTS on 1,002 unknowns, four chains. All have posteriors in closed form
(the last up to an integral over one variable), so errors are against the truth and in its posterior sds. Memory is the largest
resident size of the process less what it had after its imports and the data. Where few draws are kept, the error of the worst of
many means is mostly chance: that is given beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np

COLUMNS = {
    "case": "load",
    "unknowns": "unknowns",
    "rows": "rows",
    "seconds": "s",
    "memory_mb": "peak MB more",
    "data_mb": "data MB",
    "worst": "worst mean off, sds",
    "by_chance": "worst by chance",
    "typical": "typical, sds",
    "sd_low": "sd ratio, lowest",
    "sd_high": "highest",
    "verdict": "verdict",
    "engine": "engine",
    "status": "status",
}


def resident() -> float:
    """The largest resident size of this process so far, in MB, with all that a run would import."""
    import resource

    import arviz_stats
    import jax
    import numpyro
    import scipy.optimize

    assert all((arviz_stats, jax, numpyro, scipy.optimize))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def errors(mean: Any, sd: Any, true_mean: Any, true_sd: Any, draws: float) -> dict[str, float]:
    """How far means and sds are from the truth, and how far the worst mean of so many independent draws is by chance."""
    off, ratio = np.abs(np.asarray(mean) - true_mean) / true_sd, np.asarray(sd) / true_sd
    return {
        "worst": float(off.max()),
        "by_chance": float(np.sqrt(2 * np.log(max(off.size, 2)) / draws)),
        "typical": float(np.sqrt((off**2).mean())),
        "sd_low": float(ratio.min()),
        "sd_high": float(ratio.max()),
    }


def moments(result: Any, name: str) -> tuple[Any, Any]:
    """Means and sds of a site."""
    draws = result.data["posterior"][name].values.astype(np.float64)
    return draws.mean((0, 1)), draws.std((0, 1), ddof=1)


def many_rows(rows: int, seed: int, **options: Any) -> dict[str, Any]:
    """Linear regression, 10 predictors, unit noise, minibatches of 1,000."""
    import pyro
    import pyro.distributions as dist
    import torch

    import pyrolvm as lvm

    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 10)).astype(np.float32)
    y = (x @ rng.standard_normal(10) + rng.standard_normal(rows)).astype(np.float32)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([10]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    problem = lvm.Problem(model, torch.from_numpy(x), torch.from_numpy(y))
    begun, started = resident(), time.perf_counter()
    fit = lvm.fit(problem, "mean_field", batch_size=min(1000, rows // 10), seed=seed, progress=False, **options)
    seconds = time.perf_counter() - started
    covariance = np.linalg.inv(np.eye(10) + x.T.astype(np.float64) @ x)
    exact = covariance @ (x.T.astype(np.float64) @ y)
    # Independent Gaussians have the sds of the conditionals: those are what mean_field can reach at best.
    sd = 1 / np.sqrt(np.diag(np.linalg.inv(covariance)))
    return {
        "unknowns": 10,
        "rows": rows,
        "seconds": seconds,
        "memory_mb": resident() - begun,
        "data_mb": (x.nbytes + y.nbytes) / 2**20,
        "engine": fit.engine,
        "verdict": fit.verdict.status,
        "steps": len(fit.losses),
        **errors(*moments(fit, "w"), exact, sd, fit.num_draws),
    }


def many_rows_decayed(rows: int, seed: int) -> dict[str, Any]:
    """The same, 20,000 steps that end small."""
    return many_rows(rows, seed, max_steps=20_000, tolerance=0, schedule="cosine")


def many_latents(rows: int, seed: int) -> dict[str, Any]:
    """Local latents about a common mean, observed under unit noise, minibatches of 1,000."""
    import pyro
    import pyro.distributions as dist
    import torch

    import pyrolvm as lvm

    rng = np.random.default_rng(seed)
    y = (1.0 + rng.standard_normal(rows) + rng.standard_normal(rows)).astype(np.float32)

    def model(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    problem = lvm.Problem(model, torch.from_numpy(y))
    begun, started = resident(), time.perf_counter()
    fit = lvm.fit(problem, batch_size=min(1000, rows // 10), draws=200, seed=seed, progress=False)
    seconds = time.perf_counter() - started
    variance = 1 / (1 / 100 + rows / 2)
    mu = variance * y.sum(dtype=np.float64) / 2
    z, z_sd = (y + mu) / 2, np.full(rows, np.sqrt(0.5 + variance / 4))
    found = errors(*moments(fit, "z"), z, z_sd, fit.num_draws)
    mean, sd = moments(fit, "mu")
    return {
        "unknowns": rows + 1,
        "rows": rows,
        "seconds": seconds,
        "memory_mb": resident() - begun,
        "data_mb": y.nbytes / 2**20,
        "engine": fit.engine,
        "verdict": fit.verdict.status,
        "steps": len(fit.losses),
        "guide": str(fit.guide),
        "draws": 200,
        **found,
        "mu_off": float(abs(mean - mu) / np.sqrt(variance)),
        "mu_sd_ratio": float(sd / np.sqrt(variance)),
    }


def many_unknowns(groups: int, seed: int) -> dict[str, Any]:
    """NUTS on group means with a common mean and spread, four chains of 1,000 draws after 1,000 of warmup."""
    import pyro
    import pyro.distributions as dist
    import torch

    import pyrolvm as lvm

    rng = np.random.default_rng(seed)
    y = 0.5 + 1.5 * rng.standard_normal(groups) + rng.standard_normal(groups)

    def model(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.HalfNormal(5.0))
        with pyro.plate("group", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    problem = lvm.Problem(model, torch.from_numpy(y))
    begun, started = resident(), time.perf_counter()
    chains = lvm.nuts(problem, seed=seed, progress=False)
    seconds = time.perf_counter() - started
    exact = hierarchical(y)
    names = ("mu", "tau", "theta")
    mean, sd = (np.concatenate([np.atleast_1d(moments(chains, name)[i]) for name in names]) for i in (0, 1))
    true_mean, true_sd = (np.concatenate([np.atleast_1d(exact[name][i]) for name in names]) for i in (0, 1))
    figures = chains.verdict.figures
    return {
        "unknowns": groups + 2,
        "rows": groups,
        "seconds": seconds,
        "memory_mb": resident() - begun,
        "data_mb": y.nbytes / 2**20,
        "draws_mb": 4 * 1000 * (groups + 2) * 8 / 2**20,
        "engine": chains.engine,
        "kernel": chains.data["sample_stats"].attrs.get("kernel"),
        "verdict": chains.verdict.status,
        "rhat": figures.get("rhat"),
        "ess": figures.get("ess_bulk"),
        **errors(mean, sd, true_mean, true_sd, chains.num_draws),
    }


def hierarchical(y: Any) -> dict[str, tuple[Any, Any]]:
    """Exact means and sds: everything is Gaussian given ``tau``, which is integrated over a fine grid."""
    tau = np.linspace(1e-3, 6.0, 6000)
    v = tau**2 + 1
    precision = 1 / 100 + len(y) / v
    mu, mu_var = (y.sum() / v) / precision, 1 / precision
    # log p(y | tau) = log p(y, mu) - log p(mu | y), at mu's mean, for each tau
    log = -0.5 * len(y) * np.log(v) - 0.5 * ((y**2).sum() - 2 * mu * y.sum() + len(y) * mu**2) / v - 0.5 * mu**2 / 100
    log += 0.5 * np.log(mu_var) - 0.5 * tau**2 / 25
    weight = np.exp(log - log.max())
    weight /= weight.sum()

    def total(means: Any, variances: Any) -> tuple[Any, Any]:
        mean = weight @ means
        return mean, np.sqrt(weight @ (variances + (means - mean) ** 2))

    pull = (1 / v)[:, None]  # theta = y + (mu - y) / v
    theta = y[None] * (1 - pull) + mu[:, None] * pull
    spread = (tau**2 / v)[:, None] + pull**2 * mu_var[:, None]
    return {"mu": total(mu, mu_var), "tau": total(tau, np.zeros_like(tau)), "theta": total(theta, spread)}


CASES: dict[str, tuple[Callable[[int, int], dict[str, Any]], int, int]] = {
    "svi_rows": (many_rows, 1_000_000, 20_000),
    "svi_rows, schedule=cosine": (many_rows_decayed, 1_000_000, 20_000),
    "svi_latents": (many_latents, 100_000, 5_000),
    "nuts_unknowns": (many_unknowns, 1_000, 100),
}
"""What is run, its size, and the size of a smoke run."""


def main() -> None:
    """Measures, prints, writes."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        run, size, small = CASES[args.case]
        print(json.dumps(run(small if args.quick else size, args.seed)))
        return
    before, rows = common.load(), []
    for case in common.chosen(list(CASES), args.method):
        command = [
            sys.executable,
            __file__,
            "--case",
            case,
            "--seed",
            str(args.seed),
            *(["--quick"] if args.quick else []),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout, check=False)
        except subprocess.TimeoutExpired:
            rows.append({"case": case, "status": f"given up after {args.timeout:.0f} s"})
            continue
        if done.returncode:
            rows.append(
                {
                    "case": case,
                    "status": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300],
                }
            )
        else:
            rows.append({"case": case, "status": "ok", **json.loads(done.stdout.splitlines()[-1])})
        print(common.table(rows[-1:], COLUMNS), file=sys.stderr, flush=True)
    print(common.table(rows, COLUMNS))
    print(common.report("load", args, {"load_at_start": before, "rows": rows}))


if __name__ == "__main__":
    main()
