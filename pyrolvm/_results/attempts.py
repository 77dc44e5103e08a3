"""Parts of a result that may fail to be made without costing the rest of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from pyrolvm._base.errors import FitError
from pyrolvm._base.explain import told
from pyrolvm._runs.attributes import said

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MISSING", "Attempts", "missing"]

MISSING = "pyrolvm_missing"
"""The attribute of a tree that says what is not in it, as JSON: why, by group, or by ``group/variable``."""

T = TypeVar("T")
Draws = dict[str, Tensor]


@dataclass
class Attempts:
    """What could not be made of a result, and why.

    Whatever goes wrong after the last step of a method costs a group or a variable, which is noted here, and not the draws.

    Attributes:
        missing: what went wrong, in a sentence, by group or ``group/variable``.
    """

    missing: dict[str, str] = field(default_factory=dict)

    def __call__(self, what: str, make: Callable[[], dict[str, T]]) -> dict[str, T]:
        """What ``make`` returns; nothing, with a note, where it fails."""
        try:
            return make()
        except Exception as error:  # noted, and shown by the verdict
            self.missing[what] = told(error)
            return {}

    def thinned(self, what: str, make: Callable[[], tuple[Draws, int]], step: int) -> tuple[Draws, int]:
        """What ``make`` returns, values and of every how-manieth draw they are; no values, with a note, where it fails."""
        try:
            return make()
        except Exception as error:  # noted, and shown by the verdict
            self.missing[what] = told(error)
            return {}, step

    def by_name(self, group: str, make: Callable[[], Draws], function: Callable[[Draws], Draws], draws: Draws) -> Draws:
        """What ``make`` returns: a function of one draw for all draws; where it fails, those of its values that can be had."""
        try:
            return make()
        except Exception as error:  # noted by name, or as a whole
            whole = told(error)
        count = len(next(iter(draws.values())))
        rows: list[Draws] = []
        for i in range(count):
            try:
                rows.append(function({name: value[i] for name, value in draws.items()}))
            except Exception as error:  # noted
                self.missing[group] = f"{told(error)} It fails at draw {i}."
                return {}
        found: Draws = {}
        for name in {name: None for row in rows for name in row}:
            values = [row[name] for row in rows if name in row]
            shapes = {tuple(value.shape) for value in values}
            if len(values) == count and len(shapes) == 1:
                found[name] = torch.stack(values)
            elif len(values) < count:
                self.missing[f"{group}/{name}"] = f"It is there in {len(values):,} of {count:,} draws."
            else:
                shown = ", ".join(map(str, sorted(shapes)[:3]))
                self.missing[f"{group}/{name}"] = f"Its shape varies from draw to draw: {shown}."
        if not found and not self.missing:
            self.missing[group] = whole
        return found

    def log_p(self, make: Callable[[], Draws], function: Callable[[Draws], Tensor], draws: Draws) -> Draws:
        """What ``make`` returns, log densities of all draws; where it fails, those of ``function``, NaN at draws where it fails too.

        Raises:
            FitError: if it fails at all of them.
        """
        try:
            return make()
        except Exception as error:  # found again below, where it is of every draw
            why = told(error)
        found, failed = [], 0
        count = len(next(iter(draws.values())))
        for i in range(count):
            try:
                found.append(function({name: value[i] for name, value in draws.items()}))
            except Exception as error:  # noted
                why, failed = told(error), failed + 1
                found.append(torch.full((), torch.nan))
        if failed == count:
            raise FitError(
                f"the model's density can be computed at none of {count:,} draws: {why} "
                "Fix: run the model at a draw of its prior, and look at that line."
            )
        if failed:
            self.missing["sample_stats/lp"] = f"The model fails at {failed:,} of {count:,} draws: {why}"
        return {"log_p": torch.stack([value.to(found[0]) for value in found])}

    def note(self, tree: xr.DataTree) -> xr.DataTree:
        """The tree, with what is missing among its attributes."""
        if self.missing:
            tree.attrs[MISSING] = json.dumps({**missing({str(k): v for k, v in tree.attrs.items()}), **self.missing})
        return tree


def missing(attrs: Mapping[str, object]) -> dict[str, str]:
    """What a tree with these attributes says that it lacks, and why."""
    return said(attrs, MISSING, dict, {})
