"""Trains every deep latent variable model once, and evaluates it on digits, or documents, that it has not seen.

    python benchmarks/deep.py                          writes benchmarks/results/deep.json and docs/images/deep
    python benchmarks/deep.py --case "vae prior=vamp"  measures one again and leaves the others as they are

Figures are those of ``lvm.evaluate``: log p(x) of a held-out row by importance sampling with the model's own guide, the bound, active
units. Of ``semi_supervised_vae`` it is the share of test images that it classifies rightly. Pictures are draws from the prior, decoded.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from common import HERE, RESULTS, Row, chosen, load, parser, report, table

import pyrolvm as lvm

BATCH = 128
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vae": ("vae", {}, {}),
    "vae network=convolutional": ("vae", {"network": "convolutional"}, {}),
    "vae network=gated": ("vae", {"network": "gated"}, {}),
    "vae prior=mixture": ("vae", {"prior": "mixture"}, {}),
    "vae prior=vamp": ("vae", {"prior": "vamp"}, {}),
    "vae prior=flow": ("vae", {"prior": "flow"}, {}),
    "vae prior=autoregressive": ("vae", {"prior": "autoregressive", "layers": 2}, {}),
    "vae posterior=full_rank": ("vae", {"posterior": "full_rank"}, {}),
    "vae posterior=mixture": ("vae", {"posterior": "mixture"}, {"num_particles": 4}),
    "vae posterior=iaf": ("vae", {"posterior": "iaf", "layers": 2}, {}),
    "vae guide=semi_amortized": ("vae", {}, {"guide": "semi_amortized"}),
    "vae, IW bound K=8": ("vae", {}, {"objective": lambda: lvm.ImportanceWeighted_ELBO(8, gradient="dreg")}),
    "vae, beta=4": ("vae", {}, {"objective": lambda: lvm.Beta_ELBO(beta=4.0)}),
    "ladder_vae": ("ladder_vae", {}, {}),
    "ladder_vae, KL warm-up": ("ladder_vae", {}, {"objective": lambda: lvm.Beta_ELBO(beta=lvm.Warmup(1500))}),
    "ladder_vae inference=bottom_up": ("ladder_vae", {"inference": "bottom_up"}, {}),
    "autoregressive_vae": ("autoregressive_vae", {}, {}),
    "autoregressive_vae context=1": ("autoregressive_vae", {"context": 1}, {}),
    "autoregressive_vae, free bits": ("autoregressive_vae", {}, {"objective": lambda: lvm.Beta_ELBO(free_bits=0.25)}),
    "conditional_vae": ("conditional_vae", {}, {}),
    "discrete_vae": ("discrete_vae", {}, {}),
    "helmholtz, wake-sleep": (
        "helmholtz",
        {},
        {"objective": lambda: lvm.ImportanceWeighted_ELBO(1, gradient="sleep")},
    ),
    "helmholtz, reweighted wake-sleep K=8": (
        "helmholtz",
        {},
        {"objective": lambda: lvm.ImportanceWeighted_ELBO(8, gradient="wake")},
    ),
    "helmholtz, score function K=8": ("helmholtz", {}, {"objective": lambda: lvm.ImportanceWeighted_ELBO(8)}),
    "quantized_vae, score function K=8": (
        "quantized_vae",
        {},
        {"objective": lambda: lvm.ImportanceWeighted_ELBO(8, gradient="score")},
    ),
    "semi_supervised_vae": ("semi_supervised_vae", {}, {"batch_plate": "unlabelled"}),
    "topic_vae": ("topic_vae", {}, {}),
    "topic_vae mixing=logistic_normal": ("topic_vae", {"mixing": "logistic_normal"}, {}),
    "topic_vae mixing=gamma": ("topic_vae", {"mixing": "gamma"}, {}),
    "translation": ("translation", {}, {}),
    "world_model": ("world_model", {}, {"schedule": "warmup_cosine", "learning_rate": 5e-3}),
}
"""Problem, its options, and those of the fit; an objective is made when it is needed."""

COLUMNS = {
    "case": "model", "seconds": "s", "engine": "engine", "log_p": "held-out log p", "error": "+-", "elbo": "ELBO",
    "gap": "train - held out",
    "active": "active units", "accuracy": "accuracy", "verdict": "verdict", "status": "status",
}  # fmt: skip

PICTURES = HERE.parent / "docs" / "images" / "deep"


def measure(case: str, steps: int, draws: int, seed: int) -> Row:
    """One model's row; its picture is written beside the docs."""
    name, options, fitting = CASES[case]
    row: Row = {"case": case, "steps": steps, "command": f'python benchmarks/deep.py --case "{case}"', "load": load()}
    settings: dict[str, Any] = {"guide": "auto", **fitting}
    make: Callable[[], Any] | None = settings.pop("objective", None)
    if make is not None:
        settings["objective"] = make()
    started = time.perf_counter()
    try:
        problem = lvm.problem(name, **options)
        fit = lvm.fit(
            problem, settings.pop("guide"), batch_size=BATCH, max_steps=steps, tolerance=0,
            num_particles=settings.pop("num_particles", 1), learning_rate=settings.pop("learning_rate", 3e-3),
            draws=20, seed=seed, progress=False, **settings,
        )  # fmt: skip
        row |= {
            "seconds": time.perf_counter() - started,
            "engine": fit.engine,
            "run_s": fit.seconds["run"],
            "step_ms": 1e3 * fit.seconds["run"] / steps,
        }
        row |= accuracy(fit) if name == "semi_supervised_vae" else judged(case, fit, name, options, draws, seed)
        row |= translated(fit) if name == "translation" else steered(fit, seed) if name == "world_model" else {}
        row["status"] = "ok"
    except lvm.PyrolvmError as error:
        row["status"] = str(error)
    return row


