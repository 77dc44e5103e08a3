"""A fit with local latents, row by row: the Gaussian that its guide gives each row, and the density of each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base.errors import CaptureError, GuideError, ProblemError
from pyrolvm._base.passing import passed_over
from pyrolvm._capture import capture
from pyrolvm._capture.vmap import vmapped
from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.batching import Batch
from pyrolvm._program.density import Joint
from pyrolvm._program.peeling import untransformed
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import plate_of_independent_rows
from pyrolvm._results import Fit
from pyrolvm._results.draws import rebuild

__all__ = ["Gaussians", "Rows", "matched_noise", "row_plate", "untransformed"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


@dataclass(frozen=True)
class Gaussians:
    """A Gaussian for each row.

    Attributes:
        loc: shape ``(rows, n)``.
        tril: lower triangular, shape ``(rows, n, n)``.
        free: which entries of ``tril`` the family has, shape ``(n, n)``: the diagonal of a mean-field one.
    """

    loc: Tensor
    tril: Tensor
    free: Tensor

    @property
    def size(self) -> int:
        """Unknowns of a row."""
        return int(self.loc.shape[1])

    @property
    def variance(self) -> Tensor:
        """Of each unknown, shape ``(rows, n)``."""
        return self.tril.square().sum(-1)

    @property
    def entropy(self) -> Tensor:
        """Of each row, shape ``(rows,)``."""
        log_det = self.tril.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        return log_det + 0.5 * self.size * math.log(2 * math.pi * math.e)

    def at(self, noise: Tensor) -> Tensor:
        """The points that standard normal noise of shape ``(draws, rows, n)`` stands for."""
        return self.loc + torch.einsum("rij,srj->sri", self.tril, noise)


@dataclass(frozen=True)
class _Part:
    """A local site: where its unknowns are among those of a row, and how its values come of them."""

    name: str
    start: int
    shape: tuple[int, ...]
    axis: int
    transforms: tuple[Any, ...]

    def value(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The site's value at unknowns ``(rows, n)`` and the log Jacobian of each row."""
        rows = len(u)
        count = math.prod(self.shape) // rows
        moved = list(self.shape)
        moved.insert(0, moved.pop(self.axis))
        value = u[:, self.start : self.start + count].reshape(moved).movedim(0, self.axis)
        log_jacobian = torch.zeros(rows, dtype=u.dtype, device=u.device)
        for transform in self.transforms:
            after = transform(value)
            slope = transform.log_abs_det_jacobian(value, after)
            axis = self.axis + slope.dim() if self.axis < 0 else self.axis
            log_jacobian = log_jacobian + slope.movedim(min(axis, slope.dim() - 1), 0).reshape(rows, -1).sum(1)
            value = after
        return value, log_jacobian


@dataclass(frozen=True)
class Rows:
    """The rows of a fit; to be used inside the session that it was read in.

    Attributes:
        problem: the problem.
        plate: the plate that all latents are in.
        batch: the rows that are looked at.
        guide: the Gaussian that the guide gives each, in the space in which it is one.
        units: the name of each unknown of a row.
        log_joint: from unknowns ``(draws, rows, n)`` the log joint density of each row, Jacobian included, ``(draws, rows)``.
    """

    problem: Problem
    plate: str
    batch: Batch
    guide: Gaussians
    units: tuple[str, ...]
    log_joint: Callable[[Tensor], Tensor]

    @property
    def count(self) -> int:
        """How many rows."""
        return len(self.guide.loc)

    @classmethod
    def of(cls, fit: Fit, rows: Tensor | None) -> Rows:
        """Reads a fit; inside its session.

        Raises:
            ProblemError: if rows do not have densities of their own.
            GuideError: if the guide has no Gaussian for each row.
        """
        problem = fit.attached
        plate = row_plate(problem)
        batch = problem.whole if rows is None else problem.batch(rows, plate=plate)
        assert fit.guide is not None
        guide = rebuild(problem, fit.guide)
        sites = _sites(problem, guide, batch)
        parts, gaussians, units = _read(problem, plate, sites)
        found = cls(problem, plate, batch, gaussians, units, _density(problem, plate, batch, parts))
        _check_apart(found)
        return found


