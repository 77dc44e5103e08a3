"""Errors that say what is wrong, where, what was expected, and how to mend it.

Every message is one plain sentence or two and ends in ``Fix:`` with a remedy. All of them derive from
:class:`PyrolvmError`, and each also from the built-in exception a caller would expect, so that
``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "CaptureError",
    "DataError",
    "FitError",
    "GuideError",
    "OutOfMemoryError",
    "PluginError",
    "ProblemError",
    "PyrolvmError",
    "PyrolvmWarning",
    "StoreError",
    "UnknownNameError",
]


class PyrolvmError(Exception):
    """Anything that pyrolvm itself reports as wrong."""


class ProblemError(PyrolvmError, ValueError):
    """The model, or the model together with its data, is not a joint density that can be used."""


class DataError(ProblemError):
    """The data handed to a model cannot be used as they are."""


class GuideError(PyrolvmError, ValueError):
    """The guide does not fit the model."""


class ArgumentError(PyrolvmError, ValueError):
    """An argument of a pyrolvm call is out of its range."""


class UnknownNameError(PyrolvmError, LookupError):
    """No problem, guide, engine or objective of that name is registered."""


class PluginError(PyrolvmError, ImportError):
    """A registered plugin could not be loaded."""


class CaptureError(PyrolvmError, RuntimeError):
    """A program cannot be captured as a graph; another engine can run it."""


class FitError(PyrolvmError, RuntimeError):
    """Inference could not go on, for example because the loss stayed non-finite."""


class OutOfMemoryError(FitError, MemoryError):
    """The process was given no more memory."""


class StoreError(PyrolvmError, ValueError):
    """A saved result cannot be read, or does not belong to the problem it is loaded for."""


class PyrolvmWarning(UserWarning):
    """Something that is allowed but seldom meant."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Builds the error for a name that nothing is registered under, with the nearest matches."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    if near:
        remedy = " or ".join(repr(match) for match in near)
        return UnknownNameError(f"no {kind} is called {name!r}. Fix: did you mean {remedy}? Known: {', '.join(names)}.")
    listing = ", ".join(names) if names else "none is registered"
    return UnknownNameError(f"no {kind} is called {name!r}. Fix: use one of: {listing}.")


def positive_int(name: str, value: object, *, minimum: int = 1) -> int:
    """Returns ``value`` as an integer of at least ``minimum``.

    Raises:
        ArgumentError: if it is not an integer (a bool is none) or is too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < minimum:
        raise ArgumentError(
            f"{name} must be an integer of at least {minimum}, got {value!r}. Fix: pass for example {name}={max(minimum, 1)}."
        )
    return operator.index(value)


def checked_seed(value: object) -> int:
    """Returns ``value`` as a seed, an integer from 0 to 2**64.

    Raises:
        ArgumentError: if it is something else.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= operator.index(value) <= 2**64:
        raise ArgumentError(
            f"seed must be an integer of at least 0, got {value!r}. Fix: pass for example seed=0; up to 2**64 it may be any."
        )
    return operator.index(value)


def positive_float(name: str, value: object) -> float:
    """Returns ``value`` as a finite float above zero.

    Raises:
        ArgumentError: if it is not a number, not finite, or not positive.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ArgumentError(
            f"{name} must be a positive finite number, got {value!r}. Fix: pass for example {name}=0.01."
        )
    return float(value)
