"""Predicts data that each problem of the zoo has not seen, and scores them beside what a histogram would have said.

    python benchmarks/held_out.py                    writes benchmarks/results/held_out.json
    python benchmarks/held_out.py --problem ppca     measures one again and leaves the others as they are

What is held out follows from the data: every fourth row, the last fifth of a series, measurements between others, pixels that were
hidden, the test part of images and texts, or each row in turn by a fit without it where they are too few. Everything that has a
posterior is fitted by a full-rank Gaussian at default settings, the others by some hundred steps of the guide they come with: the
figures show what a prediction is, not what a model can reach.

The score is the log predictive density of what is held out, ``lpd`` of :func:`pyrolvm.predict`, in nats a row. The baseline knows no
covariates and no neighbours: one distribution for each column of the rows that are left. The gain is the difference, row by row, so
that its error is that of pairs. ``python benchmarks/pages.py`` puts the tables into the pages of the zoo.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from common import RESULTS, parser, report, table
from scipy import stats
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import autoregressive, flows, semi_supervised_vae, sequences
from pyrolvm_models.likelihoods import dequantize

COLUMNS = {
    "problem": "problem", "held out": "held out", "rows": "rows", "lpd": "log score, nats a row", "error": "+-", "baseline": "baseline",
    "baseline lpd": "its log score", "gain": "gain", "gain error": "+- of gain", "inside 50": "in 50%", "inside 90": "in 90%",
    "verdict": "fit", "seconds": "CPU s",
}  # fmt: skip

Arguments = dict[str, Any]
Lpd = np.ndarray[Any, np.dtype[Any]]


# What to expect without a model: log densities of each held-out row.


def columns_normal(train: Arguments, held: Arguments, name: str) -> Lpd:
    """A normal distribution for each column."""
    seen, new = _rows(train[name]), _rows(held[name])
    return stats.norm(seen.mean(0), seen.std(0, ddof=1)).logpdf(new).sum(-1)


def one_normal(train: Arguments, held: Arguments, name: str) -> Lpd:
    """A normal distribution of all columns together."""
    seen, new = _rows(train[name]), _rows(held[name])
    return np.atleast_1d(stats.multivariate_normal(seen.mean(0), np.cov(seen.T)).logpdf(new))


def shares(train: Arguments, held: Arguments, name: str) -> Lpd:
    """The share of ones in each column."""
    seen, new = _rows(train[name]), _rows(held[name])
    p = (seen.sum(0) + 1) / (len(seen) + 2)
    return (new * np.log(p) + (1 - new) * np.log1p(-p)).sum(-1)


def histogram(train: Arguments, held: Arguments, name: str, bins: int = 17) -> Lpd:
    """How often each column of (0, 1) lies in each of 17 bins."""
    seen, new = (np.minimum((_rows(part[name]) * bins).astype(int), bins - 1) for part in (train, held))
    counts = np.stack([np.bincount(column, minlength=bins) for column in seen.T]) + 1
    densities = np.log(bins * counts / counts.sum(-1, keepdims=True))
    return densities[np.arange(seen.shape[1]), new].sum(-1)


def words(train: Arguments, held: Arguments, name: str) -> Lpd:
    """How often each word stands in all documents."""
    seen, new = _rows(train[name]), _rows(held[name])
    p = (seen.sum(0) + 1) / (seen.sum() + seen.shape[1])
    return stats.multinomial(new.sum(-1).astype(int), p).logpmf(new.astype(int))


def letters(train: Arguments, held: Arguments, name: str) -> Lpd:
    """How often each letter stands anywhere."""
    seen, new = train[name].numpy().astype(int), held[name].numpy().astype(int)
    counts = np.bincount(seen.ravel(), minlength=max(seen.max(), new.max()) + 1) + 1
    return np.log(counts / counts.sum())[new].sum(-1)


def rate_of_trials(train: Arguments, held: Arguments, name: str) -> Lpd:
    """One share for all trials."""
    return stats.binom(held["n"].numpy(), float(train[name].sum() / train["n"].sum())).logpmf(held[name].numpy())


def rate_of_exposure(train: Arguments, held: Arguments, name: str) -> Lpd:
    """Counts in proportion to what is expected."""
    rate = float(train[name].sum() / train["expected"].sum())
    return stats.poisson(rate * held["expected"].numpy()).logpmf(held[name].numpy())


def counts_of_years(train: Arguments, held: Arguments, name: str) -> Lpd:
    """A negative binomial of the mean and the variance so far."""
    seen = train[name].double()
    mean, variance = float(seen.mean()), float(seen.var())
    return stats.nbinom(mean**2 / (variance - mean), mean / variance).logpmf(held[name].numpy())


def questions(train: Arguments, held: Arguments, name: str) -> Lpd:
    """How often each question was answered rightly."""
    patterns = train["patterns"]
    return shares({name: patterns[train[name].long()]}, {name: patterns[held[name].long()]}, name)


def other_schools(train: Arguments, held: Arguments, name: str) -> Lpd:
    """One effect for all schools, from the others."""
    y, sigma = (held[key].double().numpy() for key in ("y", "sigma"))
    found = []
    for i in range(len(y)):
        weights = np.delete(sigma, i) ** -2.0
        middle = (weights * np.delete(y, i)).sum() / weights.sum()
        found.append(stats.norm(middle, math.sqrt(sigma[i] ** 2 + 1 / weights.sum())).logpdf(y[i]))
    return np.array(found)


def classes(train: Arguments, held: Arguments, name: str) -> Lpd:
    """The share of each class among the labels."""
    counts = np.bincount(train[name].numpy(), minlength=10) + 1
    return np.log(counts / counts.sum())[held[name].numpy()]


def _rows(value: Tensor) -> Lpd:
    """Values as a table, ``(n, columns)``."""
    return value.double().numpy().reshape(len(value), -1)


# What is held out.


@dataclass(frozen=True)
class Parts:
    """A problem without what is held out, and how it is asked about.

    Attributes:
        train: the problem on the rest.
        held: new arguments of it, as :func:`pyrolvm.predict` takes them.
        site: the observed site whose scores are taken.
        scored: what of these is scored by the baseline, by name; the held-out rows of ``held`` themselves by default.
        members: who the members of plates are, as :func:`pyrolvm.predict` takes it.
    """

    train: lvm.Problem
    held: Arguments
    site: str
    scored: Arguments | None = None
    members: Mapping[str, str] | None = None


def every_fourth(problem: lvm.Problem) -> Parts:
    """Every fourth row."""
    site = problem.observed[0]
    count = len(problem.arguments[_data_of(problem)])
    out = torch.arange(count) % 4 == 3

    def of(rows: Tensor) -> Arguments:
        return {name: _taken(value, rows, count) for name, value in problem.arguments.items()}

    return Parts(_with(problem, of(~out)), of(out), site.name)


def the_end(problem: lvm.Problem) -> Parts:
    """The last fifth of a series: the whole series is passed, what comes back is of the new part."""
    y = lvm.problem(str(problem.name)).arguments["y"]
    known = len(y) - len(y) // 5

    def series(y: Tensor) -> None:  # as many labels as there are days are left behind
        problem.function(y)

    train = problem if len(problem.arguments["y"]) == known else lvm.Problem(series, y[:known])
    return Parts(train, {"y": y}, "y", {"y": y[known:]})


def hidden_cells(problem: lvm.Problem) -> Parts:
    """The pixels that the problem hides: the mask of what is scored is the other one."""
    from sklearn.datasets import load_digits

    pixels = load_digits().data[: len(problem.arguments["x"])]
    pixels = pixels[:, (pixels != pixels[0]).sum(axis=0) >= 5]
    whole = torch.as_tensor((pixels - pixels.mean(0)) / pixels.std(0)).to(problem.dtype)
    mask = problem.arguments["mask"]
    held = {"x": whole, "mask": 1 - mask}
    return Parts(problem, held, "x", held, {"image": "same"})


def test_part(problem: lvm.Problem) -> Parts:
    """Rows of the test part of images and documents."""
    other = lvm.problem(str(problem.name), split="test")
    held = {key: value[:SOME] for key, value in other.arguments.items() if isinstance(value, Tensor)}
    return Parts(problem, held, problem.observed[0].name)


def test_rows(problem: lvm.Problem) -> Parts:
    """The test part of the data of a model with an exact likelihood."""
    name = str(problem.name)
    if name in TEXTS:
        x = sequences.text_data("descriptions", problem.arguments["x"].shape[1], part="test")
    elif name in FLOWS:
        x = flows.flow_data("moons" if name == "iaf" else "digits", part="test")
    else:
        x = autoregressive.image_data("binary_digits", part="test")[0]
    return Parts(problem, {"x": x}, "x")


def labels(problem: lvm.Problem) -> Parts:
    """Labels of the test part, given the images."""
    from pyrolvm_models import datasets

    images = datasets.digits()
    held = {"images": (images.test[:SOME] >= 8).to(problem.dtype), "y": images.test_labels[:SOME]}
    few = problem.arguments["others"][:2]  # the model wants some; nothing is asked about them
    return Parts(problem, {**held, "others": few}, "label", members={"labelled": "new", "unlabelled": "new"})


SOME = 100
"""How many test rows with latents of their own are scored: each takes as many runs of the decoder as there are draws."""

FLOWS = ("real_nvp", "glow", "maf", "iaf", "neural_spline_flow")
TEXTS = ("recurrent_text", "wavenet", "transformer_text")


def _data_of(problem: lvm.Problem) -> str:
    """The argument that is observed."""
    name = problem.observed[0].name
    return name if name in problem.arguments else next(iter(problem.arguments))


def _taken(value: Any, rows: Tensor, count: int) -> Any:
    """Rows of what has a value for each."""
    return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == count else value


def _with(problem: lvm.Problem, arguments: Arguments) -> lvm.Problem:
    """The problem with other data."""
    every = {**problem.arguments, **arguments}
    args = list(every.values())[: len(problem.args)]
    kwargs = dict(list(every.items())[len(problem.args) :])
    return lvm.Problem(problem.program, *args, **kwargs).replace(name=problem.name)


# How each problem is measured.


@dataclass(frozen=True)
class Recipe:
    """How a problem is measured.

    Attributes:
        page: the page of the docs that shows it.
        what: what is held out, in words; why nothing can be where ``split`` is ``None``.
        split: takes it out; ``"each"`` for a fit without each row in turn.
        baseline: the log densities that a model has to beat.
        baseline_words: what it is.
        options: of the problem.
        fit: of :func:`pyrolvm.fit`; a full-rank Gaussian by default settings where it is empty.
        draws: of the prediction; one tells no interval, and is enough where a row has one density.
    """

    page: str
    what: str
    split: Callable[[lvm.Problem], Parts] | str | None
    baseline: Callable[[Arguments, Arguments, str], Lpd] | None = None
    baseline_words: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    draws: int | None = None


ROWS = "every 4th row"
PIXELS = shares, "share of each pixel"
COLUMN = columns_normal, "a normal a column"
DEEP = {"batch_size": 128, "max_steps": 600, "tolerance": 0, "num_particles": 1, "learning_rate": 3e-3}
LIKELIHOOD = {"batch_size": 128, "schedule": "warmup_cosine", "learning_rate": 2e-3, "max_steps": 400}
SCORED = lvm.ImportanceWeighted_ELBO(8, gradient="score")
SLEEP = lvm.ImportanceWeighted_ELBO(1, gradient="sleep")
SLOW = {**LIKELIHOOD, "max_steps": 100}
GREY = {"transform": dequantize(17)}
HISTOGRAM = histogram, "histogram of each pixel"
LETTERS = letters, "share of each letter"

RECIPES: dict[str, Recipe] = {
    "eight_schools": Recipe("zoo", "each school in turn", "each", other_schools, "one effect for all"),
    "eight_schools_centered": Recipe("zoo", "each school in turn", "each", other_schools, "one effect for all"),
    "eight_schools_noncentered": Recipe("zoo", "each school in turn", "each", other_schools, "one effect for all"),
    "factor_analysis": Recipe("zoo", ROWS, every_fourth, *COLUMN, {"marginal": True}),
    "funnel": Recipe("zoo", "nothing: a distribution without data", None),
    "gaussian_mixture": Recipe("zoo", ROWS, every_fourth, *COLUMN),
    "gaussian_process": Recipe("zoo", "every 4th time", every_fourth, columns_normal, "a normal for all times", {"every": 2}),
    "hidden_markov": Recipe("zoo", "the last 21 years", the_end, counts_of_years, "a negative binomial", {"years": 86}),
    "hierarchical_logistic": Recipe("zoo", ROWS, every_fourth, rate_of_trials, "one share for all"),
    "hierarchical_poisson": Recipe("zoo", ROWS, every_fourth, rate_of_exposure, "one rate for all"),
    "horseshoe": Recipe("zoo", ROWS, every_fourth, columns_normal, "a normal for all"),
    "ica": Recipe("zoo", ROWS, every_fourth, *COLUMN),
    "item_response": Recipe("zoo", ROWS, every_fourth, questions, "share of each question"),
    "lda": Recipe("zoo", ROWS, every_fourth, words, "share of each word"),
    "linear_dynamical_system": Recipe("zoo", "the last 20 years", the_end, columns_normal, "a normal for all years", {"years": 80}),
    "logistic_regression": Recipe("zoo", ROWS, every_fourth, shares, "share of the class"),
    "noisy_ica": Recipe("zoo", ROWS, every_fourth, *COLUMN),
    "pmf": Recipe("zoo", "the hidden pixels", hidden_cells, columns_normal, "a normal a pixel"),
    "ppca": Recipe("zoo", ROWS, every_fourth, *COLUMN, {"marginal": True}),
    "stochastic_volatility": Recipe("zoo", "the last 50 days", the_end, columns_normal, "a normal for all days"),
    "autoregressive_vae": Recipe("zoo-deep", "test images", test_part, *PIXELS, fit=DEEP, draws=500),
    "conditional_vae": Recipe("zoo-deep", "test images", test_part, *PIXELS, fit=DEEP, draws=500),
    "discrete_vae": Recipe("zoo-deep", "test images", test_part, *PIXELS, fit=DEEP, draws=500),
    "helmholtz": Recipe("zoo-deep", "test images", test_part, *PIXELS, fit={**DEEP, "objective": SLEEP}, draws=500),
    "ladder_vae": Recipe("zoo-deep", "test images", test_part, *PIXELS, fit=DEEP, draws=500),
    "quantized_vae": Recipe("zoo-deep", "test images", test_part, *PIXELS, fit={**DEEP, "objective": SCORED}, draws=500),
    "semi_supervised_vae": Recipe(
        "zoo-deep", "labels of test images", labels, classes, "share of each class", fit={**DEEP, "batch_plate": "unlabelled"},
        draws=500,
    ),
    "topic_vae": Recipe("zoo-deep", "test documents", test_part, words, "share of each word", fit=DEEP, draws=500),
    "translation": Recipe("zoo-deep", "every 5th day", test_part, *LETTERS, fit=DEEP, draws=20),
    "vae": Recipe("zoo-deep", "test images", test_part, *PIXELS, fit=DEEP, draws=500),
    "discrete_flow": Recipe("zoo-likelihood", "test images", test_rows, *PIXELS, fit=LIKELIHOOD, draws=1),
    "world_model": Recipe("zoo-deep", "other sequences", test_part, columns_normal, "a normal a time", fit=DEEP, draws=200),
    "gated_pixel_cnn": Recipe("zoo-likelihood", "test images", test_rows, *PIXELS, fit=SLOW, draws=1),
    "glow": Recipe("zoo-likelihood", "test images", test_rows, *HISTOGRAM, fit={**SLOW, **GREY}, draws=20),
    "iaf": Recipe("zoo-likelihood", "test points", test_rows, one_normal, "one normal", fit=LIKELIHOOD, draws=1000),
    "made": Recipe("zoo-likelihood", "test images", test_rows, *PIXELS, fit=LIKELIHOOD, draws=1),
    "maf": Recipe("zoo-likelihood", "test images", test_rows, *HISTOGRAM, fit={**LIKELIHOOD, **GREY}, draws=20),
    "neural_spline_flow": Recipe(
        "zoo-likelihood", "test images", test_rows, *HISTOGRAM, fit={**LIKELIHOOD, **GREY}, draws=20
    ),
    "real_nvp": Recipe("zoo-likelihood", "test images", test_rows, *HISTOGRAM, fit={**SLOW, **GREY}, draws=20),
    "recurrent_text": Recipe("zoo-likelihood", "every 10th line", test_rows, *LETTERS, fit=SLOW, draws=1),
    "transformer_text": Recipe("zoo-likelihood", "every 10th line", test_rows, *LETTERS, fit={**SLOW, "engine": "pyro"}, draws=1),
    "wavenet": Recipe("zoo-likelihood", "every 10th line", test_rows, *LETTERS, fit=SLOW, draws=1),
}  # fmt: skip


def measure(name: str, seed: int, *, quick: bool = False) -> dict[str, Any]:
    """One problem's row."""
    recipe = RECIPES[name]
    shown = ", ".join(f"{key}={value}" for key, value in recipe.options.items())
    row: dict[str, Any] = {
        "name": name, "page": recipe.page, "problem": f"{name}({shown})" if shown else name, "held out": recipe.what,
        "baseline": recipe.baseline_words,
    }  # fmt: skip
    if recipe.split is None:
        return row | {"verdict": "nothing to predict"}
    assert recipe.baseline is not None
    problem = lvm.problem(name, **recipe.options)
    options = {**recipe.fit, **({"max_steps": 5} if quick else {})}
    started = time.process_time()
    try:
        if recipe.split == "each":
            each, told = in_turn(problem, seed, options)
            base = recipe.baseline({}, problem.arguments, problem.observed[0].name)
        else:
            assert callable(recipe.split)
            parts = recipe.split(problem)
            fit = lvm.fit(parts.train, "auto" if recipe.fit else "full_rank", seed=seed, progress=False, **options)
            each, told = scores(fit, parts, recipe.draws, seed)
            told["verdict"] = fit.verdict.status
            base = against(recipe, parts)
            if parts.site == "label":
                told["accuracy"] = right(fit, parts.held)
    except lvm.PyrolvmError as error:
        return row | {"verdict": "error", "error_text": str(error)}
    rows = len(base)
    return row | told | {
        "rows": rows, "lpd": float(each.sum()) / rows, "baseline lpd": float(base.sum()) / rows,
        "gain": float(each.sum() - base.sum()) / rows,
        **({} if len(each) < rows else {"error": error_of(each), "gain error": error_of(each - base)}),
        "seconds": time.process_time() - started,
    }  # fmt: skip