def row_plate(problem: Problem) -> str:
    """The plate whose rows have latents of their own and nothing else has any.

    Raises:
        ProblemError: if there is none, naming the site that is outside.
    """
    if problem.discrete:
        raise ProblemError(
            f"site {problem.discrete[0].name!r} of {problem.name} is discrete; gaps are those of continuous local latents. "
            "Fix: sum it out in the model."
        )
    if not problem.latents:
        raise ProblemError(
            f"{problem.name} has no latents, so that its rows have no evidence beside their density. Fix: use lvm.evaluate."
        )
    return plate_of_independent_rows(problem)


def _sites(problem: Problem, guide: Callable[..., Any], batch: Batch) -> Mapping[str, Any]:
    """The guide's sites, once it is known that their distributions do not depend on each other's values."""
    runs = []
    for _ in range(2):
        with batch.active(), torch.no_grad():
            runs.append(guide_sites(poutine.trace(guide).get_trace(*batch.args, **batch.kwargs)))
    first = runs[0]
    for name in first:
        a, b = (_parameters(name, run[name]["fn"]) for run in runs)
        if any(not torch.allclose(x, y, rtol=1e-5, atol=1e-6) for x, y in zip(a, b, strict=True)):
            raise GuideError(
                f"the guide's distribution of {name!r} changes from draw to draw: it depends on another latent, so that a row has "
                "no Gaussian of its own. Fix: encode every site from the data alone."
            )
    missing = [site.name for site in problem.latents if site.name not in first]
    if missing:
        raise GuideError(f"guide has no sample site {missing[0]!r}. Fix: add pyro.sample({missing[0]!r}, ...) to it.")
    return first


