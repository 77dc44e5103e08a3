"""Held-out log p(x) of autoencoders at budgets of processor time: the plain one, the best of pyrolvm's, and PyTorch by hand.

    python benchmarks/nats.py                                   writes benchmarks/results/nats.json and docs/images/nats.svg
    python benchmarks/nats.py --data mnist --method plain       measures one again and leaves the others as they are
    python benchmarks/nats.py --quick

Static binarised MNIST (Larochelle's 50,000 rows to train and 10,000 to test; downloaded, or read from ``PYROLVM_DATA``) and the 8 x 8
digits of scikit-learn, binary by a threshold (1,347 and 450 rows; five seeds). Each method has its own run for each budget, whose
learning rate falls along half a cosine over that budget. Weights are copied on the way; of the copies, the one with the highest bound
of 100 draws on validation rows is judged (of MNIST 500 rows of the validation part, of digits every fifth row of the training part,
which is not trained on): digits are learnt by heart in seconds.

A budget is of the process's seconds of processor time, on one thread, from the first step on. Compiling, which comes before it, is not
counted and has a column of its own; so has the evaluation. log p(x) is by importance sampling with 5,000 draws from the method's own
guide, of the same test rows for all methods; "+-" of a gain is that of the paired differences over rows (of digits, over seeds).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import common
import torch
from methods.vae import RATE, CompiledAdam, programs
from torch import Tensor, nn

import pyrolvm as lvm

PICTURE = common.HERE.parent / "docs" / "images" / "nats.svg"
BATCH = 128
CURVE = (0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of a budget at which weights are copied."""
JUDGED, DRAWS = 500, 100
"""Validation rows that choose among copies, and draws of their bounds."""


@dataclass(frozen=True)
class Set:
    """Images, the networks that they get, and what is spent on them; budgets in minutes of processor time."""

    name: str
    source: str
    hidden: tuple[int, ...]
    latent: int
    budgets: tuple[float, ...]
    seeds: int
    test_rows: int

    def problem(self, method: Method, seed: int) -> lvm.Problem:
        """The model of a method on the images to train on."""
        options = {"hidden": self.hidden, "latent": self.latent, **method.options}
        built = lvm.problem("vae", data=self.source, seed=seed, **options)
        return lvm.Problem(built.model, *{**built.arguments, "x": self.images("train")}.values())

    def images(self, part: str) -> Tensor:
        """Binary images of one part."""
        split = "train" if part == "valid" and self.source == "digits" else part
        x: Tensor = lvm.problem("vae", data=self.source, split=split).arguments["x"]
        if self.source != "digits" or part == "test":
            return x
        fifth = torch.arange(len(x)) % 5 == 4
        return x[fifth if part == "valid" else ~fifth]


@dataclass(frozen=True)
class Method:
    """An autoencoder of the zoo, by its options."""

    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    particles: int = 1


HAND = "hand"
"""The method without pyrolvm."""

SETS = {
    "mnist": Set("static MNIST", "binarized_mnist", (200, 200), 50, (2.0, 10.0), 1, 500),
    "digits": Set("digits 8 x 8", "digits", (128,), 8, (0.1, 0.25), 5, 450),
}
METHODS = {
    "plain": Method("mean field, one draw, standard prior"),
    HAND: Method("the same in compiled PyTorch by hand"),
    "mixture 2": Method(
        "two Gaussians an image, a draw of each", options={"posterior": "mixture", "parts": 2}, particles=2
    ),
    "mixture 4": Method(
        "four Gaussians an image, a draw of each", options={"posterior": "mixture", "parts": 4}, particles=4
    ),
    "mixture 4, one": Method("four Gaussians an image, one draw", options={"posterior": "mixture", "parts": 4}),
    "neighbours": Method("the same, and pixels that see their neighbours", options={"likelihood": "neighbours"}),
}
COLUMNS = {
    "data": "data", "method": "method", "what": "what", "minutes": "CPU min", "log_p": "test log p(x), nats", "mc_error": "MC error",
    "row_error": "+- over rows", "gain": "above plain", "gain_error": "+-", "elbo": "ELBO", "kept_at": "best at", "steps": "steps",
    "passes": "passes",
    "parameters": "parameters", "compile_cpu": "compile, CPU s", "evaluate_cpu": "evaluation, CPU s",
}  # fmt: skip

Weights = dict[str, Tensor]


