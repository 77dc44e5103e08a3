r"""Normal-gamma posteriors: real latents with a common unknown precision or variance, as in conjugate linear regression.

With the precision :math:`\tau` (or :math:`1/\tau = v`, the variance) the log joint density is

.. math:: \log p(x, \beta, \tau) = a \log \tau - b \tau + c - \tfrac{\tau}{2} (\beta - m)^\top \Lambda (\beta - m),

so that :math:`\tau \sim \mathrm{Gamma}(a - d/2 + 1, b)` and :math:`\beta \mid \tau \sim N(m, (\tau \Lambda)^{-1})` for d real unknowns.

References:
    Bernardo and Smith, *Bayesian Theory* (1994), section 5.2 and appendix A
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pyrolvm._base.errors import ProblemError
from pyrolvm._laws.conjugate import Form, check_whole, constant_over, fitted, places, wide
from pyrolvm._laws.gaussian import Layout, precision_root, quadratic
from pyrolvm._laws.law import Law
from pyrolvm._laws.program import Program
from pyrolvm._laws.refusal import degree_reason, refusal, why_not_gaussian

__all__ = ["normal_gamma_law"]

TOLERANCE = 1e-9


def normal_gamma_law(program: Program, scale: str) -> Law:
    """The posterior of a program with real latents and one positive scalar, ``scale``, that all their variances share.

    Raises:
        ProblemError: if it is not of that form, or improper; it names the site.
    """
    reals = tuple(name for name in program.continuous if name != scale)
    layout = Layout(program, None, reals)
    centre = {name: program.values[name] for name in reals}
    found = _family(program, scale, centre)
    if found is None:
        raise refusal(program, _reason(program, scale))
    degrees = program.degrees(reals)
    text = degree_reason(program, degrees)
    if text:
        raise refusal(program, text)
    one = torch.ones_like(program.values[scale])
    zero = torch.zeros_like(layout.join(program.values))
    _, gradient, precision = quadratic(program, layout, {scale: one}, zero)
    _, _, other = quadratic(program, layout, {scale: 4 * one}, zero)
    times = 4.0 if found[0].name == "Gamma" else 0.25
    if float((other - times * precision).abs().max()) > TOLERANCE * float(other.abs().max()):
        raise refusal(
            program, f"{why_not_gaussian(program)}, and the precisions of real latents do not all change with it alike"
        )
    root = precision_root(precision, layout, program.problem.name)
    mean = torch.cholesky_solve(gradient[..., None], root)[..., 0]
    found = _family(program, scale, layout.split(mean))
    if found is None:
        raise refusal(program, _reason(program, scale))
    form, (shape, rate) = found
    size = zero.shape[1]
    shape = shape - size / 2  # the real latents integrated out
    if not bool((shape > 0).all() and (rate > 0).all()):
        raise ProblemError(
            f"the posterior of site {scale!r} is improper: it would be {form.name}({float(shape):.4g}, {float(rate):.4g}), whose "
            "parameters must be positive. Fix: give it a proper prior."
        )
    law = form.law(shape, rate)
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum()

    def precision_of(value: Tensor) -> Tensor:
        return value if form.name == "Gamma" else 1 / value

    def log_q(values: Mapping[str, Tensor], lead: int = 0) -> Tensor:
        theta = layout.join(values, lead) if lead else layout.join(values)[None]
        tau = precision_of(values[scale].reshape(len(theta)))
        residual = ((theta[:, 0] - mean[0]) @ root[0]).square().sum(-1)
        normal = 0.5 * (log_det + size * (tau.log() - math.log(2 * math.pi)) - tau * residual)
        total = normal + law.log_prob(values[scale]).reshape(len(theta))
        return total if lead else total[0]

    def sample(count: int) -> dict[str, Tensor]:
        value = law.sample((count,))
        noise = torch.randn(count, size, dtype=zero.dtype, device=zero.device)
        shift = torch.linalg.solve_triangular(root[0].mT, noise.mT, upper=True).mT
        theta = mean[0] + shift * precision_of(value.reshape(count, 1)).rsqrt()
        return {**layout.split(theta[:, None]), scale: value}

    check_whole(program)
    evidence = constant_over(program, wide(program, program.continuous), sample, log_q)

    def draw(count: int) -> tuple[dict[str, Tensor], Tensor]:
        values = sample(count)
        return values, log_q(values, 1)

    what = "precision" if form.name == "Gamma" else "variance"
    because = (
        f"given the {what} {scale!r} the log density is quadratic in all other latents by its graph, with precisions in proportion; "
        "log joint minus log posterior is one number all over the support"
    )
    return Law(f"normal-{form.name}, {size + 1} unknowns", because, evidence, draw)


def _family(program: Program, scale: str, reals: Mapping[str, Tensor]) -> tuple[Form, tuple[Tensor, ...]] | None:
    """The form that the density has as a function of the scale, the other latents held."""
    points = places("positive", program.values[scale])
    slopes = [program.gradients({**reals, scale: point})[1][scale] for point in points]
    return fitted("positive", points, slopes)


def _reason(program: Program, scale: str) -> str:
    return (
        why_not_gaussian(program) or f"as a function of {scale!r} its density is of neither Gamma nor InverseGamma form"
    )
