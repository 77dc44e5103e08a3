r"""Conjugate posteriors: Beta, Gamma, inverse Gamma and Dirichlet, element by element.

In each of them the log joint density is a sum of coefficients times fixed functions of the latent, so that gradients at two
points give the coefficients:

============== ========================================= ==============================
support        gradient of the log joint                 posterior
============== ========================================= ==============================
(0, 1)         :math:`\alpha / p - \beta / (1 - p)`      Beta(α + 1, β + 1)
positive       :math:`a / x - b`                         Gamma(a + 1, b)
positive       :math:`-a / x + b / x^2`                  InverseGamma(a - 1, b)
simplex        :math:`\alpha_k / p_k` + the same for all Dirichlet(α + 1)
============== ========================================= ==============================

Whether it is that posterior is then seen from log joint minus log posterior, which must be the same number at points all over the
support: it is the evidence. Which likelihood made it so, a Binomial or something of the user's own, does not matter.

References:
    Diaconis and Ylvisaker, *Conjugate priors for exponential families* (1979), https://doi.org/10.1214/aos/1176344611
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrolvm._base.bijections import bijection, shape_before
from pyrolvm._base.errors import CaptureError, ProblemError
from pyrolvm._laws.law import Law
from pyrolvm._laws.program import Program
from pyrolvm._laws.refusal import refusal

__all__ = ["FORMS", "Form", "check_whole", "conjugate_law", "constant_over", "fitted", "kind"]

POINTS = 24
"""Points all over the support, and as many draws of the posterior, at which the evidence must be the same."""

SPREAD = 6.0
"""Half the width, on the unconstrained scale, of what "all over the support" means."""

TOLERANCE = 1e-9

_Fit = Callable[[Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Form:
    """A family of posteriors.

    Attributes:
        name: its name.
        fit: its parameters from points and gradients of the log joint density there, two of each.
        law: the distribution with these parameters, one for each element.
        slope: the gradient that these parameters have at a point.
        proper: whether parameters are those of a distribution, by element.
    """

    name: str
    fit: _Fit
    law: Callable[..., Any]
    slope: Callable[..., Tensor]
    proper: Callable[..., Tensor]


def _pair(rows: Sequence[tuple[Tensor, Tensor]], right: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The solution of two equations in two unknowns, by element."""
    (a, b), (c, d) = rows
    determinant = a * d - b * c
    return (d * right[0] - b * right[1]) / determinant, (a * right[1] - c * right[0]) / determinant


