"""Posterior collapse, as far as draws show it: units of local latents that say nothing about the rows they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm.verdict import Reason

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["collapse_steps", "judge_collapse"]

ACTIVE = 0.01
"""The variance of the posterior mean over rows, in units of the prior's, above which a unit is active."""

ENOUGH_ROWS = 20
"""Rows below which a variance over rows says little."""


def judge_collapse(data: xr.DataTree) -> Iterator[Reason]:
    """Judges local latents of models that were learned: a unit whose posterior mean is the same for all rows has been pruned.

    Where the model has nothing to learn, a posterior that is the prior may well be right, and nothing is said.

    References:
        Burda, Grosse, Salakhutdinov, *Importance weighted autoencoders*, https://arxiv.org/abs/1509.00519 (active units)
    """
    group = data["posterior"]
    if not int(group.attrs.get("model_parameters", 0)) or not {"prior", "observed_data"} <= set(data.children):
        return
    rows = {dim for value in data["observed_data"].data_vars.values() for dim in value.dims}
    sites = data["log_prior"].data_vars if "log_prior" in data.children else ()
    for name, draws in ((str(key), value) for key, value in group.data_vars.items()):
        plates = [str(dim) for dim in draws.dims if dim in rows and draws.sizes[dim] >= ENOUGH_ROWS]
        if name not in sites or len(plates) != 1 or draws.dtype.kind != "f" or name not in data["prior"].data_vars:
            continue
        over = ["chain", "draw"]
        count = draws.sizes["chain"] * draws.sizes["draw"]
        noise = draws.var(over).mean(plates) / count  # what a mean of so many draws varies by
        moved = (draws.mean(over).var(plates) - noise).to_numpy().reshape(-1)
        prior = data["prior"][name].var([*over, *plates]).to_numpy().reshape(-1)
        shares = moved / np.maximum(prior, 1e-300)
        active = shares > ACTIVE
        figures = {
            "active_units": float(active.sum()),
            "units": float(active.size),
            "least active unit": float(shares.min()),
        }
        label = f"`{name}`"
        if not active.any():
            share = max(float(shares.max()), 0.0)
            text = (
                f"{label} has collapsed: over rows, the posterior mean of {_units(active.size)} varies by at most {share:.2g} of the "
                "prior variance, so the latents say nothing about the data."
            )
            yield Reason("doubtful", text, figures)
        elif not active.all():
            idle = [f"{name}[{i}]" for i in np.flatnonzero(~active)]
            listing = ", ".join(idle[:6]) + (", ..." if len(idle) > 6 else "")
            yield Reason(
                "trusted",
                f"{label} uses {active.sum()} of {active.size} units; {listing} are the same for every row.",
                figures,
            )


def _units(count: int) -> str:
    return "its only unit" if count == 1 else f"each of its {count} units"


def collapse_steps(reasons: list[Reason]) -> Iterator[str]:
    """What to do about units that are not active."""
    for reason in reasons:
        if "active_units" not in reason.figures:
            continue
        if reason.status == "trusted":
            yield "Pruned units cost nothing: fewer latent dimensions do as well; lvm.gaps(fit) measures each."
        else:
            yield (
                "Keep the latents from collapsing: a lower likelihood noise, a weaker decoder, or several draws a step; "
                "lvm.gaps(fit) measures each unit."
            )
