"""Trade-offs of variational inference that lectures state, measured on small models, one page: docs/trade-offs.md.

    python benchmarks/tradeoffs.py                      writes benchmarks/results/tradeoffs_*.json and docs/images/tradeoffs-*.svg
    python benchmarks/tradeoffs.py --method pruning     one of them
    python benchmarks/tradeoffs.py --quick

``posteriors``: richer families against the trouble of training them, on eight schools, whose evidence a grid gives. ``pruning``: more
units of a code than the digits need. ``weighted``: draws of the importance-weighted bound. ``reinforce``: gradients of a discrete code
by the score function, with and without baselines, against summing the code out. ``encoder``: what encoders of several sizes lose.
``computation``: processor seconds against the error of means, against long chains. ``samples``: likelihood against the quality of
samples, of an autoencoder, a GAN, and two that are good at one alone.

Seconds are of processor time, compiling included.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import common
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from methods.sampled import samples
from torch import Tensor, nn

import pyrolvm as lvm

DIGITS = {"batch_size": 128, "num_particles": 1, "learning_rate": 3e-3, "tolerance": 0, "draws": 2, "progress": False}
QUIET: dict[str, Any] = {"progress": False}


@dataclass(frozen=True)
class Section:
    """One trade-off: how it is measured, its table's columns, and its picture: lines of ``of`` over ``over``, one for each ``by``."""

    measure: Callable[[argparse.Namespace], list[common.Row]]
    columns: dict[str, str]
    over: str
    of: str
    by: str | None
    scale: tuple[str, str] = ("linear", "linear")
    table: Callable[[list[common.Row]], list[common.Row]] = list


# --- richer posteriors ------------------------------------------------------------------------------------------------

FAMILIES = ("mean_field", "full_rank", "mixture", "autoregressive", "flow")
RATES = (0.01, 0.03, 0.1)


def posteriors(args: argparse.Namespace) -> list[common.Row]:
    """Each family without a frame at fixed rates for the same steps, and as it is by default."""
    problem = lvm.problem("eight_schools_centered")
    log_z = evidence(*(np.asarray(problem.arguments[name], float) for name in ("sigma", "y")))
    steps, seeds = (100, 1) if args.quick else (2_000, 3)
    rows: list[common.Row] = []
    for family, rate, seed in itertools.product(FAMILIES, (*RATES, None), range(seeds)):
        guide = lvm.guide(family) if rate is None else lvm.guide(family, precondition="none")
        options: dict[str, Any] = {} if rate is None else {
            "learning_rate": rate, "schedule": "constant", "max_steps": steps, "tolerance": 0,
        }  # fmt: skip
        fit, cpu = common.timed(lvm.fit, problem, guide, draws=4_000, seed=seed, **options, **QUIET)
        row: common.Row = {
            "family": family, "rate": rate, "seed": seed, "kl": log_z - fit.elbo, "error": fit.elbo_error,
            "steps": len(fit.losses), "verdict": fit.verdict.status, "cpu": cpu,
        }  # fmt: skip
        rows.append(row)
    return rows


def evidence(sigma: np.ndarray, y: np.ndarray) -> float:
    """The log evidence of eight schools, effects integrated out by hand and the rest on a grid."""
    mu = np.linspace(-40, 40, 1_601)
    log_tau = np.linspace(-12, 6, 1_801)
    tau = np.exp(log_tau)[:, None]
    total = np.log(2 / (math.pi * 5)) - np.log1p((tau / 5) ** 2) + np.log(tau)  # half-Cauchy, times tau for the grid
    total = total - 0.5 * (mu / 5) ** 2 - math.log(5 * math.sqrt(2 * math.pi))
    for value, sd in zip(y, sigma, strict=True):
        variance = sd**2 + tau**2
        total = total - 0.5 * ((value - mu) ** 2 / variance + np.log(2 * math.pi * variance))
    return float(np.logaddexp.reduce(total, axis=None) + np.log((mu[1] - mu[0]) * (log_tau[1] - log_tau[0])))


