"""Densities that need more digits than float32 has: run in float64, or said to be imprecise, and never told to run longer."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import with_digits

GENERATOR = torch.Generator().manual_seed(0)
Y = (1e8 + 3 * torch.randn(60, generator=GENERATOR, dtype=torch.float64)).float()
T = torch.linspace(0, 1, 60)


def offset(y: Tensor) -> None:
    """An offset that is a constant of the program."""
    m = pyro.sample("m", dist.Normal(0.0, 100.0))
    s = pyro.sample("s", dist.HalfNormal(20.0))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(1e8 + m, s), obs=y)


def origin(t: Tensor) -> None:
    """Times that the program itself moves far away and back."""
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    far = t + 1.7e9 + m
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(far - 1.7e9, 0.01), obs=t)


def far_prior(t: Tensor) -> None:
    """A latent whose prior lies where float32 has values one apart."""
    m = pyro.sample("m", dist.Normal(1e7, 1.0))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(m - 1e7, 0.5), obs=t)


def far_interval(t: Tensor) -> None:
    """The same as an interval, of a vector."""
    m = pyro.sample("m", dist.Uniform(torch.tensor([0.0, 2e6]), torch.tensor([1.0, 2e6 + 1])).to_event(1))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(m[0] + (m[1] - 2e6), 5.0), obs=t)


def wide_prior(t: Tensor) -> None:
    """Large values that are spread as widely, and a unit vector's constant."""
    m = pyro.sample("m", dist.LogNormal(14.0, 2.0))
    pyro.sample("factor", dist.LKJCholesky(2, 1.0))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(m / 1e6, 50.0), obs=t)


def difference(t: Tensor) -> None:
    """A small scale as the difference of large numbers."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    scale = torch.sqrt((1e6 + m**2 + 0.1) - 1e6)
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(0.0, scale.clamp(min=0.2)), obs=t)


def plain(t: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(m, 1.0), obs=t)


PROGRAMS: dict[str, tuple[Any, Tensor]] = {
    "an offset": (offset, Y),
    "an origin": (origin, T),
    "a difference": (difference, 5 * T),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_that_needs_more_digits_runs_in_float64_and_is_named(kind: str) -> None:
    model, value = PROGRAMS[kind]
    with pytest.warns(lvm.PyrolvmWarning, match=f"log density of '{model.__name__}' in float32 differs"):
        assert with_digits(lvm.Problem(model, value)).dtype == torch.float64


@pytest.mark.filterwarnings("ignore::pyrolvm.PyrolvmWarning")
@pytest.mark.filterwarnings("ignore:Encountered:UserWarning")
@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_a_density_that_float32_cannot_hold_is_run_in_float64(size: float) -> None:
    def model(y: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, size))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(m, size), obs=y)

    problem = lvm.Problem(model, T * size)
    assert with_digits(problem).dtype == torch.float64


def test_a_program_that_has_digits_enough_stays_as_it_is() -> None:
    problem = lvm.Problem(plain, T)
    assert with_digits(problem) is problem


@pytest.mark.parametrize("verb", ["fit", "nuts", "infer"])
def test_every_method_runs_where_there_are_digits_enough(verb: str) -> None:
    options: dict[str, Any] = {
        "fit": {"max_steps": 5, "draws": 20, "guide": AutoNormal, "engine": "pyro"},
        "nuts": {"chains": 1, "warmup": 5, "draws": 5},
        "infer": {"methods": ["student"], "draws": 50},
    }
    with pytest.warns(lvm.PyrolvmWarning, match="it is run in float64"):
        result = getattr(lvm, verb)(lvm.Problem(offset, Y), progress=False, **options[verb])
    assert result.problem.dtype == torch.float64
    assert "precision" not in result.verdict.figures


def test_a_verdict_in_float32_names_the_precision_and_not_more_steps() -> None:
    fit = lvm.fit(
        lvm.Problem(offset, Y), AutoNormal, max_steps=50, draws=100, dtype=torch.float32, engine="pyro", progress=False
    )
    assert fit.problem.dtype == torch.float32
    assert fit.verdict.status != "trusted"
    assert fit.verdict.figures["precision"] > 1
    assert "precision" in fit.verdict.reasons[0].text
    assert len(fit.verdict.next_steps) == 1
    assert "Use float64" in fit.verdict.next_steps[0]


def test_what_rounding_does_to_a_plain_program_is_no_reason() -> None:
    fit = lvm.fit(lvm.Problem(plain, T), AutoNormal, max_steps=5, draws=50, engine="pyro", progress=False)
    assert fit.data["posterior"].attrs["precision_error"] < 1e-3
    assert "precision" not in fit.verdict.figures


@pytest.mark.parametrize("model", [far_prior, far_interval], ids=lambda model: model.__name__)
def test_a_latent_that_float32_cannot_tell_apart_is_run_in_float64(model: Any) -> None:
    with pytest.warns(lvm.PyrolvmWarning, match="values of 'm' in float32 are .* apart"):
        assert with_digits(lvm.Problem(model, T)).dtype == torch.float64


def test_a_wide_prior_of_large_values_stays_in_float32() -> None:
    problem = lvm.Problem(wide_prior, T)
    assert with_digits(problem) is problem
