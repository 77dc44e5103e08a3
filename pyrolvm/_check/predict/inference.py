"""``lvm.predict``: what a posterior says of new data, and the density of new data that are known."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base import budget, runtime
from pyrolvm._base.errors import ArgumentError, DataError, ProblemError, checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._check.predict.arguments import Arguments, arguments
from pyrolvm._check.predict.coding import labels_along
from pyrolvm._check.predict.members import Kept, kept_sites, known_terms, memberships
from pyrolvm._check.predict.running import Predicting, observed_values, prior_terms
from pyrolvm._check.predict.scores import scores, totals
from pyrolvm._program.batching import Batch
from pyrolvm._program.data import cast
from pyrolvm._program.density import Evaluator
from pyrolvm._program.names import Dimensions, variable
from pyrolvm._program.problem import Problem
from pyrolvm._program.program import ModelInfo
from pyrolvm._results import Posterior
from pyrolvm._results.datasets import described, named_dims, site_dataset
from pyrolvm._results.evaluating import every

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["predict"]

DRAWS = 1_000
"""Draws that are taken by default."""

LOOPED = 500
"""The same where the program runs them one by one."""

MOST_NUMBERS = 20_000_000
"""Numbers that a group of the result may have."""

KINDS = ("draws", "mean")

UNORDERED = ("Categorical", "OneHotCategorical", "Multinomial")
"""Distributions whose values have no order."""


@at_the_door
def predict(
    posterior: Posterior,
    *args: Any,
    members: Mapping[str, str | Sequence[int | None]] | None = None,
    rows: int | None = None,
    kind: str = "draws",
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
    - latents of rows are drawn anew for new rows;
    - sites that the model did not have in the fit, such as the next steps of a series, are drawn given the others.

    Args:
        posterior: any result with its problem: of ``fit``, ``nuts``, ``exact``, ``infer`` or ``load``.
        *args: new values of the model's positional arguments.
        members: for a plate, which member of the fit each member is: ``"same"``, ``"new"``, or a number for each, ``None`` for a
            new one.
        rows: how many rows to predict, where no argument tells.
        kind: ``"draws"`` of the predictive distribution, or its ``"mean"`` given each draw of the posterior, where distributions
            know one.
        draws: posterior draws to take, evenly among all: as many of each chain, so that there may be a few more. By default 1,000,
            fewer where the result would fill the memory.
        seed: makes it repeatable.
        **kwargs: new values of arguments by name; one that is called like an option of this function is given by position.

    Returns:
        A tree with groups ``predictions`` (dims ``(chain, draw, ...)``; deterministic sites and new members' latents too),
        ``log_score`` (log densities of what is given, by draw and row), ``scores`` (of what is given, by row: log predictive density
        ``<site>_lpd`` with its Monte Carlo error, ``<site>_crps`` and ``<site>_pit``; sums and coverages are its attributes), and
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
    with runtime.undisturbed():
        return _predicted(posterior, args, kwargs, members or {}, rows, kind, draws, seed)


def _predicted(
    posterior: Posterior,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    members: Mapping[str, str | Sequence[int | None]],
    rows: int | None,
    kind: str,
    draws: int | None,
    seed: int,
) -> xr.DataTree:
    import xarray as xr

    old, began = posterior.attached, time.perf_counter()
    asked = arguments(old, args, kwargs, rows)
    new, predicted = _problem(old, asked)
    fresh = bool(asked.given) or rows is not None
    if not fresh:
        predicted = frozenset(site.name for site in old.observed)
    who = memberships(old, new, members, fresh=fresh)
    kept = kept_sites(old, new, who)
    values, chains, step = _draws(posterior, new, set(kept), draws)
    if fresh:
        _check_priors(posterior, new, kept, values, set(members), asked.given)
    one = Predicting(new, kept, predicted, mean=kind == "mean")
    with new.session(seed=seed, params=posterior.params), torch.no_grad():
        many = Evaluator(one, values, what="predict")
        if many.way == "loop" and draws is None:
            total = len(next(iter(values.values())))
            fewer = math.ceil(total / budget.affordable(many.cost, min(LOOPED, total)))
            values, step = every(values, chains, fewer), step * fewer
        found = many(values)
    attrs = {
        "pyrolvm_problem": old.name, "kind": kind, "seed": seed, "thinned_by": step, "evaluated_by": many.way,
        "seconds": time.perf_counter() - began, "inference_library": "pyrolvm",
    }  # fmt: skip
    return xr.DataTree.from_dict(_groups(new, asked, found, chains, attrs))


def _problem(old: Problem, asked: Arguments) -> tuple[Problem, frozenset[str]]:
    """The model with its new arguments, and the observed sites that are predicted.

    Raises:
        ProblemError: if anything but observed values depends on what stands for observations that were left out.
    """
    new = _made(old, asked.values, asked)
    if not asked.left_out:
        return new, frozenset()
    here = observed_values(new)
    try:
        other = _made(old, asked.other, asked)
    except (
        DataError,
        ProblemError,
    ):  # values that the model does not take: what is observed is known by its value alone
        return new, _told(old, asked, _named(new, asked, here))
    there = observed_values(other)
    moved = {name for name, value in here.items() if name not in there or not torch.equal(value, there[name])}
    predicted = _told(old, asked, _named(new, asked, here) | moved)
    _check_only_observed(old, asked, new, other, predicted)
    return new, predicted


def _told(old: Problem, asked: Arguments, predicted: frozenset[str]) -> frozenset[str]:
    """The sites, where there are any.

    Raises:
        ProblemError: if it is not known which sites observe what was left out.
    """
    if predicted:
        return predicted
    raise ProblemError(
        f"nothing says which sites of {old.name} observe {', '.join(sorted(asked.left_out))}. "
        "Fix: give the observed values as arguments of the model that are passed on as they are, obs=argument."
    )


def _named(new: Problem, asked: Arguments, seen: Mapping[str, Tensor]) -> frozenset[str]:
    """Observed sites whose values are an argument that was left out."""
    left = [new.arguments[name] for name in asked.left_out if name in new.arguments]
    return frozenset(
        name
        for name, value in seen.items()
        if any(one.shape == value.shape and torch.equal(one.to(value.dtype), value) for one in left)
    )


def _made(old: Problem, values: Mapping[str, Any], asked: Arguments) -> Problem:
    """The problem's model with other arguments, in its dtype and on its device; labels stay where lengths do."""
    listed = [(name, cast(value, dtype=old.dtype, device=old.device, modules=False)) for name, value in values.items()]
    args = tuple(value for _, value in listed[: asked.positional])
    made = Problem(_bare(old.program), *args, **dict(listed[asked.positional :]))
    made = made.to(dtype=old.dtype, device=old.device)
    sizes = {
        dim: n
        for name, dims in _dims(made, old.info).items()
        for dim, n in zip(dims, made.sites[name].shape, strict=True)
    }
    coords = labels_along(old, asked.codes, sizes)
    dims = {name: names for name, names in old.info.dims.items() if name in made.sites}
    return made.replace(name=old.name, info=ModelInfo(dims=dims, coords=coords))


