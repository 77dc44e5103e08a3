"""The same method with other seeds: whether it finds the same posterior again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pyrolvm._diagnosis.restarts import RESTARTS
from pyrolvm._results import Fit
from pyrolvm._results.reading import blocks, independent

__all__ = ["with_restarts"]


def with_restarts(result: Fit, others: Sequence[Fit]) -> Fit:
    """The result, whose verdict then says how far fits of the same method with other seeds are from it.

    Recorded are the largest differences of a mean, in sds, and of an sd, as the logarithm of the ratio, among all quantities
    and restarts, with their standard errors.
    """
    shift, change = (0.0, 0.0, ""), (0.0, 0.0, "")
    mine = {part.variable: part for part in blocks(result.data)}
    for other in others:
        # Draws that weights chose are worth as many as the weights say; their variances, at normal tails, half of that.
        error = float(np.sqrt(sum(1 / (independent(one.data) or 1.0) for one in (result, other))))
        for part in blocks(other.data):
            here = mine[part.variable]
            means, sds = zip(*((one.draws.mean((0, 1)), one.draws.std((0, 1))) for one in (here, part)), strict=True)
            with np.errstate(divide="ignore", invalid="ignore"):
                moved = np.abs(means[1] - means[0]) / sds[0]
                widened = np.abs(np.log(sds[1] / sds[0]))
            for i, label in enumerate(here.labels):
                if np.isfinite(moved[i]) and np.isfinite(widened[i]):  # a constant has neither
                    shift = max(shift, (float(moved[i]), error, label))
                    change = max(change, (float(widened[i]), error / np.sqrt(2), label))
    record = {
        "restarts": len(others), "statuses": [other.verdict.status for other in others],
        "shift": shift, "sd_change": change,
    }  # fmt: skip
    result.data.attrs[RESTARTS] = json.dumps(record)
    return replace(result)