def over_rates(rows: list[common.Row]) -> list[common.Row]:
    """A row for each family: medians over seeds by rate, the worst seed, and the default."""
    found = []
    for family in FAMILIES:
        own = [row for row in rows if row["family"] == family]
        row: common.Row = {"family": family}
        for rate in RATES:
            row[f"{rate}"] = statistics.median(r["kl"] for r in own if r["rate"] == rate)
        fixed, default = ([r for r in own if (r["rate"] is None) == is_default] for is_default in (False, True))
        row |= {
            "best": min(r["kl"] for r in fixed), "worst": max(r["kl"] for r in fixed),
            "default": statistics.median(r["kl"] for r in default), "default_worst": max(r["kl"] for r in default),
            "cpu": statistics.median(r["cpu"] for r in fixed), "default_cpu": statistics.median(r["cpu"] for r in default),
        }  # fmt: skip
        found.append(row)
    return found


# --- codes of digits --------------------------------------------------------------------------------------------------


def judged(fit: lvm.Fit, args: argparse.Namespace) -> dict[str, float]:
    """Of the digits that were held out: log p(x) by importance sampling, the bound, and the divergence."""
    test = lvm.problem("vae", split="test").arguments["x"][: 20 if args.quick else None]
    found = lvm.evaluate(
        fit, {"x": test}, draws=50 if args.quick else 1_000, train_rows=2, pictures=False, seed=0, **QUIET
    )
    return {
        "log_p": found.log_p, "elbo": found["ELBO"], "gap": found.log_p - found["ELBO"],
        "row_error": float(found.table.loc["log p(x)", "row_error"]), "kl": found["KL of z"], "active": found["active units of z"],
    }  # fmt: skip


def coded(
    args: argparse.Namespace, *, guide: Any = "auto", objective: Any = "auto", **options: Any
) -> tuple[lvm.Fit, float]:
    """The zoo's autoencoder on the digits, and the seconds of its training."""
    problem = lvm.problem("vae", **options)
    steps = 60 if args.quick else 3_000
    fit, cpu = common.timed(lvm.fit, problem, guide, objective=objective, max_steps=steps, seed=args.seed, **DIGITS)
    return fit, cpu


def pruning(args: argparse.Namespace) -> list[common.Row]:
    """Codes of more and more units."""
    rows = []
    for units in (2, 8) if args.quick else (1, 2, 4, 8, 16, 32, 64):
        fit, cpu = coded(args, latent=units)
        rows.append({"units": units, **judged(fit, args), "cpu": cpu})
    return rows


def weighted(args: argparse.Namespace) -> list[common.Row]:
    """Bounds of more and more draws."""
    rows = []
    for draws in (1, 5) if args.quick else (1, 5, 20):
        objective = lvm.ImportanceWeighted_ELBO(draws, gradient="dreg")
        fit, cpu = coded(args, objective=objective, guide="auto", latent=8)
        rows.append({"draws": draws, **judged(fit, args), "run": fit.seconds["run"], "cpu": cpu})
    return rows


def encoders(args: argparse.Namespace) -> list[common.Row]:
    """Encoders of more and more units beside the same decoder: both gaps on rows of the training part."""
    rows = []
    for units in (2, 16) if args.quick else (2, 8, 32, 128):
        fit, cpu = coded(args, guide=lvm.guide("amortized", hidden=(units,)))
        found = lvm.gaps(fit, rows=10 if args.quick else 100, seed=0, **QUIET).figures
        gaps = {
            "amortization": found["amortization_gap"], "approximation": found["approximation_gap"],
            "evidence": found["evidence"], "error": found["amortization_gap_error"],
        }  # fmt: skip
        rows.append({"units": units, **gaps, **judged(fit, args), "cpu": cpu})
    return rows


# --- discrete codes ---------------------------------------------------------------------------------------------------

