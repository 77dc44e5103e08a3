"""Checks of Markov chains: mixing of every quantity, and what the sampler said about itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.numerics import Array, array_stats
from pyrolvm._base.verdict import Reason
from pyrolvm._base.wording import named, told
from pyrolvm._diagnosis.spreads import judge_spreads
from pyrolvm._results.gathering import gathered
from pyrolvm._results.moments import cheap_screen, is_constant
from pyrolvm._results.reading import Block, blocks, keep_worst, stat
from pyrolvm._results.tables import chain_rows

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = [
    "RHAT_FAILED",
    "judge_mixing",
    "judge_never_moved",
    "judge_sampler",
    "mixing_table",
    "superchains",
    "worst_first",
]

RHAT_DOUBTFUL, RHAT_FAILED = 1.01, 1.1
APART = 100.0
"""The R-hat from which on its size says nothing more: chains hardly move, each somewhere else."""
ESS_DOUBTFUL, ESS_FAILED = 100, 10
"""Effective draws for each chain: below the first, error bars are rough; below the second, there are none."""
BFMI_DOUBTFUL = 0.3
DIVERGENT_FAILED = 0.1
DEPTH_DOUBTFUL = 0.1
LEAST_DRAWS = 4
"""Draws of a chain from which on its mixing can be looked at."""


def worst_first(parts: list[Block], limit: int) -> tuple[list[Block], int]:
    """Keeps the quantities that a cheap screen finds worst, in order of declaration, and counts those left out."""
    total = sum(len(part.labels) for part in parts)
    if total <= limit:
        return parts, 0
    indices = keep_worst([cheap_screen(part.draws) for part in parts], limit)
    return [part.take(index) for part, index in zip(parts, indices, strict=True) if index.size], total - limit


def mixing_table(data: xr.DataTree, limit: int) -> tuple[pd.DataFrame, int]:
    """Tabulates R-hat, ESS and MCSE for each quantity and for ``lp``.

    Args:
        data: a DataTree of Markov chains.
        limit: how many quantities to examine closely, worst first.

    Returns:
        A table as :func:`~pyrolvm._results.tables.chain_rows` makes it, and the number of quantities left out. Of chains that
        start in groups, ``rhat`` is the nested one.
    """
    import pandas as pd

    parts = list(blocks(data))
    density = stat(data, "lp")
    if density is not None:
        parts.append(Block("lp", ["lp"], density[:, :, None].astype(np.float64), False))
    parts, left_out = worst_first(parts, limit)
    groups = superchains(data)
    tables = [chain_rows(part) for part in parts]
    if groups and density is not None and density.shape[1] >= LEAST_DRAWS:
        for part, table in zip(parts, tables, strict=True):
            table["rhat"] = np.where(table["state"] == "moving", nested_rhat(part.draws, groups), np.nan)
    return (pd.concat(tables) if tables else pd.DataFrame()), left_out


def superchains(data: xr.DataTree) -> int:
    """How many groups of several chains started at the same point; 0 where each chain had its own start."""
    groups = int(data["sample_stats"].attrs.get("superchains", 0)) if "sample_stats" in data.children else 0
    chains = data["sample_stats"].sizes["chain"] if groups else 0
    return groups if 1 < groups < chains and chains % groups == 0 else 0


def nested_rhat(draws: Array, groups: int) -> Array:
    """Nested R-hat of many short chains: whether groups of chains, each from its own start, have the same mean.

    Draws of one chain need not forget each other for it, since a group has many chains: what its mean does not forget is its start.
    As for long chains, draws are ranked and made normal, and their distances from the median are looked at too.

    Args:
        draws: of shape ``(chains, draws, n)``, group after group.
        groups: how many groups.

    Returns:
        The larger of the two, of shape ``(n,)``.

    References:
        Margossian et al. (2021), "Nested R-hat", https://arxiv.org/abs/2110.13017
    """
    folded = np.abs(draws - np.median(draws, axis=(0, 1)))
    return np.maximum(_between(_normal_ranks(draws), groups), _between(_normal_ranks(folded), groups))


def _normal_ranks(draws: Array) -> Array:
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = rankdata(draws.reshape(-1, draws.shape[-1]), axis=0).reshape(draws.shape)
    found: Array = ndtri((ranks - 0.375) / (draws.shape[0] * draws.shape[1] + 0.25))
    return found


def _between(draws: Array, groups: int) -> Array:
    """The root of 1 + B / W, with B the variance of the groups' means and W the variance in a group, between its chains and within."""
    chains = draws.reshape(groups, -1, *draws.shape[1:])
    means = chains.mean(axis=2)
    between = means.mean(axis=1).var(axis=0, ddof=1)
    within = (means.var(axis=1, ddof=1) + chains.var(axis=2, ddof=1).mean(axis=1)).mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.sqrt(1 + between / within)
    return found


