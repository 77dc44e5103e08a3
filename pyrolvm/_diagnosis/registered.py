"""Checks of other distributions, and of the caller: what they find is part of the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pyrolvm._base.entries import Entry
from pyrolvm._base.errors import ArgumentError, PluginError
from pyrolvm._base.explain import told
from pyrolvm._base.kinds import DIAGNOSTICS
from pyrolvm._base.verdict import Reason, Verdict

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["DIAGNOSTICS", "Diagnostic", "judge_by_others", "judge_by_own"]


class Diagnostic(Protocol):
    """A check of one posterior."""

    def __call__(self, data: xr.DataTree, /) -> Verdict:
        """What a result's tree shows, by ``Verdict.of(reasons, steps)``; without reasons where the check does not concern it."""


def judge_by_own(data: xr.DataTree, checks: Sequence[Diagnostic]) -> Verdict:
    """What the caller's checks find; whatever they raise is the caller's.

    Raises:
        ArgumentError: if one is no function, or returns something else than a verdict.
    """
    found = Verdict("trusted")
    for check in checks:
        if not callable(check):
            raise ArgumentError(
                f"checks must be functions of a result's tree, got {check!r}. Fix: pass checks=[my_check]."
            )
        one = check(data)
        if not isinstance(one, Verdict):
            name = getattr(check, "__name__", repr(check))
            raise ArgumentError(f"check {name} {_returned(one)}")
        found = found.and_also(one)
    return found


def judge_by_others(data: xr.DataTree) -> Verdict:
    """What the checks of installed distributions find. One that cannot be made is named, and changes nothing else."""
    found = Verdict("trusted")
    for entry in DIAGNOSTICS.entries().values():
        found = found.and_also(_judged(data, entry))
    return found


def _judged(data: xr.DataTree, entry: Entry) -> Verdict:
    try:
        one = DIAGNOSTICS.load(entry)(data)
    except Exception as error:  # said in its place
        return _not_made(entry, str(error) if isinstance(error, PluginError) else told(error))
    return one if isinstance(one, Verdict) else _not_made(entry, f"it {_returned(one)}")


def _not_made(entry: Entry, why: str) -> Verdict:
    reason = Reason("trusted", f"Check {entry} could not be made, and says nothing: {why}", {"checks missing": 1.0})
    return Verdict.of([reason], [f"Repair or uninstall {entry.distribution}, whose check {entry.name!r} is broken."])


def _returned(one: object) -> str:
    return f"returned a {type(one).__name__}, expected a Verdict. Fix: end it with return lvm.Verdict.of(reasons)."