CODES = 32
ESTIMATORS: dict[str, Callable[[], Any]] = {
    "score function": lambda: lvm.ImportanceWeighted_ELBO(1, gradient="plain", baseline="none"),
    "running mean": lambda: lvm.ImportanceWeighted_ELBO(1, gradient="plain", baseline="running"),
    "mean of other rows": lambda: lvm.ImportanceWeighted_ELBO(1, gradient="plain", baseline="leave_one_out"),
    "summed out": lambda: "TraceEnum_ELBO",
}


def choice(x: Tensor, decoder: nn.Module, encoder: nn.Module, summed: bool) -> None:
    """Binary images ``x`` of one of some pictures."""
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        code = pyro.sample("code", dist.Categorical(logits=torch.zeros(CODES)))
        pyro.sample("x", dist.Bernoulli(logits=decoder.weight[code]).to_event(1), obs=x)  # type: ignore[index]


def chooser(x: Tensor, decoder: nn.Module, encoder: nn.Module, summed: bool) -> None:
    """What a network says of them: drawn, or summed over."""
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        law = dist.Categorical(logits=encoder(x))
        pyro.sample("code", law, infer={"enumerate": "parallel"} if summed else {})


def bound(fit: lvm.Fit, x: Tensor) -> float:
    """The bound of a fit's weights, all codes summed over, nats an image."""
    decoder, encoder = fit.module("decoder"), fit.module("encoder")
    with torch.no_grad():
        log_q = encoder(x).log_softmax(-1)
        logits: Any = decoder.weight
        each = x @ logits.mT - nn.functional.softplus(logits).sum(-1) - math.log(CODES)
        return float((log_q.exp() * (each - log_q)).sum(-1).mean())


