"""``lvm.evaluate``: what a fitted model is worth on data that it has not seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base.errors import ArgumentError, checked_seed, positive_int
from pyrolvm._base.habits import verb
from pyrolvm._base.progress import Progress
from pyrolvm._check.evaluate.assembly import Gathered, assemble
from pyrolvm._check.evaluate.held import held_out, some_rows
from pyrolvm._check.evaluate.measure import Scored, choose_image, score
from pyrolvm._check.evaluate.outliers import plain_rows
from pyrolvm._check.evaluate.probe import check_labels
from pyrolvm._check.evaluate.result import Evaluation
from pyrolvm._check.evaluate.storage import CODEC, COMMAND
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import plate_of_independent_rows
from pyrolvm._results import Fit, store

__all__ = ["evaluate"]

DRAWS = 5_000
TRAIN_ROWS = OUTLIER_ROWS = 1_000
PROBE_ROWS, PROBE_DRAWS = 5_000, 100
"""Rows and draws of the representation that a probe is fitted to."""


@verb
def evaluate(
    fit: Fit,
    data: Any = None,
    *,
    draws: int = DRAWS,
    rows: int | Sequence[int] | Tensor | None = None,
    train_rows: int | Sequence[int] | Tensor = TRAIN_ROWS,
    labels: Any = None,
    train_labels: Any = None,
    outliers: Mapping[str, Any] | None = None,
    shape: Any = None,
    levels: int | None = None,
    plate: str | None = None,
    pictures: bool = True,
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> Evaluation:
    r"""Evaluates a fitted model on held-out data: its density of each row, what its latents say, what it draws.

    With latents in the plate of the data, the density of a row is that of importance sampling from the guide, an encoder,

    .. math:: \log p(x) \approx \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad z_k \sim q(\cdot \mid x),

    which on average is too low, the less the more draws; without latents it is exact. The model's learnable parameters are the fitted
    ones. What does not apply to a model is left out, with the reason.

    When not to trust it: rows whose k-hat is above 0.7 have weights of such heavy tails that their log p(x) is likely too low, and the
    error understates it. Figures of pictures are means of the likelihood, not draws.

    Args:
        fit: what :func:`pyrolvm.fit` returns.
        data: what the fit has not seen: a problem of the same model; its arguments by name, those left out being the fit's; a tuple of
            those that have a row for each data point; or the one such argument. By default the fit's own data.
        draws: K.
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
        pictures: whether to decode reconstructions, samples, interpolations and traversals.
        seed: makes it repeatable.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in.
        resume: with ``out``: return the finished result that is there, if it is of the same fit, data, options and seed; one that was
            killed is run again. ``"any-version"`` under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this one is finished.

    Raises:
        ArgumentError: if it is no fit, or an argument is out of range.
        DataError: if data or labels are not those of the model, or not finite.
        GuideError: if the guide cannot encode new rows.
        ProblemError: if rows have no density of their own, naming the site.

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
    about = {} if out is None else store.identity("Evaluation", problem, fit.guide, seed, asks)

    def work(run: runs.Run | None) -> Evaluation:
        return _evaluated(fit, problem, data, progress=progress, seed=seed, **words)

    return runs.run(asked, COMMAND, about, CODEC, work)


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
    plate: str | None,
    pictures: bool,
    seed: int,
    progress: bool | Callable[[int, int, str], None],
) -> Evaluation:
    started = time.perf_counter()
    draws = positive_int("draws", draws, minimum=2)
    if levels is not None:
        positive_int("levels", levels, minimum=2)
    if outliers is not None and not isinstance(outliers, Mapping):
        raise ArgumentError(
            f'outliers must be data sets by name, got {type(outliers).__name__}. Fix: pass outliers={{"other": data}}.'
        )
    chosen = plate_of_independent_rows(problem, plate)
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
    """The fit's problem.

    Raises:
        ArgumentError: if it is no fit, or has lost its guide.
    """
    if not isinstance(fit, Fit):
        raise ArgumentError(f"evaluate takes a Fit, got {type(fit).__name__}. Fix: pass what lvm.fit returns.")
    problem = fit.attached
    fit.check_density("evaluate")
    if fit.guide is None and problem.latents:
        raise ArgumentError(
            f"{fit.name} was loaded without its guide. Fix: lvm.load(path, problem=problem, guide=the guide function)."
        )
    return problem


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
