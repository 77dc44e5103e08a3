"""Posterior collapse, as far as draws show it: units of local latents that say nothing about the rows they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.verdict import Reason

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["collapse_steps", "judge_collapse", "judge_layer"]

ACTIVE = 0.01
"""The variance of the posterior mean over rows, in units of the prior's, above which a unit is active."""

IDLE = 0.01
"""Nats a row below which a layer's divergence from its prior is none."""

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
    yield from _judge_divergences(data)
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
                f"{label} uses {active.sum()} of {active.size} units; {listing} {'are' if idle[1:] else 'is'} the same for every row.",
                figures,
            )


def _judge_divergences(data: xr.DataTree) -> Iterator[Reason]:
    """Judges local sites by their divergence from the prior, which for an upper layer's children is one given that layer."""
    stats = data["sample_stats"].to_dataset()
    if "site_kl" not in stats or stats["site_kl"].sizes["site"] < 2:
        return  # a single site that says nothing is seen by its units
    for name, value in zip(stats["site"].to_numpy(), stats["site_kl"].to_numpy(), strict=True):
        yield from judge_layer(str(name), float(value))


def judge_layer(name: str, divergence: float) -> Iterator[Reason]:
    """Whether one of several layers is idle: ``divergence`` from its prior given the other layers, nats a row."""
    if divergence < IDLE:
        yield Reason(
            "doubtful",
            f"`{name}` has collapsed: its posterior is its prior given the other latents, {max(divergence, 0.0):.1g} nats a row apart, "
            "so this layer says nothing about the data that the others do not.",
            {"layer_kl": divergence},
        )


def _units(count: int) -> str:
    return "its only unit" if count == 1 else f"each of its {count} units"


def collapse_steps(reasons: list[Reason]) -> Iterator[str]:
    """What to do about units and layers that are not active."""
    if any("layer_kl" in reason.figures for reason in reasons):
        yield (
            "Let the divergence count little at first: objective=lvm.Beta_ELBO(beta=lvm.Warmup(steps)), "
            "steps half of max_steps and tolerance=0."
        )
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
