"""Pathfinder: the best Gaussian on the way to each mode."""

from __future__ import annotations

from pyro.nn import PyroModule

from pyrolvm import Problem
from pyrolvm.family import Solution, pathfinder_family
from pyrolvm_guides._joint import EmptyGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._reading import read_layout
from pyrolvm_guides._student import StudentGuide

__all__ = ["pathfinder"]


class _Pathfinder(StudentGuide):
    def __init__(self, layout: Layout, problem: Problem) -> None:
        super().__init__("pathfinder", layout, problem)

    def solve(self, problem: Problem, *, seed: int) -> Solution:
        found = pathfinder_family(problem, seed=seed)
        self.take(found.family, {})
        reason = f"the best Gaussian of {found.paths} ascents, {len(found.family.weights)} of them apart"
        target = found.target
        return Solution(found.elbos, True, reason, target.evaluations, target.engine, target.reason, found.unseen)


def pathfinder(problem: Problem) -> PyroModule:
    r"""Pathfinder: a Gaussian for each mode, the one of highest ELBO among those that L-BFGS passes on its way there.

    Its covariance at each place is the inverse Hessian up to 400 unknowns, else the estimate that the steps themselves
    give; modes are weighted by their ELBOs. A few hundred gradients in all: a first look, and a place to start.

    *It cannot represent* what a Gaussian for each mode cannot, and unlike ``student`` it fits nothing to the mass: it takes a
    curvature from one point.

    Args:
        problem: the model with its data.

    Returns:
        A guide called like the model.

    Raises:
        GuideError: if the model subsamples a plate of latent sites.

    References:
        Zhang, Carpenter, Gelman, Vehtari, *Pathfinder: Parallel quasi-Newton variational inference*,
        https://arxiv.org/abs/2108.03782
    """
    layout = read_layout(problem)
    return _Pathfinder(layout, problem) if layout.latents else EmptyGuide("pathfinder")
