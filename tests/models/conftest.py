"""What the tests of the zoo share: a problem's draws and its log density, by stock Pyro alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor

import pyrolvm as lvm

Draw = dict[str, Tensor]


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def own_parameters() -> Iterator[None]:
    """Each test has a parameter store of its own."""
    with pyro.get_param_store().scope():
        yield


@pytest.fixture
def double() -> Iterator[None]:
    """A default dtype in which formulas can be compared."""
    with _default_dtype(torch.float64):
        yield


def _trace(problem: lvm.Problem, draw: Mapping[str, Tensor], args: tuple[Any, ...]) -> poutine.Trace:
    with _default_dtype(problem.dtype):
        trace = poutine.trace(poutine.condition(problem.model, data=dict(draw))).get_trace(*args, **problem.kwargs)
        trace.compute_log_prob()
    return trace


def _prior_draw(problem: lvm.Problem, seed: int = 0) -> Draw:
    with poutine.seed(rng_seed=seed), torch.no_grad():
        trace = _trace(problem, {}, problem.args)
    return {site.name: trace.nodes[site.name]["value"] for site in problem.latents}


def _log_joint(problem: lvm.Problem, draw: Mapping[str, Tensor], args: tuple[Any, ...] | None = None) -> Tensor:
    return _trace(problem, draw, problem.args if args is None else args).log_prob_sum()


@pytest.fixture(scope="session")
def prior_draw() -> Callable[..., Draw]:
    """A function of a problem and a seed: one prior draw of its latent sites."""
    return _prior_draw


@pytest.fixture(scope="session")
def log_joint() -> Callable[..., Tensor]:
    """A function of a problem and a draw of all its latents: log p(data, draw), on the constrained scale."""
    return _log_joint
