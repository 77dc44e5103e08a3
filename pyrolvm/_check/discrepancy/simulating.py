"""``lvm.simulate``: a data set from a model's own prior, with the truth behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._base.errors import checked_seed
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._program.simulate import Simulator

__all__ = ["Simulation", "simulate"]


@dataclass(frozen=True, repr=False)
class Simulation:
    """A data set from the prior.

    Attributes:
        problem: the model with the simulated data in the place of its own.
        truth: latents and deterministic values that the data were made from, by site.
        observed: the data, by site.
    """

    problem: Problem
    truth: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]

    def __repr__(self) -> str:
        made = ", ".join(f"{name}{list(value.shape) or ''}" for name, value in self.observed.items())
        return f"<Simulation of {self.problem.name}: {made} from {', '.join(self.truth)}>"


@verb
@at_the_door
def simulate(problem: Problem, *, seed: int = 0) -> Simulation:
    """Draws latents from the prior and data from them, as many as the problem has.

        >>> made = lvm.simulate(problem, seed=1)
        >>> fit = lvm.fit(made.problem)  # does it find made.truth again? lvm.calibrate does this many times

    Args:
        problem: the model with data, whose shapes and other arguments stay.
        seed: which data set.

    Raises:
        ProblemError: if the prior is improper, or the model has parameters without a prior, or a factor.
    """
    checked_seed(seed)
    with runtime.undisturbed():
        simulator = Simulator.of(check_problem(problem))
        truth, observed = simulator.draw(seed)
        return Simulation(simulator.attach(observed), truth, observed)
