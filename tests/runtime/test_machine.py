"""Memory: what there is no room for is refused before it is begun."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import machine
from pyrolvm._base.errors import ArgumentError


def wide(y: Tensor) -> None:
    """More unknowns than a matrix of all of them has room for."""
    effect = pyro.sample("effect", dist.Normal(y.new_zeros(100_000), 1.0).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(effect[: len(y)], 1.0), obs=y)


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> lvm.Problem:
    monkeypatch.setattr(machine, "free_memory", lambda: 4_000_000_000)
    return lvm.Problem(wide, torch.zeros(5))


def test_it_says_how_much_memory_is_free() -> None:
    free = machine.free_memory()
    assert free is not None and 10_000_000 < free < 10**14


def test_matrices_of_too_many_unknowns_are_refused_before_they_are_made(problem: lvm.Problem) -> None:
    for guide, message in (("student", "up to 1,000"), ("pathfinder", "up to 1,000"), ("laplace", "at most 5,000")):
        with pytest.raises(lvm.PyrolvmError, match=rf"100,000 unknowns.*{message}.*Fix: "):
            lvm.fit(problem, guide, progress=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: lvm.fit(p, "full_rank", progress=False),
            "full_rank of 100,000 unknowns has 5,000,150,000 parameters",
        ),
        (lambda p: lvm.fit(p, "flow", progress=False), "flow over 100,000 unknowns has 1,228,931,072 weights"),
        (
            lambda p: lvm.fit(p, lvm.guide("autoregressive", hidden=[2_000]), progress=False),
            "autoregressive over 100,000 unknowns has 1,200,000,000 weights",
        ),
        (lambda p: lvm.fit(p, "mean_field", draws=100_000, progress=False), "100,000 draws of 100,000 latent values"),
        (lambda p: lvm.nuts(p, draws=5_000, progress=False), "4 chains of 5,000 draws of 100,000 unknowns"),
        (lambda p: lvm.nuts(p, draws=10, dense_mass=True, progress=False), "dense mass matrices of 100,000 unknowns"),
        (
            lambda p: lvm.nuts(p, draws=10, precondition="frame", progress=False),
            "the frame of wide with 100,000 unknowns",
        ),
    ],
)
def test_what_there_is_no_room_for_is_refused(problem: lvm.Problem, call: object, message: str) -> None:
    with pytest.raises(ArgumentError, match=rf"{message}.*GB of memory, and 4\.0 GB are free\. Fix: "):
        call(problem)  # type: ignore[operator]


def test_what_is_small_or_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 0)
    machine.require_memory("a few numbers", 1e6, "none.")
    monkeypatch.setattr(machine, "free_memory", lambda: None)
    machine.require_memory("what nobody knows about", 1e15, "none.")
