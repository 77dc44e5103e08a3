"""Whether two runs are the same one: what their numbers depend on, as JSON holds it, and what differs."""

from __future__ import annotations

import functools
import json
import platform
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pyrolvm._base.errors import ArgumentError, PyrolvmWarning, StoreError

__all__ = ["ANY_VERSION", "VERSION", "check", "check_resume", "differences", "lasting", "versions", "warn_of"]

ANY_VERSION = "any-version"
"""What ``resume`` may be besides true and false: to go on under other versions than the run began with."""

VERSION = "version of "
"""How the names of versions in an identity begin."""

_PACKAGES = ("pyrolvm", "torch", "pyro-ppl", "numpy", "jax", "jaxlib", "numpyro", "nutpie")


def versions() -> dict[str, str]:
    """The versions that numbers may depend on."""
    found = {"python": sys.version.split()[0], "machine": platform.machine()}
    for name in _PACKAGES:
        try:
            found[name] = _version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def _version(name: str) -> str:
    return version(name)


def differences(found: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """What is another in two runs, with both values; what one of them does not say is left out."""
    wanted = json.loads(json.dumps(wanted))
    return {
        what: (found[what], value)
        for what, value in wanted.items()
        if what in found and found[what] != value and not (what.endswith(" code") and _unlike(found[what], value))
    }


def lasting(about: Mapping[str, object]) -> dict[str, object]:
    """An identity without versions: what is finished is as it was, whatever versions there are now."""
    return {what: one for what, one in about.items() if not what.startswith(VERSION)}


def _unlike(one: object, other: object) -> bool:
    """Whether two checksums of code are of different versions of Python, and say nothing about each other."""
    return None not in (one, other) and str(one).partition(":")[0] != str(other).partition(":")[0]


def check(folder: Path, found: Mapping[str, object], wanted: Mapping[str, object], resume: bool | str) -> None:
    """Refuses to continue a run that is another one, and says what differs.

    Raises:
        StoreError: with the differences.
    """
    other = differences(found, wanted)
    old = {what: values for what, values in other.items() if what.startswith(VERSION)}
    if set(other) - set(old):
        raise StoreError(
            f"{folder} was made with another {_told(other)}. "
            "Fix: use the same inputs, pass overwrite=True to replace it, or name another folder."
        )
    if not old:
        return
    if resume != ANY_VERSION:
        raise StoreError(
            f"{folder} was made with another {_told(old)}, and under it the rest of the run would have other numbers. "
            f'Fix: use the same versions, pass resume="{ANY_VERSION}" to go on all the same, or name another folder.'
        )
    warnings.warn(
        f"{folder} goes on with another {_told(old)}: its numbers are not those of an uninterrupted run. Fix: none is needed, as it "
        "was asked for.",
        PyrolvmWarning,
        stacklevel=4,
    )


def warn_of(folder: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    """Warns of what differs between a result and the problem and guide that it is loaded with."""
    other = differences(found, wanted)
    if other:
        warnings.warn(
            f"{folder} was made with another {_told(other)}: what it holds is unchanged, fresh draws and densities are of the program "
            "as it is now. Fix: pass the model and guide that it was made with.",
            PyrolvmWarning,
            stacklevel=4,
        )


def check_resume(resume: object) -> None:
    """Refuses what is no way to resume.

    Raises:
        ArgumentError: if it is neither true nor false nor ``"any-version"``.
    """
    if not isinstance(resume, bool) and resume != ANY_VERSION:
        raise ArgumentError(f'resume must be True, False or "{ANY_VERSION}", got {resume!r}. Fix: pass resume=True.')


def _told(other: Mapping[str, tuple[object, object]]) -> str:
    return "; another ".join(f"{what}: {_short(was)}, now {_short(now)}" for what, (was, now) in other.items())


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:24]}..."
