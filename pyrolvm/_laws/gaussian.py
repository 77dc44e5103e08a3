r"""Gaussian posteriors, and mixtures of them over the values of discrete latents, for all unknowns at once or row by row of a plate.

Where the log joint density is quadratic in the continuous latents :math:`\theta` given the discrete ones :math:`k`,

.. math:: \log p(x, \theta, k) = \log p(x, m_k, k) - \tfrac12 (\theta - m_k)^\top \Lambda_k (\theta - m_k),

the posterior is a mixture of the Gaussians :math:`N(m_k, \Lambda_k^{-1})` with weights proportional to

.. math:: Z_k = p(x, m_k, k)\, (2\pi)^{d/2}\, |\Lambda_k|^{-1/2},

and the evidence is :math:`\sum_k Z_k`. Rows of a plate in which all latents lie have factors of their own. :math:`\Lambda_k` and
:math:`m_k` are read off derivatives of the model's own density, which is exact: third derivatives vanish.

References:
    Bishop, *Pattern Recognition and Machine Learning* (2006), sections 2.3.3 and 12.2
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base.errors import ProblemError
from pyrolvm._compat.torch import DispatchMode
from pyrolvm._laws.law import Law
from pyrolvm._laws.program import Program

__all__ = ["Layout", "gaussian_law", "precision_root", "quadratic"]

ROUNDING = 1e-13
"""Curvatures below this share of the largest, after scaling, are not told from zero in double precision."""

LARGEST_LABELLED = 4
"""Unknowns that a direction is named by."""


@dataclass(frozen=True)
class Layout:
    """How values of the continuous latents make up an array of shape ``(..., rows, unknowns of a row)``."""

    program: Program
    plate: str | None
    only: tuple[str, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The latents that it takes: all continuous ones unless some are named."""
        return self.program.continuous if self.only is None else self.only

    def axis(self, name: str) -> int | None:
        """The axis of the plate's rows in a site's value."""
        site = self.program.problem.sites[name]
        return None if self.plate is None else self.program.problem.plates[self.plate].dim - site.event_dim  # type: ignore[operator]

    def join(self, values: Mapping[str, Tensor], lead: int = 0) -> Tensor:
        """Values as an array of shape ``(..., rows, unknowns)``; the first ``lead`` dimensions are of draws."""
        parts = []
        for name in self.names:
            axis = self.axis(name)
            part = values[name].unsqueeze(lead) if axis is None else values[name].movedim(axis, lead)
            parts.append(part.reshape(*part.shape[: lead + 1], -1))
        return torch.cat(parts, dim=-1)

    def split(self, array: Tensor) -> dict[str, Tensor]:
        """The values by site, with the leading dimensions of an array of shape ``(..., rows, unknowns)``."""
        found, start = {}, 0
        lead = array.shape[:-2]
        for name in self.names:
            shape, axis = list(self.program.problem.sites[name].shape), self.axis(name)
            rows = 1 if axis is None else shape.pop(axis)
            size = math.prod(shape)
            part = array[..., start : start + size].reshape(*lead, rows, *shape)
            found[name] = part.squeeze(len(lead)) if axis is None else part.movedim(len(lead), axis)
            start += size
        return found

    def label(self, row: int, unknown: int) -> str:
        """An unknown's name, such as ``beta[2]``."""
        for name in self.names:
            shape, axis = list(self.program.problem.sites[name].shape), self.axis(name)
            if axis is not None:
                del shape[axis]
            size = math.prod(shape)
            if unknown >= size:
                unknown -= size
                continue
            index = [int(i) for i in torch.unravel_index(torch.tensor(unknown), shape)] if shape else []
            if axis is not None:
                index.insert(len(shape) + 1 + axis, row)
            return f"{name}[{', '.join(map(str, index))}]" if index else name
        return f"unknown {unknown}"


class _Together(DispatchMode):
    """Products of one matrix with many vectors as one product: ``vmap`` over derivatives repeats the matrix instead."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> Any:
        if func is torch.ops.aten.bmm.default:
            left, right = args
            batch, rows, columns = len(left), left.shape[1], right.shape[2]
            if batch > 1 and left.stride(0) == 0:
                product = left[0] @ right.movedim(0, 1).reshape(right.shape[1], -1)
                return product.reshape(rows, batch, columns).movedim(1, 0)
            if batch > 1 and right.stride(0) == 0:
                return (left.reshape(batch * rows, -1) @ right[0]).reshape(batch, rows, columns)
        return func(*args, **(kwargs or {}))


def sloped(
    program: Program, layout: Layout, discrete: Mapping[str, Tensor], point: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradient of the log joint density by rows, differentiable, and the value of what lies outside them.

    Shapes ``(rows,)``, ``(rows, unknowns)`` and ``()``.
    """
    with torch.enable_grad():
        inside, outside = program.rows(program.log_probs({**layout.split(point), **discrete}), layout.plate)
        if not inside.requires_grad:
            return inside, torch.zeros_like(point), outside
        (gradient,) = torch.autograd.grad(inside.sum(), point, create_graph=True)
    return inside, gradient, outside


