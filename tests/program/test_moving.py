"""A problem that is moved takes along what its program holds, wherever it holds it, and leaves the caller's as it was."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

Y = torch.tensor([0.3, -0.2, 0.6])
LEVEL = torch.tensor([1.0, 2.0, 3.0])
NET = torch.nn.Linear(1, 1)


def observe(y: Tensor, level: Tensor) -> None:
    """Refuses a level of another dtype than the data, as a device refuses another device."""
    assert level.dtype == y.dtype, f"{level.dtype} beside {y.dtype}"
    w = pyro.sample("w", dist.Normal(y.new_zeros(()), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(w * level, 1.0), obs=y)


def in_closure() -> Callable[..., Any]:
    level = LEVEL.clone()
    return lambda y: observe(y, level)


def in_a_nested_function() -> Callable[..., Any]:
    level = LEVEL.clone()

    def scaled() -> Tensor:
        return 2 * level

    return lambda y: observe(y, scaled())


def in_a_dictionary() -> Callable[..., Any]:
    constants = {"levels": [LEVEL.clone()]}
    return lambda y: observe(y, constants["levels"][0])


def in_a_namespace() -> Callable[..., Any]:
    constants = SimpleNamespace(level=LEVEL.clone())
    return lambda y: observe(y, constants.level)


def in_a_default() -> Callable[..., Any]:
    def model(y: Tensor, level: Tensor = LEVEL.clone()) -> None:  # noqa: B008
        observe(y, level)

    return model


def in_a_partial() -> Callable[..., Any]:
    return functools.partial(lambda level, y: observe(y, level), LEVEL.clone())


def in_an_object() -> Callable[..., Any]:
    class Model:
        def __init__(self) -> None:
            self.level = LEVEL.clone()

        def model(self, y: Tensor) -> None:
            observe(y, self.level)

    return Model().model


def in_globals() -> Callable[..., Any]:
    def model(y: Tensor) -> None:
        observe(y, LEVEL)

    return model


def in_a_network() -> Callable[..., Any]:
    net = torch.nn.Linear(1, 1)
    return lambda y: observe(y, net(y[:, None]).squeeze(-1))


def in_a_global_network() -> Callable[..., Any]:
    def model(y: Tensor) -> None:
        observe(y, NET(y[:, None]).squeeze(-1))

    return model


HOLDERS = [
    in_closure, in_a_nested_function, in_a_dictionary, in_a_namespace, in_a_default, in_a_partial, in_an_object, in_globals,
    in_a_network, in_a_global_network,
]  # fmt: skip


@pytest.mark.parametrize("make", HOLDERS)
def test_what_a_program_holds_moves_with_its_data(make: Callable[[], Callable[..., Any]]) -> None:
    problem = lvm.Problem(make(), Y)
    moved = problem.to(dtype=torch.float64)
    assert moved.dtype == torch.float64
    assert lvm.Problem(problem.model, Y).dtype == torch.float32  # the caller's program still runs as it did
    assert LEVEL.dtype == torch.float32
    assert NET.weight.dtype == torch.float32
    back = moved.to(dtype=torch.float32)
    assert back.fingerprint == problem.fingerprint


def test_a_program_that_holds_nothing_is_itself() -> None:
    def model(y: Tensor) -> None:
        observe(y, torch.ones_like(y))

    assert lvm.Problem(model, Y).to(dtype=torch.float64).model is model


def test_parts_that_are_shared_stay_shared() -> None:
    net = torch.nn.Linear(1, 1)
    pair = [net, net]

    def model(y: Tensor) -> None:
        assert pair[0] is pair[1] is net
        observe(y, net(y[:, None]).squeeze(-1))

    lvm.Problem(model, Y).to(dtype=torch.float64)


def test_quantities_compute_with_what_they_hold() -> None:
    level = LEVEL.clone()

    def dot(draw: Any) -> Tensor:
        return torch.dot(draw["w"].expand(3), level)  # of one dtype, unlike a product

    @lvm.model(quantities={"level": dot})
    def model(y: Tensor) -> None:
        observe(y, torch.ones_like(y))

    moved = lvm.Problem(model, Y).to(dtype=torch.float64)
    assert float(moved.quantities["level"]({"w": torch.ones((), dtype=torch.float64)})) == 6.0
