"""``lvm.evaluate``: what a fitted model is worth on data that it has not seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base.errors import ArgumentError, ProblemError, checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.progress import Progress
from pyrolvm._check.evaluate.assembly import Gathered, assemble
from pyrolvm._check.evaluate.held import held_out, some_rows
from pyrolvm._check.evaluate.measure import Scored, choose_image, score
from pyrolvm._check.evaluate.outliers import plain_rows
from pyrolvm._check.evaluate.probe import check_labels
from pyrolvm._check.evaluate.result import Evaluation
from pyrolvm._check.evaluate.scoring import UnknownRowsError
from pyrolvm._check.evaluate.storage import CODEC, COMMAND
from pyrolvm._check.evaluate.together import Asked, evaluated_together
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import plate_of_independent_rows
from pyrolvm._results import Fit, Posterior, store

__all__ = ["evaluate"]

DRAWS = 5_000
TRAIN_ROWS = OUTLIER_ROWS = 1_000
PROBE_ROWS, PROBE_DRAWS = 5_000, 100
"""Rows and draws of the representation that a probe is fitted to."""


@verb
@at_the_door
def evaluate(
    fit: Posterior,
    data: Any = None,
    *,
    draws: int | None = None,
    rows: int | Sequence[int] | Tensor | None = None,
    train_rows: int | Sequence[int] | Tensor = TRAIN_ROWS,
    labels: Any = None,
    train_labels: Any = None,
    outliers: Mapping[str, Any] | None = None,
    shape: Any = None,
    levels: int | None = None,
    plate: str | None = None,
    members: Mapping[str, str | Sequence[int | None]] | None = None,
    pictures: bool = True,
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> Evaluation:
    r"""Evaluates a fitted model on held-out data: its density of each row, what its latents say, what it draws.

        >>> lvm.evaluate(fit).table  # the fit's own rows; lvm.evaluate(fit, x_new) for others

    Of a fit whose rows have latents of their own alone, the density of a row is that of importance sampling from the guide, an encoder,

    .. math:: \log p(x) \approx \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad z_k \sim q(\cdot \mid x),

    which on average is too low, the less the more draws; without latents it is exact. The model's learnable parameters are the fitted
    ones. What does not apply to a model is left out, with the reason.

    Where rows share latents (regressions, hierarchies, processes), and of draws without an encoder (chains, particles, guides with
    parameters for each row), held-out rows are scored by :func:`pyrolvm.predict`,

    .. math:: \log p(x) \approx \log \frac1S \sum_{s=1}^S p(x \mid \theta_s),

    each by itself, at draws of the posterior as they are: with the log density come the CRPS and the coverage of central intervals, and
    group ``scores`` of the result has them by row, PIT as well.

    When not to trust it: rows whose k-hat is above 0.7 have weights of such heavy tails that their log p(x) is likely too low, and the
    error understates it. Figures of pictures are means of the likelihood, not draws. Rows that share latents are not independent: the
    sum of their densities is not that of all of them together.

    Args:
        fit: what :func:`pyrolvm.fit` returns, or any other result with its problem.
        data: what the fit has not seen: a problem of the same model; its arguments by name, those left out being the fit's; a tuple of
            those that have a row for each data point; or the one such argument. By default the fit's own data.
        draws: K, by default 5,000; or S, by default 1,000.
        rows: which rows to look at, or how many, evenly spread; by default all.
        train_rows: rows of the fit's own data, for the gap between them.
        labels: classes of the held-out rows, shape ``(rows of data,)``, for the accuracy of a linear classifier on posterior means.
        train_labels: classes of the fit's own rows, to fit that classifier to; by default folds of the held-out rows do.
        outliers: other data sets by name, each given as ``data`` is, of which scores shall tell the held-out rows. With them comes
            ``plain``, the control on which log p(x) by itself is known to fail: rows whose every value is the most common one.
        shape: that a row is an image: ``(height, width)``, ``(height, width, channels)`` or an :class:`pyrolvm.Image`; by default what
            the model says (``lvm.model(images=)``).
        levels: how many values a pixel had, where the likelihood is continuous and data are ``(level + noise) / levels``.
        plate: the plate whose rows are data points, where several could be meant.
        members: where rows share latents, which member of the fit each member of a plate is, as for :func:`pyrolvm.predict`.
        pictures: whether to decode reconstructions, samples, interpolations and traversals.
        seed: makes it repeatable.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in.
        resume: with ``out``: return the finished result that is there, if it is of the same fit, data, options and seed; one that was
            killed is run again. ``"any-version"`` under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this one is finished.

    Raises:
        ArgumentError: if it is no result of an inference, an argument is out of range, or nothing says who the members of a plate are.
        DataError: if data or labels are not those of the model, or not finite.
        GuideError: if the guide does not run on the rows.
        ProblemError: if rows are not scored, since nothing is observed at a site.

    References:
        Rezende, Mohamed, Wierstra, *Stochastic backpropagation and approximate inference in deep generative models*,
        https://arxiv.org/abs/1401.4082 (the estimate);
        Burda, Grosse, Salakhutdinov, *Importance weighted autoencoders*, https://arxiv.org/abs/1509.00519 (5,000 draws, active units);
        Theis, van den Oord, Bethge, *A note on the evaluation of generative models*, https://arxiv.org/abs/1511.01844
    """
    given = dict(locals())
    problem = _checked(fit)
    seed = checked_seed(seed)
    words = store.counted(evaluate, given)
    asked = runs.order(out, resume, overwrite)
    asks = {"fit": fit, "held out": data, **words}
    guide = fit.guide if isinstance(fit, Fit) else None
    about = {} if out is None else store.identity("Evaluation", problem, guide, seed, asks)

    def work(run: runs.Run | None) -> Evaluation:
        return _chosen(fit, problem, data, progress=progress, seed=seed, **words)

    return runs.run(asked, COMMAND, about, CODEC, work)


def _chosen(
    fit: Posterior,
    problem: Problem,
    data: Any,
    *,
    plate: str | None,
    draws: int | None,
    outliers: Mapping[str, Any] | None,
    members: Mapping[str, str | Sequence[int | None]] | None,
    seed: int,
    **words: Any,
) -> Evaluation:
    """By the guide, where it encodes rows that are independent given the parameters; else by draws of the posterior."""
    if draws is not None:
        draws = positive_int("draws", draws, minimum=2)
    if outliers is not None and not isinstance(outliers, Mapping):
        raise ArgumentError(
            f'outliers must be data sets by name, got {type(outliers).__name__}. Fix: pass outliers={{"other": data}}.'
        )
    try:
        chosen, why = plate_of_independent_rows(problem, plate), "rows are scored at draws of the posterior"
    except ProblemError as error:
        if not problem.observed:
            raise
        chosen, why = (
            None,
            f"rows share latents ({str(error).partition(': ')[0]})",
        )
    if isinstance(fit, Fit) and chosen is not None:
        try:
            return _evaluated(
                _with_guide(fit),
                problem,
                data,
                plate=chosen,
                draws=draws or DRAWS,
                outliers=outliers,
                seed=seed,
                **words,
            )
        except UnknownRowsError:
            why = "the guide has parameters for the fit's own rows; latents of others were inferred by lvm.predict"
    return evaluated_together(
        Asked(
            fit, data, members or {}, plate, draws, partial(some_rows, words["rows"]),
            partial(some_rows, words["train_rows"], what="train_rows"), outliers or {}, why, seed,
        )
    )  # fmt: skip


def _evaluated(
    fit: Fit,
    problem: Problem,
    data: Any,
    *,
    draws: int,
    rows: int | Sequence[int] | Tensor | None,
    train_rows: int | Sequence[int] | Tensor,
    labels: Any,
    train_labels: Any,
    outliers: Mapping[str, Any] | None,
    shape: Any,
    levels: int | None,
    plate: str,
    pictures: bool,
    seed: int,
    progress: bool | Callable[[int, int, str], None],
) -> Evaluation:
    started, chosen = time.perf_counter(), plate
    if levels is not None:
        positive_int("levels", levels, minimum=2)
    held = held_out(fit, data, chosen)
    size = held.plates[chosen].size
    indices = some_rows(rows, size)
    own = data is None
    learned = None if own else some_rows(train_rows, problem.plates[chosen].size, "train_rows")
    site, image = choose_image(held, shape, levels)
    classes = None if labels is None else check_labels(labels, size, "labels")[indices.numpy()]
    train_classes = (
        None if train_labels is None else check_labels(train_labels, problem.plates[chosen].size, "train_labels")
    )
    others = {
        str(name): held_out(fit, other, chosen, f"outliers[{name!r}]") for name, other in (outliers or {}).items()
    }
    if others:
        others |= _plain(fit, problem, held, chosen, site, min(OUTLIER_ROWS, len(indices)))
    left = {name: some_rows(OUTLIER_ROWS, other.plates[chosen].size) for name, other in others.items()}
    probe_rows = None
    if classes is not None and train_classes is not None and problem.continuous and not own:
        probe_rows = some_rows(PROBE_ROWS, len(train_classes))
    total = sum(len(part) for part in (indices, *left.values()) if part is not None)
    total += 0 if learned is None else len(learned)
    with Progress(f"evaluating {fit.name}", total, progress) as bar:
        done = 0

        def scored(what: str, of: Problem, which: Tensor, *, new: bool = True) -> Scored:
            nonlocal done
            before = done
            found = score(
                fit, of, chosen, which, draws, seed, new=new,
                told=lambda rows: bar.update(before + rows, lambda: what),
            )  # fmt: skip
            done += len(which)
            return found

        main = scored("held-out rows" if not own else "rows", held, indices, new=not own)
        train = None if learned is None else scored("training rows", problem, learned, new=False)
        apart = {name: scored(name, other, left[name]) for name, other in others.items()}
    probe = None
    if probe_rows is not None and train_classes is not None:
        found = score(fit, problem, chosen, probe_rows, PROBE_DRAWS, seed + 1, lambda _: None, new=False)
        probe = found.means, train_classes[probe_rows.numpy()]
    gathered = Gathered(
        fit=fit, problem=held, plate=chosen, site=site, image=image, levels=levels or (image.levels if image else None), draws=draws,
        main=main, train=train, outliers={name: (others[name], left[name], found) for name, found in apart.items()},
        labels=classes, probe=probe, pictures=pictures, seed=seed,
    )  # fmt: skip
    return assemble(gathered, started)


def _checked(fit: object) -> Problem:
    """The result's problem.

    Raises:
        ArgumentError: if it is no result.
    """
    if not isinstance(fit, Posterior):
        raise ArgumentError(
            f"evaluate takes a result of fit, nuts, smc, exact, infer or load, got {type(fit).__name__}. Fix: pass the result."
        )
    return fit.attached


def _with_guide(fit: Fit) -> Fit:
    """The fit.

    Raises:
        ArgumentError: if it has lost its guide, or is a point estimate.
    """
    fit.check_density("evaluate")
    if fit.guide is None and fit.attached.latents:
        raise ArgumentError(
            f"{fit.name} was loaded without its guide. Fix: lvm.load(path, problem=problem, guide=the guide function)."
        )
    return fit


def _plain(fit: Fit, problem: Problem, held: Problem, plate: str, site: str, count: int) -> dict[str, Problem]:
    """The control, where the data are one argument of the model that is observed as it is."""
    seen = [
        name
        for name, value in problem.arguments.items()
        if isinstance(value, Tensor) and value.dim() and value.shape == problem.sites[site].shape
    ]
    by_row = [
        n
        for n, v in problem.arguments.items()
        if isinstance(v, Tensor) and v.dim() and len(v) == problem.plates[plate].size
    ]
    if len(seen) != 1 or by_row != seen:
        return {}
    rows = problem.arguments[seen[0]].cpu().numpy()
    return {"plain": held_out(fit, {seen[0]: np.asarray(plain_rows(rows, max(count, 2)), dtype=rows.dtype)}, plate)}
