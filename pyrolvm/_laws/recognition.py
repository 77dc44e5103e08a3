"""Which exact posterior a problem has, if any: the cheapest reasons against it are looked for first."""

from __future__ import annotations

import torch

from pyrolvm._base.errors import CaptureError, ProblemError
from pyrolvm._laws.conjugate import conjugate_law, kind
from pyrolvm._laws.discrete import discrete_law
from pyrolvm._laws.gaussian import gaussian_law
from pyrolvm._laws.law import Law
from pyrolvm._laws.normal_gamma import normal_gamma_law
from pyrolvm._laws.program import Program
from pyrolvm._laws.refusal import degree_reason, refusal, why_not_gaussian
from pyrolvm._program.problem import Problem

__all__ = ["check_sites", "recognised"]

CONFIGURATIONS = 256
"""Up to so many joint values of discrete latents (in one row) a mixture of Gaussians is built over."""

UNKNOWNS = 4_000
"""Up to so many dependent unknowns a covariance matrix is factored."""

NUMBERS = 30_000_000
"""Numbers that the precision matrices of all rows and configurations may have together, 240 MB."""

ROWS_PAY = 50
"""Above so many unknowns rows of a plate are taken one by one rather than together."""

TOLERANCE = 1e-8


def check_sites(problem: Problem) -> None:
    """Refuses what the sites alone tell has no exact form here, at no cost.

    Raises:
        ProblemError: with the site that stands in the way.
    """
    program = Program(problem)
    if not problem.latents:
        raise ProblemError(
            f"{problem.name} has no latent site, so there is no posterior. Fix: use lvm.fit, which is then "
            "maximum likelihood, or give its unknowns priors with pyro.sample."
        )
    for site in problem.discrete:
        if not site.enumerable:
            raise refusal(program, f"site {site.name!r} is {site.distribution}, {site.why_not_listed}")
    kinds = {site.name: kind(site.support) for site in problem.continuous}
    bounded = [name for name, found in kinds.items() if found != "real"]
    for name in bounded:
        site = problem.sites[name]
        if not kinds[name]:
            raise refusal(program, f"site {name!r} ({site.distribution}) has support {site.support}")
        if problem.discrete:
            other = problem.discrete[0].name
            raise refusal(program, f"site {name!r} ({site.distribution}) is not Gaussian, and {other!r} is discrete")
    plate = next(iter(program.plates), None)
    rows = problem.plates[plate].size if plate else 1
    size = sum(problem.sites[name].numel for name in kinds if name not in bounded) // rows
    if size > UNKNOWNS:
        each = f" in each row of plate {plate!r}" if plate else ""
        raise refusal(
            program, f"{size:,} dependent unknowns{each} are more than the {UNKNOWNS:,} that are factored at once"
        )


def recognised(problem: Problem) -> Law:
    """The exact posterior of a problem; must be called inside a session.

    Raises:
        ProblemError: if none is known, with the site that stands in the way; or if the posterior is improper.
    """
    check_sites(problem)
    program = Program(problem)
    kinds = {site.name: kind(site.support) for site in problem.continuous}
    if not kinds:
        return discrete_law(program)
    bounded = [name for name, found in kinds.items() if found != "real"]
    if not bounded:
        return _gaussian(program)
    if len(bounded) == len(kinds):
        return conjugate_law(program)
    first = problem.sites[bounded[0]]
    if len(bounded) == 1 and kinds[first.name] == "positive" and first.numel == 1:
        try:
            return normal_gamma_law(program, first.name)
        except CaptureError as error:
            raise refusal(program, _uncaptured(error)) from error
    reason = f"site {first.name!r} ({first.distribution}) is not Gaussian, and the rest is not conjugate to it"
    raise refusal(program, why_not_gaussian(program) or reason)


def _gaussian(program: Program) -> Law:
    """The posterior of continuous latents that are all real."""
    problem = program.problem
    size = sum(site.numel for site in problem.continuous)
    plate = next(iter(program.plates), None)
    if not problem.discrete and size <= ROWS_PAY:
        plate = None
    if problem.discrete:
        _check_configurations(program, plate)
    if not _affine(program):
        raise refusal(program, why_not_gaussian(program) or _by_degrees(program) or "the log density is not quadratic")
    try:
        found = program.degrees(program.continuous)
    except CaptureError as error:
        raise refusal(program, _uncaptured(error)) from error
    text = degree_reason(program, found)
    if text:
        raise refusal(program, text)
    if plate is not None:
        inside = {name: program.problem.sites[name].plates for name in found}
        if any(not degree.constant and plate not in inside[name] for name, degree in found.items()):
            plate = None
            _check_configurations(program, plate)
    _check_size(program, plate)
    return gaussian_law(program, plate)


def _affine(program: Program) -> bool:
    """Whether gradients on three points of a line are, to rounding: what most densities that are not quadratic fail."""
    names = program.continuous
    generator = torch.Generator().manual_seed(7)

    def normal(name: str) -> torch.Tensor:
        like = program.values[name]
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    start, step = ({name: normal(name) for name in names} for _ in range(2))
    discrete = {name: value for name, value in program.values.items() if name not in names}
    slopes = []
    for times in (0.0, 1.0, 3.0):
        _, slope = program.gradients({name: start[name] + times * step[name] for name in names} | discrete)
        slopes.append(torch.cat([slope[name].reshape(-1) for name in names]))
    first, second, third = slopes
    bend = third - first - 3 * (second - first)
    return bool(bend.abs().max() <= TOLERANCE * max(float(part.abs().max()) for part in slopes))


def _by_degrees(program: Program) -> str:
    try:
        return degree_reason(program, program.degrees(program.continuous))
    except CaptureError as error:
        return _uncaptured(error)


def _uncaptured(error: CaptureError) -> str:
    return f"that its density is quadratic everywhere cannot be shown, since {str(error).rstrip('.')}"


def _check_configurations(program: Program, plate: str | None) -> None:
    parts = program.configurations(plate)
    if parts > CONFIGURATIONS:
        where = f" in each row of plate {plate!r}" if plate else ""
        shared = "" if plate else ", and continuous latents that all of them share"
        raise refusal(
            program,
            f"the discrete latents ({program.problem.discrete[0].name!r} first) have {_count(parts)} joint values{where}, more than "
            f"{CONFIGURATIONS:,}{shared}",
        )


def _check_size(program: Program, plate: str | None) -> None:
    problem = program.problem
    rows = problem.plates[plate].size if plate else 1
    size = sum(site.numel for site in problem.continuous) // rows
    parts = program.configurations(plate)
    if rows * parts * size**2 > NUMBERS:
        raise refusal(
            program,
            f"the precision matrices of {size:,} unknowns{f' in each of {rows:,} rows' if plate else ''} for {parts:,} joint values of "
            f"discrete latents have more than {NUMBERS:,} entries",
        )
    if size > UNKNOWNS:  # where the rows of a plate turned out to depend on each other
        raise refusal(program, f"{size:,} dependent unknowns are more than the {UNKNOWNS:,} that are factored at once")


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**9 else f"about 10^{len(str(number)) - 1}"
