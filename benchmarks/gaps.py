"""Are the gaps of fits with local latents right: linear models where all is known, and what an encoder of digits loses.

    python benchmarks/gaps.py                      writes benchmarks/results/gaps.json
    python benchmarks/gaps.py --models 10 --part linear

``linear``: variational autoencoders with a linear decoder and encoder on data with random spectra, against maximum likelihood by
eigenvalues: log p of a datum, and how many units are active. ``analytic``: both gaps of linear-Gaussian models against closed forms.
``digits``: the autoencoder of the zoo: evidence, best Gaussian, ELBO, and what few steps of refinement recover.
"""

from __future__ import annotations

import math
import time
from typing import Any

import common
import numpy as np
import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm

PARTS = ("analytic", "linear", "digits")
ROWS, COLUMNS, UNITS = 200, 8, 5
LINEAR_STEPS = 4_000

SHOWN = {
    "part": "part", "models": "models", "active_right": "active units right", "log_p_off": "log p off", "elbo_off": "ELBO off",
    "approximation_off": "approximation gap off", "amortization_off": "amortisation gap off",
}  # fmt: skip
DIGITS = {
    "evidence": "log evidence", "best": "best of the family", "elbo": "ELBO", "approximation_gap": "approximation gap",
    "amortization_gap": "amortisation gap", "step_1": "after 1 step", "step_5": "5", "step_20": "20", "active": "active units",
    "mutual_information": "mutual information", "ceiling": "log N",
}  # fmt: skip


def spectrum(seed: int) -> tuple[np.ndarray[Any, Any], float | None]:
    """Eigenvalues, falling, and the noise that the model is given; ``None`` where it has to learn it.

    Even seeds have as many large eigenvalues as there are units, and the noise to be learned is the mean of the rest. Odd ones are
    given a noise above all but a few eigenvalues, so that the other units have nothing to say.
    """
    random = np.random.default_rng(seed)
    noise = float(random.uniform(0.2, 1.0))
    active = UNITS if seed % 2 == 0 else int(random.integers(1, UNITS))
    large = noise * (1.5 + random.exponential(4.0, size=active))
    small = noise * random.uniform(0.5, 0.9, size=COLUMNS - active)
    return np.sort(np.concatenate([large, small]))[::-1], None if seed % 2 == 0 else noise


def data(values: np.ndarray[Any, Any], seed: int) -> torch.Tensor:
    """Rows whose covariance has exactly these eigenvalues, in a random direction."""
    random = np.random.default_rng([seed, 1])
    raw = random.normal(size=(ROWS, COLUMNS))
    left, _, _ = np.linalg.svd(raw - raw.mean(0), full_matrices=False)
    turn, _ = np.linalg.qr(random.normal(size=(COLUMNS, COLUMNS)))
    return torch.as_tensor(math.sqrt(ROWS) * left * np.sqrt(values) @ turn.T)


def optimum(values: np.ndarray[Any, Any], noise: float | None) -> tuple[float, int]:
    """The log likelihood of a datum at the maximum, and the active units there: Tipping and Bishop (1999), Lucas et al. (2019)."""
    variance = float(values[UNITS:].mean()) if noise is None else noise
    active = int((values[:UNITS] > variance).sum())
    rest = (COLUMNS - active) * math.log(variance) + values[active:].sum() / variance
    return float(-0.5 * (COLUMNS * math.log(2 * math.pi) + np.log(values[:active]).sum() + active + rest)), active


def decoder(x: torch.Tensor, noise: float | None) -> None:
    """Linear, with loadings to learn, and the noise unless it is given."""
    start = torch.as_tensor(np.random.default_rng(0).normal(size=(COLUMNS, UNITS)) * 0.3)
    loadings = pyro.param("loadings", start)
    if noise is None:
        sigma = pyro.param("sigma", torch.tensor(1.0, dtype=x.dtype), constraint=dist.constraints.positive)
    else:
        sigma = torch.tensor(math.sqrt(noise), dtype=x.dtype)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(UNITS, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((loadings @ z.unsqueeze(-1)).squeeze(-1), sigma).to_event(1), obs=x)


def encoder(x: torch.Tensor, noise: float | None) -> None:
    """Linear, with one scale for each unit."""
    start = torch.as_tensor(np.random.default_rng(1).normal(size=(COLUMNS, UNITS)) * 0.1)
    weights = pyro.param("weights", start)
    scale = pyro.param("scale", torch.full((UNITS,), 0.5, dtype=x.dtype), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weights, scale).to_event(1))


def linear(seed: int) -> dict[str, Any]:
    """One linear autoencoder against its optimum."""
    values, noise = spectrum(seed)
    log_p, active = optimum(values, noise)
    started = time.perf_counter()
    problem = lvm.Problem(decoder, data(values, seed), noise)
    fit = lvm.fit(
        problem, encoder, max_steps=LINEAR_STEPS, tolerance=0, draws=200, engine="c", seed=seed, progress=False
    )
    found = lvm.gaps(fit, method="exact", draws=100, steps=50, progress=False)
    return {
        "seed": seed, "active": active, "active_found": found.collapse.active, "log_p": log_p, "log_p_found": found.figures["evidence"],
        "elbo": found.figures["elbo"], "seconds": time.perf_counter() - started,
    }  # fmt: skip


