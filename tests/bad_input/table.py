"""What users get wrong, and what they are told: one row a mistake.

Each row provokes one mistake through the public API. ``python -m tests.bad_input.table`` prints what every row says and
how long it takes; ``test_table.py`` checks it. Identifiers are those of the reliability scorecard.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from torch import Tensor

import pyrolvm as lvm
from tests.bad_input.programs import (
    bounded,
    continuous_z,
    counts,
    factor_outside,
    fraction,
    guide_of,
    half_in_plate,
    line,
    local,
    loop_of,
    mixed_inside,
    mixture,
    n_by_n,
    n_by_n_in_plate,
    negative_scale,
    no_plate,
    nothing_to_train,
    other_plate,
    other_size,
    own_rows,
    plate_of,
    poisson,
    schools,
    sized_by_batch,
    subsampled,
    total_outside,
    twice,
    walled,
    wide_fraction,
)

Y = torch.tensor([2.8, 0.8, -0.3, 0.7, -0.1, 0.1, 1.8, 1.2])
SIGMA = torch.tensor([1.5, 1.0, 1.6, 1.1, 0.9, 1.1, 1.0, 1.8])


@dataclass
class Steps:
    """Counts the optimisation steps and transitions that a mistake got past the checks."""

    taken: int = 0

    def __call__(self, step: Any) -> None:
        self.taken += 1

    def progress(self, done: int, total: int, text: str) -> None:
        self.taken += done

    def fit(self, problem: Any, guide: Any = "mean_field", **options: Any) -> lvm.Fit:
        return lvm.fit(
            problem, guide, **{"max_steps": 5, "draws": 10, "progress": False, "callbacks": [self], **options}
        )

    def nuts(self, problem: Any, **options: Any) -> lvm.Chains:
        return lvm.nuts(problem, **{"chains": 2, "warmup": 5, "draws": 5, "progress": self.progress, **options})


Provoke = Callable[[Steps], Any]


@dataclass(frozen=True)
class Row:
    """One mistake.

    Attributes:
        id: its number on the scorecard.
        what: the mistake, in a few words.
        provoke: makes it.
        expect: the exception class it raises, or the warning class it gives.
        says: patterns that the message matches, besides its remedy.
    """

    id: str
    what: str
    provoke: Provoke
    expect: type[Exception]
    says: tuple[str, ...]

    @property
    def warns(self) -> bool:
        return issubclass(self.expect, Warning)


@dataclass(frozen=True)
class Outcome:
    message: str
    error: Exception | None
    seconds: float
    steps: int
    warned: list[str] = field(default_factory=list)


def run(row: Row) -> Outcome:
    """Makes the mistake. Seconds are of this process's own work, so that a busy machine does not count."""
    steps = Steps()
    started = time.process_time()
    error: Exception | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            row.provoke(steps)
        except Exception as raised:  # the row says which class it must be
            error = raised
    seconds = time.process_time() - started
    warned = [str(w.message) for w in caught if issubclass(w.category, lvm.PyrolvmWarning)]
    message = str(error) if error is not None else "; ".join(warned)
    return Outcome(message, error, seconds, steps.taken, warned)


# --- the rows ---------------------------------------------------------------------------------------------------------


def _with(value: Tensor, index: int, bad: float) -> Tensor:
    value = value.clone()
    value[index] = bad
    return value


def _schools() -> lvm.Problem:
    return lvm.Problem(schools, SIGMA, Y)


def _line() -> lvm.Problem:
    return lvm.Problem(line, SIGMA, Y)


INF, NAN = float("inf"), float("nan")