class Clock:
    """Processor seconds since the first step: the learning rate's factor, and copies of the weights when they are due.

    Args:
        due: the seconds at which weights are copied, the last of which ends the run.
    """

    every = 25

    def __init__(self, due: list[float]) -> None:
        self.due = due
        self.taken: dict[float, tuple[int, Weights]] = {}
        self.started: float | None = None

    def seconds(self) -> float:
        """Since the first call."""
        now = time.process_time()
        self.started = now if self.started is None else self.started
        return now - self.started

    def factor(self, step: int) -> float:
        """Half a cosine over the seconds of the budget, down to a thousandth."""
        share = min(self.seconds() / self.due[-1], 1.0)
        return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * share))

    def look(self, steps: int, weights: Callable[[], Weights]) -> bool:
        """Copies the weights if a budget is over; whether the last one is."""
        passed = self.seconds()
        for seconds in self.due:
            if passed >= seconds and seconds not in self.taken:
                self.taken[seconds] = (steps, {name: value.detach().clone() for name, value in weights().items()})
        return passed >= self.due[-1]

    def __call__(self, state: lvm.Step) -> bool:
        """As a callback of a fit."""
        return self.look(state.step + 1, state.parameters)


def by_pyrolvm(method: Method, data: Set, seed: int, clock: Clock) -> tuple[lvm.Fit, float]:
    """The fit, whose parameters are to be replaced by the copies, and the processor seconds before its first step."""
    before = time.process_time()
    fit = lvm.fit(
        data.problem(method, seed), batch_size=BATCH, learning_rate=RATE, num_particles=method.particles, schedule=clock.factor,
        callbacks=[clock], max_steps=10**8, tolerance=0, engine="jax", draws=2, seed=seed, progress=False,
    )  # fmt: skip
    assert clock.started is not None
    return fit, clock.started - before


def by_hand(data: Set, seed: int, clock: Clock) -> tuple[lvm.Fit, float]:
    """The same network by plain PyTorch, a step as one compiled graph; in the end as a fit of one step, to be judged."""
    before = time.process_time()
    x = data.images("train")
    torch.manual_seed(seed)
    encoder = network((x.shape[1], *data.hidden[::-1], 2 * data.latent))
    decoder = network((data.latent, *data.hidden, x.shape[1]))
    modules = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    step = CompiledAdam(modules, x, (0.9, 0.999))
    steps, over = 0, False
    while not over:
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            step.rate.fill_(RATE * clock.factor(steps) if steps else 0.0)
            step(rows)
            if not steps:  # the step that compiles moves nothing
                step.count.zero_()
                before, clock.started = time.process_time() - before, None
            steps += 1
            if steps % clock.every == 0:
                over = clock.look(steps, lambda: step.params)
                if over:
                    break
    model, guide = programs(data.latent)
    shell = lvm.fit(
        lvm.Problem(model, x, decoder, encoder), guide, batch_size=BATCH, max_steps=1, tolerance=0, num_particles=1,
        draws=2, engine="pyro", progress=False,
    )  # fmt: skip
    for seconds, (at, found) in clock.taken.items():
        clock.taken[seconds] = (at, {name.replace(".", "$$$", 1): value for name, value in found.items()})
    return shell, before


def network(sizes: tuple[int, ...]) -> nn.Sequential:
    """Layers with tanh between them."""
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def measure(name: str, data: Set, budget: float, seed: int, args: argparse.Namespace) -> list[common.Row]:
    """A row for each point of the curve of one run."""
    method = METHODS[name]
    clock = Clock([60 * budget * share for share in CURVE])
    fit, compile_cpu = by_hand(data, seed, clock) if name == HAND else by_pyrolvm(method, data, seed, clock)
    valid, test, trained_on = data.images("valid"), data.images("test"), len(data.images("train"))

    def judged(weights: Weights, x: Tensor, rows: int, draws: int) -> Any:
        fitted = replace(fit, params={key: weights.get(key, value) for key, value in fit.params.items()})
        return lvm.evaluate(
            fitted, {"x": x}, draws=draws, rows=min(rows, len(x)), train_rows=2, pictures=False, seed=0, progress=False
        )

    rows: list[common.Row] = []
    began, best, kept, kept_at = time.process_time(), -math.inf, {}, 0.0
    for share, (seconds, (steps, weights)) in zip(CURVE, sorted(clock.taken.items()), strict=True):
        bound = judged(weights, valid, JUDGED, DRAWS).log_p
        if bound > best:
            best, kept, kept_at = bound, weights, seconds / 60
        row: common.Row = {
            "data": data.name, "method": name, "what": method.what, "seed": seed, "minutes": seconds / 60,
            "budget": budget, "kept_at": kept_at, "steps": steps, "passes": steps * BATCH / trained_on,
            "parameters": sum(value.numel() for value in weights.values()), "compile_cpu": compile_cpu, "validation": bound,
        }  # fmt: skip
        if share == 1:
            found = judged(kept, test, data.test_rows, args.draws)
            row |= {
                "log_p": found.log_p, "mc_error": found.log_p_error, "elbo": found["ELBO"], "rows": len(found.rows),
                "row_error": float(found.table.loc["log p(x)", "row_error"]), "draws": args.draws,
                "log_p_of_rows": [round(float(value), 3) for value in found.rows["log_p"]],
            }  # fmt: skip
        spent = time.process_time() - began
        began += spent
        rows.append(row | {"evaluate_cpu": spent})
        print(f"  {data.name} {name} #{seed}: {row['minutes']:.3g} min, {bound:.2f}", file=sys.stderr, flush=True)
    return rows


