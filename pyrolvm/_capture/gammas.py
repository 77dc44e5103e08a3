"""Gamma draws as functions of normal and uniform numbers, for engines that draw all random numbers ahead of a step."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, fx

from pyrolvm._capture.graph import Captured, Noise, with_slots
from pyrolvm._compat.torch import GAMMA_DRAW, gamma_slope

__all__ = ["PROPOSALS", "gamma_draw", "with_gammas"]

PROPOSALS = 8
"""Of each draw. One is refused with a chance below 0.05 whatever the concentration is, and all of them with one below 1e-10."""


def with_gammas(captured: Captured) -> Captured:
    """The same function in distribution, with the numbers that its Gamma draws are made of as inputs.

    Args:
        captured: a program whose normal and uniform numbers are inputs already.
    """

    def numbers(node: fx.Node) -> tuple[Noise, ...] | None:
        if node.target is not GAMMA_DRAW:
            return None
        value, device = node.meta["val"], node.meta["device"]
        shapes = {"normal": (PROPOSALS, *value.shape), "uniform": (PROPOSALS + 1, *value.shape)}
        return tuple(Noise(kind, shape, value.dtype, device) for kind, shape in shapes.items())

    changed, slots = with_slots(captured, numbers)
    for node, inputs in slots.items():
        node.args, node.kwargs, node.target = (node.args[0], *inputs), {}, gamma_draw
    changed.module.graph.lint()
    changed.module.recompile()
    return changed


def gamma_draw(concentration: Tensor, normals: Tensor, uniforms: Tensor) -> Tensor:
    """Draws from Gamma distributions of rate 1: the first of several proposals that is accepted.

    A draw moves with its concentration as torch's own does, along the distribution function.

    Args:
        concentration: positive, any shape.
        normals: shape ``(PROPOSALS, *concentration.shape)``.
        uniforms: shape ``(PROPOSALS + 1, *concentration.shape)``, on [0, 1).

    References:
        George Marsaglia and Wai Wan Tsang, *A Simple Method for Generating Gamma Variables*, ACM TOMS 26, 2000.
    """
    alpha, tiny = concentration.detach(), torch.finfo(concentration.dtype).tiny
    d = torch.where(alpha < 1, alpha + 1, alpha) - 1 / 3
    root = 1 + normals * (9 * d).rsqrt()
    cubes = root * root * root
    logs = cubes.clamp_min(tiny).log()
    accepted = (cubes > 0) & (uniforms[:-1].log() < 0.5 * normals * normals + d * (1 - cubes + logs))
    pairs = list(zip(accepted.unbind(), cubes.clamp_min(tiny).unbind(), strict=True))
    first = reduce(lambda later, pair: torch.where(pair[0], pair[1], later), reversed(pairs[:-1]), pairs[-1][1])
    lowered = torch.where(alpha < 1, uniforms[-1] ** (1 / alpha), 1.0)  # a draw of alpha + 1 times this is one of alpha
    draw = (d * first * lowered).clamp_min(tiny)
    return draw + (concentration - alpha) * gamma_slope(alpha, draw)
