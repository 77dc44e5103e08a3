"""Independent component analysis: separation beside scikit-learn's FastICA, and what noise costs.

    python benchmarks/ica.py                    writes benchmarks/results/ica.json
    python benchmarks/ica.py --part separation  one part, the other left as it is

``separation``: five Laplace sources through a random square matrix, ten seeds; every method on the same data, in turns, with its
default settings but for the tolerance and the number of steps of FastICA, which are made generous. The Amari distance is 0 where
the sources are separated.

``noise``: two sources in two sensors, three in two (overcomplete) and two in three (undercomplete), under noise, by NUTS on
``noisy_ica``. The mean correlation (MCC) of the posterior means of the sources with the true ones, beside what ignores noise
(``maximum_likelihood``, as many sources as sensors) and what knows the mixing (least squares, the shortest where there are many).
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import RESULTS, parser, report, table

import pyrolvm as lvm
from pyrolvm_models import ica

SIZES = (1_000, 10_000, 100_000)
SEEDS = 10
FORMS = {"square": (2, 2), "overcomplete": (2, 3), "undercomplete": (3, 2)}
NOISE = (0.4, 0.2, 0.1, 0.05)
ROWS = 200
KEPT = 400

SEPARATION = {
    "n": "n", "method": "method", "amari": "Amari distance", "worst": "worst seed", "mcc": "MCC", "seconds": "s",
    "converged": "converged",
}  # fmt: skip
NOISY = {
    "form": "form", "noise": "noise sd", "nuts": "MCC, NUTS", "ignored": "noise ignored", "known": "mixing known",
    "verdict": "verdict", "noise_sd": "noise sd found", "seconds": "s",
}  # fmt: skip


def _fastica(x: np.ndarray, seed: int) -> tuple[np.ndarray, bool]:
    from sklearn.decomposition import FastICA

    found = FastICA(x.shape[1], whiten="unit-variance", tol=1e-6, max_iter=1000, random_state=seed).fit(x)
    return found.components_, found.n_iter_ < 1000


def _ours(prior: str) -> Callable[[np.ndarray, int], tuple[np.ndarray, bool]]:
    def run(x: np.ndarray, seed: int) -> tuple[np.ndarray, bool]:
        found = ica.maximum_likelihood(x, prior=prior)
        return found.matrix.numpy(), found.converged

    return run


METHODS = {"FastICA": _fastica} | {prior: _ours(prior) for prior in ("laplace", "logistic", "cauchy", "adaptive")}


def separation(quick: bool) -> list[dict[str, Any]]:
    """Every method on the same data."""
    rows = []
    for n in SIZES[:1] if quick else SIZES:
        measured: dict[str, list[tuple[float, float, float, bool]]] = {name: [] for name in METHODS}
        for seed in range(2 if quick else SEEDS):
            rng = np.random.default_rng(seed)
            z, mixing = rng.laplace(size=(n, 5)), rng.normal(size=(5, 5))
            x = z @ mixing.T
            for name, run in METHODS.items():
                started = time.perf_counter()
                unmixing, converged = run(x, seed)
                seconds = time.perf_counter() - started
                distance = ica.amari_distance(unmixing, mixing)
                measured[name].append((distance, ica.mcc(x @ unmixing.T, z), seconds, converged))
        for name, found in measured.items():
            amari, mcc, seconds, converged = zip(*found, strict=True)
            rows.append({
                "n": n, "method": name, "amari": statistics.mean(amari), "worst": max(amari), "mcc": statistics.mean(mcc),
                "seconds": statistics.median(seconds), "converged": f"{sum(converged)}/{len(converged)}",
            })  # fmt: skip
    return rows


def noise(quick: bool, seed: int) -> list[dict[str, Any]]:
    """NUTS on each form under less and less noise."""
    rows = []
    for form, (sensors, sources) in list(FORMS.items())[: 1 if quick else None]:
        for sd in NOISE[:1] if quick else NOISE:
            options = {"sensors": sensors, "sources": sources, "noise": sd, "rows": 30 if quick else ROWS}
            x, mixing, z = ica.simulate(options["rows"], sensors, sources, noise=sd, prior="laplace")
            started = time.perf_counter()
            short = {"warmup": 100, "draws": 100} if quick else {}
            chains = lvm.nuts(lvm.problem("noisy_ica", **options), seed=seed, progress=False, **short)
            seconds = time.perf_counter() - started
            known = x @ torch.linalg.pinv(mixing).mT
            rows.append({
                "form": form, "noise": sd, "nuts": ica.mcc(_means(chains, x, mixing), z),
                "ignored": ica.mcc(ica.maximum_likelihood(x, prior="laplace").sources(x), z) if sensors == sources else None,
                "known": ica.mcc(known, z), "verdict": chains.verdict.status,
                "noise_sd": float(chains.data["posterior"]["sigma"].mean()), "seconds": seconds,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def _means(chains: lvm.Chains, x: torch.Tensor, mixing: torch.Tensor) -> torch.Tensor:
    """Posterior means of the sources, each draw in the true order with the true signs."""
    flat = chains.data["posterior"].to_dataset().stack(draws=("chain", "draw"))
    step = max(1, flat.sizes["draws"] // KEPT)
    draws = {
        name: torch.tensor(flat[name].transpose("draws", ...).values[::step], dtype=torch.float64)
        for name in ("A", "sigma", "u")
    }
    total = torch.zeros(len(x), mixing.shape[1], dtype=torch.float64)
    for i in range(len(draws["sigma"])):
        total += ica.aligned(*ica.expected_sources(x, {name: value[i] for name, value in draws.items()}), mixing)[1]
    return total / len(draws["sigma"])


def main() -> None:
    """Runs, prints, writes after each part."""
    made = parser(__doc__)
    made.add_argument("--part", choices=["separation", "noise"], help="only this, beside what was measured before")
    args = made.parse_args()
    path = args.out or RESULTS / "ica.json"
    found = json.loads(path.read_text(encoding="utf-8")) if args.part and path.exists() else {}
    found = {part: found[part] for part in ("separation", "noise") if part in found}
    if args.part != "noise":
        found["separation"] = separation(args.quick)
        report("ica", args, found)
        print(table(found["separation"], SEPARATION))
    if args.part != "separation":
        found["noise"] = noise(args.quick, args.seed)
        report("ica", args, found)
        print(table(found["noise"], NOISY))


if __name__ == "__main__":
    main()