def _dims(made: Problem, info: ModelInfo) -> dict[str, list[str]]:
    return {name: site.dim_names(made.plates, info.dims.get(name)) for name, site in made.sites.items()}


def _bare(program: Any) -> Any:
    """The program without what it says about itself: labels of other rows would not fit."""
    if isinstance(program, torch.nn.Module):
        return program

    @functools.wraps(program)
    def bare(*args: Any, **kwargs: Any) -> Any:
        return program(*args, **kwargs)

    bare.__dict__.pop("__pyrolvm_model__", None)
    return bare


def _check_only_observed(
    old: Problem, asked: Arguments, new: Problem, other: Problem, predicted: frozenset[str]
) -> None:
    """Refuses a model that reads observations other than to observe them: what stands for them would be taken for data."""
    seen = []
    for made in (new, other):
        one = Predicting(made, {}, predicted, mean=False)
        with made.session(seed=0), torch.no_grad():
            seen.append(one({}))
    for name, value in seen[0].items():
        there = seen[1].get(name)
        if name.startswith("log_score/"):
            continue
        if there is None or there.shape != value.shape or not torch.equal(value.nan_to_num(), there.nan_to_num()):
            raise ProblemError(
                f"{old.name} reads {', '.join(sorted(asked.left_out))} other than to observe it: site "
                f"{name.removeprefix('predictions/')!r} depends on its values. Fix: pass them as arguments "
                "of their own, or write the next value as a site that follows from the sites before it."
            )


