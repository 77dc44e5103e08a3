"""What a linear classifier reads from a representation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base.errors import DataError

__all__ = ["check_labels", "linear_probe"]

Array = NDArray[np.float64]

FOLDS = 5


def check_labels(labels: object, rows: int, what: str) -> NDArray[Any]:
    """Labels as an array ``(rows,)``.

    Raises:
        DataError: if there is not one for each row, one is missing, or there is one class alone.
    """
    array = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if array.shape != (rows,):
        raise DataError(
            f"{what} has shape {array.shape}, expected ({rows},). Fix: give one label for each row of the data."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise DataError(f"{what} has {array[bad]} at row {bad}. Fix: leave out rows without a label.")
    if len(np.unique(array)) < 2:
        raise DataError(f"{what} has one class alone, {array[0]!r}. Fix: give labels of two classes or more.")
    return array


def linear_probe(
    features: Array, labels: NDArray[Any], train: tuple[Array, NDArray[Any]] | None, seed: int
) -> tuple[float, float, Mapping[str, float]]:
    """The accuracy of logistic regression on standardised features, its standard error, and that of the largest class alone.

    Args:
        features: of the rows that are judged, ``(n, units)``.
        labels: theirs, ``(n,)``.
        train: features and labels that the classifier is fitted to; by default four fifths of the rows fit it and it is judged on the
            rest, five times.
        seed: of the folds.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if train is not None:
            right = probe.fit(*train).predict(features) == labels
        else:
            right = np.zeros(len(labels), dtype=bool)
            least = int(np.unique(labels, return_counts=True)[1].min())
            if least < 2:
                raise DataError(
                    "labels has a class with one row, which cannot be learned and tested. Fix: pass train_labels."
                )
            folds = StratifiedKFold(min(FOLDS, least), shuffle=True, random_state=seed)
            for learn, test in folds.split(features, labels):
                right[test] = probe.fit(features[learn], labels[learn]).predict(features[test]) == labels[test]
    share = float(right.mean())
    largest = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    error = math.sqrt(max(share * (1 - share), 0.25 / len(right)) / len(right))
    return share, error, {"largest_class": largest}
