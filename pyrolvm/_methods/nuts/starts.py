"""Where chains start, and what a fit tells about the posterior's scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, CaptureError, FitError
from pyrolvm._program.density import Joint, constrained, flattened
from pyrolvm._program.density.target import Target, nowhere_finite
from pyrolvm._program.names import variable
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit
from pyrolvm.family import Frame, find_frame, frame_pays

__all__ = ["find_starts", "fitted_points", "frame_engine", "moments", "sampling_frame"]

TRIES = 100

START_FREEDOM = 4.0
"""Degrees of freedom of the Student t distribution that starts are drawn from: wider than the posterior, so that R-hat sees more."""

DENSE_UNKNOWNS = 100
"""Up to so many unknowns a dense mass matrix costs no more than a gradient."""

DENSE_CONDITION = 10.0
"""The condition number of a fit's correlation matrix from which on a dense mass matrix is taken by default.

A trajectory takes steps as its square root. Logistic regression with 31 unknowns whose largest correlation is 0.73 takes 31
steps a draw with the diagonal and 7 to 12 with all entries; eight schools, without correlation, 7 to 9 with either.
"""


def find_starts(joint: Joint, init: object, chains: int, seed: int, frame: Frame | None = None) -> Tensor:
    """A starting point of finite density for each chain, shape ``(chains, unconstrained_size)``.

    Args:
        joint: the density, whose coordinates they are of.
        init: a fit, whose draws they are, or values by site.
        chains: how many.
        seed: of the random numbers.
        frame: without ``init``, what they are drawn from, with tails that are wider than the posterior's.

    Raises:
        ArgumentError: if ``init`` is not of this problem.
        FitError: if 100 tries find none, with the log density of every site.
    """
    size = joint.problem.unconstrained_size
    like = torch.zeros((), dtype=joint.problem.dtype, device=joint.problem.device)
    if init is None and frame is not None:
        wide = frame.family.with_freedom(START_FREEDOM)
        drawn = [wide.sample(TRIES, seed + block) for block in range(1 + chains // TRIES)]
        candidates = torch.as_tensor(np.concatenate(drawn)).to(like)
    elif init is None:
        candidates = 4 * torch.rand(chains + TRIES, size, dtype=like.dtype, device=like.device) - 2
    elif isinstance(init, Fit):
        draws = _fitted(joint, init)
        order = np.random.default_rng(seed).permutation(len(draws))[: 4 * chains]
        candidates = draws[torch.as_tensor(order)].to(like)
    else:
        candidates = _given(joint, init, chains).to(like)
    found = []
    for z in candidates:
        point = z.clone().requires_grad_(True)
        potential = joint.potential(point)
        (gradient,) = torch.autograd.grad(potential, point)
        if bool(torch.isfinite(potential)) and bool(torch.isfinite(gradient).all()):
            found.append(z)
        if len(found) == chains:
            return torch.stack(found)
    raise nowhere_finite(joint, len(candidates), candidates[0])


def moments(
    joint: Joint, init: object, dense: bool | str, frame: Frame | None = None
) -> tuple[Tensor | None, Tensor | None, bool]:
    """Mean and covariance to begin with, and whether to take the covariance whole.

    Args:
        joint: the density, whose coordinates they are of.
        init: what chains start from; of a :class:`~pyrolvm._results.Fit`, the moments of its draws, if there is no frame.
        dense: ``True`` or ``False``; ``"auto"`` takes all entries where the unknowns are few and strongly correlated.
        frame: the Gaussian whose moments they are.

    Returns:
        The mean, the variances of shape ``(n,)`` or the covariance of shape ``(n, n)``, and which of the two; the moments
        are ``None`` where nothing is known, or what is known is not finite.
    """
    whole = dense is not False and dense != "auto"
    size = joint.problem.unconstrained_size
    if frame is not None:
        family = frame.best.family
        mean, tril = (torch.as_tensor(part[0]).double() for part in (family.means, family.trils))
        covariance, enough = tril @ tril.T, True
    elif isinstance(init, Fit):
        draws = _fitted(joint, init).double()
        mean, covariance = draws.mean(0), torch.diag(draws.var(0))
        enough = len(draws) >= 5 * size
        if enough and (whole or (dense == "auto" and size <= DENSE_UNKNOWNS)):
            covariance = torch.cov(draws.T).reshape(size, size)
    else:
        return None, None, whole
    variance = covariance.diagonal()
    if not bool(torch.isfinite(covariance).all()) or not bool((variance > 0).all()):
        return None, None, whole
    if not whole and (dense != "auto" or size > DENSE_UNKNOWNS or not enough):
        return mean, variance, False
    scale = variance.sqrt()
    if not whole and float(torch.linalg.cond(covariance / (scale[:, None] * scale))) < DENSE_CONDITION:
        return mean, variance, False
    return mean, covariance, True


def _fitted(joint: Joint, fit: Fit) -> Tensor:
    """A fit's draws as flat vectors of the density, shape ``(draws, unconstrained_size)``.

    Raises:
        ArgumentError: if the fit is of another problem.
    """
    problem = joint.problem
    group = fit.data["unconstrained_posterior"].to_dataset() if "unconstrained_posterior" in fit.data.children else {}
    parts = []
    for site in problem.continuous:
        name = variable(site.name)
        values = np.asarray(group[name].values) if name in group else None
        if values is None or values.shape[2:] != tuple(site.unconstrained_shape or ()):
            told = "none" if values is None else f"draws of shape {values.shape[2:]}"
            raise ArgumentError(
                f"init is a fit of another problem: for site {site.name!r} it has {told}, expected {site.unconstrained_shape}. "
                "Fix: fit this problem, or pass values by site."
            )
        parts.append(values.reshape(values.shape[0] * values.shape[1], -1))
    flat = torch.from_numpy(np.concatenate(parts, axis=1))
    if not joint.centring:
        return flat
    plain, like = Joint(problem), torch.zeros((), dtype=problem.dtype, device=problem.device)
    with torch.no_grad():
        return flattened(joint, constrained(plain, flat.to(like)))


def fitted_points(joint: Joint, fit: Fit) -> np.ndarray[Any, Any]:
    """A fit's draws as points of the density, in double precision, shape ``(draws, unconstrained_size)``."""
    return _fitted(joint, fit).double().cpu().numpy()


