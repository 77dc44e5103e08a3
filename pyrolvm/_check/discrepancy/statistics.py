"""What data and replicated data are compared by: features of one data set, each a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.numerics import Array

__all__ = ["Sample", "Statistic", "chosen", "compared"]

Statistic = Callable[[Array], Array]
"""Of data sets, ``(draws, rows, ...)``, one number for each, ``(draws,)``."""

MOST_LEVELS = 20
"""Levels of labels whose shares are told."""
LEAST_ROWS = 10
"""Rows that an autocorrelation takes."""


@dataclass(frozen=True)
class Sample:
    """One site's data beside replicated ones.

    Attributes:
        name: the site.
        seen: the data. Shape ``(rows, ...)``.
        replicated: data sets that the model makes. Shape ``(draws, rows, ...)``.
        labels: what codes stand for, where the data are labels; ``None`` for quantities.
        rows: the label of each row.
    """

    name: str
    seen: Array
    replicated: Array
    labels: tuple[str, ...] | None
    rows: Array

    def part(self, rows: Array) -> Sample:
        """The same of some rows."""
        return Sample(self.name, self.seen[rows], self.replicated[:, rows], self.labels, self.rows[rows])


def _flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


def _ignoring(function: Callable[..., Array]) -> Statistic:
    """A function of all values of a data set, without those that are missing."""
    return lambda values: np.asarray(function(_flat(values), axis=1))


def _quantile(share: float) -> Statistic:
    return lambda values: np.asarray(np.nanquantile(_flat(values), share, axis=1))


def _autocorrelation(values: Array) -> Array:
    """Of each row and the next one."""
    flat = _flat(values) - np.nanmean(_flat(values), axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.nansum(flat[:, 1:] * flat[:, :-1], axis=1) / np.nansum(flat**2, axis=1))


def _zeros(values: Array) -> Array:
    return np.asarray((_flat(values) == 0).mean(axis=1))


def _level(code: int) -> Statistic:
    return lambda values: np.asarray((_flat(values) == code).mean(axis=1))


def chosen(sample: Sample, *, ordered: bool) -> dict[str, Statistic]:
    """The features that suit a site's data: of labels the share of each, of yes and no their mean, else places, widths and ends.

    Args:
        sample: the data.
        ordered: whether the order of rows is looked at too.
    """
    along = (
        {"autocorrelation": _autocorrelation}
        if sample.seen.ndim == 1 and len(sample.seen) >= LEAST_ROWS and ordered
        else {}
    )
    if sample.labels is not None:
        return {f"share of {label}": _level(code) for code, label in enumerate(sample.labels[:MOST_LEVELS])}
    present = sample.seen[~np.isnan(sample.seen.astype(float))]
    counts = bool(np.all(present == np.floor(present))) and bool(
        (sample.replicated == np.floor(sample.replicated)).all()
    )
    if counts and present.size and present.min() >= 0 and max(present.max(), np.nanmax(sample.replicated)) <= 1:
        return {"mean": _ignoring(np.nanmean), **along}
    found = {
        "mean": _ignoring(np.nanmean), "sd": _ignoring(np.nanstd), "min": _ignoring(np.nanmin), "q10": _quantile(0.1),
        "median": _quantile(0.5), "q90": _quantile(0.9), "max": _ignoring(np.nanmax),
    }  # fmt: skip
    return found | ({"zeros": _zeros} if counts and (present == 0).any() else {}) | along


def compared(sample: Sample, statistics: Mapping[str, Statistic]) -> dict[str, dict[str, float]]:
    """For each feature: its value in the data, mean, sd and 90% interval over replicated data, and the share of these above.

    Those equal count by half.

    Raises:
        ArgumentError: if a statistic fails, or gives not one number for each data set.
    """
    found = {}
    for name, statistic in statistics.items():
        try:
            drawn = np.asarray(statistic(sample.replicated), dtype=float)
            seen = np.asarray(statistic(sample.seen[None]), dtype=float)
        except Exception as error:  # whatever a function of the user's raises
            raise ArgumentError(
                f"statistic {name!r} fails on {sample.name!r}: {error}. Fix: take an array (draws, rows, ...) and return (draws,)."
            ) from error
        if drawn.shape != (len(sample.replicated),) or seen.shape != (1,):
            raise ArgumentError(
                f"statistic {name!r} gave shape {drawn.shape} for {len(sample.replicated)} data sets, expected a number for each. "
                "Fix: reduce over all axes but the first."
            )
        drawn = drawn[np.isfinite(drawn)]
        if not drawn.size or not np.isfinite(seen[0]):
            continue
        found[name] = {
            "observed": float(seen[0]), "mean": float(drawn.mean()), "sd": float(drawn.std()),
            "q5": float(np.quantile(drawn, 0.05)), "q95": float(np.quantile(drawn, 0.95)),
            "p": float((drawn > seen[0]).mean() + 0.5 * (drawn == seen[0]).mean()),
        }  # fmt: skip
    return found
