"""Judges importance weights: whether they can be relied on, how many draws are effective, and the tails of single unknowns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.importance import FEW_DRAWS, Weights
from pyrolvm._base.verdict import Reason, Status
from pyrolvm._base.wording import beside, told

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["bound_unknown", "judge_bound", "judge_effective", "judge_quantities", "judge_weights"]

NEARLY_ALL = 0.9
"""Above this share of effective draws the guide fits the bulk of the posterior, whatever its tails do."""
FEW_EFFECTIVE = 0.005
"""Below this share of effective draws hardly any lies where the posterior is."""
ENOUGH_EFFECTIVE, ENOUGH_HEAVY = 1_000, 3_000
"""Effective draws from which on three standard errors of a mean are 0.1 sd, and of an sd 7%; and where k-hat is above 1/2, so
that the weights have no variance and the number of effective draws flatters. See docs/how-vi-fails.md for the evidence."""
MANY_EFFECTIVE = 0.4
"""Above this share of effective draws, the few in a tail that they miss hardly move a variance."""
EXCUSED_KHAT = 0.6
"""Unless the tail of the weights is this heavy: a flow at k-hat 0.66 had 60% of its draws effective and an sd 20% too small."""
ROUGH_NATS, ROUGH_SHARE = 1.0, 0.25
"""An ELBO whose standard error is more than a nat, and more than a quarter of itself, is not known."""


def judge_weights(weights: Weights) -> Iterator[Reason]:
    """Judges whether the weights can be relied on: by their k-hat, and by how many draws are effective."""
    figures = {"khat": weights.khat, "threshold": weights.threshold, "draws": float(weights.num_draws)}
    if weights.num_bad:
        text = (
            f"{weights.num_bad} of {weights.num_draws} importance weights are NaN or infinite: "
            "the guide draws where the model has no density, or the densities overflow."
        )
        yield Reason("failed", text, {"bad weights": weights.num_bad, "draws": weights.num_draws})
        return
    if weights.num_draws < FEW_DRAWS:
        text = f"{weights.num_draws} draws are too few to judge the importance weights; {FEW_DRAWS} is the least."
        yield Reason("doubtful", text, figures)
        return
    share = weights.ess / weights.num_draws
    (khat, threshold), over = beside(weights.khat, weights.threshold, 2), told(weights.khat, 1.0, 2)
    if weights.nearly_equal:
        text = f"The importance weights are as good as equal: {math.floor(weights.ess):,} of {weights.num_draws:,} draws are effective."
        yield Reason("trusted", text, figures)
    elif weights.constant:
        yield Reason(
            "trusted", "All importance weights are equal: the guide is the posterior, as far as it draws.", figures
        )
    elif weights.khat <= weights.threshold:
        yield Reason("trusted", f"k-hat {khat} is within {threshold}.", figures)
    elif weights.khat <= 0.7:
        text = f"k-hat {khat} is above {threshold}, all that {weights.num_draws} draws can carry."
        yield Reason("doubtful", text, figures)
    elif weights.khat <= 1.0:
        text = f"k-hat {khat} is above {threshold}: the guide misses part of the posterior."
        yield Reason("doubtful", text, figures)
        if share < FEW_EFFECTIVE:
            text = f"Only {weights.ess:.0f} of {weights.num_draws} draws are effective: hardly a draw lies where the posterior is."
            yield Reason("failed", text, {"ess_importance": weights.ess, "draws": float(weights.num_draws)})
    elif share > NEARLY_ALL:
        text = (
            f"k-hat {over} is above 1, yet {weights.ess:.0f} of {weights.num_draws} draws are effective: the guide "
            "fits the bulk of the posterior, and its tails are lighter than the posterior's."
        )
        yield Reason("doubtful", text, figures)
    else:
        text = (
            f"k-hat {over} is above 1: the importance weights have no finite mean, so the guide is far "
            "from the posterior and reweighting cannot mend it. The evidence and its error mean nothing."
        )
        yield Reason("failed", text, figures)
    if weights.threshold < weights.khat <= 1.0:
        text = (
            f"The evidence {weights.evidence:.2f} +- {weights.evidence_error:.2f} is unreliable, its error too: "
            f"{weights.ess:.0f} of {weights.num_draws} draws are effective."
        )
        yield Reason("doubtful", text, {"evidence": weights.evidence, "ess_importance": weights.ess})


def bound_unknown(weights: Weights) -> bool:
    """Whether a few draws where the density is next to nothing make up the whole ELBO."""
    return weights.elbo_error > max(ROUGH_NATS, ROUGH_SHARE * abs(weights.elbo))


def judge_bound(weights: Weights, status: Status) -> Iterator[Reason]:
    """Says where the ELBO is not known: a fault of a fit that is used as it is, not of draws that its weights have chosen."""
    if bound_unknown(weights):
        text = (
            f"The mean log weight, {weights.elbo:.3g} +- {weights.elbo_error:.3g}, is that of a few draws where the model's density "
            "is next to nothing: no ELBO is known."
        )
        yield Reason(status, text, {"mean log weight": weights.elbo})


def judge_effective(weights: Weights) -> Iterator[Reason]:
    """Judges whether corrected draws are enough to tell means to 0.1 sd and sds to 10%, three standard errors of each."""
    if not weights.reliable:
        return
    figures = {"ess_importance": weights.ess, "draws": float(weights.num_draws)}
    text = f"The draws are chosen by weights among {weights.num_draws:,}, of which {math.floor(weights.ess):,} are effective"
    enough = ENOUGH_EFFECTIVE if weights.khat <= 0.5 else ENOUGH_HEAVY
    if weights.ess >= enough:
        yield Reason("trusted", f"{text}.", figures)
    else:
        yield Reason(
            "doubtful", f"{text}: too few, {enough:,} are needed at k-hat {told(weights.khat, 0.5, 2)}.", figures
        )


def judge_quantities(data: xr.DataTree, weights: Weights) -> Iterator[Reason]:
    """Judges single unknowns by the tails of what their variances are means of."""
    stats = data["proposal_stats"]
    if "quantity_khat" not in stats.data_vars or not weights.reliable:
        return
    khats = np.asarray(stats["quantity_khat"].values)
    names = [str(name) for name in np.asarray(stats["quantity"].values)]
    bad = khats > weights.threshold
    worst = int(np.nanargmax(khats))
    shown, threshold = beside(float(khats[worst]), weights.threshold, 2)
    if not bad.any() or (weights.khat <= EXCUSED_KHAT and weights.ess >= MANY_EFFECTIVE * weights.num_draws):
        text = f"The variance of every unknown is a mean of well-behaved terms (k-hat at most {shown})."
        if bad.any():
            text = (
                f"k-hat of the variance of `{names[worst]}` is {shown}, which matters little: most draws are effective."
            )
        yield Reason("trusted", text, {"largest quantity khat": float(khats[worst])})
        return
    fine = f"the others are within {threshold}" if not bad.all() else "so are all others"
    listing = ", ".join(f"`{names[i]}`" for i in np.argsort(-khats)[: min(int(bad.sum()), 3)])
    text = (
        f"The tails of {listing} rest on a few draws: k-hat of the variance is up to {shown} for "
        f"{int(bad.sum())} of {len(khats)} unknowns, {fine}."
    )
    yield Reason("doubtful", text, {"largest quantity khat": float(khats[worst]), "quantities": float(bad.sum())})