ROWS = [
    Row("B1", "inf in the observations", lambda s: s.fit(lvm.Problem(schools, SIGMA, _with(Y, 2, INF))), lvm.DataError,
        (r"observed site 'y'", r"1 non-finite value", r"\(inf\) at \[2\]")),
    Row("B1", "inf in a predictor", lambda s: s.fit(lvm.Problem(line, _with(SIGMA, 0, -INF), Y)), lvm.DataError,
        (r"argument 'x'", r"\(-inf\) at \[0\]")),
    Row("B2", "NaN in the observations", lambda s: s.nuts(lvm.Problem(schools, SIGMA, _with(Y, 3, NAN))), lvm.DataError,
        (r"argument 'y'", r"\(nan\) at \[3\]")),
    Row("B2", "NaN in a predictor", lambda s: s.fit(lvm.Problem(line, _with(SIGMA, 5, NAN), Y)), lvm.DataError,
        (r"argument 'x'", r"\(nan\) at \[5\]")),
    Row("B2", "None in a list", lambda s: s.fit(lvm.Problem(line, SIGMA, [1.0, None, *Y.tolist()[2:]])), lvm.DataError,
        (r"argument 'y' has 1 missing value \(None or NA\), the first at \[1\]",)),
    Row("B3", "a latent missing from the guide", lambda s: s.fit(_schools(), guide_of()), lvm.GuideError,
        (r"guide 'guide' has no sample site 'tau'", r"it has: mu, theta")),
    Row("B4", "a guide site that the model lacks", lambda s: s.fit(_schools(), guide_of(tau=dist.LogNormal, extra="thta")),
        lvm.GuideError, (r"samples 'thta', which is no site of the model", r"latent sites: mu, tau, theta")),
    Row("B4", "a guide site that the model observes", lambda s: s.fit(_schools(), guide_of(tau=dist.LogNormal, extra="y")),
        lvm.GuideError, (r"samples 'y', which is observed in the model",)),
    Row("B5", "Normal guide for a positive latent", lambda s: s.fit(_schools(), guide_of(tau=dist.Normal)), lvm.GuideError,
        (r"site 'tau' from \(-inf, inf\) \(Normal\)", r"wider than the model's support \(0, inf\)")),
    Row("B5", "positive guide for a fraction", lambda s: s.fit(lvm.Problem(fraction, Y), wide_fraction), lvm.GuideError,
        (r"site 'p' from \(0, inf\) \(LogNormal\)", r"wider than the model's support \(0, 1\)")),
    Row("B6", "positive guide for a real latent", lambda s: s.fit(_schools(), guide_of(tau=dist.LogNormal, mu=dist.LogNormal)),
        lvm.PyrolvmWarning, (r"site 'mu' from \(0, inf\)", r"narrower than the model's support \(-inf, inf\)")),
    Row("B7", "N x N likelihood by to_event", lambda s: s.fit(lvm.Problem(n_by_n, SIGMA, Y)), lvm.ProblemError,
        (r"observed site 'y' broadcasts", r"value has shape \(8,\)", r"\(8, 1\)", r"64 terms")),
    Row("B7", "N x N likelihood in a plate", lambda s: s.fit(lvm.Problem(n_by_n_in_plate, SIGMA, Y)), lvm.ProblemError,
        (r"observed site 'y' broadcasts", r"64 terms of shape \(8, 8\)")),
    Row("B8", "minibatches without a plate", lambda s: s.fit(lvm.Problem(no_plate, SIGMA, Y), batch_size=4), lvm.ArgumentError,
        (r"batch_size needs a plate", r"no_plate has none")),
    Row("B8", "an observed site that shrinks outside", lambda s: s.fit(lvm.Problem(half_in_plate, SIGMA, Y), batch_size=4),
        lvm.ProblemError, (r"site 'again' shrinks from shape \(8,\) to \(4,\)", r"not inside plate 'rows'", r"scaled by 2")),
    Row("B8", "a factor over rows, outside", lambda s: s.fit(lvm.Problem(factor_outside, SIGMA, Y), batch_size=4), lvm.ProblemError,
        (r"site 'penalty' is not inside plate 'rows'", r"log density changes from -\S+ to -\S+ on 4 of 8 rows")),
    Row("B8", "a sum of the rows observed, outside", lambda s: s.fit(lvm.Problem(total_outside, SIGMA, Y), batch_size=4),
        lvm.ProblemError, (r"site 'total' is not inside plate 'rows'",)),
    Row("B8", "more rows than there are", lambda s: s.fit(_line(), batch_size=9), lvm.ArgumentError,
        (r"batch_size=9 is larger than plate 'rows', which has 8 rows",)),
    Row("B9", "guide subsamples another plate", lambda s: s.fit(lvm.Problem(subsampled, SIGMA, Y), other_plate), lvm.GuideError,
        (r"plate 'lines' takes 4 of 8 rows", r"no plate of that name \(its plates: rows\)")),
    Row("B9", "guide picks rows by itself", lambda s: s.fit(lvm.Problem(subsampled, SIGMA, Y), own_rows), lvm.GuideError,
        (r"site 'z' with shape \(4,\)", r"the model has \(8,\)")),
    Row("B9", "guide holds parameters for one batch", lambda s: s.fit(lvm.Problem(subsampled, SIGMA, Y), sized_by_batch),
        lvm.GuideError, (r"guide 'sized_by_batch'", r"programs\.py:\d+", r"site z dim -1, 8 vs 4")),
    Row("B9", "guide takes rows 1 to 8, model 0 to 7", lambda s: s.fit(lvm.Problem(local, SIGMA, Y), other_size), lvm.GuideError,
        (r"plate 'rows' takes rows \[1, 2, 3, 4, 5, ...; 8 rows\]", r"and \[0, 1, 2, 3, 4, ...; 8 rows\] in the model")),
    Row("B9", "AutoDiagonalNormal on minibatches", lambda s: s.fit(lvm.Problem(local, SIGMA, Y), AutoDiagonalNormal, batch_size=4),
        lvm.GuideError, (r"AutoDiagonalNormal", r"on a minibatch", r"site z dim -1, 4 vs 8")),
    Row("B9", "AutoMultivariateNormal on own subsample", lambda s: s.fit(lvm.Problem(subsampled, SIGMA, Y), AutoMultivariateNormal),
        lvm.GuideError, (r"AutoMultivariateNormal", r"on a minibatch", r"site z dim -1, 4 vs 8")),
    Row("B12", "log density -inf everywhere, fit", lambda s: s.fit(lvm.Problem(walled, Y)), lvm.FitError,
        (r"not finite at any of 10 starts", r"Not finite: model 'wall'", r"'mu': -\d", r"'wall': -inf", r"'y': -\d")),
    Row("B12", "log density -inf everywhere, nuts", lambda s: s.nuts(lvm.Problem(walled, Y)), lvm.FitError,
        (r"no start with a finite density", r"mu: -\d", r"wall: -inf", r"y: -\d")),
    Row("B12", "data beyond every bound", lambda s: s.nuts(lvm.Problem(bounded, 30 * Y.abs())), lvm.ProblemError,
        (r"site 'y'", r"within the support", r"invalid values")),
    Row("B12", "negative counts", lambda s: s.fit(lvm.Problem(poisson, (Y - 2).round())), lvm.ProblemError,
        (r"site 'y'", r"within the support", r"Poisson", r"-2\.")),
    Row("B14", "arguments on two devices", lambda s: s.fit(lvm.Problem(line, SIGMA.to("meta"), Y)), lvm.DataError,
        (r"different devices", r"x: meta, y: cpu")),
    Row("B14", "a device that is not there", lambda s: s.fit(_line(), device="cuda:9999" if torch.cuda.is_available() else "cuda"),
        lvm.ArgumentError, (r"device 'cuda",)),
    Row("B14", "a device that torch does not know", lambda s: s.fit(_line(), device="gpu"), lvm.ArgumentError, (r"device 'gpu'",)),
    Row("B15", "arguments of two float dtypes", lambda s: s.fit(lvm.Problem(line, SIGMA.double(), Y)), lvm.DataError,
        (r"different floating dtypes", r"x: float64, y: float32")),
    Row("B15", "a float16 matrix inside the model", lambda s: s.fit(lvm.Problem(mixed_inside, Y)), lvm.ProblemError,
        (r"model 'mixed_inside' fails at programs\.py:\d+", r"x @ w", r"dtype")),
    Row("B15", "an integer dtype to run in", lambda s: s.nuts(_line(), dtype=torch.int64), lvm.ArgumentError,
        (r"dtype must be a floating torch dtype, got torch\.int64",)),
    Row("B17", "no chains", lambda s: s.nuts(_line(), chains=0), lvm.ArgumentError, (r"chains .* at least 1, got 0",)),
    Row("B19", "no rows", lambda s: s.fit(lvm.Problem(line, SIGMA[:0], Y[:0])), lvm.DataError,
        (r"argument 'x' is empty: shape \(0,\)",)),
    Row("B19", "empty lists", lambda s: s.fit(lvm.Problem(line, [], [])), lvm.DataError, (r"argument 'x' is empty",)),
    Row("B20", "a column of text", lambda s: s.fit(lvm.Problem(line, SIGMA, pd.Series(list("abcdefgh")))), lvm.DataError,
        (r"observed site 'y' is Normal", r"labels")),
    Row("B20", "a text column in a frame", lambda s: s.fit(lvm.Problem(poisson, pd.DataFrame({"n": [1, 2], "who": ["a", "b"]}))),
        lvm.ProblemError, (r"a table that holds more than numbers, is given to the model as its columns, y\[...\]: 'n', 'who'",)),
    Row("B20", "categories", lambda s: s.fit(lvm.Problem(line, SIGMA, pd.Series(list("abcdefgh")).astype("category"))), lvm.DataError,
        (r"observed site 'y' is Normal", r"labels \('a', 'b', 'c', ...\)")),
    Row("B20", "complex numbers", lambda s: s.fit(lvm.Problem(line, SIGMA, np.ones(8) * 1j)), lvm.DataError,
        (r"argument 'y' holds complex128 values",)),
    Row("B20", "booleans where numbers are due", lambda s: s.fit(lvm.Problem(line, SIGMA, np.ones(8, dtype=bool))), lvm.ProblemError,
        (r"density of site 'y'", r"bool tensor")),
    Row("B21", "ragged lists", lambda s: s.fit(lvm.Problem(line, SIGMA, [[1.0, 2.0], [3.0]])), lvm.DataError,
        (r"argument 'y' is ragged: row 0 has length 2, row 1 has 1",)),
    Row("B21", "a ragged array of objects", lambda s: s.fit(lvm.Problem(line, SIGMA, np.array([[1.0], [2.0, 3.0]], dtype=object))),
        lvm.DataError, (r"argument 'y' is ragged: row 0 has length 1, row 1 has 2",)),
    Row("B21", "columns of two lengths", lambda s: s.fit(lvm.Problem(line, SIGMA[:5], Y)), lvm.ProblemError,
        (r"model 'line' fails at programs\.py:\d+", r"8", r"5")),
    Row("B22", "a plate of no rows", lambda s: s.fit(lvm.Problem(plate_of(0), Y)), lvm.ProblemError, (r"plate 'rows' has size 0",)),
    Row("B22", "a plate of negative size", lambda s: s.fit(lvm.Problem(plate_of(-3), Y)), lvm.ProblemError,
        (r"plate 'rows' has size -3",)),
    Row("B22", "a sequential plate of no rows", lambda s: s.fit(lvm.Problem(loop_of(0), Y)), lvm.ProblemError,
        (r"plate 'rows' has size 0",)),
    Row("B23", "a continuous guide for a discrete latent", lambda s: s.fit(lvm.Problem(mixture, Y), continuous_z), lvm.GuideError,
        (r"site 'z' is discrete in the model \(Bernoulli\)", r"continuous in guide 'continuous_z' \(Normal\)")),
    Row("B23", "an AutoGuide for a discrete latent", lambda s: s.fit(lvm.Problem(mixture, Y), AutoNormal(mixture)), lvm.GuideError,
        (r"AutoNormal", r"site 'z'", r"poutine\.block")),
    Row("B23", "a latent of infinitely many values, fit", lambda s: s.fit(lvm.Problem(counts, Y)), lvm.GuideError,
        (r"no sample site 'n'", r"Poisson", r"infinitely many")),
    Row("B23", "a latent of infinitely many values, nuts", lambda s: s.nuts(lvm.Problem(counts, Y)), lvm.ProblemError,
        (r"site 'n' is Poisson", r"infinitely many")),
    Row("B24", "subsampling in NUTS", lambda s: s.nuts(lvm.Problem(subsampled, SIGMA, Y)), lvm.PyrolvmWarning,
        (r"plate 'rows' subsamples its 8 rows", r"all rows are used")),
    Row("B25", "a site twice", lambda s: s.fit(lvm.Problem(twice, Y)), lvm.ProblemError,
        (r"programs\.py:\d+", r"Multiple sample sites named 'a'")),
    Row("B26", "a negative scale", lambda s: s.fit(lvm.Problem(negative_scale, Y)), lvm.ProblemError,
        (r"model 'negative_scale' fails at programs\.py:\d+", r"-1 - s\*\*2", r"scale", r"invalid values: -1\.0")),
    Row("B27", "a problem's name misspelt", lambda s: lvm.problem("eight_schols"), lvm.UnknownNameError,
        (r"no problem is called 'eight_schols'", r"did you mean 'eight_schools'")),
    Row("B27", "a guide's name misspelt", lambda s: s.fit(_line(), "fullrank"), lvm.UnknownNameError,
        (r"no guide is called 'fullrank'", r"did you mean 'full_rank'")),
    Row("B27", "an objective's name misspelt", lambda s: s.fit(_line(), objective="Trace_EBLO"), lvm.UnknownNameError,
        (r"no objective is called 'Trace_EBLO'", r"did you mean 'Trace_ELBO'")),
    Row("B27", "an engine's name misspelt, fit", lambda s: s.fit(_line(), engine="pyr"), lvm.UnknownNameError,
        (r"no engine is called 'pyr'", r"did you mean 'pyro'")),
    Row("B27", "an engine's name misspelt, nuts", lambda s: s.nuts(_line(), engine="piro"), lvm.UnknownNameError,
        (r"no engine is called 'piro'", r"did you mean 'pyro'")),
    Row("B27", "an option that the guide lacks", lambda s: s.fit(_line(), lvm.guide("low_rank", rnk=2)), lvm.ArgumentError,
        (r"guide 'low_rank' has no option 'rnk'", r"rank")),
    Row("B27", "a number for a name", lambda s: lvm.problem(3), lvm.ArgumentError, (r"name of a problem must be a string, got 3",)),
    Row("-", "the bare model", lambda s: s.fit(schools), lvm.ArgumentError, (r"got the function 'schools'", r"lvm\.Problem\(schools")),
    Row("-", "an argument too few", lambda s: s.fit(lvm.Problem(schools, Y)), lvm.ProblemError,
        (r"schools\(sigma, y\) cannot be called", r"missing a required argument: 'y'")),
    Row("-", "no guide at all", lambda s: s.fit(_line(), None), lvm.ArgumentError, (r"guide must be", r"got None")),
    Row("-", "a guide without parameters", lambda s: s.fit(_line(), nothing_to_train), lvm.GuideError,
        (r"guide 'nothing_to_train' has no learnable parameters",)),
]  # fmt: skip


