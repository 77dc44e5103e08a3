"""Small public data sets for the zoo, read from the copies that scikit-learn ships (no network)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pyrolvm as lvm

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A table of predictors with labels, as the source gives it.

    Attributes:
        x: Values, shape ``(n, d)``, float64.
        target: Integer class labels, or an outcome in whole numbers, shape ``(n,)``.
        columns: Names of the ``d`` columns.
        classes: Names of the classes, in the order of the labels; none where the outcome is a number.
    """

    x: FloatArray
    target: NDArray[np.int64]
    columns: tuple[str, ...]
    classes: tuple[str, ...]


def load(name: str) -> Table:
    """Read one of scikit-learn's bundled data sets.

    Args:
        name: The part of scikit-learn's loader name after ``load_``: ``"iris"``, ``"wine"``, ``"breast_cancer"``,
            ``"diabetes"`` or ``"digits"``.

    Returns:
        The table, unscaled.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            f"the data set {name!r} comes with scikit-learn, which is not installed. Fix: pip install scikit-learn."
        ) from error
    bunch: Any = getattr(datasets, f"load_{name}")()
    return Table(
        x=np.ascontiguousarray(bunch.data, dtype=np.float64),
        target=np.ascontiguousarray(bunch.target, dtype=np.int64),
        columns=tuple(str(column) for column in bunch.feature_names),
        classes=tuple(str(label) for label in bunch.get("target_names", ())),
    )


def standardize(x: FloatArray) -> FloatArray:
    """Shift and scale each column to mean 0 and standard deviation 1.

    Args:
        x: Values, shape ``(n, d)``; no column is constant.

    Returns:
        ``(x - mean) / sd`` by column, shape ``(n, d)``, with the sd of divisor ``n``.
    """
    scaled: FloatArray = (x - x.mean(axis=0)) / x.std(axis=0)
    return scaled


def check_count(owner: str, option: str, value: object, most: int | None = None, kind: str = "problem") -> int:
    """Return an option that has to be a positive integer, or say what is wrong with it.

    Args:
        owner: Name of the problem or function, for the message.
        option: Name of the option, for the message.
        value: What the user gave.
        most: Largest value allowed, where there is one.
        kind: What ``owner`` is, for the message.

    Returns:
        ``value``.

    Raises:
        ArgumentError: It is no integer, below 1, or above ``most``.
    """
    bound = "a positive integer" if most is None else f"an integer from 1 to {most}"
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        raise lvm.ArgumentError(f"option {option!r} of {kind} {owner!r} is {value!r}. Fix: give {option}= {bound}.")
    return value
