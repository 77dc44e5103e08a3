"""Posteriors of finitely many discrete latents: summed, drawn and scored by Pyro's enumeration, and summed again another way.

Hidden Markov models in ``pyro.markov`` cost time linear in their length, rows of a plate as many as there are.

References:
    Obermeyer et al., *Tensor variable elimination for plated factor graphs* (2019), https://arxiv.org/abs/1902.03210
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrolvm._base.errors import ProblemError, PyrolvmError
from pyrolvm._base.wording import shortened
from pyrolvm._laws.law import Law
from pyrolvm._laws.program import Program
from pyrolvm._program.density import Joint, map_draws, marginals, repeat

__all__ = ["discrete_law"]

BRUTE_FORCE = 2_000
"""Up to so many configurations the evidence is compared with the sum over every one of them."""

RECOUNTED = 3
"""Sites over whose values the evidence is summed once more, where there are more configurations than that."""

TOLERANCE = 1e-9


def discrete_law(program: Program) -> Law:
    """The posterior of a program without continuous latents.

    Raises:
        ProblemError: if Pyro cannot sum its latents out, or no configuration has a positive probability.
    """
    problem, joint = program.problem, program.joint
    try:
        with torch.no_grad():
            total = joint.log_p({})
        probabilities = marginals(joint)
    except PyrolvmError:
        raise
    except (RuntimeError, ValueError, NotImplementedError, MemoryError) as error:
        raise ProblemError(
            f"the discrete latents of {problem.name} cannot be summed out together: {str(error).splitlines()[0]} "
            "Fix: put sites that follow one another into pyro.markov, and independent ones into a plate."
        ) from error
    evidence = float(total)
    if not math.isfinite(evidence):
        raise ProblemError(
            f"the sum over the discrete latents of {problem.name} is {evidence}: no configuration has a positive probability, or "
            "one has an infinite density. Fix: look at the transition and emission probabilities and the data."
        )
    _recount(program, joint, evidence)
    for name, part in probabilities.items():
        off = float((part.sum(-1) - 1).abs().max())
        if off > TOLERANCE:
            raise ProblemError(
                f"the marginal probabilities of site {name!r} add up to {1 + off:.12g}, expected 1, so that the sum over the "
                "discrete latents cannot be relied on. Fix: use float64 data, or write the sites in another order."
            )

    def draw(count: int) -> tuple[dict[str, Tensor], Tensor]:
        like = torch.zeros((), dtype=problem.dtype, device=problem.device)
        found = repeat(lambda: joint.discrete({}), count, like=like)
        log_p = map_draws(lambda one: {"log_p": joint.log_p(one)}, found)["log_p"]
        return found, log_p - evidence

    names = shortened((repr(site.name) for site in problem.discrete), 3)
    because = f"all latents are discrete with finitely many values ({names}) and were summed out by enumeration"
    return Law("discrete, enumerated", because, evidence, draw, probabilities)


def _recount(program: Program, joint: Joint, evidence: float) -> None:
    """Sums in another way: over every configuration, or over the values of single sites with the rest summed out.

    Raises:
        ProblemError: if the sums differ.
    """
    problem = program.problem
    with torch.no_grad():
        if program.configurations(None) <= BRUTE_FORCE:
            each = [program.discrete_values(index, None) for index in program.configuration(None)]
            stacked = {name: torch.stack([one[name] for one in each]) for name in each[0]}
            sums = {"every configuration": map_draws(lambda one: {"log_p": joint.log_p(one)}, stacked)["log_p"]}
        else:
            single = [site for site in problem.discrete if not program.batch_shape(site.name, None)]
            chosen = single[:: max(1, len(single) // RECOUNTED)][:RECOUNTED]
            sums = {
                f"the values of {site.name!r}": map_draws(
                    lambda one: {"log_p": joint.log_p(one)}, {site.name: program.supports[site.name]}
                )["log_p"]
                for site in chosen
            }
    for what, parts in sums.items():
        again = float(torch.logsumexp(parts, 0))
        if abs(again - evidence) > TOLERANCE * (1 + abs(evidence)):
            raise ProblemError(
                f"the sum over {what} of {problem.name} is {again:.12g}, and by elimination {evidence:.12g}: the model's discrete "
                "sites do not mean the same when they are enumerated. Fix: look at their shapes and plates."
            )