def judged(case: str, fit: lvm.Fit, name: str, options: dict[str, Any], draws: int, seed: int) -> Row:
    """What ``lvm.evaluate`` says of the test part."""
    found = lvm.evaluate(fit, lvm.problem(name, **options, split="test"), draws=draws, seed=seed, progress=False)
    if found.image is not None:
        from pyrolvm._check.evaluate.plots import drawn

        PICTURES.mkdir(parents=True, exist_ok=True)
        figures = drawn(found)
        shown = figures.get("samples", figures.get("sampled data"))
        if shown is not None:
            shown.savefig(PICTURES / f"{re.sub('[^a-z0-9]+', '-', case.lower())}.png", dpi=80)
    units = found.units
    return {
        "log_p": found.log_p, "error": float(found.table.loc["log p(x)", "row_error"]), "monte_carlo_error": found.log_p_error,
        "elbo": found["ELBO"], "gap": found["train - held out"] if "train - held out" in found.table.index else None,
        "active": None if units is None else f"{int(units['active'].sum())} of {len(units)}",
        "kl": {str(site): float(found.table.loc[site, "value"]) for site in found.table.index if str(site).startswith("KL of")},
        "verdict": found.verdict.status, "reasons": [reason.text for reason in found.verdict.reasons],
    }  # fmt: skip


def accuracy(fit: lvm.Fit) -> Row:
    """How often the classifier of the semi-supervised model is right on the test part."""
    from pyrolvm_models import datasets, semi_supervised_vae

    images = datasets.digits()
    guess = semi_supervised_vae.classify(fit, images.test >= 8).argmax(-1)
    return {"accuracy": float((guess == images.test_labels).double().mean()), "verdict": fit.verdict.status}


def translated(fit: lvm.Fit) -> Row:
    """The share of translations of days not seen that are right, and how many of the five ways ten of a day are, on average."""
    from pyrolvm_models import translation

    sources = sorted({source for source, _ in translation.dates("test")})
    found = translation.translate(fit, sources, 10)
    right = [
        [line for line in lines if line in translation.ways(int(day[:2]), int(day[2:]))]
        for day, lines in zip(sources, found, strict=True)
    ]
    return {
        "accuracy": sum(map(len, right)) / (10 * len(sources)),
        "ways": sum(len(set(lines)) for lines in right) / len(sources),
    }


def steered(fit: lvm.Fit, seed: int) -> Row:
    """How high the pendulum points in seconds 4 to 6 after it hung down, by plans with the model and with the simulation."""
    from matplotlib import pyplot

    from pyrolvm_models import world_model

    found = {
        "planned with the model": world_model.control(fit, episodes=5, seed=seed),
        "planned with the simulation": world_model.control(None, episodes=2, seed=seed),
    }
    figure, axes = pyplot.subplots(figsize=(5, 2.4), layout="constrained")
    for (name, heights), colour in zip(found.items(), ("C0", "C1"), strict=True):
        for i, one in enumerate(heights):
            axes.plot([0.1 * (t + 1) for t in range(len(one))], one, colour, alpha=0.6, label=None if i else name)
    axes.set(xlabel="seconds", ylabel="height", ylim=(-1.05, 1.05))
    axes.legend(frameon=False)
    figure.savefig(PICTURES / "world-model.png", dpi=80)
    pyplot.close(figure)
    up, most = (float(heights[:, 40:].mean()) for heights in found.values())
    return {"accuracy": up, "height of the simulation": most}


def main() -> None:
    """Runs, prints, writes after each model."""
    made = parser(__doc__)
    made.add_argument("--case", action="append", help="only these, beside what was measured before")
    made.add_argument("--steps", type=int, default=3000)
    made.add_argument("--draws", type=int, default=1000, help="importance samples of each held-out row")
    args = made.parse_args()
    steps, draws = (50, 10) if args.quick else (args.steps, args.draws)
    before = args.out or RESULTS / "deep.json"
    rows = json.loads(before.read_text(encoding="utf-8"))["rows"] if args.case and before.exists() else []
    for case in chosen(list(CASES), args.case):
        rows = [row for row in rows if row["case"] != case] + [measure(case, steps, draws, args.seed)]
        rows.sort(key=lambda row: list(CASES).index(row["case"]))
        report("deep", args, {"rows": rows})
        print(table(rows[-1:] if len(rows) == 1 else [r for r in rows if r["case"] == case], COLUMNS), flush=True)
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()