def analytic(seed: int) -> dict[str, Any]:
    """Both gaps of a linear-Gaussian model whose encoder has hardly been trained, against their closed forms."""
    random = np.random.default_rng([seed, 2])
    units = int(random.integers(2, 6))
    loadings = torch.as_tensor(random.normal(size=(COLUMNS, units)))
    sigma = float(random.uniform(0.3, 1.0))
    z = random.normal(size=(50, units))
    x = torch.as_tensor(z @ loadings.numpy().T + sigma * random.normal(size=(50, COLUMNS)))

    def model(x: torch.Tensor, loadings: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(units, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal((loadings @ z.unsqueeze(-1)).squeeze(-1), sigma).to_event(1), obs=x)

    precision = loadings.T @ loadings / sigma**2 + torch.eye(units)
    mean = torch.linalg.solve(precision, loadings.T @ x.T / sigma**2).T
    start = torch.linalg.solve(precision, loadings.T / sigma**2).T

    def guide(x: torch.Tensor, loadings: torch.Tensor) -> None:
        weights = pyro.param("weights", start + 0.05 * torch.as_tensor(random.normal(size=start.shape)))
        scale = pyro.param("scale", torch.full((units,), 0.3, dtype=x.dtype), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ weights, scale).to_event(1))

    started = time.perf_counter()
    problem = lvm.Problem(model, x, loadings)
    fit = lvm.fit(problem, guide, max_steps=20, tolerance=0, draws=200, engine="pyro", seed=seed, progress=False)
    found = lvm.gaps(fit, draws=200, steps=300, progress=False)
    scale = fit.params["scale"].exp()
    away = x @ fit.params["weights"] - mean
    # KL of the guide from the exact posterior, of which the best diagonal Gaussian has the first part.
    best = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    whole = 0.5 * ((precision.diagonal() * scale**2).sum() - units - (scale**2).log().sum() - precision.logdet())
    whole = whole + 0.5 * torch.einsum("ni,ij,nj->n", away, precision, away).mean()
    return {
        "seed": seed, "units": units, "approximation": float(best), "approximation_found": found.approximation,
        "amortization": float(whole - best), "amortization_found": found.amortization, "seconds": time.perf_counter() - started,
    }  # fmt: skip


def digits(seed: int, quick: bool) -> dict[str, Any]:
    """The autoencoder of the zoo."""
    problem = lvm.problem("vae", images=200 if quick else None)
    started = time.perf_counter()
    fit = lvm.fit(
        problem, "amortized", batch_size=128, max_steps=100 if quick else 3_000, draws=200, seed=seed, progress=False
    )
    fitted = time.perf_counter()
    found = lvm.gaps(fit, rows=100 if quick else 500, seed=seed, progress=False)
    course = found.refinement
    row = {key: found.figures[key] for key in (*list(DIGITS)[:5], "evidence_error", "best_error", "elbo_error")}
    # The first step shows the bound before it, on fresh noise.
    row |= {f"step_{k}": float(course.loc[k + 1]) for k in (1, 5, 20)}
    return row | {
        "rows": found.rows, "active": found.collapse.active, "units": found.collapse.units, "kl": found.collapse.kl,
        "mutual_information": found.collapse.mutual_information, "ceiling": found.collapse.ceiling, "fit_seconds": fitted - started,
        "seconds": time.perf_counter() - fitted, "smallest_ess": float(found.table["ess"].min()),
    }  # fmt: skip


def summary(part: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The worst of all models."""
    line: dict[str, Any] = {
        "part": part,
        "models": len(rows),
        "seconds": float(np.median([row["seconds"] for row in rows])),
    }
    if part == "linear":
        line["active_right"] = f"{sum(row['active'] == row['active_found'] for row in rows)} of {len(rows)}"
        line["log_p_off"] = max(abs(row["log_p"] - row["log_p_found"]) for row in rows)
        line["elbo_off"] = max(abs(row["log_p"] - row["elbo"]) for row in rows)
    else:
        for name in ("approximation", "amortization"):
            line[f"{name}_off"] = max(abs(row[name] - row[f"{name}_found"]) for row in rows)
    return line


def main() -> None:
    """Runs, prints, writes after each part."""
    made = common.parser(__doc__)
    made.add_argument("--models", type=int, default=100)
    made.add_argument("--part", action="append", help="only these parts")
    args = made.parse_args()
    torch.set_num_threads(1)
    count = 2 if args.quick else args.models
    found: dict[str, Any] = {"rows": []}
    for part in common.chosen(PARTS, args.part):
        if part == "digits":
            found["digits"] = [digits(args.seed, args.quick)]
            print(common.table(found["digits"], DIGITS), flush=True)
        else:
            each = [{"analytic": analytic, "linear": linear}[part](args.seed + i) for i in range(count)]
            found[part] = each
            found["rows"].append(summary(part, each))
            print(common.table(found["rows"][-1:], SHOWN), flush=True)
        common.report("gaps", args, found)


if __name__ == "__main__":
    main()
