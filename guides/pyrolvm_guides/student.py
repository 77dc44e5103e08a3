"""A mixture of Student t distributions, found by natural gradients and adapted to its importance weights."""

from __future__ import annotations

from pyro.nn import PyroModule

from pyrolvm import Problem
from pyrolvm.family import METHODS, Solution, adapt, find_frame, unknown_name
from pyrolvm_guides._joint import EmptyGuide
from pyrolvm_guides._layout import Layout
from pyrolvm_guides._reading import read_layout
from pyrolvm_guides._student import LARGE, StudentGuide

__all__ = ["student"]


class _Student(StudentGuide):
    def __init__(self, layout: Layout, problem: Problem, method: str) -> None:
        super().__init__("student", layout, problem)
        self.method = method

    def solve(self, problem: Problem, *, seed: int) -> Solution:
        frame = find_frame(problem, seed=seed, method=self.method)
        before = frame.target.evaluations
        family = frame.family
        steps = f"{self.method.replace('_', ' ')} from the best of {frame.paths} ascents"
        family, held = adapt(frame.target, family, seed, rounds=None if self.layout.size <= LARGE // 10 else 0)
        self.take(family, frame.centring)
        best = frame.best
        reason = (
            f"{steps}: {len(best.elbos)} iterations, the last {best.residual:.2g} from the optimum in its own units; "
            f"then {len(family.weights)} component{'s' if len(family.weights) > 1 else ''} with {held.share:.0%} of the draws effective"
        )
        target = frame.target
        evaluations = frame.evaluations + target.evaluations - before
        return Solution(best.elbos, best.converged, reason, evaluations, target.engine, target.reason, frame.unseen)


def student(problem: Problem, *, method: str = "natural_gradient") -> PyroModule:
    r"""A mixture of Student t distributions: the best Gaussian, with tails heavy enough to be corrected.

    .. math:: q(u) = \sum_k w_k\, t_{\nu_k}(u;\ m_k, L_k L_k^\top)

    in coordinates :math:`u` in which sites depend on their parents only as far as the data ask for it (partial
    non-centring). The first Gaussian maximises the ELBO by natural gradients, from the best place on several L-BFGS
    ascents; modes that the ascents find apart get one each. Then the number of degrees of freedom, and up to five
    components more, are fitted to the importance weights of the draws, where the unknowns are few enough. No step of stochastic
    gradient descent is taken, so that ``optimizer``, ``learning_rate`` and the like have nothing to act on.

    *It cannot represent* strong curvature or funnels that non-centring does not straighten. It holds all local latent variables
    at once with a full covariance matrix, so it refuses minibatches of their plates and more than 1,000 unknowns.

    Args:
        problem: the model with its data.
        method: how the first Gaussian is fitted: ``"natural_gradient"`` to the highest ELBO, or ``"batch_and_match"`` to the
            target's scores.

    Returns:
        A guide called like the model.

    Raises:
        UnknownNameError: if ``method`` is neither.
        GuideError: if the model subsamples a plate of latent sites.

    References:
        Hoogerheide, Opschoor, van Dijk, *A class of adaptive importance sampling weighted EM algorithms for efficient and
        robust posterior and predictive simulation*, https://doi.org/10.1016/j.jeconom.2012.06.011;
        Khan and Rue, *The Bayesian learning rule*, https://arxiv.org/abs/2107.04562
    """
    if method not in METHODS:
        raise unknown_name("method", str(method), METHODS)
    layout = read_layout(problem)
    return _Student(layout, problem, method) if layout.latents else EmptyGuide("student")