def _fit_beta(points: Sequence[Tensor], slopes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    first, second = _pair([(1 / p, -1 / (1 - p)) for p in points], slopes)
    return first + 1, second + 1


def _fit_gamma(points: Sequence[Tensor], slopes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    first, second = _pair([(1 / x, -torch.ones_like(x)) for x in points], slopes)
    return first + 1, second


def _fit_inverse_gamma(points: Sequence[Tensor], slopes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    first, second = _pair([(-1 / x, 1 / x**2) for x in points], slopes)
    return first - 1, second


def _fit_dirichlet(points: Sequence[Tensor], slopes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    size = points[0].shape[-1]
    like = points[0]
    centring = torch.eye(size, dtype=like.dtype, device=like.device) - 1.0 / size
    matrix = torch.cat([centring / point[..., None, :] for point in points], -2)
    right = torch.cat([slope @ centring for slope in slopes], -1)
    return ((torch.linalg.pinv(matrix) @ right[..., None])[..., 0] + 1,)


def _dirichlet_slope(point: Tensor, concentration: Tensor) -> Tensor:
    found = (concentration - 1) / point
    return found - found.mean(-1, keepdim=True)


FORMS: dict[str, tuple[Form, ...]] = {
    "unit": (
        Form(
            "Beta",
            _fit_beta,
            dist.Beta,
            lambda p, a, b: (a - 1) / p - (b - 1) / (1 - p),
            lambda a, b: (a > 0) & (b > 0),
        ),
    ),
    "positive": (
        Form("Gamma", _fit_gamma, dist.Gamma, lambda x, a, b: (a - 1) / x - b, lambda a, b: (a > 0) & (b > 0)),
        Form(
            "InverseGamma",
            _fit_inverse_gamma,
            dist.InverseGamma,
            lambda x, a, b: -(a + 1) / x + b / x**2,
            lambda a, b: (a > 0) & (b > 0),
        ),
    ),
    "simplex": (Form("Dirichlet", _fit_dirichlet, dist.Dirichlet, _dirichlet_slope, lambda a: (a > 0).all(-1)),),
}
"""The families by kind of support."""


def kind(support: object) -> str:
    """``"real"``, ``"unit"``, ``"positive"`` or ``"simplex"``; empty for any other support."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, type(constraints.real)):
        return "real"
    if isinstance(support, type(constraints.unit_interval)):
        return "unit" if _is(support.lower_bound, 0) and _is(support.upper_bound, 1) else ""
    if isinstance(support, constraints.greater_than | constraints.greater_than_eq):
        return "positive" if _is(support.lower_bound, 0) else ""
    return "simplex" if isinstance(support, type(constraints.simplex)) else ""


def _is(bound: object, value: float) -> bool:
    return bool((torch.as_tensor(bound) == value).all())


def places(of: str, like: Tensor) -> list[Tensor]:
    """Three points of a support, in the shape of ``like``: two to fit a family at, the third to choose it by."""
    if of == "simplex":
        steps = torch.arange(like.shape[-1], dtype=like.dtype, device=like.device)
        found = [1.0 + steps, 2.0 + (steps * 1.7).cos(), 3.0 - (steps * 0.9).sin()]
        return [(part / part.sum()).expand_as(like).contiguous() for part in found]
    levels = (0.25, 0.7, 0.45) if of == "unit" else (0.6, 1.9, 1.1)
    return [torch.full_like(like, level) for level in levels]


def fitted(of: str, points: Sequence[Tensor], slopes: Sequence[Tensor]) -> tuple[Form, tuple[Tensor, ...]] | None:
    """The family that gradients at two points fit and that predicts the one at the third; ``None`` if there is none."""
    for form in FORMS[of]:
        parameters = form.fit(points[:2], slopes[:2])
        wanted = slopes[2] - slopes[2].mean(-1, keepdim=True) if of == "simplex" else slopes[2]
        scale = 1 + max(float(part.abs().max()) for part in (*slopes, *parameters))
        if float((form.slope(points[2], *parameters) - wanted).abs().max()) <= TOLERANCE * scale:
            return form, parameters
    return None


def conjugate_law(program: Program) -> Law:
    """The posterior of a program whose latents are all bounded ones with conjugate posteriors, independent of each other.

    Raises:
        ProblemError: if one of them is not, or its posterior is improper; it names the site.
    """
    names = program.continuous
    kinds = {name: kind(program.problem.sites[name].support) for name in names}
    points = {name: places(kinds[name], program.values[name]) for name in names}
    slopes = [program.gradients({name: points[name][i] for name in names})[1] for i in range(3)]
    laws, forms = {}, {}
    for name in names:
        found = fitted(kinds[name], points[name], [slope[name] for slope in slopes])
        if found is None:
            known = " nor ".join(form.name for form in FORMS[kinds[name]])
            raise refusal(
                program, f"as a function of {name!r} the joint density is not of the form of a {known} density"
            )
        form, parameters = found
        _check_proper(form, parameters, name)
        laws[name], forms[name] = form.law(*parameters), form.name

    def log_q(values: Mapping[str, Tensor], lead: int = 0) -> Tensor:
        parts = [laws[name].log_prob(values[name]) for name in names]
        return torch.stack([part.flatten(lead).sum(-1) if part.dim() > lead else part for part in parts]).sum(0)

    check_whole(program)
    evidence = constant_over(
        program, wide(program, names), lambda count: {n: laws[n].sample((count,)) for n in names}, log_q
    )

    def draw(count: int) -> tuple[dict[str, Tensor], Tensor]:
        values = {name: laws[name].sample((count,)) for name in names}
        return values, log_q(values, 1)

    listing = ", ".join(f"{forms[name]} for {name!r}" for name in names)
    because = f"log joint minus log posterior is one number at {2 * POINTS} points all over the support"
    return Law(f"conjugate: {listing}", because, evidence, draw)


def wide(program: Program, names: Sequence[str]) -> list[dict[str, Tensor]]:
    """Points all over the support, elements independent of each other."""
    generator = torch.Generator().manual_seed(11)
    found = []
    for _ in range(POINTS):
        point = {}
        for name in names:
            site, like = program.problem.sites[name], program.values[name]
            transform = bijection(site.support)
            shape = shape_before(transform, like.shape)
            real = SPREAD * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
            point[name] = transform(real.to(like))
        found.append(point)
    return found


def constant_over(
    program: Program,
    points: Sequence[Mapping[str, Tensor]],
    sample: Callable[[int], Mapping[str, Tensor]],
    log_q: Callable[[Mapping[str, Tensor]], Tensor],
) -> float:
    """Log joint minus log posterior, which is log p(data) where it is the same everywhere.

    Raises:
        ProblemError: if it is not the same at all points and at draws of the posterior.
    """
    drawn = sample(POINTS)
    found = []
    with torch.no_grad():
        for point in [*points, *({name: value[i] for name, value in drawn.items()} for i in range(POINTS))]:
            log_p, log_density = float(program.log_joint(point)), float(log_q(point))
            found.append((log_p - log_density, 1 + abs(log_p) + abs(log_density)))
    evidence = sum(value for value, _ in found[len(points) :]) / POINTS
    off = max(
        (abs(value - evidence) / scale for value, scale in found), key=lambda part: part if part == part else torch.inf
    )
    if not off <= TOLERANCE:
        raise refusal(
            program,
            f"log joint minus log density of the conjugate posterior of {', '.join(map(repr, program.continuous))} is not one number "
            f"(it varies by {off:.2g} of its size)",
        )
    return evidence


def check_whole(program: Program) -> None:
    """Refuses a density of pieces, of which points may show one only.

    Raises:
        ProblemError: with the operation that makes them.
    """
    try:
        found = program.branch()
    except CaptureError as error:
        reason = f"that its density is of one piece cannot be shown, since {str(error).rstrip('.')}"
        raise refusal(program, reason) from error
    if found:
        raise refusal(program, f"its density has pieces, which a latent chooses by operation `{found}`")


def _check_proper(form: Form, parameters: Sequence[Tensor], name: str) -> None:
    good = form.proper(*parameters)
    if not bool(good.all()):
        where = tuple(int(i) for i in (~good).nonzero()[0])
        shown = ", ".join(f"{float(part[where].reshape(-1)[0]):.4g}" for part in parameters)
        place = f"[{', '.join(map(str, where))}]" if where else ""
        raise ProblemError(
            f"the posterior of site {name!r}{place} is improper: it would be {form.name}({shown}), whose parameters must be positive. "
            "Fix: give it a proper prior."
        )
