"""Fits models with exact likelihoods: flows on digits, autoregressive models of images and text, each on data held out.

    python benchmarks/likelihood.py                              writes benchmarks/results/likelihood.json and docs/images/deep
    python benchmarks/likelihood.py --problem made_mnist         measures one again and leaves the others as they are

Each row is fitted to the training part less what ends the fit (``validation=``), and judged on the test part, which it never sees:
mean log p in nats, and bits per dimension of the grey levels, characters or pixels themselves. Digits are split and dequantised as for
factor analysis with 30 factors (48.71 nats) and ten Gaussians (60.73).
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

import torch
from common import HERE, RESULTS, parser, report, table
from torch import Tensor
from torch.utils.data import TensorDataset

import pyrolvm as lvm
from pyrolvm_models import autoregressive, flows, sequences
from pyrolvm_models.likelihoods import bits_per_dimension, dequantize

FLOW = {"batch_size": 128, "schedule": "warmup_cosine", "learning_rate": 2e-3}
ROWS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "real_nvp": ("real_nvp", {}, {**FLOW, "max_steps": 2000}),
    "glow": ("glow", {}, {**FLOW, "max_steps": 2000}),
    "maf": ("maf", {}, {**FLOW, "max_steps": 3000}),
    "iaf_moons": ("iaf", {}, {**FLOW, "max_steps": 2000}),
    "nsf": ("neural_spline_flow", {}, {**FLOW, "max_steps": 3000}),
    "nsf_coupling": ("neural_spline_flow", {"coupling": True}, {**FLOW, "max_steps": 3000}),
    "made_digits": ("made", {"data": "digits", "dropout": 0.3}, {**FLOW, "max_steps": 3000}),
    "made_mnist": (
        "made",
        {"data": "binarized_mnist", "hidden": 500},
        {
            "batch_size": 100,
            "schedule": "warmup_cosine",
            "learning_rate": 1e-3,
            "max_steps": 12000,
            "validate_every": 1000,
        },
    ),
    "pixel_cnn_digits": (
        "gated_pixel_cnn",
        {"data": "digits", "dropout": 0.2},
        {**FLOW, "max_steps": 1000, "engine": "pyro"},
    ),
    "pixel_cnn_mnist": (
        "gated_pixel_cnn",
        {"data": "binarized_mnist", "channels": 16, "images": 100},
        {"schedule": "warmup_cosine", "learning_rate": 3e-3, "max_steps": 2000, "validate_every": 200},
    ),
    "discrete_flow": ("discrete_flow", {}, {**FLOW, "max_steps": 3000}),
    "discrete_flow_bipartite": ("discrete_flow", {"kind": "bipartite", "layers": 4}, {**FLOW, "max_steps": 3000}),
    "recurrent_text": (
        "recurrent_text",
        {"dropout": 0.3, "hidden": 128},
        {**FLOW, "batch_size": 64, "max_steps": 2000},
    ),
    "wavenet": ("wavenet", {"dropout": 0.3}, {**FLOW, "batch_size": 64, "max_steps": 2000}),
    "transformer_text": ("transformer_text", {"dropout": 0.2}, {**FLOW, "batch_size": 64, "max_steps": 2000}),
}
"""Problem, its options, and those of the fit."""

PUBLISHED = {"made_mnist": "88.3 [M]", "pixel_cnn_mnist": "81.3 [M]"}
"""Nats of static binarised MNIST, quoted from memory: MADE, and PixelCNN."""

COLUMNS = {
    "name": "fit", "parameters": "parameters", "steps": "steps", "passes": "passes", "engine": "engine", "compile": "compile, s",
    "run": "run, s", "nats": "test, nats", "error": "+-", "bits": "bits/dim", "train_nats": "train, nats", "published": "published",
    "verdict": "verdict",
}  # fmt: skip


def parts(name: str, problem: lvm.Problem, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, int]:
    """Data to fit, to end the fit, and to test; and the grey levels that dequantised data stand for, or 1."""
    x = problem.arguments["x"]
    kind = options.get("data", "moons" if name == "iaf" else "digits" if name in FLOWS else "binary_digits")
    if name in TEXTS:
        test, levels = sequences.text_data("descriptions", x.shape[1], part="test"), 1
    elif name in FLOWS:
        test, levels = flows.flow_data(kind, part="test"), 17 if kind == "digits" else 1
    else:
        test, levels = autoregressive.image_data(kind, part="test")[0], 1
        if kind == "binarized_mnist":
            return (
                autoregressive.image_data(kind)[0],
                autoregressive.image_data(kind, 2000, part="valid")[0],
                test,
                levels,
            )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held = len(x) // 8
    return x[order[held:]], x[order[:held]], test, levels


PICTURES = HERE.parent / "docs" / "images" / "deep"
FLOWS = ("real_nvp", "glow", "maf", "iaf", "neural_spline_flow")
TEXTS = ("recurrent_text", "wavenet", "transformer_text")


def measure(row: str, seed: int, share: float) -> dict[str, Any]:
    """One fit's row; a failure is a row too."""
    name, options, how = ROWS[row]
    how = {**how, "max_steps": max(10, int(how["max_steps"] * share))}
    out: dict[str, Any] = {"name": row, "problem": name, "options": options, "fit": {k: str(v) for k, v in how.items()}}
    started = time.perf_counter()
    try:
        built = lvm.problem(name, seed=seed, **options)
        train, valid, test, levels = parts(name, built, options)
        data: Any = train if "batch_size" in how else lvm.stream(TensorDataset(train), batch_size=50)
        module = built.arguments["module"]
        problem = lvm.Problem(built.model, data, module)
        fit = lvm.fit(
            problem,
            seed=seed,
            progress=False,
            validation={"x": valid},
            transform=dequantize(levels) if levels > 1 else None,
            **how,
        )
        density = fit.module()
        with torch.no_grad():
            rows = torch.cat([density.log_prob(part) for part in test.split(200)]).double()  # type: ignore[operator]
    except (lvm.PyrolvmError, OSError) as error:
        return out | {"verdict": "error", "message": str(error), "seconds": time.perf_counter() - started}
    nats = float(rows.mean())
    drawn(row, density, test)
    return out | {
        "parameters": sum(p.numel() for p in module.parameters()),
        "steps": len(fit.losses),
        "passes": len(fit.losses) * (how.get("batch_size") or 50) / len(train),
        "engine": fit.engine,
        "compile": fit.seconds["compile"],
        "run": fit.seconds["run"],
        "nats": nats,
        "error": float(rows.std()) / math.sqrt(len(rows)),
        "bits": bits_per_dimension(nats, test[0].numel(), levels),
        "train_nats": lvm.diagnose(fit).figures.get("log_p_row"),
        "validation_nats": lvm.diagnose(fit).figures["held_out_row"],
        "verdict": fit.verdict.status,
        "stop": fit.stop_reason,
        "published": PUBLISHED.get(row),
        "seconds": time.perf_counter() - started,
    }


