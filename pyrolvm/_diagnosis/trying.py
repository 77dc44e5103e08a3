"""Advice to try another method, but for what was tried already or cannot be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pyrolvm._results.base import LADDER
from pyrolvm._runs.attributes import said

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["NUTS", "left_to_try", "tried"]

NUTS = "Try lvm.nuts(problem) and compare."

_GUIDE = re.compile(r'Try guide="([^"]+)"\.')


def tried(data: xr.DataTree) -> set[str]:
    """The methods that a result's ladder has tried, its own guide, and NUTS where that cannot sample the model."""
    rungs: list[str] = said(data.attrs, LADDER, lambda ladder: [str(rung["method"]) for rung in ladder], [])
    found = {name.split(",")[0] for name in rungs}
    attrs = data["posterior"].attrs
    found.add(str(attrs.get("pyrolvm_guide", "")).split("(")[0])
    discrete = (
        "pyrolvm_problem" in attrs and "log_prior" in data.children and "unconstrained_posterior" not in data.children
    )
    if int(attrs.get("model_parameters", 0)) or discrete:
        found.add("nuts")
    return found


def left_to_try(steps: Iterable[str], done: Iterable[str]) -> Iterator[str]:
    """The steps without those that ask for a method which is done."""
    done = set(done)
    for step in steps:
        guide = _GUIDE.fullmatch(step)
        if not (step == NUTS and "nuts" in done) and not (guide and guide[1] in done):
            yield step