def _given(joint: Joint, init: object, chains: int) -> Tensor:
    problem = joint.problem
    sites = [site.name for site in problem.continuous]
    if not isinstance(init, Mapping):
        raise ArgumentError(
            f"init must be a Fit or values by site, got {type(init).__name__}. Fix: pass init=lvm.fit(problem)."
        )
    missing = [name for name in sites if name not in init]
    if missing:
        raise ArgumentError(
            f"init has no value for site {missing[0]!r}. Fix: give one for each of {', '.join(sites)}, or pass a Fit."
        )
    values = {name: _value(problem, name, init[name]).expand(chains, *problem.sites[name].shape) for name in sites}
    with torch.no_grad():
        return flattened(joint, values)


def _value(problem: Problem, name: str, given: object) -> Tensor:
    """The value to start a site at.

    Raises:
        ArgumentError: if it has another shape than the site, or lies outside its support.
    """
    site = problem.sites[name]
    value = torch.as_tensor(given).to(dtype=problem.dtype, device=problem.device)
    if tuple(value.shape) not in ((), site.shape):
        raise ArgumentError(
            f"init for site {name!r} has shape {tuple(value.shape)}, expected {site.shape}. Fix: give one value for each element."
        )
    if not bool(site.support.check(value.expand(site.shape)).all()):
        raise ArgumentError(
            f"init for site {name!r} lies outside its support {site.support}. Fix: give a value inside it."
        )
    return value


def sampling_frame(problem: Problem, precondition: str, seed: int) -> tuple[Frame | None, str]:
    """The frame to sample in, if any, and what the coordinates are, or why they are the plain ones."""
    if precondition == "none":
        return None, "unconstrained"
    if precondition == "auto" and not frame_pays(problem):
        return None, "unconstrained: too many unknowns or data for a frame"
    try:
        return find_frame(problem, seed=seed), "frame"
    except (CaptureError, FitError) as error:
        if precondition == "frame":
            raise
        return None, f"unconstrained: {error}"


def frame_engine(target: Target | None) -> str:
    """What the density of the frame's coordinates ran on, and why not on a faster engine."""
    return "" if target is None else f"{target.engine}: {target.reason}".removesuffix(": ")