def drawn(row: str, density: Any, test: Tensor) -> None:
    """Writes 24 draws of a model of images beside the docs."""
    from pyrolvm._check.evaluate.plots import image_grid

    side = math.isqrt(test[0].numel())
    if side < 8 or side**2 != test[0].numel():
        return
    with torch.no_grad():
        images = density.sample(24).reshape(24, -1).clamp(float(test.min()), float(test.max()))
    PICTURES.mkdir(parents=True, exist_ok=True)
    image_grid(lvm.Image(side, side), images.double().numpy()).savefig(
        PICTURES / f"{row.replace('_', '-')}.png", dpi=80
    )


def main() -> None:
    """Runs, prints, writes after each fit."""
    made = parser(__doc__)
    made.add_argument(
        "--problem", action="append", choices=list(ROWS), help="only these, beside what was measured before"
    )
    made.add_argument("--share", type=float, default=1.0, help="of the steps of each fit")
    args = made.parse_args()
    before = RESULTS / "likelihood.json"
    rows = json.loads(before.read_text(encoding="utf-8"))["rows"] if args.problem and before.exists() else []
    share = 0.02 if args.quick else args.share
    for name in args.problem or ROWS:
        rows = [row for row in rows if row["name"] != name] + [measure(name, args.seed, share)]
        rows.sort(key=lambda row: list(ROWS).index(row["name"]))
        report("likelihood", args, {"rows": rows})
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()
