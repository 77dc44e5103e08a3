"""Figures beside their bounds, with as many digits as it takes to see on which side they lie; and names of many."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["beside", "named", "shortened", "told"]

MOST = 17


def beside(value: float, bound: float, decimals: int) -> tuple[str, str]:
    """A value and its bound with equally many decimals, more than asked for where both would look the same.

    ``R-hat is up to 1.01, above 1.01`` says nothing: it is 1.0103 that is above 1.0100.
    """
    for digits in range(decimals, MOST):
        left, right = f"{value:,.{digits}f}", f"{bound:,.{digits}f}"
        if value == bound or left != right or not (math.isfinite(value) and math.isfinite(bound)):
            return left, right
    return repr(value), repr(bound)


def told(value: float, bound: float, decimals: int) -> str:
    """A value with as many decimals as it takes to lie, as written, on the side of the bound on which it is."""
    for digits in range(decimals, MOST):
        text = f"{value:.{digits}f}"
        shown = float(text)
        if not math.isfinite(value) or ((shown > bound) == (value > bound) and (shown < bound) == (value < bound)):
            return f"{value:,.{digits}f}"
    return repr(value)


def shortened(names: Iterable[object], at_most: int) -> str:
    """The first of some names, and how many more there are."""
    every = [str(name) for name in names]
    rest = f" and {len(every) - at_most} more" if len(every) > at_most else ""
    return ", ".join(every[:at_most]) + rest


def named(names: Iterable[object], at_most: int = 3) -> str:
    """The same, each as code."""
    return shortened((f"`{name}`" for name in names), at_most)
