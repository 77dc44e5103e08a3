"""The compiled programs of chains: data that are arguments, and energies that single precision rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.nuts import potential
from pyrolvm._program.density import Joint
from tests.mcmc.test_engines import run


def test_data_are_arguments_of_the_compiled_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand numbers in a program's text would show."""
    import jax

    seen: list[int] = []
    lower = jax.stages.Traced.lower

    def spy(traced: Any, *args: Any, **kwargs: Any) -> Any:
        lowered = lower(traced, *args, **kwargs)
        seen.append(len(lowered.as_text()))
        return lowered

    monkeypatch.setattr(jax.stages.Traced, "lower", spy)
    y = torch.randn(100_000, generator=torch.Generator().manual_seed(0))

    def normal(y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 10.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    chains = run(lvm.Problem(normal, y), warmup=5, draws=2, chains=1, max_tree_depth=2, engine="jax")
    assert chains.engine == "jax"
    assert seen
    assert max(seen) < 400_000


def nearly_singular(x: Tensor) -> None:
    length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
    covariance = torch.exp(-0.5 * (x[:, None] - x).square() / length**2) + 5e-7 * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=torch.sin(x))


def test_energies_whose_digits_single_precision_has_not_are_no_disagreement() -> None:
    problem = lvm.Problem(nearly_singular, torch.linspace(0, 3, 12))
    points = torch.linspace(-0.5, 0.6, 8).reshape(1, 8, 1)
    wide = problem.to(dtype=torch.float64)
    with wide.session(seed=0):
        exact = np.array([float(Joint(wide).potential(point.double())) for point in points[0]])
    with problem.session(seed=0):
        joint = Joint(problem)
        narrow = np.array([float(joint.potential(point)) for point in points[0]])
        off = np.abs(narrow - exact).max()
        assert (np.abs(narrow - exact) > 1e-3 * (1 + np.abs(exact))).any()
        potential.check_draws(joint, points, exact[None])
        potential.check_draws(joint, points, exact[None] + 0.5 * off)
        with pytest.raises(potential.Disagreement, match="where Pyro gives"):
            potential.check_draws(joint, points, exact[None] + 10 * off)
