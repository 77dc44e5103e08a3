"""What a result evaluates at its draws: all of them where they are taken together, fewer where the program runs them one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._program.density import Evaluator, Joint
from pyrolvm._program.problem import Problem
from pyrolvm._results.draws import draw_guide

__all__ = ["LOOPED", "deterministic_sites", "drawn", "evaluated", "every", "log_p", "quantities_of"]

FEWER = "fewer_draws"
"""The attribute that says why a fit has fewer draws than others."""

LOOPED, LOOPED_GROUP = 1_000, 500
"""Draws of a fit, and of a group, where the program runs them one by one."""

Draws = dict[str, Tensor]
Ways = dict[str, str]
"""What evaluated each function, as results say it."""


def evaluated(
    ways: Ways, what: str, function: Callable[[Draws], Draws], draws: Draws, chains: int, by: int
) -> tuple[Draws, int]:
    """A function of the draws, and every how manieth of all draws they are: of fewer where they run one by one.

    Args:
        ways: takes note of what evaluated it.
        what: its name.
        function: of one draw.
        draws: every ``by``-th draw of each chain, chain after chain.
        chains: how many chains.
        by: how they were thinned before.
    """
    many = Evaluator(function, draws, what=what)
    if many.way == "loop":
        total = len(next(iter(draws.values())))
        step = math.ceil(total / budget.affordable(many.cost, LOOPED_GROUP))
        draws, by = every(draws, chains, step), by * step
    ways[what] = _told(many)
    return many(draws), by


def every(values: Draws, chains: int, step: int) -> Draws:
    """Every ``step``-th draw of each chain."""
    if step == 1:
        return values
    return {n: v.unflatten(0, (chains, -1))[:, ::step].flatten(0, 1) for n, v in values.items()}


def drawn(
    problem: Problem,
    guide: Callable[..., object],
    count: int,
    attrs: Mapping[str, object],
    *,
    asked: bool,
    inside: int,
) -> tuple[Draws, Tensor, Mapping[str, object]]:
    """Draws of a guide, log q of each and attributes: fewer draws, which these say, where their number is left to us and time is short.

    Args:
        problem: the problem.
        guide: the guide.
        count: how many draws.
        attrs: attributes of the result.
        asked: whether the number was asked for.
        inside: how many numbers the model computes for a draw on its way.
    """
    values, log_q = draw_guide(problem, guide, count, looped=None if asked else LOOPED)
    if len(log_q) < count:
        attrs = {**attrs, FEWER: f"{count:,} draws of the guide would take long beside the fit"}
    if asked or not values:
        return values, log_q, attrs
    with torch.no_grad():
        joint = Joint(problem)
        many = Evaluator(lambda one: {"log_p": joint.log_p(one)}, values, inside=inside, what="log_p")
        count, cost = many.affordable(values, LOOPED)
    if count >= len(log_q):
        return values, log_q, attrs
    why = (
        f"the model runs one draw at a time, {1e3 * cost:.2g} ms each: {many.reason}"
        if many.way == "loop"
        else f"the model takes {1e3 * cost:.2g} ms for a draw, and more would take long beside the fit"
    )
    return {n: v[:count] for n, v in values.items()}, log_q[:count], {**attrs, FEWER: why}


def log_p(ways: Ways, joint: Joint, draws: Draws, *, inside: int) -> Draws:
    """The log joint density of all draws, ``log_p``."""
    many = Evaluator(lambda one: {"log_p": joint.log_p(one)}, draws, inside=inside, what="log_p")
    ways["log_p"] = _told(many)
    return many(draws)


def deterministic_sites(joint: Joint, draws: Draws, ways: Ways, *, inside: int) -> Draws:
    """The deterministic sites of all draws; no run of the model where it has none."""
    if not any(site.kind == "deterministic" for site in joint.problem.sites.values()):
        return {}
    many = Evaluator(joint.deterministic, draws, inside=inside, what="deterministic")
    ways["deterministic"] = _told(many)
    return {n: v for n, v in many(draws).items() if n in joint.problem.sites}


def quantities_of(problem: Problem, draws: Draws, chains: int, ways: Ways) -> tuple[Draws, int]:
    """The model's identified quantities, and every how manieth draw they are of."""
    if not problem.quantities:
        return {}, 1

    def one(draw: Mapping[str, Tensor]) -> Draws:
        return {name: torch.as_tensor(function(draw)) for name, function in problem.quantities.items()}

    return evaluated(ways, "quantities", one, draws, chains, 1)


def _told(many: Evaluator) -> str:
    return f"loop: {many.reason}" if many.way == "loop" else many.way