def _parameters(name: str, fn: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Location, and scale or Cholesky factor.

    Raises:
        GuideError: if it is no Gaussian under transforms.
    """
    base, _ = untransformed(fn)
    if isinstance(base, torch.distributions.MultivariateNormal):
        return base.loc, base.scale_tril
    if isinstance(base, torch.distributions.Normal):
        return base.loc, base.scale
    raise GuideError(
        f"the guide's distribution of {name!r} is {type(fn).__name__} of {type(base).__name__}: gaps are known for guides whose sites "
        "are Gaussian or transforms of Gaussians, each with its own distribution. "
        'Fix: use guide="amortized", guide="mean_field" with precondition="none", or a guide that samples sites from dist.Normal.'
    )


def _read(problem: Problem, plate: str, sites: Mapping[str, Any]) -> tuple[list[_Part], Gaussians, tuple[str, ...]]:
    parts, locs, scales, blocks, units = [], [], [], [], []
    start = 0
    for site in problem.latents:
        fn = sites[site.name]["fn"]
        base, transforms = untransformed(fn)
        loc, scale = _parameters(site.name, fn)
        joint = isinstance(base, torch.distributions.MultivariateNormal)
        dim = problem.plates[plate].dim
        assert dim is not None
        axis = dim - base_event(fn, base, joint)
        shape = np.broadcast_shapes(loc.shape, scale.shape[:-1] if joint else scale.shape)
        rows = shape[axis]
        flat = loc.expand(shape).movedim(axis, 0).reshape(rows, -1)
        count = flat.shape[1]
        if joint:
            if math.prod(shape) != rows * shape[-1]:
                raise GuideError(
                    f"the guide's {site.name!r} has several multivariate normal vectors in a row. Fix: make it one vector."
                )
            block = scale.expand(*shape, shape[-1]).reshape(rows, count, count)
        else:
            block = scale.expand(shape).movedim(axis, 0).reshape(rows, -1).diag_embed()
        parts.append(_Part(site.name, start, tuple(shape), axis, tuple(transforms)))
        locs.append(flat)
        scales.append(block)
        blocks.append(torch.ones(count, count).tril() if joint else torch.eye(count))
        units += [site.name if count == 1 else f"{site.name}[{i}]" for i in range(count)]
        start += count
    tril = torch.zeros(len(locs[0]), start, start, dtype=locs[0].dtype, device=locs[0].device)
    free = torch.block_diag(*blocks).to(tril)
    place = 0
    for block in scales:
        end = place + block.shape[-1]
        tril[:, place:end, place:end] = block
        place = end
    return parts, Gaussians(torch.cat(locs, 1).detach(), tril.detach(), free), tuple(units)


def base_event(fn: dist.TorchDistribution, base: Any, joint: bool) -> int:
    """How many rightmost dimensions of the Gaussian's value are not of the batch."""
    return int(fn.event_dim) if not joint else max(int(fn.event_dim), 1)


def _density(problem: Problem, plate: str, batch: Batch, parts: Sequence[_Part]) -> Callable[[Tensor], Tensor]:
    joint = Joint(problem, batch)
    dim = problem.plates[plate].dim
    assert dim is not None

    def one(u: Tensor) -> Tensor:
        total = torch.zeros(len(u), dtype=u.dtype, device=u.device)
        draw = {}
        for part in parts:
            draw[part.name], log_jacobian = part.value(u)
            total = total + log_jacobian
        for name, term in joint.terms(draw).items():
            if name.startswith(("log_prior/", "log_likelihood/")):
                total = total + term.movedim(dim, 0).reshape(len(u), -1).sum(1)
        return total

    together = vmapped(one)

    def one_by_one(u: Tensor) -> Tensor:
        return torch.stack([one(row) for row in u])

    kept: dict[int, Callable[[Tensor], Tensor]] = {}

    def many(u: Tensor) -> Tensor:
        if len(u) not in kept:
            if not kept:
                one(u[0].detach())  # learnable parameters come into being in a plain run
            try:
                graph: Callable[[Tensor], Tensor] = capture(lambda w: together(w), u.detach())
                with torch.no_grad():
                    wrong = not torch.allclose(graph(u[:]), together(u), rtol=1e-4, equal_nan=True)
                kept[len(u)] = together if wrong else graph
            except CaptureError:
                kept[len(u)] = together
            except Exception:
                passed_over("whatever vmap cannot run")
                kept[len(u)] = one_by_one
        return kept[len(u)](u)

    return many


def _check_apart(rows: Rows) -> None:
    """Refuses rows whose density depends on another row's latents."""
    with torch.no_grad():
        u = rows.guide.loc[None].expand(2, -1, -1).clone()
        u[1, 0] += rows.guide.tril[0].diagonal()
        here, there = rows.log_joint(u)
    tolerance = _TOLERANCE.get(u.dtype, 1e-2) * (1 + here.abs())
    moved = ((here - there).abs() > tolerance)[1:]
    if bool(moved.any()):
        raise ProblemError(
            f"the density of row {int(moved.nonzero()[0]) + 1} of plate {rows.plate!r} changes with the latents of row 0, so rows have "
            "no evidence of their own. Fix: lvm.evidence takes the data as a whole."
        )


def matched_noise(draws: int, rows: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal noise ``(draws, rows, size)`` whose mean is zero and whose covariance is one in every row, exactly.

    So expectations of quadratic functions are exact, and those of others less noisy. It takes more draws than unknowns.
    """
    noise = torch.randn(draws, rows, size, generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(0)
    covariance = torch.einsum("sri,srj->rij", noise, noise) / draws
    root = torch.linalg.cholesky(covariance)
    white = torch.linalg.solve_triangular(root, noise.permute(1, 2, 0), upper=False)
    return white.permute(2, 0, 1).to(like)
