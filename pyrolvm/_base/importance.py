r"""Importance weights: k-hat, evidence, ELBO and effective sample size of draws with known log p and log q.

With draws :math:`z_s \sim q` and log weights :math:`\ell_s = \log p(x, z_s) - \log q(z_s)`,

.. math::
    \mathrm{ELBO} = \mathbb{E}_q[\ell], \qquad \log p(x) = \log \mathbb{E}_q[e^{\ell}],

and the shape :math:`k` of a generalised Pareto distribution fitted to the largest weights says how many moments the
weights have: :math:`k < 1/2` a variance, :math:`k < 1` a mean.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from pyrolvm._base.numerics import Array, array_stats

__all__ = [
    "FEW_DRAWS",
    "HEAVY_VARIANCE",
    "Weights",
    "khat_of_variance",
    "khat_threshold",
    "smooth",
    "weigh",
    "worth_of_chosen",
]

FEW_DRAWS = 100
"""Below this many draws the tail of the weights cannot be judged at all."""

HEAVY_VARIANCE = 0.5
"""The k-hat of what a variance is a mean of, from which on that has no variance itself: the few draws far out are then too few, and
what they lack makes it too small."""

EQUAL_SHARE, EQUAL_LARGEST = 0.995, 4.0
"""Weights of which more than this share is effective, and none is so many times their mean, are as good as equal: of a normal law, a
mean that is off by 0.07 sd leaves as many, or an sd by 5%. The tail of what is left of their differences has a shape, but no draw in it
counts for more than four."""

_SMALLEST_TAIL = 25
"""With fewer draws the largest fifth holds under five weights and no tail can be fitted."""

_TIED = 1e-12
"""Log weights nearer than this are ties: in the differences of the weights themselves nothing is left."""

_UNDERFLOW = 700.0
"""exp(-700) is about 1e-304: weights this far below the largest vanish in double precision."""


def khat_threshold(num_draws: int) -> float:
    r"""Returns the k-hat below which importance sampling with S draws is reliable: min(1 - 1/log10(S), 0.7).

    Args:
        num_draws: S, at least 1.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024), "Pareto smoothed importance sampling", section 3.2.4,
        https://arxiv.org/abs/1507.02646
    """
    if num_draws <= 1:
        return -math.inf
    return min(1.0 - 1.0 / math.log10(num_draws), 0.7)


@dataclass(frozen=True)
class Weights:
    """What importance weights say about the distribution that drew them.

    When not to trust it: every figure here is computed from draws of the guide, so a mode that the guide never visits
    is invisible. ``evidence_error`` assumes a variance of the weights, which they lack above k-hat 0.5 and which
    Pareto smoothing makes up for only as far as ``khat_threshold``; see ``reliable``.

    Args:
        num_draws: S.
        num_bad: draws whose weight is NaN or infinite.
        khat: shape of the tail of the weights. 0 where all weights are equal or as good as equal, NaN where it cannot be fitted.
        threshold: the k-hat below which S draws suffice.
        elbo: mean log weight, in nats.
        elbo_error: its Monte Carlo standard error, in nats.
        evidence: log mean Pareto-smoothed weight, in nats.
        evidence_error: its Monte Carlo standard error by the delta method, in nats.
        ess: effective number of draws after weighting, 1 / sum w^2 with normalised smoothed weights w.
        constant: True where all weights are equal to within rounding.
        nearly_equal: True where they are not and their tail looks heavy, but more than 99.5% of the draws are effective and none counts
            for more than four.
    """

    num_draws: int
    num_bad: int
    khat: float
    threshold: float
    elbo: float
    elbo_error: float
    evidence: float
    evidence_error: float
    ess: float
    constant: bool = False
    nearly_equal: bool = False

    @property
    def reliable(self) -> bool:
        """True where k-hat is finite and under the threshold, with enough draws to say so."""
        return self.num_bad == 0 and self.num_draws >= FEW_DRAWS and self.khat <= self.threshold

    def as_dict(self) -> dict[str, object]:
        """Returns all figures as a dict."""
        return asdict(self)


def weigh(log_weight: Array, rounding: float = 0.0) -> tuple[Weights, Array]:
    r"""Judges log weights by Pareto-smoothed importance sampling.

    The evidence is the mean of the smoothed weights, and its error by the delta method is
    :math:`\sqrt{\sum_s \bar w_s^2 - 1/S}` with normalised weights :math:`\bar w_s`.

    Args:
        log_weight: log p(x, z_s) - log q(z_s), any shape; flattened to (S,).
        rounding: size of the rounding error in one log weight, in nats; a spread below it counts as none.

    Returns:
        The figures, and the normalised smoothed weights of shape (S,). Draws without a finite weight get weight zero.

    References:
        Vehtari et al. (2024), "Pareto smoothed importance sampling", https://arxiv.org/abs/1507.02646;
        Yao, Vehtari, Simpson, Gelman (2018), "Yes, but did it work?", https://arxiv.org/abs/1802.02538
    """
    raw = np.asarray(log_weight)
    if raw.dtype == np.float32:
        magnitude = float(np.max(np.abs(raw), initial=0.0, where=np.isfinite(raw)))
        rounding = max(rounding, 8 * float(np.finfo(np.float32).eps) * magnitude)
    values = raw.astype(np.float64).reshape(-1)
    size, finite = values.size, np.isfinite(values)
    num_bad = int(size - finite.sum())
    threshold = khat_threshold(size)
    weights = np.zeros(size)
    if not finite.any():
        nan = math.nan
        return Weights(size, num_bad, nan, threshold, nan, nan, nan, nan, nan), weights

    good = values[finite]
    spread = float(np.ptp(good))
    constant = spread <= max(rounding, 1e-3)
    khat, smoothed = (0.0, good) if constant else smooth(good)
    nearly = khat > threshold and size >= FEW_DRAWS and num_bad == 0 and _nearly_equal(good)
    if nearly:
        khat, smoothed = 0.0, good
    top = float(smoothed.max())
    share = np.exp(smoothed - top)
    normalised = share / share.sum()
    weights[finite] = normalised
    concentration = float(np.sum(normalised**2))
    count = good.size
    usable = count + int(np.isneginf(values).sum())  # a density of zero is a weight of zero
    figures = Weights(
        num_draws=size,
        num_bad=num_bad,
        khat=khat,
        threshold=threshold,
        elbo=float(good.mean()) if num_bad == 0 else math.nan,
        elbo_error=float(good.std(ddof=1) / math.sqrt(count)) if count > 1 and num_bad == 0 else math.nan,
        evidence=top + math.log(float(share.sum()) / usable),
        evidence_error=math.sqrt(max(concentration - 1.0 / usable, 0.0)),
        ess=1.0 / concentration,
        constant=constant,
        nearly_equal=nearly,
    )
    return figures, weights


def _nearly_equal(log_weight: Array) -> bool:
    """Whether weights differ so little that the shape of their tail does not matter."""
    share = np.exp(log_weight - log_weight.max())
    mean = share.mean()
    return bool(mean**2 > EQUAL_SHARE * np.mean(share**2) and mean * EQUAL_LARGEST > 1.0)


def worth_of_chosen(weights: Array, count: int) -> float:
    r"""Returns how many independent draws so many are worth that systematic resampling chose by their weights.

    Each draw is taken :math:`\lfloor c w_s \rfloor` times and once more with the probability :math:`f_s` that is left over, so that
    the variance of a mean of the chosen is that of the weighted mean and what chance adds,

    .. math:: \frac1n = \sum_s w_s^2 + \frac{1}{c^2} \sum_s f_s (1 - f_s).

    Few chosen among many are worth their own number, many chosen among few that of the few.

    Args:
        weights: normalised weights of the draws that were chosen from, (S,).
        count: c, how many were chosen.

    References:
        Kitagawa, *Monte Carlo filter and smoother for non-Gaussian nonlinear state space models*, JCGS 5, 1996
    """
    left = (count * weights) % 1.0
    variance = float(np.sum(weights**2)) + float(np.sum(left * (1.0 - left))) / count**2
    return 1.0 / variance if variance > 0 else float(count)


def khat_of_variance(log_weight: Array, values: Array) -> float:
    r"""Returns the tail shape of :math:`w_s (x_s - m)^2`, whose mean is the variance of one quantity.

    The weights alone may be well behaved where a quantity is large only at the few draws that have large weights.

    Args:
        log_weight: log weights, (S,).
        values: the quantity at the same draws, (S,).

    References:
        Vehtari et al. (2024), "Pareto smoothed importance sampling", section 3, https://arxiv.org/abs/1507.02646
    """
    good = np.isfinite(log_weight) & np.isfinite(values)
    share = np.exp(log_weight[good] - np.max(log_weight[good], initial=-math.inf))
    gap = values[good] - np.sum(share * values[good]) / max(share.sum(), 1e-300)
    with np.errstate(divide="ignore"):
        terms = log_weight[good] + 2 * np.log(np.abs(gap))
    return weigh(terms[np.isfinite(terms)])[0].khat


def smooth(log_weight: Array) -> tuple[float, Array]:
    """Returns k-hat and Pareto-smoothed log weights on the scale of the given ones, shape (S,)."""
    size = log_weight.size
    if size < _SMALLEST_TAIL:
        return math.nan, log_weight
    ordered = np.sort(log_weight)
    tail = math.floor(3 * size**0.5) if size > 225 else size // 5
    top = ordered[-tail:]
    distinct = np.unique(top)
    if distinct.size < 5 and top[0] > ordered[-1] - _UNDERFLOW:
        return 0.0, log_weight  # the largest weights are ties: bounded weights have no heavy tail
    if ordered[-max(tail * 3 // 4, 2)] < ordered[-1] - _UNDERFLOW:
        return math.inf, log_weight  # a few draws carry all the weight
    quartile = top[int(tail / 4 + 0.5) - 1]  # by whose excess over the threshold the fit of the tail divides
    if (
        quartile - ordered[-tail - 1] < _TIED
    ):  # rounding or discrete latents made ties at the threshold: spread within the gaps
        gap = float(np.median(np.diff(distinct)))
        log_weight = log_weight + np.random.default_rng(0).uniform(-0.5, 0.5, size) * gap
    # The largest weight goes to zero first: the sum of weights is taken on that scale.
    with np.errstate(over="ignore"):  # quantiles of a tail that has no mean
        normalised, khat = array_stats().psislw(-(log_weight - ordered[-1]))
    khat = float(khat)
    if not math.isfinite(khat):
        return math.inf, log_weight
    middle = int(np.argsort(log_weight)[size // 2])  # below the tail, so left as it was but for the normalisation
    return khat, normalised + (log_weight[middle] - normalised[middle])
