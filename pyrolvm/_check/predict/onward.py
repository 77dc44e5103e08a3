r"""Laws that tie rows together, given their first values: Gaussian processes at other places, and series that go on.

For a Gaussian law of :math:`(k, r)` with precision :math:`P`, the rest given what is known is

.. math:: r \mid k \sim N\big(P_{rr}^{-1} \nabla_r \log p(k, r = 0),\; P_{rr}^{-1}\big),

whatever distribution it is written as: a walk, a linear state-space model, a Markov random field.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, LowRankMultivariateNormal, MultivariateNormal, constraints
from torch.distributions.constraints import Constraint

from pyrolvm._base.errors import ProblemError
from pyrolvm._program.peeling import along

__all__ = ["check_onward", "is_real", "onward"]

JITTER = 1e-9
"""What is added to a covariance, relative to its size, before it is inverted."""


def onward(
    fn: dist.TorchDistribution, known: Tensor, axis: int, site: str, *, mean: bool = False
) -> tuple[Tensor, Tensor]:
    """A draw of a law whose first values along an axis are known, and the log density of those.

    Args:
        fn: the law of all values.
        known: the first values along the axis, else of the law's shape.
        axis: which dimension of a value, from the right.
        site: its name, for messages.
        mean: whether the mean of the rest is wanted in place of a draw, where it is known in closed form.

    Raises:
        ProblemError: if the law is none that can be conditioned.
    """
    count = known.shape[axis]
    law = along(fn, axis)
    if -axis > law.event_dim:  # independent along the axis
        value = law.mean if mean and _has_mean(law) else law()
        value = _behind(known.to(value.dtype), value, axis)
        terms = law.log_prob(value)
        return value, terms.narrow(axis + law.event_dim, 0, count).sum()
    if hasattr(law, "onward"):  # it says itself how it goes on
        whole, before = law.onward(known)
        return whole, before.sum()
    if isinstance(law, dist.DiscreteHMM):
        return _hidden(law, known, axis)
    if isinstance(law, MultivariateNormal | LowRankMultivariateNormal):
        return _normal(law, known, mean=mean)
    if not is_real(law.support):
        raise ProblemError(
            f"site {site!r} is {type(law).__name__}, and nothing says what its further values are given the first ones. "
            "Fix: write each step as a site that follows from those before it, or give the distribution a method onward(known) that "
            "returns a draw with these first values and their log density."
        )
    return _gaussian(law, known, axis, mean=mean)


def check_onward(fn: dist.TorchDistribution, known: Tensor, axis: int, before: Tensor, site: str) -> None:
    """Refuses a law whose first values are others than they were, or that is not Gaussian; of one draw.

    Args:
        fn: the law of all values.
        known: the first values.
        axis: which dimension of a value, from the right.
        before: the log density of these values as they were without the others.
        site: its name.

    Raises:
        ProblemError: naming it.
    """
    value, prefix = onward(fn, known, axis, site)
    law = along(fn, axis)
    known_laws = dist.DiscreteHMM | MultivariateNormal | LowRankMultivariateNormal
    direct = -axis > law.event_dim or hasattr(law, "onward") or isinstance(law, known_laws)
    if not direct and not _is_quadratic(law, known, axis, value):
        raise ProblemError(
            f"site {site!r} is {type(law).__name__}, whose further values given the first ones are not Gaussian. "
            "Fix: write each step as a site that follows from those before it."
        )
    if not torch.allclose(prefix.double(), before.double().sum(), rtol=1e-3, atol=1e-2):
        raise ProblemError(
            f"the distribution of {site!r} at the rows of the fit changes with the rows that come after them: its log density there is "
            f"{float(prefix):.4g} with them and {float(before.sum()):.4g} without. Fix: let what is said of a row, such as a scale or "
            "a centre of covariates, not depend on the other rows."
        )


def is_real(support: Constraint | None) -> bool:
    """Whether all real numbers are values."""
    base: Any = support
    while hasattr(base, "base_constraint"):
        base = base.base_constraint
    return isinstance(base, type(constraints.real)) and not getattr(base, "is_discrete", False)


def _has_mean(law: dist.TorchDistribution) -> bool:
    try:
        return bool(law.mean.shape == law.shape())
    except (NotImplementedError, AttributeError):
        return False


def _behind(known: Tensor, value: Tensor, axis: int) -> Tensor:
    """A value whose first elements along an axis are others."""
    rest = value.narrow(axis, known.shape[axis], value.shape[axis] - known.shape[axis])
    return torch.cat([known.expand(*rest.shape[:axis], known.shape[axis], *_after(rest, axis)), rest], axis)


def _after(value: Tensor, axis: int) -> tuple[int, ...]:
    return tuple(value.shape[value.dim() + axis + 1 :])


def _normal(law: MultivariateNormal | LowRankMultivariateNormal, known: Tensor, *, mean: bool) -> tuple[Tensor, Tensor]:
    """Of a normal law with its covariance, in float64: what is taken from it is small where rows are close."""
    count = known.shape[-1]
    centre, cov, seen = law.mean.double(), law.covariance_matrix.double(), known.double()
    size = cov.shape[-1]
    cov = cov + JITTER * cov.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * torch.eye(
        size, dtype=cov.dtype, device=cov.device
    )
    inner, across, rest = cov[..., :count, :count], cov[..., count:, :count], cov[..., count:, count:]
    factor = torch.linalg.cholesky_ex(inner).L
    gap = (seen - centre[..., :count])[..., None]
    gain = torch.cholesky_solve(across.mT.contiguous(), factor).mT
    middle = centre[..., count:] + (gain @ gap)[..., 0]
    values, vectors = torch.linalg.eigh(rest - gain @ across.mT)
    noise = torch.zeros_like(middle) if mean else torch.randn_like(middle)
    drawn = middle + ((vectors * values.clamp(min=0).sqrt()[..., None, :]) @ noise[..., None])[..., 0]
    white = torch.linalg.solve_triangular(factor, gap, upper=False)[..., 0]
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    prefix = -0.5 * white.square().sum(-1) - log_det - 0.5 * count * math.log(2 * math.pi)
    whole = torch.cat([seen.expand(*drawn.shape[:-1], count), drawn], -1)
    return whole.to(known.dtype), prefix.sum().to(known.dtype)


def _gaussian(law: dist.TorchDistribution, known: Tensor, axis: int, *, mean: bool) -> tuple[Tensor, Tensor]:
    """Of a Gaussian law that is known by its density."""
    middle, precision = _rest(law, known, axis)
    factor = torch.linalg.cholesky_ex(precision).L
    noise = torch.zeros_like(middle) if mean else torch.randn_like(middle)
    drawn = middle + torch.linalg.solve_triangular(factor.mT, noise[:, None], upper=True)[:, 0]
    density = law.log_prob(_filled(law, known, axis, middle)).sum().double()
    log_det = factor.diagonal().log().sum()
    prefix = density - log_det + 0.5 * middle.numel() * math.log(2 * math.pi)
    return _filled(law, known, axis, drawn.to(known.dtype)), prefix.to(known.dtype)


def _rest(law: dist.TorchDistribution, known: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Mean and precision of the values that are not known, flat."""

    def density(rest: Tensor) -> Tensor:
        total: Tensor = law.log_prob(_filled(law, known, axis, rest)).sum()
        return total

    zero = torch.zeros(_left(law, known, axis), dtype=known.dtype, device=known.device)
    slope = torch.func.grad(density)(zero).double()
    precision = -torch.func.jacrev(torch.func.grad(density))(zero).double()
    factor = torch.linalg.cholesky_ex(precision).L
    return torch.cholesky_solve(slope[:, None], factor)[:, 0], precision


