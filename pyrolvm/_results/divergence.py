"""How far a guide's sites are from their priors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.density import Joint, repeat
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_random

__all__ = ["site_divergences"]

DRAWS, VALUES = 20, 20_000
"""Draws of a guide that are averaged over, fewer where they have so many rows, which are averaged over as well."""


def site_divergences(problem: Problem, guide: Callable[..., object], *, inside: int) -> dict[str, float]:
    r"""The mean of :math:`\log q(z_s \mid \cdot) - \log p(z_s \mid \cdot)` of each local site s, in nats a row.

    Given what the site depends on in guide and model, it is the divergence of the guide from the prior. Only sites that the guide draws
    one by one have one: a guide over all unknowns together, such as an AutoGuide, has none. Must be called inside a session.

    Args:
        problem: the problem.
        guide: its guide, fitted.
        inside: how many numbers the model computes for a draw, which says how many draws to take at once.
    """
    joint = Joint(problem)

    def one() -> dict[str, Tensor]:
        with problem.whole.active():
            trace = poutine.trace(guide).get_trace(*problem.args, **problem.kwargs)
        trace.compute_log_prob()
        found = {
            name: node["unscaled_log_prob"]
            for name, node in trace.nodes.items()
            if is_random(node) and not is_deterministic(node)
        }
        if not found.keys() <= problem.sites.keys():
            return {}
        terms = joint.terms({name: node["value"] for name, node in guide_sites(trace).items()})
        return {
            name: (log_q - terms[f"log_prior/{name}"]).mean()
            for name, log_q in found.items()
            if f"log_prior/{name}" in terms and problem.sites[name].plates
        }

    rows = min((math.prod(site.batch_shape) for site in problem.latents if site.plates), default=1)
    draws = max(2, min(DRAWS, VALUES // max(rows, 1)))
    with torch.no_grad():
        found = repeat(one, draws, like=torch.zeros((), dtype=problem.dtype, device=problem.device), inside=inside)
    return {name: float(value.double().mean()) for name, value in found.items()}