def _place(row: common.Row) -> tuple[int, float, int]:
    """Where a row stands: by images, budget and method."""
    return [data.name for data in SETS.values()].index(row["data"]), row["budget"], list(METHODS).index(row["method"])


def shown(found: Mapping[str, Any]) -> str:
    """The table: budgets alone, means over seeds, gains on the plain autoencoder at the same budget."""
    return common.table(summary(found["rows"]), COLUMNS)


def summary(rows: list[common.Row]) -> list[common.Row]:
    """A row for each set, method and budget."""
    groups: dict[tuple[str, str, float], list[common.Row]] = {}
    for row in rows:
        if "log_p" in row:
            groups.setdefault((row["data"], row["method"], row["minutes"]), []).append(row)
    out = []
    for (data, method, minutes), group in groups.items():
        mean = {
            key: statistics.fmean(row[key] for row in group)
            for key, value in group[0].items()
            if isinstance(value, float | int)
        }
        row = {**group[0], **mean, "minutes": minutes}
        plain = {other["seed"]: other for other in groups.get((data, "plain", minutes), [])}
        if method != "plain" and set(plain) >= {each["seed"] for each in group}:
            gains = [
                [a - b for a, b in zip(each["log_p_of_rows"], plain[each["seed"]]["log_p_of_rows"], strict=True)] for each in group
            ]  # fmt: skip
            over = [statistics.fmean(gain) for gain in gains] if len(gains) > 1 else gains[0]
            row |= {"gain": statistics.fmean(over), "gain_error": statistics.stdev(over) / math.sqrt(len(over))}
        out.append(row)
    return out


def drawn(rows: list[common.Row]) -> None:
    """The picture: log p(x) over processor minutes, a panel for each set of images."""
    import matplotlib.pyplot as plt

    names = [data.name for data in SETS.values() if any(row["data"] == data.name for row in rows)]
    figure, axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3.4), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        for i, method in enumerate(METHODS):
            own = [row for row in rows if (row["data"], row["method"]) == (name, method)]
            points: dict[float, list[float]] = {}
            for row in own:
                if row["budget"] == max(r["budget"] for r in own):
                    points.setdefault(row["minutes"], []).append(row["validation"])
            if points:
                at = sorted(points)
                middle = [statistics.fmean(points[minute]) for minute in at]
                axis.plot(at, middle, marker="o", markersize=3, color=f"C{i}", label=method)
        axis.set(
            xscale="log",
            xlabel="processor minutes",
            ylabel=f"bound of {DRAWS} draws on validation rows, nats",
            title=name,
        )
        axis.legend(frameon=False, fontsize=8)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.fonttype": "none"}):  # letters as outlines are most of a file
        figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """Trains, evaluates, writes after each run."""
    parser = common.parser(__doc__, repetitions=1)
    parser.add_argument("--data", action="append", choices=list(SETS), help="only these")
    parser.add_argument(
        "--budget", type=float, action="append", help="minutes of processor time, in place of the set's"
    )
    parser.add_argument("--seeds", type=int, help="runs of each, in place of the set's")
    parser.add_argument("--draws", type=int, default=5_000, help="of the test log p(x)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")  # which JAX reads when it first compiles
    sets = dict(SETS)
    if args.quick:
        sets = {key: replace(data, budgets=(0.02, 0.05), seeds=1, test_rows=20) for key, data in sets.items()}
        args.draws = 100
    path = args.out or common.RESULTS / ("nats_quick.json" if args.quick else "nats.json")
    rows: list[common.Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for key in args.data or sets:
        data = sets[key]
        budgets, seeds = args.budget or data.budgets, range(args.seed, args.seed + (args.seeds or data.seeds))
        for name, budget, seed in itertools.product(common.chosen(list(METHODS), args.method), budgets, seeds):
            made = measure(name, data, budget, seed, args)
            own = (data.name, name, budget, seed)
            rows = [row for row in rows if (row["data"], row["method"], row["budget"], row["seed"]) != own] + made
            rows.sort(key=_place)
            common.report("nats", args, {"rows": rows})
    print(shown({"rows": rows}))
    if not args.quick:
        drawn(rows)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