def _shape(law: dist.TorchDistribution, known: Tensor, axis: int) -> list[int]:
    """The shape of the values that are not known."""
    shape = list(law.shape())
    shape[axis] -= known.shape[axis]
    return shape


def _left(law: dist.TorchDistribution, known: Tensor, axis: int) -> int:
    return math.prod(_shape(law, known, axis))


def _filled(law: dist.TorchDistribution, known: Tensor, axis: int, rest: Tensor) -> Tensor:
    shape = _shape(law, known, axis)
    tail = rest.reshape(shape).to(known.dtype)
    head = known.expand(*shape[:axis], known.shape[axis], *shape[len(shape) + axis + 1 :])
    return torch.cat([head, tail], axis)


def _is_quadratic(law: dist.TorchDistribution, known: Tensor, axis: int, value: Tensor) -> bool:
    """Whether the density falls as that of a Gaussian does, at a draw and at twice its distance."""
    middle, precision = _rest(law, known, axis)
    drawn = value.narrow(axis, known.shape[axis], value.shape[axis] - known.shape[axis]).reshape(-1).double()
    top = law.log_prob(_filled(law, known, axis, middle)).sum().double()
    for times in (1.0, 2.0, -3.0):
        step = times * (drawn - middle)
        there = law.log_prob(_filled(law, known, axis, middle + step)).sum().double()
        fall = 0.5 * step @ precision @ step
        if not torch.allclose(top - there, fall, rtol=1e-2, atol=1e-2):
            return False
    return True


