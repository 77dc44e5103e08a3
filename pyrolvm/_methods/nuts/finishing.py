"""From the points where chains were to a posterior's tree: what every sampler does with its draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.errors import FitError
from pyrolvm._base.numerics import Array
from pyrolvm._base.progress import Show, shown
from pyrolvm._methods.modes import left_out, unlike
from pyrolvm._program.density import Joint, constrained
from pyrolvm._program.problem import Problem
from pyrolvm._results.build import chains_tree
from pyrolvm.family import Frame

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["require_draws", "tree_of_chains"]

SHARE, LEAST_SECONDS = 2.0, 2.0
"""What evaluating draws one by one may cost, in units of what was spent before, and in seconds if that is more."""


def require_draws(draws: int) -> None:
    """Refuses chains that were stopped before each had a draw.

    Raises:
        Spent: if the seconds of a budget are over.
        FitError: if the user stopped them.
    """
    if draws:
        return
    if budget.spent():
        raise budget.Spent(
            "the seconds of the budget were over before every chain had a draw after warmup. Fix: raise budget."
        )
    raise FitError(
        "interrupted before every chain had a draw after warmup. Fix: run again: with out= and resume=True it goes on from "
        "its checkpoint, otherwise with a smaller warmup."
    )


def tree_of_chains(
    problem: Problem,
    joint: Joint,
    frame: Frame | None,
    draws: Tensor,
    stats: Mapping[str, Array],
    attrs: Mapping[str, Any],
    *,
    interrupted: bool,
    spent: float,
    progress: Show,
) -> xr.DataTree:
    """Everything that follows from the draws of chains; must be called inside a session.

    Args:
        problem: the problem.
        joint: its density in the coordinates of the draws.
        frame: the frame that they were sampled in, if any, whose modes they may have left out.
        draws: in unconstrained space, shape ``(chains, draws, n)``.
        stats: sampler statistics, each of shape ``(chains, draws)``.
        attrs: attributes of the groups.
        interrupted: whether the chains were stopped before their end, by the user or by a budget.
        spent: the seconds that the run has taken so far.
        progress: how the run is shown.
    """
    flat = draws.reshape(-1, draws.shape[-1])
    with torch.no_grad():
        values = constrained(joint, flat)
    stopped = {"interrupted": int(interrupted and not budget.spent())}
    by = {"stopped_by": "budget"} if interrupted and budget.spent() else {}
    beside = left_out(frame, flat.double().cpu().numpy())
    with budget.finishing(max(SHARE * spent, LEAST_SECONDS)), shown(progress):
        tree = chains_tree(problem, values, len(draws), stats, {**attrs, **stopped, **by, **beside})
    if beside:
        tree["posterior"].attrs.update(unlike(problem, tree))
    return tree
