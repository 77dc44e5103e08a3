"""Trains every deep model with a VAE in it once, and measures held-out nats of a row, by importance sampling with its own guide.

    python benchmarks/deep.py                          writes benchmarks/results/deep.json
    python benchmarks/deep.py --case "vae prior=vamp"  measures one again and leaves the others as they are

The figure of ``semi_supervised_vae`` is the share of test images it classifies rightly, that of ``topic_vae`` the bound of a document.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

import torch
from common import RESULTS, Row, chosen, load, parser, report, table
from pyro import poutine

import pyrolvm as lvm
from pyrolvm.capture.vmap import vmapped
from pyrolvm.posterior.draws import rebuild

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vae": ("vae", {}, {}),
    "vae network=convolutional": ("vae", {"network": "convolutional"}, {}),
    "vae network=gated": ("vae", {"network": "gated"}, {}),
    "vae prior=mixture": ("vae", {"prior": "mixture"}, {}),
    "vae prior=vamp": ("vae", {"prior": "vamp"}, {}),
    "vae prior=flow": ("vae", {"prior": "flow"}, {}),
    "vae prior=autoregressive": ("vae", {"prior": "autoregressive", "layers": 2}, {}),
    "vae posterior=full_rank": ("vae", {"posterior": "full_rank"}, {}),
    "vae posterior=iaf": ("vae", {"posterior": "iaf", "layers": 2}, {}),
    "vae guide=semi_amortized": ("vae", {}, {"guide": "semi_amortized"}),
    "ladder_vae": ("ladder_vae", {}, {}),
    "ladder_vae inference=bottom_up": ("ladder_vae", {"inference": "bottom_up"}, {}),
    "autoregressive_vae": ("autoregressive_vae", {}, {}),
    "autoregressive_vae context=1": ("autoregressive_vae", {"context": 1}, {}),
    "conditional_vae": ("conditional_vae", {}, {}),
    "discrete_vae": ("discrete_vae", {}, {}),
    "semi_supervised_vae": ("semi_supervised_vae", {}, {"batch_plate": "unlabelled"}),
    "topic_vae": ("topic_vae", {}, {}),
    "topic_vae mixing=logistic_normal": ("topic_vae", {"mixing": "logistic_normal"}, {}),
    "topic_vae mixing=gamma": ("topic_vae", {"mixing": "gamma"}, {}),
}
"""Problem, its options, and those of the fit."""

COLUMNS = {
    "case": "model", "seconds": "s", "engine": "engine", "bound": "bound, training", "log_p": "held-out log p", "accuracy": "accuracy",
    "status": "status",
}  # fmt: skip


def log_p(fit: lvm.Fit, args: tuple[Any, ...], draws: int, seed: int) -> float:
    """Mean of the log of the average weight of each row, of other data than the fit's; the bound where ``draws`` is 1."""
    problem = fit.attached
    assert fit.guide is not None
    with problem.session(seed=seed, params=fit.params), torch.no_grad():
        guide = rebuild(problem, fit.guide)

        def rows(trace: Any) -> Any:
            trace.compute_log_prob()
            nodes = [
                n for n in trace.nodes.values() if n["type"] == "sample" and "Subsample" not in type(n["fn"]).__name__
            ]
            return sum(node["log_prob"] for node in nodes)

        def one(_: Any) -> Any:
            drawn = poutine.trace(guide).get_trace(*args)
            return rows(poutine.trace(poutine.replay(problem.model, trace=drawn)).get_trace(*args)) - rows(drawn)

        parts = [vmapped(one)(torch.zeros(min(100, draws))) for _ in range(max(1, draws // 100))]
        return float((torch.cat(parts).logsumexp(0) - math.log(sum(map(len, parts)))).mean())


def measure(case: str, steps: int, draws: int, seed: int) -> Row:
    """One model's row."""
    name, options, fitting = CASES[case]
    row: Row = {"case": case, "steps": steps, "command": f'python benchmarks/deep.py --case "{case}"', "load": load()}
    started = time.perf_counter()
    try:
        problem, test = lvm.problem(name, **options), None
        settings = {"guide": "auto", "batch_size": 128, **fitting}
        fit = lvm.fit(
            problem, settings.pop("guide"), max_steps=steps, tolerance=0, num_particles=1, learning_rate=3e-3, draws=20,
            seed=seed, progress=False, **settings,
        )  # fmt: skip
        row |= {"seconds": time.perf_counter() - started, "engine": fit.engine}
        row["bound"] = fit.elbo / sum(
            len(a) for a in problem.args if isinstance(a, torch.Tensor) and a.is_floating_point()
        )
        if name == "semi_supervised_vae":
            from pyrolvm_models import datasets, semi_supervised_vae

            images = datasets.digits()
            guess = semi_supervised_vae.classify(fit, images.test >= 8).argmax(-1)
            row["accuracy"] = float((guess == images.test_labels).double().mean())
        else:
            test = lvm.problem(name, **options, split="test")
            data = tuple(t if isinstance(t, torch.Tensor) else a for t, a in zip(test.args, problem.args, strict=True))
            row["log_p"] = log_p(fit, data, 1 if name in ("topic_vae", "discrete_vae") else draws, seed)
        if name == "conditional_vae":  # whose condition is no data
            row["bound"] = fit.elbo / len(problem.args[0])
        row["status"] = "ok"
    except lvm.PyrolvmError as error:
        row["status"] = str(error)
    return row


def main() -> None:
    """Runs, prints, writes after each model."""
    made = parser(__doc__)
    made.add_argument("--case", action="append", help="only these, beside what was measured before")
    made.add_argument("--steps", type=int, default=3000)
    made.add_argument("--draws", type=int, default=1000, help="importance samples of each held-out row")
    args = made.parse_args()
    steps, draws = (50, 10) if args.quick else (args.steps, args.draws)
    before = RESULTS / "deep.json"
    rows = json.loads(before.read_text(encoding="utf-8"))["rows"] if args.case and before.exists() else []
    for case in chosen(list(CASES), args.case):
        rows = [row for row in rows if row["case"] != case] + [measure(case, steps, draws, args.seed)]
        report("deep", args, {"rows": rows})
    print(table(rows, COLUMNS))


if __name__ == "__main__":
    main()