def in_turn(problem: lvm.Problem, seed: int, options: Mapping[str, Any]) -> tuple[Lpd, dict[str, Any]]:
    """Scores of each row by a fit without it."""
    found = lvm.cross_validate(
        problem,
        "full_rank",
        folds=len(problem.arguments["y"]),
        options=dict(options),
        seed=seed,
        backend="here",
        progress=False,
    )
    whole = found.summary().loc["all"]
    statuses = sorted(set(found.table["verdict"]))
    return found.elpd_i, {
        "inside 50": float(whole["inside_50"]), "inside 90": float(whole["inside_90"]), "verdict": ", ".join(statuses),
    }  # fmt: skip


def scores(fit: lvm.Fit, parts: Parts, draws: int | None, seed: int) -> tuple[Lpd, dict[str, Any]]:
    """Scores of each held-out row, or of all together where rows follow from each other; and the coverages."""
    found = lvm.predict(fit, draws=draws, seed=seed, members=parts.members, **parts.held)["scores"]
    site = parts.site
    return found[f"{site}_lpd"].values.reshape(-1), {
        f"inside {share}": found.attrs.get(f"{site}_inside_{share}") for share in (50, 90)
    }


def against(recipe: Recipe, parts: Parts) -> Lpd:
    """What the baseline makes of the same rows."""
    assert recipe.baseline is not None
    train, held = parts.train.arguments, parts.scored or parts.held
    if recipe.split is hidden_cells:
        return cells(train, held)
    name = next((key for key in (parts.site, "y", "x") if key in held), parts.site)
    return recipe.baseline(train, held, name)