def reinforce(args: argparse.Namespace) -> list[common.Row]:
    """The same model and guide from the same weights by each estimator; the bound on the way has no noise of codes."""
    x = lvm.problem("vae").arguments["x"]
    steps = 40 if args.quick else 2_000
    rows: list[common.Row] = []
    for (name, objective), seed in itertools.product(ESTIMATORS.items(), range(1 if args.quick else 3)):
        torch.manual_seed(seed)
        decoder, encoder = (
            nn.Embedding(CODES, x.shape[1]),
            nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, CODES)),
        )
        seen: dict[int, Any] = {}

        def look(state: lvm.Step, seen: dict[int, Any] = seen) -> None:
            if (state.step + 1) % (steps // 20) == 0:
                seen[state.step + 1] = {key: value.detach().clone() for key, value in state.parameters().items()}

        problem = lvm.Problem(choice, x, decoder, encoder, name == "summed out")
        fit, cpu = common.timed(
            lvm.fit, problem, chooser, objective=objective(), max_steps=steps, learning_rate=1e-2, tolerance=0, batch_size=128,
            num_particles=1, draws=2, callbacks=[look], seed=seed, **QUIET,
        )  # fmt: skip
        for step, params in seen.items():
            rows.append(
                {
                    "estimator": name,
                    "seed": seed,
                    "steps": step,
                    "bound": bound(with_weights(fit, params), x),
                    "cpu": cpu,
                }
            )
    return rows


def with_weights(fit: lvm.Fit, params: dict[str, Tensor]) -> lvm.Fit:
    """The fit with other parameters."""
    from dataclasses import replace

    return replace(fit, params={key: params.get(key, value) for key, value in fit.params.items()})


def at_the_end(rows: list[common.Row]) -> list[common.Row]:
    """A row for each estimator: the bound at a tenth of the steps, half, and the end."""
    found = []
    last = max(row["steps"] for row in rows)
    for name in ESTIMATORS:
        own = [row for row in rows if row["estimator"] == name]
        by = {share: [r["bound"] for r in own if r["steps"] == int(share * last)] for share in (0.1, 0.5, 1.0)}
        row: common.Row = {
            "estimator": name, "tenth": statistics.fmean(by[0.1]), "half": statistics.fmean(by[0.5]), "end": statistics.fmean(by[1.0]),
            "spread": max(by[1.0]) - min(by[1.0]), "cpu": statistics.median(r["cpu"] for r in own),
        }  # fmt: skip
        found.append(row)
    return found


# --- computation ------------------------------------------------------------------------------------------------------


def computation(args: argparse.Namespace) -> list[common.Row]:
    """Guides of more and more steps, weights of more and more draws, chains longer and longer, against chains of 40,000 draws."""
    problem = lvm.problem("eight_schools_centered")
    long = lvm.nuts(problem, draws=200 if args.quick else 10_000, seed=99, **QUIET)
    truth = moments(long.data["posterior"])
    runs: dict[str, tuple[tuple[int, ...], Callable[[int, int], Any]]] = {}
    for family in ("mean_field", "full_rank", "flow"):
        runs[family] = (
            (100, 1_000, 10_000),
            partial(_steps, problem, family),
        )
    runs["infer, no chains"] = ((1,), lambda size, seed: lvm.infer(problem, methods="vi", seed=seed, **QUIET))
    runs["nuts"] = ((50, 250, 1_000, 5_000), partial(_chains, problem))
    rows: list[common.Row] = []
    for method, (sizes, run) in runs.items():
        for size, seed in itertools.product(sizes[:1] if args.quick else sizes, range(1 if args.quick else 2)):
            found, cpu = common.timed(run, size, seed)
            mean, sd = moments(found.data["posterior"])
            row: common.Row = {
                "method": method, "size": size, "seed": seed, "cpu": cpu, "verdict": found.verdict.status,
                "mean_off": float((np.abs(mean - truth[0]) / truth[1]).max()), "sd_off": float(np.abs(sd / truth[1] - 1).max()),
            }  # fmt: skip
            rows.append(row)
    return rows


def _steps(problem: lvm.Problem, family: str, size: int, seed: int) -> Any:
    return lvm.fit(problem, family, max_steps=size, tolerance=0, draws=4_000, seed=seed, **QUIET)


def _chains(problem: lvm.Problem, size: int, seed: int) -> Any:
    return lvm.nuts(problem, warmup=min(size, 1_000), draws=size, seed=seed, **QUIET)


def moments(draws: Any) -> tuple[np.ndarray, np.ndarray]:
    """Means and sds of all unknowns, one after the other; scales by their logarithms, whose moments heavy tails do not rule."""
    columns = []
    for name in sorted(draws.data_vars):
        values = draws[name].stack(sample=("chain", "draw")).transpose("sample", ...).values
        columns.append(np.log(values) if name == "tau" else values)
    flat = np.concatenate([column.reshape(len(column), -1) for column in columns], 1)
    return flat.mean(0), flat.std(0)


def middles(rows: list[common.Row]) -> list[common.Row]:
    """Medians over seeds."""
    groups: dict[tuple[str, int], list[common.Row]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["size"]), []).append(row)
    return [
        {**group[0], **{key: statistics.median(r[key] for r in group) for key in ("cpu", "mean_off", "sd_off")}}
        for group in groups.values()
    ]


# --- together ---------------------------------------------------------------------------------------------------------