def _not_positive(call: str, name: str, value: Any) -> Row:
    def provoke(steps: Steps) -> Any:
        return getattr(steps, call)(_line(), **{name: value})

    got = rf"{name} must be an integer of at least \d, got {value!r}\."
    return Row("B30", f"{call}: {name}={value!r}", provoke, lvm.ArgumentError, (got.replace("'", "['\"]"),))


NOT_POSITIVE: tuple[Any, ...] = (0, -1, 1.5, True, "3")
NEVER_NONE = {("fit", "seed"), *(("nuts", name) for name in ("seed", "chains", "warmup", "draws", "max_tree_depth"))}
ZERO_IS_FINE = {("fit", "seed"), ("nuts", "seed"), ("nuts", "warmup")}

ROWS += [
    _not_positive(call, name, value)
    for call, names in {
        "fit": ("seed", "max_steps", "num_particles", "batch_size", "draws"),
        "nuts": ("seed", "chains", "warmup", "draws", "max_tree_depth"),
    }.items()
    for name in names
    for value in (*NOT_POSITIVE, *([None] if (call, name) in NEVER_NONE else []))
    if not (value == 0 and value is not False and (call, name) in ZERO_IS_FINE)
]


# --- mistakes that must not be errors: what they give is looked at in test_outcomes.py ----------------------------------