def cells(train: Arguments, held: Arguments) -> Lpd:
    """A normal distribution for each column of what is seen; sums over the hidden cells of each row."""
    seen, mask = train["x"].double().numpy(), train["mask"].numpy() > 0
    known = np.ma.array(seen, mask=~mask)
    terms = stats.norm(known.mean(0).data, known.std(0, ddof=1).data).logpdf(held["x"].double().numpy())
    return np.where(mask, 0.0, terms).sum(-1)


def right(fit: lvm.Fit, held: Arguments) -> float:
    """The share of labels that the classifier gives."""
    guess = semi_supervised_vae.classify(fit, held["images"]).argmax(-1)
    return float((guess == held["y"]).double().mean())


def error_of(values: Lpd) -> float:
    """The standard error of the mean over rows."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def shown(found: Mapping[str, Any], page: str) -> str:
    """The table of one page."""
    return table([row for row in found["rows"] if row["page"] == page], COLUMNS)


def main(words: Sequence[str] | None = None) -> None:
    """Measures and writes the table, after each problem."""
    options = parser(__doc__, repetitions=1)
    options.add_argument("--problem", action="append", choices=list(RECIPES), help="measure this one again; repeatable")
    args = options.parse_args(words)
    rows: dict[str, Any] = {}
    if args.problem and (args.out or RESULTS / "held_out.json").exists():
        before = json.loads((args.out or RESULTS / "held_out.json").read_text())
        rows = {row["name"]: row for row in before["rows"]}
    for name in args.problem or RECIPES:
        rows[name] = measure(name, args.seed, quick=args.quick)
        print(rows[name], flush=True)
        report("held_out", args, {"rows": [rows[one] for one in RECIPES if one in rows]})
    print(table(list(rows.values()), COLUMNS))


if __name__ == "__main__":
    main()
