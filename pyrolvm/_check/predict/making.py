"""The model of a fit with other arguments, and what of its observations is to be predicted."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import DataError, ProblemError, PyrolvmError
from pyrolvm._check.predict.arguments import Arguments
from pyrolvm._check.predict.coding import labels_along
from pyrolvm._check.predict.running import Predicting, observed_values
from pyrolvm._program.binding import written
from pyrolvm._program.data import cast
from pyrolvm._program.problem import Problem
from pyrolvm._program.program import ModelInfo

__all__ = ["made", "problem_at"]


def problem_at(old: Problem, asked: Arguments, before: int = 0) -> tuple[Problem, frozenset[str]]:
    """The model with its new arguments, and the observed sites that are predicted.

    Args:
        old: the fit's problem.
        asked: the new arguments.
        before: rows of the fit that are in front of them.

    Raises:
        ProblemError: if the model does not take the arguments, or anything but observed values depends on what stands for observations
            that were left out.
    """
    try:
        new = made(old, asked.values, asked)
    except (DataError, ProblemError) as error:
        low = _low(asked, before)
        if low is None:
            raise _other_rows(old, before, error) from error
        try:
            new, asked = made(old, low.values, low), low
        except (DataError, ProblemError):
            raise _other_rows(old, before, error) from error
    if not asked.left_out:
        return new, frozenset()
    here = observed_values(new)
    try:
        other = made(old, asked.other, asked)
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


def _low(asked: Arguments, before: int) -> Arguments | None:
    """The same with zeros in the place of counts and labels that were left out, which more laws take; ``None`` where there are none.

    Another row's count may be more than a row's total.
    """
    found = {}
    for name in asked.left_out:
        value = asked.values.get(name)
        if isinstance(value, Tensor) and value.dim() and bool((value == value.floor()).all() & (value >= 0).all()):
            found[name] = torch.cat([value[:before], torch.zeros_like(value[before:])])
    return replace(asked, values={**asked.values, **found}) if found else None


def _other_rows(old: Problem, before: int, error: PyrolvmError) -> PyrolvmError:
    """What is said where a model does not take the fit's rows with others behind them."""
    if not before:
        return error
    text = str(error).partition(" Fix: ")[0]
    return ProblemError(
        f"{old.name} ties its rows together, so that new ones come behind the fit's {before}, and it does not take that many: {text} "
        "Fix: take the number of rows from an argument in the model, as in len(y), so that it runs on longer series too."
    )


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


def made(old: Problem, values: Mapping[str, Any], asked: Arguments) -> Problem:
    """The problem's model with other arguments, in its dtype and on its device; labels stay where lengths do."""
    listed = [(name, cast(value, dtype=old.dtype, device=old.device, modules=False)) for name, value in values.items()]
    args = tuple(value for _, value in listed[: asked.positional])
    missing = "latent" if _is_missing(old, values, asked) else old.missing
    found = Problem(_bare(written(old.program)), *args, missing=missing, **dict(listed[asked.positional :]))
    found = found.to(dtype=old.dtype, device=old.device)
    sizes = {
        dim: n
        for name, dims in _dims(found, old.info).items()
        for dim, n in zip(dims, found.sites[name].shape, strict=True)
    }
    coords = labels_along(old, asked.codes, sizes)
    dims = {name: names for name, names in old.info.dims.items() if name in found.sites}
    return found.replace(name=old.name, info=ModelInfo(dims=dims, coords=coords))


def _is_missing(old: Problem, values: Mapping[str, Any], asked: Arguments) -> bool:
    """Whether observations that are given lack values, where those of the fit had all: the others are scored."""
    return any(
        _has_nan(values[name]) and not _has_nan(old.arguments.get(name)) for name in asked.observed & asked.given
    )


def _has_nan(value: object) -> bool:
    array = np.asarray(value.cpu() if isinstance(value, Tensor) else value) if value is not None else np.empty(0)
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


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
    for problem in (new, other):
        one = Predicting(problem, {}, predicted, mean=False)
        with problem.session(seed=0), torch.no_grad():
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
