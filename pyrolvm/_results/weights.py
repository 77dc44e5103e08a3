r"""Evidence from importance weights: their mean, what can be believed of it, and the bounds of the importance-weighted ELBO.

With draws :math:`z_s \sim q` and weights :math:`w_s = p(x, z_s) / q(z_s)`, :math:`p(x) = \mathbb{E}_q[w]`. Draws of the prior, of a
guide, and annealed paths all give such weights. The bound of K of them,

.. math:: L_K = \mathbb{E} \log \frac1K \sum_{k=1}^K w_k \le \log p(x),

is the ELBO for K = 1 and rises with K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base.importance import FEW_DRAWS, Weights, weigh
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._base.wording import beside
from pyrolvm._results.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["bound_of_weights", "from_weights", "log_mean_exp"]

Array = NDArray[np.float64]

FEW_EFFECTIVE, HARDLY_ANY = 100.0, 10.0
"""Effective draws below which an error is itself uncertain, and below which it means nothing."""

NEARLY_ALL = 0.9
"""The share of effective draws from which on a heavy tail has little of the weight."""

LARGEST = 0.2
"""The share of all weight that one draw may have."""

COARSE = 0.3
"""The error in nats up to which the delta method is good to a tenth of it."""

LEAST_GROUPS = 32
"""Groups of K weights of which the largest K still has so many."""


def log_mean_exp(values: Array, axis: int | None = None) -> Array:
    """The logarithm of the mean of exponentials; minus infinity where all are."""
    top = np.max(values, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        found = np.log(np.mean(np.exp(values - top), axis=axis, keepdims=True)) + top
    return np.asarray(found.reshape(()) if axis is None else np.squeeze(found, axis=axis))


def from_weights(
    log_weight: Array,
    method: str,
    *,
    each: float = 1.0,
    before: int = 0,
    remedy: str = "",
    exactly: bool = False,
    rounding: float = 0.0,
) -> Evidence:
    """The evidence that independent draws with log weights give, with its error and whether that can be believed.

    Args:
        log_weight: log p(x, z) - log q(z) of each draw, shape ``(draws,)``; minus infinity where the model has no density.
        method: what made them.
        each: densities evaluated for a draw.
        before: densities evaluated before the first.
        remedy: what to do if they are not enough.
        exactly: whether to take the plain mean, whose expectation is p(x), rather than that of Pareto-smoothed weights.
        rounding: the size of a log weight's rounding error, which no number of draws takes away.

    References:
        Vehtari et al., *Pareto smoothed importance sampling*, https://arxiv.org/abs/1507.02646
    """
    log_weight = np.asarray(log_weight).reshape(-1)
    weights, smoothed = weigh(log_weight, rounding)
    value, error = _value(weights, log_weight, exactly)
    error = max(error, rounding)
    largest = float(smoothed.max(initial=0.0))
    figures = {
        "khat": weights.khat, "khat_threshold": weights.threshold, "ess": weights.ess, "largest_weight": largest,
        "draws": float(weights.num_draws),
    }  # fmt: skip
    reasons = list(_judged(weights, largest, error, method, int(np.isneginf(log_weight).sum())))
    verdict = Verdict.of(reasons)
    if not verdict.trusted and remedy:
        verdict = Verdict.of(reasons, [remedy])
    trace = _course(log_weight, each, before, exactly)
    return Evidence(
        value, error, method, verdict, figures=figures, trace=trace, evaluations=before + int(each * len(log_weight))
    )


def _value(weights: Weights, log_weight: Array, exactly: bool) -> tuple[float, float]:
    """The log of the mean weight and its error."""
    values = np.asarray(log_weight, dtype=np.float64)
    if len(values) < 2 or not math.isfinite(weights.evidence) or weights.num_bad > np.isneginf(values).sum():
        return weights.evidence, weights.evidence_error
    share = np.exp(values - values.max())
    mean = float(share.mean())
    error = float(share.std(ddof=1)) / (mean * math.sqrt(len(values)))
    error = max(error, weights.evidence_error, _error_by_tail(share / mean, weights.khat))
    smoothed = not exactly and weights.khat <= 1.0
    return (weights.evidence if smoothed else float(log_mean_exp(values))), error


def _error_by_tail(share: Array, khat: float) -> float:
    r"""The error of the mean of ``share``, whose own mean is one, if its largest values follow a generalised Pareto distribution.

    The mean is that of values cut off at a threshold, and of what a share of them exceeds it by. The fit to M excesses knows the
    logarithm of their mean, :math:`\sigma / (1 - k)`, with a variance of
    :math:`(2 (1 + k) + (1 + k)^2 / (1 - k)^2 - 2 (1 + k) / (1 - k)) / M`. The spread of the weights themselves says less than that
    where k is near 1/2 or above, since then they have no variance.

    References:
        Smith, *Estimating tails of probability distributions*, https://doi.org/10.1214/aos/1176350499
    """
    size = len(share)
    if size < FEW_DRAWS or not 0 < khat < 1:
        return 0.0
    tail = math.floor(3 * size**0.5) if size > 225 else size // 5
    edge = float(np.partition(share, size - tail - 1)[size - tail - 1])
    excess = float(np.maximum(share - edge, 0.0).mean())
    up, down = 1 + khat, 1 - khat
    relative = (2 * up + (up / down) ** 2 - 2 * up / down + 1) / tail
    body = float(np.minimum(share, edge).var(ddof=1)) / size
    return math.sqrt(body + excess**2 * relative)


def _course(log_weight: Array, each: float, before: int, exactly: bool) -> pd.DataFrame:
    """The estimate from the first draws, twice as many in each row."""
    import pandas as pd

    counts = [len(log_weight) >> k for k in range(7, -1, -1) if len(log_weight) >> k >= 8] or [len(log_weight)]
    rows = []
    for count in counts:
        part = log_weight[:count]
        value, error = _value(weigh(part)[0], part, exactly)
        rows.append({"draws": count, "evaluations": int(before + each * count), "value": value, "error": error})
    return pd.DataFrame(rows)


def _judged(weights: Weights, largest: float, error: float, method: str, absent: int) -> Iterator[Reason]:
    figures = {"khat": weights.khat, "ess": weights.ess, "largest_weight": largest, "draws": float(weights.num_draws)}
    bad = weights.num_bad - absent
    if bad or absent == weights.num_draws:
        what = "are NaN or infinite" if bad else "are zero"
        text = f"{bad or absent} of {weights.num_draws} weights {what}, so {method} gives no estimate."
        yield Reason("failed", text, {"bad_weights": float(bad or absent)})
        return
    effective = f"{weights.ess:,.1f}" if weights.ess < FEW_EFFECTIVE else f"{weights.ess:,.0f}"
    seen = f"{effective} of {weights.num_draws:,} draws are effective and the largest has {largest:.1%} of all weight"
    if weights.constant:
        yield Reason("trusted", "All weights are equal: the draws are from the posterior.", figures)
    elif (
        weights.ess < HARDLY_ANY
        or largest > 0.5
        or (weights.khat > 1.0 and weights.ess < NEARLY_ALL * weights.num_draws)
    ):
        text = f"{seen}, k-hat {weights.khat:.2f}: the estimate is that of a few draws, likely too low; its error says nothing."
        yield Reason("failed", text, figures)
    elif weights.num_draws < FEW_DRAWS:
        text = f"{weights.num_draws} draws are too few to judge their weights; {FEW_DRAWS} is the least."
        yield Reason("doubtful", text, figures)
    elif not weights.khat <= weights.threshold:
        khat, threshold = beside(weights.khat, weights.threshold, 2)
        text = f"{seen}, k-hat {khat} is above {threshold}: the error may be too small."
        yield Reason("doubtful", text, figures)
    elif weights.ess < FEW_EFFECTIVE or largest > LARGEST or error > COARSE:
        yield Reason("doubtful", f"{seen}: too few to tell the error.", figures)
    else:
        khat, threshold = beside(weights.khat, weights.threshold, 2)
        yield Reason("trusted", f"{seen}; k-hat {khat} is within {threshold}.", figures)


def bound_of_weights(
    log_weight: Array,
    *,
    each: float = 1.0,
    before: int = 0,
    seed: int = 0,
    most: int | None = None,
    rounding: float = 0.0,
) -> Evidence:
    r"""The bound :math:`L_K` for K = 1, 2, 4, ..., each without bias: the mean over disjoint groups of K draws.

    Args:
        log_weight: log weights of independent draws, shape ``(draws,)``.
        each: densities evaluated for a draw.
        before: densities evaluated before the first.
        seed: of the order in which draws are grouped.
        most: the largest K; by default the largest of which there are 32 groups.
        rounding: the size of a log weight's rounding error.

    Returns:
        The bound of the largest K, whose ``trace`` has a row for each.

    References:
        Burda, Grosse, Salakhutdinov, *Importance weighted autoencoders*, https://arxiv.org/abs/1509.00519
    """
    import pandas as pd

    values = np.random.default_rng(seed).permutation(np.asarray(log_weight, dtype=np.float64).reshape(-1))
    most = most or max(len(values) // LEAST_GROUPS, 1)
    rows = []
    for k in [2**j for j in range(int(math.log2(most)) + 1)]:
        groups = len(values) // k
        bounds = np.asarray(log_mean_exp(values[: groups * k].reshape(groups, k), axis=1))
        error = float(bounds.std(ddof=1) / math.sqrt(groups)) if groups > 1 else math.nan
        rows.append(
            {
                "K": k,
                "evaluations": int(before + each * k),
                "value": float(bounds.mean()),
                "error": max(error, rounding),
            }
        )
    table = pd.DataFrame(rows)
    last = table.iloc[-1]
    fine = math.isfinite(last["value"]) and math.isfinite(last["error"])
    largest = int(last["K"])
    text = f"A lower bound whatever the guide is: the mean over {len(values) // largest:,} groups of K = {largest:,} draws."
    empty = "Some groups of draws have no weight at all, or a NaN: the bound is minus infinity."
    verdict = Verdict.of([Reason("trusted", text) if fine else Reason("failed", empty)])
    figures = {"K": float(last["K"]), "elbo": float(table["value"][0]), "elbo_error": float(table["error"][0])}
    return Evidence(
        float(last["value"]), float(last["error"]), "importance-weighted bound", verdict, lower=float(last["value"]), figures=figures,
        trace=table, evaluations=before + int(each * len(values)),
    )  # fmt: skip