CODE = {"log_p": "log p(x)", "row_error": "+- over rows", "elbo": "ELBO", "gap": "log p - ELBO"}
SECTIONS = {
    "posteriors": Section(
        posteriors,
        {
            "family": "family", **{f"{rate}": f"rate {rate}" for rate in RATES}, "best": "best run", "worst": "worst", "cpu": "CPU s",
            "default": "by default", "default_worst": "worst of these", "default_cpu": "CPU s of these",
        },
        "rate", "kl", "family", ("log", "log"), over_rates,
    ),
    "pruning": Section(
        pruning, {"units": "units", "active": "active", "kl": "divergence", **CODE, "cpu": "CPU s"}, "units", "log_p", None,
        ("log", "linear"),
    ),
    "weighted": Section(
        weighted, {"draws": "K", **CODE, "cpu": "CPU s"}, "draws", "log_p", None, ("log", "linear")
    ),
    "reinforce": Section(
        reinforce,
        {
            "estimator": "gradient", "tenth": "bound at 200 steps", "half": "at 1,000", "end": "at 2,000", "spread": "spread of seeds",
            "cpu": "CPU s",
        },
        "steps", "bound", "estimator", table=at_the_end,
    ),
    "encoder": Section(
        encoders,
        {
            "units": "units of the encoder", "amortization": "amortisation gap", "error": "+-", "approximation": "approximation gap",
            "evidence": "log evidence", "log_p": "held-out log p(x)", "gap": "held-out gap", "cpu": "CPU s",
        },
        "units", "amortization", None, ("log", "log"),
    ),
    "computation": Section(
        computation,
        {
            "method": "method", "size": "steps or draws", "cpu": "CPU s", "mean_off": "worst mean, sds", "sd_off": "worst sd",
            "verdict": "verdict",
        },
        "cpu", "mean_off", "method", ("log", "log"), middles,
    ),
    "samples": Section(
        partial(samples, how=DIGITS),
        {
            "way": "samples", "log_p": "log p(x) of test images", "row_error": "+- over rows", "precision": "precision",
            "recall": "recall", "sure": "classifier is sure", "covered": "digits", "noisy": "precision with noise", "cpu": "CPU s",
        },
        "precision", "log_p", "way",
    ),
}  # fmt: skip
LABELS = {
    "rate": "learning rate", "kl": "KL(q || p), nats", "units": "units", "log_p": "held-out, nats an image", "draws": "draws K",
    "steps": "steps", "bound": "bound, nats an image", "amortization": "gap, nats an image", "cpu": "CPU seconds",
    "mean_off": "worst mean, sds off", "precision": "precision of samples",
}  # fmt: skip
BESIDE = {"pruning": {"elbo": "ELBO"}, "weighted": {"elbo": "ELBO"}, "encoder": {"approximation": "approximation gap"}}
"""Further lines of pictures without groups."""


def shown(name: str, found: dict[str, Any]) -> str:
    """A section's table."""
    section = SECTIONS[name]
    return common.table(section.table(found["rows"]), section.columns)


def drawn(name: str, rows: list[common.Row]) -> None:
    """A section's picture: medians over seeds."""
    import matplotlib.pyplot as plt

    section = SECTIONS[name]
    figure, axis = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    lines = {section.of: LABELS[section.of], **BESIDE.get(name, {})}
    groups = list(dict.fromkeys(row[section.by] for row in rows)) if section.by else [None]
    for group, (key, label) in itertools.product(groups, lines.items()):
        own = [row for row in rows if key in row and (group is None or row[section.by or ""] == group)]
        if not own:
            continue
        points: dict[Any, list[common.Row]] = {}
        for row in own:
            points.setdefault(row["size"] if name == "computation" else row[section.over], []).append(row)
        kept = {at: group_rows for at, group_rows in points.items() if at is not None}
        across = [statistics.median(r[section.over] for r in group_rows) for group_rows in kept.values()]
        up = [statistics.median(r[key] for r in group_rows) for group_rows in kept.values()]
        axis.plot(across, up, marker="o", markersize=3, label=group or (label if len(lines) > 1 else None))
    axis.set(xscale=section.scale[0], yscale=section.scale[1], xlabel=LABELS[section.over], ylabel=LABELS[section.of])
    if section.by or len(lines) > 1:
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(common.HERE.parent / "docs" / "images" / f"tradeoffs-{name}.svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Measures, prints, writes."""
    args = common.parser(__doc__, repetitions=1).parse_args()
    torch.set_num_threads(1)
    for name in common.chosen(list(SECTIONS), args.method):
        started = time.process_time()
        rows = SECTIONS[name].measure(args)
        print(f"  {name}: {time.process_time() - started:.0f} CPU s", file=sys.stderr, flush=True)
        path = common.report(f"tradeoffs_{name}", args, {"rows": rows})
        print(shown(name, {"rows": rows}))
        if not args.quick:
            drawn(name, rows)
        print(f"written to {path}")


if __name__ == "__main__":
    main()
