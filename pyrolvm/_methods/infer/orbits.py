r"""Posteriors that consist of copies of one mode: draws and density of a guide averaged over the group that maps copies to each other.

With :math:`p(g x) = p(x)` for all actions :math:`g` of a group G, the averaged guide draws :math:`x \sim q` and maps it by an
action chosen at random. Its density is :math:`\bar q(x) = |G|^{-1} \sum_g q(g x)`, which is nearer to p in every divergence,
covers all copies equally, and makes weights :math:`p / \bar q` that count all of them in the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.bijections import bijection
from pyrolvm._program.density import Joint
from pyrolvm._program.density.target import Points, Target
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._program.symmetry import Block
from pyrolvm._program.symmetry.action import Action
from pyrolvm._program.symmetry.orbit import elements
from pyrolvm._program.symmetry.orbits import Orbits
from pyrolvm._results import Chains
from pyrolvm._results.build import chains_tree
from pyrolvm.family import known_frame
from pyrolvm.family.protocol import Hooks

__all__ = ["Law", "average", "complete"]

MOST_IMAGES = 120
"""Up to so many images of each draw a density is averaged over."""


def complete(chains: Chains, seed: int) -> Chains:
    """The chains with each draw mapped to a copy chosen at random; as they are where no copies lie apart."""
    problem = chains.attached
    group = chains.data["posterior"].to_dataset()
    like = torch.zeros((), dtype=problem.dtype, device=problem.device)
    values = {
        site.name: torch.as_tensor(np.asarray(group[variable(site.name)].values)).to(like).flatten(0, 1)
        for site in problem.continuous
    }
    orbits = Orbits.found(problem, values)
    if orbits is None:
        return chains
    stats = chains.data["sample_stats"]
    kept = {str(name): np.asarray(part.values) for name, part in stats.data_vars.items() if name != "lp"}
    with problem.session(seed=seed, params=chains.params):
        tree = chains_tree(
            problem,
            orbits.spread(values, seed, evenly=True),
            group.sizes["chain"],
            kept,
            {str(k): v for k, v in stats.attrs.items()},
            orbits,
        )
    return replace(chains, data=tree)


def average(orbits: Orbits, values: Mapping[str, Tensor], log_q: Points, law: Law) -> Points | None:
    """Log densities of draws under the averaged guide, on the scale of those given; must be called inside a session.

    ``None`` where the group is too large.
    """
    every = _products(orbits.blocks)
    if every is None:
        return None
    flat = orbits.flat(values)
    layout = orbits.symmetries.layout
    terms = [law(layout.split(action(flat))) for action in every]
    gained = np.logaddexp.reduce(np.stack(terms), axis=0) - math.log(len(every)) - terms[0]
    return log_q + np.where(np.isfinite(gained), gained, 0.0)


def _products(blocks: Sequence[Block]) -> list[Action] | None:
    """One action of each block after the other, in all combinations; ``None`` if there are too many."""
    found: list[Action] = []
    for block in blocks:
        every = elements(block)
        if every is None or len(every) * max(len(found), 1) > MOST_IMAGES:
            return None
        found = [other.after(one) for one in found for other in every] if found else every
    return found


@dataclass(frozen=True)
class Law:
    """The density of a guide at any draw, up to what all images of a draw have in common.

    Attributes:
        target: the model's density in the coordinates that the guide's is of.
        log_q: the guide's log density at points of these coordinates.
        plain: whether they are each site's own unconstrained values, so that no model need be run.
    """

    target: Target
    log_q: Callable[[Points], Points]
    plain: bool

    @classmethod
    def of(cls, guide: object, problem: Problem) -> Law | None:
        """The density of a guide over all unknowns together; ``None`` of any other."""
        law, centring = Hooks(guide).law, Hooks(guide).centring
        if law is None or centring is None:
            return None
        frame = known_frame(problem, centring())
        target = frame.target if frame is not None else Target.of(Joint(problem, centring=centring()))
        like = torch.zeros((), dtype=problem.dtype, device=problem.device)

        def log_q(points: Points) -> Points:
            with torch.no_grad():
                found: Points = law().log_prob(torch.as_tensor(points).to(like)).cpu().double().numpy()
            return found

        return cls(target, log_q, _is_plain(target))

    def __call__(self, values: Mapping[str, Points]) -> Points:
        """Log densities of draws by site; minus infinity where they cannot be told."""
        if self.plain:
            points, jacobian = _unconstrained(self.target.joint.problem, values)
        else:  # all images of a draw have the same density, so that the target's there differs by the Jacobian alone
            like = self.target.tensor(np.zeros(0))
            points = self.target.points({name: torch.as_tensor(value).to(like) for name, value in values.items()})
            jacobian = self.target.values(points)
        fine = np.isfinite(points).all(axis=1) & np.isfinite(jacobian)
        density = self.log_q(np.where(fine[:, None], points, 0.0)) - np.where(fine, jacobian, 0.0)
        return np.where(fine & np.isfinite(density), density, -np.inf)


def _is_plain(target: Target) -> bool:
    """Whether coordinates are each site's own unconstrained values, as four draws show."""
    if target.joint.centring:
        return False
    points = np.random.default_rng(3).normal(size=(4, target.size))
    values = {name: value.cpu().double().numpy() for name, value in target.draws(points).items()}
    return np.allclose(_unconstrained(target.joint.problem, values)[0], points, rtol=1e-3, atol=1e-3)


def _unconstrained(problem: Problem, values: Mapping[str, Points]) -> tuple[Points, Points]:
    """Unconstrained values ``(count, size)`` of draws by site, and the log Jacobians of the way back."""
    points: list[Points] = []
    jacobian: Points = np.zeros(len(next(iter(values.values()))))
    for site in problem.continuous:
        transform = bijection(site.support)
        value = torch.as_tensor(values[site.name])
        real = transform.inv(value)
        points.append(real.reshape(len(real), -1).numpy())
        jacobian = jacobian + transform.log_abs_det_jacobian(real, value).reshape(len(real), -1).sum(1).numpy()
    return np.concatenate(points, axis=1), jacobian