def quadratic(
    program: Program, layout: Layout, discrete: Mapping[str, Tensor], at: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and minus the Hessian of the log joint density by rows.

    Args:
        program: the program.
        layout: how its latents make up rows.
        discrete: values of the discrete latents.
        at: the point, shape ``(rows, unknowns)``.

    Returns:
        Shapes ``(rows,)``, ``(rows, unknowns)`` and ``(rows, unknowns, unknowns)``.
    """
    point = at.detach().requires_grad_()
    rows, size = at.shape
    value, gradient, _ = sloped(program, layout, discrete, point)
    columns = []
    chunk = max(1, min(size, 4_000_000 // max(rows * size, 1)))
    for start in range(0, size, chunk) if gradient.requires_grad else ():
        count = min(chunk, size - start)
        probe = torch.zeros(count, 1, size, dtype=at.dtype, device=at.device)
        probe[torch.arange(count), 0, start + torch.arange(count)] = 1.0
        with _Together():
            (found,) = torch.autograd.grad(
                gradient, point, probe.expand(count, rows, size), is_grads_batched=True, retain_graph=True
            )
        columns.append(found)
    hessian = torch.cat(columns).movedim(0, 2) if columns else at.new_zeros(rows, size, size)
    return value.detach(), gradient.detach(), -(hessian + hessian.mT).detach() / 2


def gaussian_law(program: Program, plate: str | None) -> Law:
    """The posterior of a program whose log density is quadratic in its continuous latents.

    Args:
        program: the program.
        plate: the plate whose rows are independent; ``None`` takes all unknowns together.

    Raises:
        ProblemError: if the posterior is improper; it names the direction.
    """
    problem, layout = program.problem, Layout(program, plate)
    with torch.no_grad():
        zero = torch.zeros_like(layout.join(program.values))
    size = zero.shape[1]
    indices = program.configuration(plate)
    weights, means, roots = [], [], []
    outside = zero.new_zeros(())
    for index in indices:
        discrete = program.discrete_values(index, plate)
        value, gradient, curvature = quadratic(program, layout, discrete, zero)
        possible = torch.isfinite(value) & torch.isfinite(gradient).all(-1) & torch.isfinite(curvature).all(-1).all(-1)
        unit = torch.eye(size, dtype=zero.dtype, device=zero.device).expand_as(curvature)
        root = precision_root(torch.where(possible[:, None, None], curvature, unit), layout, problem.name)
        mean = _solve(root, torch.where(possible[:, None], gradient, 0.0))
        # Once more from there, for the digits that a far mean has cost.
        value, gradient, outside = (part.detach() for part in sloped(program, layout, discrete, mean.requires_grad_()))
        step = _solve(root, torch.where(possible[:, None], gradient, 0.0))
        mean, value = mean.detach() + step, value + 0.5 * (gradient * step).sum(-1)
        log_z = value + 0.5 * size * math.log(2 * math.pi) - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        weights.append(torch.where(possible, log_z, -torch.inf))
        means.append(mean)
        roots.append(root)
    log_z = torch.stack(weights, 1)
    by_row = torch.logsumexp(log_z, 1)
    if not bool(torch.isfinite(by_row).all()):
        raise ProblemError(
            f"no value of the latents of {problem.name} gives its data a positive probability. Fix: look at the data and supports."
        )
    mixture = _Mixture(log_z - by_row[:, None], torch.stack(means, 1), torch.stack(roots, 1))

    def draw(count: int) -> tuple[dict[str, Tensor], Tensor]:
        theta = mixture.sample(count)
        return layout.split(theta), mixture.log_prob(theta)

    evidence = float(by_row.sum() + outside)
    parts = len(indices)
    each = f" in each of the {len(zero):,} rows of plate {plate!r}" if plate else ""
    unknowns = f"{size:,} unknown{'s' if size > 1 else ''}{each}"
    family = f"Gaussian, {unknowns}" if parts == 1 else f"mixture of {parts:,} Gaussians, {unknowns}"
    given = "" if parts == 1 else " given each value of its discrete latents"
    because = f"the log density is quadratic in all continuous latents{given}, by its graph and by its values"
    return Law(family, because, evidence, draw, _marginals(program, plate, indices, mixture.log_weight))


@dataclass(frozen=True)
class _Mixture:
    """Independent rows, each a mixture of Gaussians.

    Attributes:
        log_weight: log weights, shape ``(rows, parts)``.
        mean: shape ``(rows, parts, unknowns)``.
        root: lower Cholesky factors of the precisions, shape ``(rows, parts, unknowns, unknowns)``.
    """

    log_weight: Tensor
    mean: Tensor
    root: Tensor

    def sample(self, count: int) -> Tensor:
        """Draws of shape ``(count, rows, unknowns)``."""
        rows, parts, size = self.mean.shape
        chosen = torch.multinomial(self.log_weight.exp(), count, replacement=True)  # (rows, count)
        noise = torch.randn(rows, size, count, dtype=self.mean.dtype, device=self.mean.device)
        found = torch.empty_like(noise)
        for part in range(parts):
            if parts > 1 and not bool((chosen == part).any()):
                continue
            shift = torch.linalg.solve_triangular(self.root[:, part].mT, noise, upper=True)
            found = torch.where((chosen == part)[:, None], self.mean[:, part, :, None] + shift, found)
        return found.permute(2, 0, 1).contiguous()

    def log_prob(self, theta: Tensor) -> Tensor:
        """Log densities of draws of shape ``(count, rows, unknowns)``."""
        size = theta.shape[-1]
        terms: list[Tensor] = []
        for part in range(self.mean.shape[1]):
            root = self.root[:, part]
            residual = torch.einsum("nij,sni->snj", root, theta - self.mean[:, part])
            log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
            terms.append(self.log_weight[:, part] + log_det - 0.5 * (residual**2).sum(-1))
        rows = torch.logsumexp(torch.stack(terms, -1), -1) if len(terms) > 1 else terms[0]
        return (rows - 0.5 * size * math.log(2 * math.pi)).sum(-1)


def _solve(root: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right[..., None], root)[..., 0]


def precision_root(precision: Tensor, layout: Layout, name: str) -> Tensor:
    """The lower Cholesky factors of precision matrices, shape ``(rows, n, n)``.

    Raises:
        ProblemError: if one of them is not positive definite to rounding.
    """
    diagonal = precision.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    scaled = precision * scale[..., None] * scale[..., None, :]
    root, failed = torch.linalg.cholesky_ex(scaled)
    size = precision.shape[-1]
    pivots = root.diagonal(dim1=-2, dim2=-1).square().amin(-1)
    bad = (failed > 0) | ~(pivots > size * ROUNDING) | (diagonal <= 0).any(-1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        values, vectors = torch.linalg.eigh(scaled[row])
        if not bool(values[0] > size * ROUNDING) or bool((diagonal[row] <= 0).any()):
            raise _improper(layout, name, row, float(values[0]), vectors[:, 0] * scale[row])
    return root / scale[..., None]


def _improper(layout: Layout, name: str, row: int, value: float, direction: Tensor) -> ProblemError:
    direction = direction / direction.abs().max()
    order = [int(i) for i in direction.abs().argsort(descending=True) if abs(direction[i]) > 0.05]
    shown = sorted(order[:LARGEST_LABELLED])
    direction = direction * direction[shown[0]].sign()
    terms: list[str] = []
    for place in shown:
        share = float(direction[place])
        times = "" if abs(abs(share) - 1) < 5e-3 else f"{abs(share):.2g} "
        sign = ("- " if share < 0 else "+ ") if terms else ""
        terms.append(f"{sign}{times}{layout.label(row, place)}")
    more = f" and {len(order) - len(shown)} more" if len(order) > len(shown) else ""
    how = "grows" if value < -1e-10 else "does not change, to rounding,"
    return ProblemError(
        f"the posterior of {name} is improper: its density {how} along {' '.join(terms)}{more} (scaled curvature {value:.2g}, "
        "expected above 0). Fix: give these sites proper priors, or drop what the data cannot tell apart."
    )


def _marginals(
    program: Program, plate: str | None, indices: Sequence[dict[str, Tensor]], log_weight: Tensor
) -> dict[str, Tensor]:
    """The probabilities of each discrete latent's values, from those of the configurations, shape ``(*batch, K)``."""
    found: dict[str, Tensor] = {}
    weight = log_weight.exp()
    for site in program.problem.discrete:
        count = len(program.supports[site.name])
        index = torch.stack([one[site.name] for one in indices])
        chosen = torch.nn.functional.one_hot(index, count).to(weight)
        each = torch.einsum("nc,c...->n...", weight, chosen)
        if plate is None:
            each = each[0]
        else:
            each = each.movedim(0, program.problem.plates[plate].dim - 1)  # type: ignore[operator]
        found[site.name] = each
    return found
