"""``lvm.gaps``: where a fit with local latents loses what it loses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base import randomness
from pyrolvm._base.errors import ArgumentError, ProblemError, checked_seed, positive_int, unknown_name
from pyrolvm._base.habits import verb
from pyrolvm._base.progress import Progress
from pyrolvm._check.gaps.collapse import collapse
from pyrolvm._check.gaps.marginal import RowEvidence, annealed, importance
from pyrolvm._check.gaps.refine import elbo, refine
from pyrolvm._check.gaps.result import FEW_EFFECTIVE, Gaps
from pyrolvm._check.gaps.rows import Gaussians, Rows, matched_noise, row_plate
from pyrolvm._check.gaps.storage import CODEC, COMMAND
from pyrolvm._methods.exact import exact
from pyrolvm._program.problem import Problem
from pyrolvm._report.origin import read
from pyrolvm._results import Fit, store

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METHODS", "gaps"]

Array = NDArray[np.float64]

METHODS = ("auto", "exact", "importance", "ais")

DRAWS, PARTICLES, RUNGS = 1_000, 100, 100
"""Draws of a row for its ELBOs and its evidence; particles of a row and rungs where it is annealed."""

STEPS, NOISE = 300, 16
"""Steps of refinement, and draws of each row at a step."""

INFORMATION = 4
"""Draws of a row for the mutual information."""


@verb
def gaps(
    fit: Fit,
    *,
    rows: int | Sequence[int] | Tensor | None = None,
    method: str = "auto",
    draws: int | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> Gaps:
    r"""Splits what a fit with local latents loses into what its family and what its encoder loses, and finds collapsed units.

        >>> encoder = lvm.fit(lvm.problem("vae", images=100), "amortized", max_steps=200)
        >>> lvm.gaps(encoder, rows=10).figures

    .. math:: \log p(x_n) - \mathrm{ELBO}_n =
        \underbrace{\log p(x_n) - \max_\lambda \mathrm{ELBO}_n(\lambda)}_{\text{approximation gap}}
        + \underbrace{\max_\lambda \mathrm{ELBO}_n(\lambda) - \mathrm{ELBO}_n}_{\text{amortisation gap}}

    :math:`\lambda` are the parameters that the guide's own family has for one row: location and scale of a mean-field Gaussian, say.
    The model's learnable parameters are held at the fitted ones. The evidence is that of :func:`pyrolvm.exact` where it applies, else
    of importance sampling from a Student t about each row's best Gaussian, and of annealing for rows where that has few effective
    draws.

    When not to trust it: refinement starts at the encoder's output and finds the best Gaussian nearby; a better one at another mode
    would make the amortisation gap larger. An evidence by importance sampling is too low where it is off, and the approximation gap
    with it.

    Args:
        fit: a fit whose latents are all in one plate and whose guide gives each row Gaussians, or transforms of such, of its own:
            ``amortized``, ``mean_field`` with ``precondition="none"``, or an encoder of the user's.
        rows: which rows to look at, or how many, evenly spread; by default all.
        method: how the evidence of rows is found: ``"exact"``, ``"importance"``, ``"ais"``, or ``"auto"`` for the first that applies.
        draws: draws, or annealed particles, of each row; by default 1,000 draws, 100 particles.
        steps: steps of refinement.
        seed: makes it repeatable.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in.
        resume: with ``out``: return the finished result that is there, if it is of the same fit, options and seed; what was
            killed is run again. ``"any-version"`` under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this one is finished.

    Raises:
        ArgumentError: if it is no fit, or an argument is out of range.
        GuideError: if the guide has no Gaussian for each row, naming the site.
        ProblemError: if rows have no evidence of their own, naming the site; or if ``exact`` does not apply.

    References:
        Cremer, Li, Duvenaud, *Inference suboptimality in variational autoencoders*, https://arxiv.org/abs/1801.03558;
        Kim et al., *Semi-amortized variational autoencoders*, https://arxiv.org/abs/1802.02550 (refinement)
    """
    given = dict(locals())
    if not isinstance(fit, Fit):
        raise ArgumentError(f"gaps takes a Fit, got {type(fit).__name__}. Fix: pass what lvm.fit returns.")
    fit.check_density("gaps")
    problem = fit.attached
    if fit.guide is None:
        raise ArgumentError(
            f"{fit.name} was loaded without its guide. Fix: lvm.load(path, problem=problem, guide=the guide function)."
        )
    if method not in METHODS:
        raise unknown_name("evidence method", method, METHODS)
    if draws is not None:
        positive_int("draws", draws, minimum=20)
    positive_int("steps", steps, minimum=10)
    seed = checked_seed(seed)
    asked = runs.order(out, resume, overwrite)
    about = (
        {}
        if out is None
        else store.identity("Gaps", problem, fit.guide, seed, {"of": fit, **store.counted(gaps, given)})
    )
    return runs.run(
        asked, COMMAND, about, CODEC, lambda run: _gaps(fit, problem, rows, method, draws, steps, seed, progress)
    )


def _gaps(
    fit: Fit,
    problem: Problem,
    rows: int | Sequence[int] | Tensor | None,
    method: str,
    draws: int | None,
    steps: int,
    seed: int,
    progress: bool | Callable[[int, int, str], None],
) -> Gaps:
    plate = row_plate(problem)
    indices = _indices(rows, problem.plates[plate].size, problem)
    exact = _exact_total(fit, problem, indices, plate, method) if method in ("auto", "exact") else None
    started = time.perf_counter()
    generator = torch.Generator().manual_seed(randomness.folded(seed))
    with problem.session(seed=seed, params=fit.params):
        parts = Rows.of(fit, indices)
        with Progress(f"gaps of {fit.name}", steps, progress) as bar:
            best, course = refine(
                parts, steps, NOISE, generator, lambda done, now: bar.update(done, lambda: f"{now:.3f} nats a row")
            )
        noise = matched_noise(
            max(draws or DRAWS, 4 * parts.guide.size), parts.count, parts.guide.size, generator, parts.guide.loc
        )
        ours, theirs = (elbo(parts, family, noise).cpu().numpy() for family in (parts.guide, best))
        random = np.random.default_rng([seed, 4])
        if method == "ais":
            found = annealed(parts, best, draws or PARTICLES, random, RUNGS)
        else:
            found = importance(parts, best, draws or DRAWS, generator)
        if method == "auto" and exact is None:
            found = _mended(fit, parts, indices, best, found, random)
        units = collapse(parts, INFORMATION, generator)
        table = _table(indices, found, ours, theirs)
    name = "exact" if exact is not None else "annealing" if method == "ais" else "importance sampling"
    import pandas as pd

    return Gaps(
        fit.name, parts.count, _means(table, found, exact), table, name, units,
        pd.Series(course, index=pd.RangeIndex(1, steps + 1, name="step"), name="elbo"), time.perf_counter() - started,
        read(fit.data["posterior"].attrs),
    )  # fmt: skip


def _mended(
    fit: Fit, parts: Rows, indices: Tensor | None, best: Gaussians, found: RowEvidence, random: np.random.Generator
) -> RowEvidence:
    """The evidence with that of rows of few effective draws by annealing instead."""
    at = np.flatnonzero(found.ess < FEW_EFFECTIVE)
    if not len(at):
        return found
    few = torch.as_tensor(at)
    chosen = few if indices is None else indices.cpu()[few]
    try:
        part = Rows.of(fit, chosen.to(parts.problem.device))
    except ProblemError:  # rows that the model does not let be taken apart
        return found
    here = few.to(best.loc.device)
    again = annealed(part, Gaussians(best.loc[here], best.tril[here], best.free), PARTICLES, random, RUNGS)
    value, error, ess = (np.array(one) for one in (found.value, found.error, found.ess))
    value[at], error[at], ess[at] = again.value, again.error, again.ess
    return RowEvidence(value, error, ess)


def _indices(rows: object, size: int, problem: Problem) -> Tensor | None:
    if rows is None:
        return None
    if isinstance(rows, Sequence | Tensor | np.ndarray):
        return torch.as_tensor(rows, device=problem.device)
    count = min(positive_int("rows", rows, minimum=2), size)
    return torch.linspace(0, size - 1, count, device=problem.device).round().long()


def _exact_total(fit: Fit, problem: Problem, indices: Tensor | None, plate: str, method: str) -> float | None:
    """The evidence of the rows together, where it has a closed form.

    Raises:
        ProblemError: if it has none, and was asked for.
    """
    try:
        part = problem
        if indices is not None:
            batch = problem.batch(indices, plate=plate)
            if problem.plates[plate].subsampled:
                raise ProblemError(f"{problem.name} subsamples by itself. Fix: leave rows out.")
            part = Problem(problem.program, *batch.args, **batch.kwargs)
        return exact(part, draws=10, params=fit, progress=False).evidence.value
    except ProblemError:
        if method == "exact":
            raise
        return None


def _table(indices: Tensor | None, found: RowEvidence, ours: Array, theirs: Array) -> pd.DataFrame:
    import pandas as pd

    def error(values: Array) -> Array:
        spread: Array = values.std(axis=0, ddof=1) / math.sqrt(len(values))
        return spread

    index = range(len(found.value)) if indices is None else indices.cpu().numpy()
    return pd.DataFrame(
        {
            "evidence": found.value, "evidence_error": found.error, "best": theirs.mean(0), "best_error": error(theirs),
            "elbo": ours.mean(0), "elbo_error": error(ours), "approximation_gap": found.value - theirs.mean(0),
            "approximation_gap_error": np.hypot(found.error, error(theirs)), "amortization_gap": (theirs - ours).mean(0),
            "amortization_gap_error": error(theirs - ours), "ess": found.ess,
        },
        index=pd.Index(index, name="row"),
    )  # fmt: skip


def _means(table: pd.DataFrame, found: RowEvidence, exact: float | None) -> dict[str, float]:
    """Means over rows with their Monte Carlo errors; not the errors of rows as a sample of others."""
    count = len(table)

    def together(errors: Any) -> float:
        return float(np.sqrt(np.sum(np.square(errors))) / count)

    # What is left of the bias of a logarithm after its first term is taken away is of the order of its square.
    by_rows, noise = float(table["evidence"].mean()), together(found.error) + float(np.mean(found.error**4)) / 4
    evidence, error = (by_rows, noise) if exact is None else (exact / count, 0.0)
    best, own = float(table["best"].mean()), float(table["elbo"].mean())
    best_error, own_error = together(table["best_error"]), together(table["elbo_error"])
    figures = {
        "evidence": evidence, "evidence_error": error, "best": best, "best_error": best_error, "elbo": own, "elbo_error": own_error,
        "approximation_gap": evidence - best, "approximation_gap_error": math.hypot(error, best_error),
        "amortization_gap": best - own, "amortization_gap_error": together(table["amortization_gap_error"]),
        "gap": evidence - own, "gap_error": math.hypot(error, own_error),
    }  # fmt: skip
    if exact is not None:
        figures |= {"evidence_by_rows": by_rows, "evidence_by_rows_error": noise}
    return figures
