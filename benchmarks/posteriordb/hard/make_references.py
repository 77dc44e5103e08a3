"""Makes the references of the hard problems: closed forms, or NUTS until R-hat < 1.005 and 10,000 effective draws.

    python benchmarks/posteriordb/hard/make_references.py               # all, some minutes on one core
    python benchmarks/posteriordb/hard/make_references.py funnel cox    # these

NUTS runs on the problem's twin where it has one: the same posterior in coordinates that are easy to sample, from which
the problem's own sites follow. A run is four chains; runs are added, each with a seed of its own, until every scored
scalar has the effective draws in bulk and tails, or the most runs are done. What misses the goal is listed in the file.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arviz_stats.base import array_stats

if not __package__:  # run as a program
    sys.path.insert(0, str(Path(__file__).parents[2]))

import pyrolvm as lvm
from posteriordb.hard import ENTRIES
from posteriordb.hard.base import Array, Entry, Moments, Reference, elements, write
from pyrolvm._program.density import Joint

RHAT, ESS = 1.005, 10_000
CHAINS = 4
BATCH = 500
PACKAGES = ("pyrolvm", "torch", "pyro-ppl", "jax", "numpyro", "nutpie", "numpy", "arviz-stats")


def log_density_at_centre(problem: lvm.Problem) -> float:
    """The log density where all unconstrained unknowns are 0, log Jacobian included."""
    with problem.session(seed=0), torch.no_grad():
        zeros = torch.zeros(problem.unconstrained_size, dtype=problem.dtype)
        return -float(Joint(problem).potential(zeros))


def error_of_mean(draws: Array) -> float:
    """The standard error of the mean of draws: the larger of what autocorrelations tell and what batches do.

    Successive draws of NUTS often lie on opposite sides of the mean. That hides a small slow part from sums of
    autocorrelations, which end where they turn negative, but not from the means of batches that are longer than it is slow.

    Args:
        draws: shape ``(chain, draw)``.
    """
    batches = draws[:, : draws.shape[1] // BATCH * BATCH].reshape(-1, BATCH).mean(1)
    return max(float(array_stats.mcse(draws, method="mean")), float(batches.std(ddof=1) / np.sqrt(len(batches))))


def summarize(draws: Array) -> tuple[Moments, dict[str, float]]:
    """Moments of one scalar with their errors, and how well its chains mixed.

    The error of the sd follows from that of the mean of squared deviations, whose effective draws are their own: NUTS has
    fewer of them for a spread than for a mean.

    Args:
        draws: shape ``(chain, draw)``.
    """
    mean, sd = float(draws.mean()), float(draws.std(ddof=1))
    moments = Moments(mean, sd, error_of_mean(draws), error_of_mean((draws - mean) ** 2) / (2 * sd))
    return moments, {
        "rhat": float(array_stats.rhat(draws, method="rank")),
        "ess_bulk": float(array_stats.ess(draws, method="bulk")),
        "ess_tail": float(array_stats.ess(draws, method="tail", prob=(0.05, 0.95))),
    }


def short(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The scalars that miss the goal, with their figures."""
    return {
        label: {"rhat": round(f["rhat"], 5), "ess_bulk": round(f["ess_bulk"]), "ess_tail": round(f["ess_tail"])}
        for label, f in found.items()
        if not (f["rhat"] < RHAT and f["ess_bulk"] >= ESS and f["ess_tail"] >= ESS)
    }


def sample(entry: Entry) -> tuple[dict[str, Moments], dict[str, Any]]:
    """Moments by NUTS, and their diagnostics."""
    problem = (entry.twin or entry.problem)()
    settings = entry.sampling
    blocks: list[dict[str, Array]] = []
    divergences = saturated = steps = 0
    missing: dict[str, dict[str, float]] = {}
    for run in range(settings.runs):
        began = time.perf_counter()
        result = lvm.nuts(
            problem, chains=CHAINS, warmup=settings.warmup, draws=settings.draws,
            target_accept=settings.target_accept, seed=run, progress=False,
        )  # fmt: skip
        posterior, stats = result.data["posterior"], result.data["sample_stats"]
        blocks.append(elements({site: np.asarray(posterior[site].values) for site in entry.scored}))
        divergences += int(stats["diverging"].sum())
        saturated += int(stats["reached_max_treedepth"].sum())
        steps += int(stats["n_steps"].sum())
        found = {label: summarize(np.concatenate([block[label] for block in blocks])) for label in blocks[0]}
        missing = short({label: diagnostics for label, (_, diagnostics) in found.items()})
        least = min(min(f["ess_bulk"], f["ess_tail"]) for _, f in found.values())
        print(
            f"  run {run}: {result.engine} ({result.engine_reason}), {time.perf_counter() - began:.0f} s, smallest ESS {least:,.0f}, "
            f"{len(missing)} of {len(found)} short of the goal, {divergences} divergences",
            flush=True,
        )
        if not missing:
            break
    figures = [diagnostics for _, diagnostics in found.values()]
    moments = {label: moments for label, (moments, _) in found.items()}
    draws = len(blocks) * CHAINS * settings.draws
    return moments, {
        "sampled": problem.name,
        "engine": result.engine,
        "kernel": posterior.attrs["kernel"],
        "chains": len(blocks) * CHAINS,
        "draws_per_chain": settings.draws,
        "warmup_per_chain": settings.warmup,
        "target_accept": settings.target_accept,
        "seeds": list(range(len(blocks))),
        "divergences": divergences,
        "reached_max_treedepth": saturated,
        "steps_per_draw": round(steps / draws, 1),
        "rhat": round(max(f["rhat"] for f in figures), 5),
        "ess_bulk": round(min(f["ess_bulk"] for f in figures)),
        "ess_tail": round(min(f["ess_tail"] for f in figures)),
        "mcse_mean_over_sd": round(max(m.mcse_mean / m.sd for m in moments.values()), 5),
        "mcse_sd_over_sd": round(max(m.mcse_sd / m.sd for m in moments.values()), 5),
        "goal": {"rhat": RHAT, "ess_bulk": ESS, "ess_tail": ESS},
        "short": missing,
    }


def make(name: str) -> Reference:
    """The reference of a problem."""
    entry = ENTRIES[name]
    moments, diagnostics = (entry.exact(), {}) if entry.exact is not None else sample(entry)
    return Reference(
        problem=name,
        made_by="nuts" if entry.exact is None else "exact",
        moments=moments,
        unscored=entry.unscored,
        log_density=log_density_at_centre(entry.problem()),
        diagnostics=diagnostics,
        versions=_versions(),
        command=f"python benchmarks/posteriordb/hard/make_references.py {name}",
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Makes the references that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", help=f"problems; by default all: {', '.join(ENTRIES)}")
    names = parser.parse_args().name or list(ENTRIES)
    unknown = [name for name in names if name not in ENTRIES]
    if unknown:
        parser.error(f"there is no hard problem {unknown[0]!r}. Fix: use one of {', '.join(ENTRIES)}.")
    for name in names:
        print(name, flush=True)
        began = time.perf_counter()
        path = write(make(name))
        print(f"  references/{path.name}, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
