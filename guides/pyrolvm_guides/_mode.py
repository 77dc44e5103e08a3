"""The mode of a posterior in unconstrained space, and its curvature there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor

from pyrolvm import GuideError, Problem
from pyrolvm_guides._layout import Layout, inside

__all__ = ["LogJoint", "climb", "curvature", "log_joint", "scale_tril_from"]

LogJoint = Callable[[Tensor], Tensor]


def log_joint(problem: Problem, layout: Layout, args: Any, kwargs: Any) -> LogJoint:
    r"""The log joint density of unconstrained values :math:`z`, Jacobian included, discrete sites summed out.

    .. math:: \log p(t(z), y) + \log|\det \partial t/\partial z|
    """

    def point(z: Tensor) -> Callable[..., None]:
        def guide(*_: Any, **__: Any) -> None:
            plates = layout.open_plates()
            for latent, u in layout.split(z):
                with inside(plates, latent):
                    pyro.sample(latent.name, latent.point(u))

        return guide

    if any(site.is_discrete and site.kind == "latent" for site in problem.sites.values()):
        nesting = max((-rows.dim for rows in layout.plates.values()), default=0)
        model = config_enumerate(problem.model, "parallel")

        def summed(z: Tensor) -> Tensor:
            z = z if z.requires_grad else z.detach().requires_grad_(True)  # this objective insists on a gradient
            loss = TraceEnum_ELBO(max_plate_nesting=nesting).differentiable_loss(model, point(z), *args, **kwargs)
            return -torch.as_tensor(loss)

        return summed

    def joint(z: Tensor) -> Tensor:
        with poutine.block():
            guide = poutine.trace(point(z)).get_trace(*args, **kwargs)
            model = poutine.trace(poutine.replay(problem.model, trace=guide)).get_trace(*args, **kwargs)
            return torch.as_tensor(model.log_prob_sum() - guide.log_prob_sum())

    return joint


def climb(density: LogJoint, start: Tensor, *, steps: int) -> Tensor:
    """Climbs from ``start`` to a mode by L-BFGS, then by Newton steps that never go down.

    Args:
        density: the log joint density.
        start: shape ``(d,)``.
        steps: how many L-BFGS steps, and at most a tenth as many Newton steps.

    Returns:
        The highest point found, shape ``(d,)``.

    Raises:
        GuideError: if the density is not finite at the start.
    """
    best = start.detach().clone()
    height = float(density(best).detach())
    if not abs(height) < float("inf"):
        raise GuideError(
            f"the log joint density is {height} where the search for the mode starts. "
            "Fix: give finite starting values, guide options init={site: value}."
        )
    z = best.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [z], max_iter=steps, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = -density(z)
        loss = torch.where(torch.isfinite(loss), loss, torch.full_like(loss, 1e30))
        loss.backward()
        if z.grad is not None:
            z.grad.nan_to_num_(0.0, 0.0, 0.0)
        return loss

    optimiser.step(closure)
    best, height = _higher(density, z.detach(), best, height)
    for _ in range(steps // 10):
        before = height
        best, height = _newton(density, best, height)
        if height - before <= 1e-9 * max(1.0, abs(height)):
            break
    return best


def _higher(density: LogJoint, candidate: Tensor, best: Tensor, height: float) -> tuple[Tensor, float]:
    if not bool(torch.isfinite(candidate).all()):
        return best, height
    reached = float(density(candidate).detach())
    return (candidate.clone(), reached) if reached > height else (best, height)


def _newton(density: LogJoint, z: Tensor, height: float) -> tuple[Tensor, float]:
    point = z.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(density(point), point)
    values, vectors = torch.linalg.eigh(curvature(density, z))
    values = values.abs().clamp(min=1e-8 * float(values.abs().max()))
    step = (vectors @ ((vectors.mT @ slope.double()) / values)).to(z.dtype)
    for factor in (1.0, 0.25, 0.0625):
        found, reached = _higher(density, z + factor * step, z, height)
        if reached > height:
            return found, reached
    return z, height


def curvature(density: LogJoint, z: Tensor) -> Tensor:
    """The negative Hessian of the log joint density at ``z``, shape ``(d, d)``, double precision.

    Raises:
        GuideError: if it is not finite.
    """
    hessian: Any = torch.autograd.functional.hessian(density, z.detach())
    matrix = -hessian.detach().double()
    if not bool(torch.isfinite(matrix).all()):
        raise GuideError(
            "the Hessian of the log joint density at the mode is not finite, so there is no Laplace approximation. "
            'Fix: use guide="full_rank", or reparametrise the model so that it is twice differentiable.'
        )
    return 0.5 * (matrix + matrix.mT)


def scale_tril_from(precision: Tensor, *, repair: bool) -> Tensor:
    r"""The Cholesky factor of the inverse of ``precision``.

    Args:
        precision: symmetric, shape ``(d, d)``, double precision.
        repair: whether eigenvalues that are not positive are replaced by their absolute value, and by at least
            :math:`10^{-6}` of the largest one.

    Raises:
        GuideError: if the matrix is not positive definite and ``repair`` is off.
    """
    values, vectors = torch.linalg.eigh(precision)
    floor = 1e-6 * float(values.abs().max()) if float(values.abs().max()) > 0 else 1.0
    if float(values.min()) < 1e-6 * floor and not repair:
        raise GuideError(
            "the negative Hessian at the mode is not positive definite: its smallest eigenvalue is "
            f"{float(values.min()):.3g}, expected above 0. "
            'Fix: guide="full_rank", or repair=True to use the absolute curvature.'
        )
    bad = values < 1e-6 * floor
    values = torch.where(bad, values.abs().clamp(min=floor), values)
    factor = vectors / values.sqrt()
    return torch.linalg.cholesky(factor @ factor.mT)