def judge_mixing(table: pd.DataFrame, chains: int, draws: int) -> Iterator[Reason]:
    """Yields what the table of quantities says: finite draws, moving chains, R-hat, effective draws.

    R-hat above 1.01 is doubtful and above 1.1 failed. Bulk or tail ESS below 100 for each chain is doubtful and below
    10 failed. One chain is doubtful whatever it shows, because nothing says that another start would agree.

    References:
        Vehtari, Gelman, Simpson, Carpenter, Buerkner (2021), "Rank-normalization, folding, and localization: an
        improved R-hat", https://arxiv.org/abs/1903.08008
    """
    if chains == 1:
        text = "There is one chain, so R-hat cannot tell whether chains from other starts would agree."
        yield Reason("doubtful", text, {"chains": 1})
    if not len(table):
        yield Reason("doubtful", "The posterior has no numeric quantity that could be checked.", {"quantities": 0})
        return
    for state, text in (
        ("not finite", "has draws that are not finite"),
        ("stuck", "has a chain that never moves while others do, or sits elsewhere"),
    ):
        bad = table.index[table["state"] == state]
        if len(bad):
            yield Reason("failed", f"{named(bad)} {text}.", {f"quantities {state}": len(bad)})
    moving = table[table["state"] == "moving"]
    if not len(moving):
        if (table["state"] == "constant").all():
            yield Reason("failed", "Every quantity is constant: the sampler never moved.", {"quantities moving": 0})
        return
    if draws < LEAST_DRAWS:
        yield Reason("doubtful", f"{draws} draws a chain are too few to check mixing.", {"draws": draws})
        return
    if chains > 1:
        yield _judge_rhat(moving["rhat"])
    yield _judge_ess(moving, chains)
    yield from judge_spreads(moving)


def _judge_rhat(rhat: pd.Series[float]) -> Reason:
    rhat = rhat.dropna().sort_values(ascending=False)
    if not len(rhat):
        return Reason("doubtful", "R-hat could not be computed for any quantity.")
    high, figures = float(rhat.iloc[0]), {"rhat": float(rhat.iloc[0])}
    over = rhat.index[rhat > RHAT_DOUBTFUL]
    if not len(over):
        return Reason("trusted", f"R-hat is at most {told(high, RHAT_DOUBTFUL, 3)} (bound {RHAT_DOUBTFUL}).", figures)
    failed = high > RHAT_FAILED
    bound = RHAT_FAILED if failed else RHAT_DOUBTFUL
    shown = told(high, bound, 2) if high < APART else f"more than {APART:.0f}"
    text = f"R-hat is up to {shown}, above {bound}, for {named(over)}: the chains disagree."
    return Reason("failed" if failed else "doubtful", text, figures | {"quantities over": len(over)})


def _judge_ess(table: pd.DataFrame, chains: int) -> Reason:
    smallest = table[["ess_bulk", "ess_tail"]].min(axis=1).sort_values()
    low = float(smallest.iloc[0])
    figures = {"ess_bulk": float(table["ess_bulk"].min()), "ess_tail": float(table["ess_tail"].min())}
    bound = ESS_DOUBTFUL * chains
    if math.isnan(low):
        return Reason("doubtful", "The effective number of draws could not be computed.", figures)
    if low >= bound:
        return Reason("trusted", f"Bulk and tail ESS are at least {math.floor(low):,} (bound {bound}).", figures)
    under = smallest.index[smallest < bound]
    text = (
        f"ESS is down to {told(low, bound, 0)}, below {bound}, for {named(under)}: error bars and quantiles are rough."
    )
    return Reason("failed" if low < ESS_FAILED * chains else "doubtful", text, figures)