def _hidden(law: dist.TorchDistribution, known: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Of a hidden Markov model: states go on from what the known values say of the last one."""
    count, steps = known.shape[axis], law.shape()[axis]
    batch = law.batch_shape
    states = law.initial_logits.shape[-1]
    moves = law.transition_logits.expand(*batch, steps, states, states)
    seen = law.observation_dist.expand([*batch, steps, states])

    def part(start: int, stop: int, initial: Tensor) -> Any:
        piece = [slice(None)] * len(batch) + [slice(start, stop)]
        return dist.DiscreteHMM(
            initial, moves[tuple(piece)], _sliced(seen, len(batch), start, stop), duration=stop - start
        )

    head = part(0, count, law.initial_logits.expand(*batch, states))
    state = Categorical(logits=head.filter(known).logits).sample()
    values = []
    for step in range(count, steps):
        rows = moves.select(len(batch), step)
        index = state[..., None, None].expand(*batch, 1, states)
        state = Categorical(logits=rows.gather(-2, index)[..., 0, :]).sample()
        values.append(_picked(_sliced(seen, len(batch), step, step + 1), state))
    whole = torch.cat([known, torch.cat(values, len(batch))], len(batch))
    return whole, head.log_prob(known).sum()


def _sliced(fn: dist.TorchDistribution, dim: int, start: int, stop: int) -> Any:
    """The steps of a distribution of emissions, by its parameters."""
    shape = list(fn.batch_shape)
    if isinstance(fn, Independent):
        inner = fn.base_dist.expand([*shape, *fn.base_dist.batch_shape[len(shape) :]])
        return _sliced(inner, dim, start, stop).to_event(fn.reinterpreted_batch_ndims)
    names = fn.arg_constraints if "logits" not in fn.arg_constraints else ["logits"]
    given = {}
    for name in names:
        if name not in fn.__dict__ and name != "logits":
            continue
        value = getattr(fn, name)
        event = value.dim() - len(shape)
        given[name] = value.expand(*shape, *value.shape[len(shape) :] if event else ()).narrow(dim, start, stop - start)
    return type(fn)(**given)


def _picked(fn: dist.TorchDistribution, state: Tensor) -> Tensor:
    """A draw of one step's emission, of the state that each chain is in."""
    drawn = fn.sample()  # of every state
    event = drawn.dim() - len(fn.batch_shape)
    lead = len(fn.batch_shape) - 1
    index = state[..., None, None].reshape(*state.shape, 1, 1, *[1] * event)
    index = index.expand(*drawn.shape[:lead], 1, *drawn.shape[lead + 1 :])
    return drawn.gather(lead, index).squeeze(lead)