class Unpicklable:
    """A model that cannot be pickled for worker processes: it holds a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.__name__ = "unpicklable"

    def __call__(self, x: Tensor, y: Tensor) -> None:
        with self.lock:
            line(x, y)


def cliff(y: Tensor) -> None:
    """The data pull ``mu`` to where the density is not a number."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    pyro.factor("cliff", torch.where(mu > 2.0, float("nan"), 0.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def shrunk(y: Tensor) -> None:
    """A tight prior, so that a missing scale N/B shows in the mean."""
    w = pyro.sample("w", dist.Normal(0.0, 0.1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w, 1.0), obs=y)


def shrunk_by_subsample(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 0.1))
    with pyro.plate("rows", len(y), subsample_size=10) as i:
        pyro.sample("y", dist.Normal(w, 1.0), obs=y[i])


def masked(y: Tensor) -> None:
    """Missing values handled by the model itself, as the message about NaN advises."""
    seen = ~torch.isnan(y)
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)), poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.where(seen, y, 0.0))


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    Steps().fit(_line())  # imports and caches are not part of any row
    for row in ROWS:
        outcome = run(row)
        kind = type(outcome.error).__name__ if outcome.error is not None else "warning" if outcome.warned else "NOTHING"
        print(f"{row.id:4} {row.what:42} {1000 * outcome.seconds:5.0f} ms  {kind}: {outcome.message}")


if __name__ == "__main__":
    main()