def judge_never_moved(data: xr.DataTree) -> Iterator[Reason]:
    """Yields latents that have one unconstrained value in all draws of all chains, which no posterior with a density has."""
    if "unconstrained_posterior" not in data.children or data["posterior"].sizes["draw"] < 4:
        return
    still = [part.variable for part in blocks(data, "unconstrained_posterior") if is_constant(part.draws).any()]
    if still:
        yield Reason("failed", f"{named(still)} never moved in any chain.", {"quantities moving": float(len(still))})


def judge_sampler(data: xr.DataTree) -> Iterator[Reason]:
    """Yields what the sampler recorded about itself: whether it came to its end, divergences, E-BFMI and saturated trees.

    Any divergence is doubtful, more than 10% of draws failed. E-BFMI below 0.3 in a chain is doubtful. A saturated tree
    costs time rather than truth, so it is doubtful only in more than 10% of draws.

    References:
        Betancourt (2017), "A conceptual introduction to Hamiltonian Monte Carlo", https://arxiv.org/abs/1701.02434;
        Stan Development Team, "Runtime warnings and convergence problems", https://mc-stan.org/misc/warnings.html
    """
    diverging = stat(data, "diverging")
    attrs = data["sample_stats"].attrs if "sample_stats" in data.children else {}
    if (attrs.get("interrupted") or attrs.get("stopped_by")) and diverging is not None:
        had, asked = diverging.shape[1], int(attrs.get("draws_asked", 0))
        text = f"The run was stopped before its end: each chain has {had:,} of {asked:,} draws, which are judged as they are."
        yield Reason("trusted", text, {"draws": float(had), "draws asked for": float(asked)})
    if attrs.get("divergences_before"):
        accept, before = attrs["target_accept"], attrs["divergences_before"]
        text = f"These chains were run at target_accept {accept:g}, since others with larger steps diverged: {before}."
        yield Reason("trusted", text, {"target_accept": float(accept)})
    if diverging is not None:
        number, share = int(diverging.sum()), float(diverging.mean())
        figures = {"divergences": number, "share of draws": share}
        if number:
            percent = told(100 * share, 100 * DIVERGENT_FAILED if share > DIVERGENT_FAILED else 0.0, 1)
            text = f"{number} of {diverging.size} draws diverged ({percent}%): part of the posterior was not explored."
            place = gathered(data)
            if place is not None:
                text += f' They gather {place} (plot("divergences")).'
            yield Reason("failed" if share > DIVERGENT_FAILED else "doubtful", text, figures)
        else:
            yield Reason("trusted", "No draw diverged.", figures)
    energy = stat(data, "energy")
    if energy is not None and energy.shape[1] >= 4 and np.isfinite(energy).all():
        moving = ~is_constant(np.moveaxis(energy[:, :, None], 0, 2))  # as (1, draw, chain)
        if moving.any():
            low = float(np.min(array_stats().bfmi(energy[moving].astype(np.float64), chain_axis=-2, draw_axis=-1)))
            shown = told(low, BFMI_DOUBTFUL, 2)
            if low < BFMI_DOUBTFUL:
                text = f"E-BFMI is {shown}, below {BFMI_DOUBTFUL}: momentum resampling explores the energy too slowly."
                yield Reason("doubtful", text, {"bfmi": low})
            else:
                yield Reason(
                    "trusted",
                    f"E-BFMI is at least {shown} (bound {BFMI_DOUBTFUL}).",
                    {"bfmi": low},
                )
    saturated = stat(data, "reached_max_treedepth")
    if saturated is not None and saturated.any():
        share = float(saturated.mean())
        text = f"Trajectories hit their longest allowed length in {share:.1%} of draws: sampling could be faster."
        yield Reason("doubtful" if share > DEPTH_DOUBTFUL else "trusted", text, {"saturated": share})