def _check_priors(
    posterior: Posterior,
    new: Problem,
    kept: Mapping[str, Kept],
    values: Mapping[str, Tensor],
    said: set[str],
    given: frozenset[str],
) -> None:
    """Refuses to keep draws of a latent whose distribution the new arguments change: they are of another latent.

    Raises:
        ProblemError: naming it. Not of members of a plate that are said to be known.
    """
    old, draw = posterior.attached, {name: value[0] for name, value in values.items()}
    as_before = {name: Kept({}) for name in kept}

    def terms(problem: Problem, which: Mapping[str, Kept], batch: Batch | None = None) -> dict[str, Tensor]:
        with problem.session(seed=0, params=posterior.params), torch.no_grad():
            return prior_terms(problem, draw, which, batch)

    before, now = terms(old, as_before), terms(new, kept)
    try:  # a law may be the same at these arguments, as a stationary process is at shifted places, and still be one of them
        moved = terms(old, as_before, _moved(old, given))
    except (RuntimeError, ValueError, IndexError, KeyError):
        moved = before
    for name in before.keys() & now.keys():
        site = new.sites[name]
        was, is_ = known_terms(kept[name], site.event_dim, before[name], now[name])
        same = _alike(was, is_) and (bool(site.plates) or _alike(before[name], moved.get(name, before[name])))
        if not same and not said & set(site.plates):
            plate = next((plate for plate in site.plates), "")
            fix = "write the new values as sites of their own"
            if plate:
                fix = f'members={{"{plate}": "new"}} draws it anew, members={{"{plate}": "same"}} keeps it'
            raise ProblemError(
                f"the distribution of latent {name!r} of {new.name} depends on the new arguments, so that its draws are not of these. "
                f"Fix: {fix}."
            )


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True)


def _moved(old: Problem, given: frozenset[str]) -> Batch:
    """The fit's rows, with other values of the arguments that are given anew: in another order and on another scale."""
    whole, names = Batch.of(old, None), list(old.arguments)

    def other(name: str, value: Any) -> Any:
        floats = isinstance(value, Tensor) and value.is_floating_point() and bool(value.dim())
        return 1.5 * value.roll(1, 0) if name in given and floats else value

    args = tuple(other(name, value) for name, value in zip(names, whole.args, strict=False))
    return Batch(args, {name: other(name, value) for name, value in whole.kwargs.items()}, whole.plates)


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
    if not values:
        values["_lane"] = torch.zeros(chains * count, dtype=new.dtype, device=new.device)
    return values, chains, step


def _groups(
    new: Problem, asked: Arguments, found: Mapping[str, Tensor], chains: int, attrs: Mapping[str, Any]
) -> dict[str, Any]:
    """The groups of the result."""
    dims, coords = named_dims(new), Dimensions(new).coords()
    groups = {}
    for group in ("predictions", "log_score"):
        values = {
            name.removeprefix(f"{group}/"): value.reshape(chains, -1, *value.shape[1:]).cpu().numpy()
            for name, value in found.items()
            if name.startswith(f"{group}/")
        }
        if values:
            named = {name: dims[name][: value.ndim - 2] for name, value in values.items() if name in dims}
            groups[group] = described(site_dataset(values, named, attrs=attrs, coords=coords), new, asked.codes)
    scored = _scores(new, found, attrs, drawn=attrs["kind"] == "draws")
    if scored is not None:
        groups["scores"] = scored
    constant = {
        name: value.cpu().numpy()
        for name, value in new.arguments.items()
        if isinstance(value, Tensor) and name not in asked.left_out
    }
    if constant:
        told = site_dataset(constant, {}, attrs=attrs, sample_dims=())
        groups["predictions_constant_data"] = described(told, new, asked.codes)
    return groups


def _scores(new: Problem, found: Mapping[str, Tensor], attrs: Mapping[str, Any], *, drawn: bool) -> Any:
    """The scores of what is given, by row; ``None`` where nothing is."""
    seen, dims, told = observed_values(new), named_dims(new), dict(attrs)
    values: dict[str, Any] = {}
    named: dict[str, list[str]] = {}
    for key, term in found.items():
        if not key.startswith("log_score/"):
            continue
        name = key.removeprefix("log_score/")
        ordered = drawn and new.sites[name].distribution not in UNORDERED
        draws = found[f"predictions/{name}"].cpu().numpy() if ordered else None
        each = scores(term.cpu().numpy(), draws, seen[name].cpu().numpy())
        told |= totals(name, each)
        for what, value in each.items():
            values[f"{name}_{what}"], named[f"{name}_{what}"] = value, dims[name][: value.ndim]
    if not values:
        return None
    return site_dataset(values, named, attrs=told, coords=Dimensions(new).coords(), sample_dims=())
