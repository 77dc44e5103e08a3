"""``lvm.predict``: what a posterior says of new data, and the density of new data that are known."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base import budget, runtime
from pyrolvm._base.errors import ArgumentError, checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._check.predict.arguments import arguments, of_new_rows
from pyrolvm._check.predict.checking import check_laws, check_priors
from pyrolvm._check.predict.groups import groups
from pyrolvm._check.predict.inferring import Inferring, inferring
from pyrolvm._check.predict.running import Predicting, Quantity
from pyrolvm._check.predict.setting import Setting, setting
from pyrolvm._check.predict.streaming import BEHIND, Words, batches, check_no_stream, summarised
from pyrolvm._program.density import Evaluator
from pyrolvm._program.names import variable
from pyrolvm._program.origin import origin_of
from pyrolvm._program.problem import Problem
from pyrolvm._report.origin import ORIGIN
from pyrolvm._results import Posterior
from pyrolvm._results.evaluating import every

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["draws_taken", "predict", "scored"]

DRAWS = 1_000
"""Draws that are taken by default."""

LOOPED = 500
"""The same where the program runs them one by one."""

MOST_NUMBERS = 20_000_000
"""Numbers that a group of the result may have."""

PART = 300_000
"""Numbers of a batch that are made at once: few, since what is made on the way to them is as large, and stays in the heap in pieces."""

SECONDS = 60.0
"""What drawing from a model without latents may take, where nothing says how many draws are wanted: a flow of images is dear."""

KINDS = ("draws", "mean")


@at_the_door
def predict(
    posterior: Posterior,
    *args: Any,
    members: Mapping[str, str | Sequence[int | None]] | None = None,
    rows: int | None = None,
    kind: str = "draws",
    quantities: Mapping[str, Quantity] | bool = False,
    summary: bool = False,
    draws: int | None = None,
    seed: int = 0,
    **kwargs: Any,
) -> xr.DataTree:
    r"""Predicts new data from a posterior, or says how well it predicts data that are known.

        >>> fit = lvm.fit(lvm.Problem(model, x, y))
        >>> lvm.predict(fit, x_new)["predictions"]["y"]  # draws of y at new covariates
        >>> lvm.predict(fit, x_new, y_new)["log_score"]["y"]  # the log density of y_new, by draw and row

    New values are given as to the model itself. Observations that are left out (or ``None``) are predicted, those given are scored;
    with no new value at all it is the posterior predictive of the data's own rows. What becomes of each latent follows from the
    program:

    - what all rows share, and members of a plate without data (groups, users), keep their draws; members beyond those of the fit are
      new, and drawn from their distribution given the rest of each draw;
    - latents of rows are drawn anew for new rows, or inferred where observations of these rows are given: in closed form, by the fit's
      encoder, or at their mode; these observations are then in group ``reconstructions`` too, at the inferred latents;
    - sites that the model did not have in the fit, such as the next steps of a series, are drawn given the others;
    - where the program ties rows together (a Gaussian process, a walk, a state-space model), new rows come behind those of the fit, and
      are drawn from the model's own law given these. Arguments that begin with the fit's rows are the whole series already; what comes
      back is of the rows that are new.

    Args:
        posterior: any result with its problem: of ``fit``, ``nuts``, ``exact``, ``infer`` or ``load``.
        *args: new values of the model's positional arguments.
        members: for a plate, which member of the fit each member is: ``"same"``, ``"new"``, or a number for each, ``None`` for a
            new one.
        rows: how many rows to predict, where no argument tells.
        kind: ``"draws"`` of the predictive distribution, or its ``"mean"`` given each draw of the posterior, where distributions
            know one.
        quantities: functions by name, each of a dictionary of all values of a run (latents, deterministic sites, predictions) for one
            draw; their results are in ``predictions``. ``True`` for the model's own.
        summary: whether to keep the mean, sd and quantiles of each value (dimension ``statistic``) in place of its draws. Rows then go
            batch after batch, so that memory stays bounded; the only argument may be an iterator or a loader of batches, each of them
            a tuple of arguments, a dictionary of them, or a table.
        draws: posterior draws to take, evenly among all: as many of each chain, so that there may be a few more. By default 1,000,
            fewer where the result would fill the memory. Where no draw of the fit goes on (a model without latents, or with those of
            new rows alone), as many as are asked for; of a model without latents by default fewer where 1,000 would take minutes.
        seed: makes it repeatable.
        **kwargs: new values of arguments by name; one that is called like an option of this function is given by position.

    Returns:
        A tree with groups ``predictions`` (dims ``(chain, draw, ...)``; deterministic sites and new members' latents too),
        ``log_score`` (log densities of what is given, by draw and row), ``scores`` (of what is given, by row: log predictive density
        ``<site>_lpd`` with its Monte Carlo error, ``<site>_crps`` and ``<site>_pit``; ``lpd`` of several sites of the same rows
        together; sums and coverages are its attributes), and
        ``predictions_constant_data`` (the new arguments).

    Raises:
        ArgumentError: if arguments do not go with the model or with each other, or nothing says who the members of a plate are.
        ProblemError: if a latent has another shape and nothing says why, or the model reads observations other than to observe them.
        StoreError: if the result was loaded without its problem.
    """
    if not isinstance(posterior, Posterior):
        raise ArgumentError(
            f"predict takes a result of fit, nuts, exact, infer or load, got {type(posterior).__name__}. "
            "Fix: pass the result, lvm.predict(fit, x_new)."
        )
    if kind not in KINDS:
        raise ArgumentError(f'kind must be "draws" or "mean", got {kind!r}. Fix: pass kind="mean" for expectations.')
    seed = checked_seed(seed)
    for name, value in (("rows", rows), ("draws", draws)):
        if value is not None:
            positive_int(name, value)

    import xarray as xr

    def one(given: Words, seed: int, draws: int | None = draws) -> dict[str, xr.Dataset]:
        return _predicted(posterior, *given, members or {}, rows, kind, quantities, draws, seed, batch=summary)

    with runtime.undisturbed():
        if not summary:
            check_no_stream(args)
            return xr.DataTree.from_dict(one((args, kwargs), seed))
        asked = draws_taken(posterior, draws)
        every = batches(posterior.attached, args, kwargs, asked)
        return xr.DataTree.from_dict(summarised(every, lambda given, seed: one(given, seed, asked), seed))


def draws_taken(posterior: Posterior, asked: int | None) -> int:
    """How many draws a prediction in batches takes: as many as there are, or of a model without latents as are asked for."""
    wanted = asked or DRAWS
    return min(wanted, posterior.num_draws) if posterior.attached.latents else wanted


def scored(
    posterior: Posterior,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    members: Mapping[str, str | Sequence[int | None]],
    draws: int | None,
    seed: int,
) -> xr.Dataset | None:
    """Group ``scores`` of :func:`predict` for rows that are known, batch after batch; ``None`` where nothing is scored.

    Without arguments they are the fit's own rows, with their own latents as the fit knows them.
    """
    own = not args and not kwargs

    def one(given: Words, seed: int) -> dict[str, xr.Dataset]:
        return _predicted(posterior, *given, members, None, "draws", False, draws, seed, batch=not own, own_scored=own)

    with runtime.undisturbed():
        every = batches(posterior.attached, args, kwargs, draws_taken(posterior, draws))
        return summarised(every, one, seed).get("scores")


def _predicted(
    posterior: Posterior,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    members: Mapping[str, str | Sequence[int | None]],
    rows: int | None,
    kind: str,
    quantities: Mapping[str, Quantity] | bool,
    draws: int | None,
    seed: int,
    *,
    batch: bool = False,
    own_scored: bool = False,
) -> dict[str, xr.Dataset]:
    old, began = posterior.attached, time.perf_counter()
    with of_new_rows():
        asked = arguments(old, args, kwargs, rows)
        found = setting(old, asked, members, rows, _two(posterior), scored=own_scored)
    values, chains, step = _draws(posterior, found.new, set(found.kept), draws)
    if found.fresh:
        check_priors(posterior, found, values, set(members))
        check_laws(posterior, found, values)
    inferred = _inferring(posterior, found, values, seed)
    one = Predicting(
        found.new, found.kept, found.predicted, mean=kind == "mean", going=found.going, inferred=inferred,
        quantities=_quantities(old, quantities), shown=found.shown,
    )  # fmt: skip
    with found.new.session(seed=seed, params=posterior.params), torch.no_grad():
        many = Evaluator(one, values, what="predict")
        total = len(next(iter(values.values())))
        most = total
        if draws is None and many.way == "loop":
            most = budget.affordable(many.cost, min(LOOPED, total))
        if draws is None and not found.new.latents:  # no density depends on how many there are
            most = budget.affordable(many.cost, most, SECONDS)
        if most < total:
            fewer = math.ceil(total / most)
            values, step = every(values, chains, fewer), step * fewer
        part = max(1, PART // max(sum(site.numel for site in found.new.sites.values()), 1)) if batch else None
        drawn = many(values, chunk=part, record=not batch)
    attrs = {
        "pyrolvm_problem": old.name, "kind": kind, "seed": seed, "draws": len(next(iter(values.values()))), "thinned_by": step,
        "evaluated_by": many.way,
        "seconds": time.perf_counter() - began, "inference_library": "pyrolvm",
        **({} if found.behind is None else {BEHIND: found.behind.before}),
        **({} if inferred is None else {"latents_of_rows": inferred.how}),
        ORIGIN: origin_of(old).stored(),
    }  # fmt: skip
    return groups(found, drawn, chains, attrs)


def _inferring(posterior: Posterior, found: Setting, values: Mapping[str, Tensor], seed: int) -> Inferring | None:
    """How latents of new rows follow from what is given of them."""
    draw = {name: value[0] for name, value in values.items()}
    one = Predicting(found.new, found.kept, found.predicted, mean=False, going=found.going)
    with found.new.session(seed=seed, params=posterior.params), torch.no_grad():
        nodes = one.run(draw)
    start = {site.name: nodes[site.name]["value"] for site in found.new.latents if site.name in nodes}
    return inferring(posterior, found, start)


def _quantities(problem: Problem, asked: Mapping[str, Quantity] | bool) -> dict[str, Quantity]:
    """The functions by name: those that are given, or the model's own.

    Raises:
        ArgumentError: if one is no function, or is called like a site.
    """
    if isinstance(asked, bool):
        return dict(problem.quantities) if asked else {}
    for name, function in asked.items():
        if not callable(function) or name in problem.sites:
            why = "is called like a site" if callable(function) else f"is {type(function).__name__}, not a function"
            raise ArgumentError(
                f"quantity {name!r} {why}. Fix: pass quantities={{'name': function of a dict of the sites' values}}."
            )
    return dict(asked)


def _two(posterior: Posterior) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The first and the last draw of the latents."""
    problem, data = posterior.attached, posterior.data["posterior"]
    both: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for site in problem.latents:
        array = data[variable(site.name)].transpose("chain", "draw", ...).values
        for draw, value in zip(both, (array[0, 0], array[-1, -1]), strict=True):
            tensor = torch.as_tensor(np.array(value), device=problem.device)
            draw[site.name] = tensor.to(problem.dtype) if tensor.is_floating_point() else tensor
    return both


def _draws(
    posterior: Posterior, new: Problem, names: set[str], asked: int | None
) -> tuple[dict[str, Tensor], int, float]:
    """Draws of the latents that go on, each of shape ``(draws, ...)``; how many chains they are of, and every how manieth."""
    data = posterior.data["posterior"]
    sizes = data.sizes
    chains, each = int(sizes["chain"]), int(sizes["draw"])
    room = max(1, MOST_NUMBERS // max(sum(site.numel for site in new.sites.values()), 1))
    wanted = min(asked or min(DRAWS, room), chains * each)
    count = min(each, math.ceil(wanted / chains))
    taken = np.arange(count) * each // count  # evenly among those of each chain
    step = each // count if each % count == 0 else round(each / count, 3)
    values = {}
    for name in names:
        array = data[variable(name)].transpose("chain", "draw", ...).values[:, taken]
        tensor = torch.as_tensor(array, device=new.device)
        tensor = tensor.to(new.dtype) if tensor.is_floating_point() else tensor
        values[name] = tensor.reshape(-1, *tensor.shape[2:])
    if not values:  # no draw of the fit goes on, so that there may be as many as are wanted
        count, step = math.ceil((asked or min(DRAWS, room)) / chains), 1
        values["_lane"] = torch.zeros(chains * count, dtype=new.dtype, device=new.device)
    return values, chains, step
