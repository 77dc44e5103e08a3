"""Results of the zoo, made once: short fits and shorter chains, enough for names and shapes."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import pyrolvm as lvm
from tests import zoo

NETWORKS = ("discrete_vae", "vae")
"""Of the problems with networks, which take seconds each, these stand for the others."""

NAMES = tuple(
    name
    for name in zoo.names(lambda kind: kind.observed and kind.latents)
    if name in NETWORKS or not zoo.kind(name).parameters
)
"""Problems with data and a posterior: without, there are no groups about them."""


@functools.cache
def result(kind: str, name: str) -> Any:
    """A short result, kept for all tests."""
    problem = lvm.problem(name)
    if kind == "svi":
        small = 40 if problem.unconstrained_size < 1000 else 8
        guide: Any = "auto" if problem.parameters else lvm.guide("mean_field", precondition="none")
        return lvm.fit(problem, guide, max_steps=4, draws=small, progress=False)
    return lvm.nuts(problem, chains=2, warmup=3, draws=10, max_tree_depth=3, precondition="none", progress=False)


@functools.cache
def eight_schools(kind: str) -> Any:
    problem = lvm.problem("eight_schools")
    if kind == "svi":
        return lvm.fit(problem, "mean_field", max_steps=200, tolerance=0, draws=400, progress=False)
    return lvm.nuts(problem, chains=2, warmup=60, draws=100, progress=False)


# NUTS does not sample learnable parameters.
QUICK_CHAINS = ("eight_schools_centered", "factor_analysis", "gaussian_mixture")
"""Problems that stand for the others among the quick tests of chains: rows that share latents, matrices, discrete latents."""
QUICK_FITS = (
    *QUICK_CHAINS,
    *NETWORKS,
    "eight_schools",
    "hidden_markov",
    "lda",
    "linear_dynamical_system",
    "stochastic_volatility",
)
"""As many more for fits: labels, matrices whose rows are simplices, vectors in time."""


def _case(method: str, name: str, quick: tuple[str, ...]) -> Any:
    return pytest.param((method, name), marks=[] if name in quick else [pytest.mark.slow])


CASES = [_case("svi", name, QUICK_FITS) for name in NAMES] + [
    _case("nuts", name, QUICK_CHAINS) for name in NAMES if not zoo.kind(name).parameters
]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def any_result(case: tuple[str, str]) -> Any:
    """Each method on each problem of the zoo that it applies to."""
    return result(*case)


@pytest.fixture(params=[pytest.param(name, marks=[] if name in QUICK_FITS else [pytest.mark.slow]) for name in NAMES])
def any_fit(request: pytest.FixtureRequest) -> lvm.Fit:
    """A fit of each problem of the zoo."""
    return result("svi", request.param)  # type: ignore[no-any-return]


@pytest.fixture
def method(any_result: Any) -> str:
    """What the posterior was made by."""
    return "svi" if isinstance(any_result, lvm.Fit) else "nuts"


@pytest.fixture(params=["svi", "nuts"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def eight(kind: str) -> Any:
    """Eight schools by either method, with draws enough for ArviZ."""
    return eight_schools(kind)


@pytest.fixture
def eight_fit() -> lvm.Fit:
    return eight_schools("svi")  # type: ignore[no-any-return]


@pytest.fixture
def eight_chains() -> lvm.Chains:
    return eight_schools("nuts")  # type: ignore[no-any-return]
