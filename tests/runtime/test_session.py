"""Pyro's globals are lent for a session and come back as they were, however it ends."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from pyro.ops.einsum import torch_log
from pyro.poutine import runtime as pyro_runtime
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm._base.errors import StoreError


class Stop(Exception):
    """What goes wrong inside a session here."""


def _state() -> dict[str, Any]:
    """Everything global that a session touches, as values that can be compared."""
    store = pyro.get_param_store()
    name, keys, *rest = np.random.get_state()
    return {
        "params": {
            key: (id(store._params[key]), store._params[key].detach().clone().tolist()) for key in store._params
        },
        "dictionaries": (id(store._params), id(store._param_to_name), id(store._constraints)),
        "clear": store.clear.__func__ if hasattr(store.clear, "__func__") else store.clear,
        "random": random.getstate(),
        "numpy": (name, keys.tobytes(), *rest),
        "torch": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "validation": (
            torch.distributions.Distribution._validate_args,
            pyro.infer.util.is_validation_enabled(),
            poutine.util.is_validation_enabled(),
        ),
        "stack": list(pyro_runtime._PYRO_STACK),
        "dims": list(pyro_runtime._DIM_ALLOCATOR._stack),
        "plate hook": SubsampleMessenger._subsample,
        "logarithm": torch_log.safe_log,
    }


@contextmanager
def _own_store() -> Iterator[None]:
    """A store that the test may fill, and that is as before afterwards."""
    with pyro.get_param_store().scope():
        yield


ENDS: dict[str, type[BaseException] | None] = {"success": None, "error": Stop, "interrupt": KeyboardInterrupt}


def _mess(net: torch.nn.Module, start: Tensor) -> None:
    """Changes everything there is to change."""
    pyro.param("theirs", torch.ones(2))
    pyro.param("start", start)
    pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    pyro.module("net", net)
    with torch.no_grad():
        for value in runtime.parameters().values():
            value.add_(1.0)
    random.random()
    np.random.rand()
    torch.randn(3)
    pyro.set_rng_seed(99)


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("validate", [False, True])
def test_globals_come_back(how: str, nested: bool, validate: bool) -> None:
    net, start = torch.nn.Linear(2, 2), torch.zeros(3)
    weights = {name: value.detach().clone() for name, value in net.named_parameters()}
    error = ENDS[how]
    with _own_store():
        pyro.param("theirs", torch.tensor([5.0, 6.0]))
        before = _state()
        try:
            with runtime.session(seed=1, dtype=torch.float64, validate=validate):
                assert torch.get_default_dtype() == torch.float64
                assert pyro.infer.util.is_validation_enabled() is validate
                assert not runtime.parameters()
                _mess(net, start)
                if nested:
                    inside = _state()
                    with runtime.session(seed=2, dtype=torch.float32, validate=not validate):
                        _mess(net, start)
                    assert _state() == inside
                with runtime.plates({"p": runtime.Subsample(4, torch.arange(2))}), runtime.batchable_enumeration():
                    with runtime.record_plates(), poutine.trace(), pyro.plate("p", 3):
                        if error is not None:
                            raise error
        except (Stop, KeyboardInterrupt) as raised:
            assert type(raised) is error
        assert _state() == before
        assert pyro.param("theirs").tolist() == [5.0, 6.0]
        assert pyro.get_param_store().keys() == {"theirs"}
    assert start.tolist() == [0.0, 0.0, 0.0]
    for name, value in net.named_parameters():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
        assert value.grad is None


def test_without_a_seed_the_callers_random_numbers_go_on() -> None:
    with runtime.session(seed=3):
        with runtime.session():
            first = torch.rand(())
        second = torch.rand(())
    with runtime.session(seed=3):
        expected = torch.rand(2)
    assert [first.item(), second.item()] == expected.tolist()


def test_a_seed_means_the_same_numbers_from_all_three_generators() -> None:
    def draw() -> tuple[float, float, float]:
        with runtime.session(seed=7):
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw() == draw()
    with runtime.session(seed=8):
        other = random.random(), float(np.random.rand()), float(torch.rand(()))
    assert all(a != b for a, b in zip(draw(), other, strict=True))


def test_handlers_around_a_session_neither_see_nor_change_it() -> None:
    def program() -> Tensor:
        with pyro.plate("rows", 4):
            return pyro.sample("x", dist.Normal(0.0, 1.0))  # type: ignore[no-any-return]

    with poutine.trace() as tracer, poutine.condition(data={"x": torch.zeros(4)}), pyro.plate("outer", 3):
        with runtime.session(seed=0):
            inner = poutine.trace(program).get_trace()
        outside = pyro.sample("own", dist.Normal(0.0, 1.0))
    assert inner.nodes["x"]["value"].shape == (4,)
    assert inner.nodes["x"]["value"].abs().min() > 0
    assert [frame.name for frame in inner.nodes["x"]["cond_indep_stack"]] == ["rows"]
    assert outside.shape == (3,)
    assert {"own", "outer"} <= tracer.trace.nodes.keys() and "x" not in tracer.trace.nodes


def test_a_fit_under_the_callers_handlers_is_the_fit_without_them() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def run() -> np.ndarray:
        problem = lvm.Problem(model, torch.arange(3.0))
        return lvm.fit(problem, "mean_field", max_steps=5, draws=10, progress=False).losses

    with poutine.mask(mask=False), pyro.plate("rows", 3), poutine.scale(scale=7.0):
        under = run()
    np.testing.assert_array_equal(under, run())


# --- lending parameters -----------------------------------------------------------------------------------------------


def test_known_values_are_loaded_where_the_program_asks_for_them() -> None:
    net, start = torch.nn.Linear(2, 1), torch.zeros(2)
    weight = net.weight.detach().clone()
    known = {
        "start": torch.tensor([3.0, 4.0]),
        "scale": torch.tensor(0.0),
        "net$$$weight": torch.full((1, 2), 9.0),
        "never asked for": torch.ones(1),
    }
    with runtime.session(params=known):
        assert pyro.param("start", start).tolist() == [3.0, 4.0]
        assert pyro.param("scale", torch.tensor(5.0), constraint=constraints.positive).item() == 1.0  # exp(0)
        assert pyro.module("net", net).weight.tolist() == [[9.0, 9.0]]
        assert set(runtime.parameters()) == {"start", "scale", "net$$$weight", "net$$$bias"}
    assert start.tolist() == [0.0, 0.0]
    torch.testing.assert_close(net.weight.detach(), weight, rtol=0, atol=0)


def test_known_values_of_another_shape_are_refused() -> None:
    start = torch.zeros(2)
    with pytest.raises(StoreError, match=r"parameter 'start' has shape \(2,\) .* \(3,\) in the fitted ones. Fix:"):
        with runtime.session(params={"start": torch.ones(3)}):
            pyro.param("start", start)
    assert start.tolist() == [0.0, 0.0]
    assert not pyro.get_param_store().keys()


class _Owner(PyroModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.sd = PyroParam(torch.tensor(2.0), constraint=constraints.positive)
        self.net = torch.nn.Linear(1, 1)

    def forward(self) -> None:
        self.net(torch.ones(1))
        pyro.sample("x", dist.Normal(0.0, self.sd))


def test_a_pyro_modules_parameters_come_back() -> None:
    owner = _Owner()
    before = {name: value.detach().clone() for name, value in owner.named_parameters()}
    with runtime.session(seed=0):
        owner()
        assert len(runtime.parameters()) == 3
        with torch.no_grad():
            for value in runtime.parameters().values():
                value.mul_(3.0)
        assert owner.sd.item() == pytest.approx(8.0)
    assert owner.sd.item() == pytest.approx(2.0)
    for name, value in owner.named_parameters():
        torch.testing.assert_close(value.detach(), before[name], rtol=0, atol=0)


def _clears() -> None:
    pyro.clear_param_store()


def _scopes() -> None:
    with pyro.get_param_store().scope():
        pyro.param("scoped", torch.zeros(1))


def _reloads() -> None:
    store = pyro.get_param_store()
    store.set_state(store.get_state())


@pytest.mark.parametrize("disturb", [_clears, _scopes, _reloads])
def test_a_program_that_handles_the_store_itself_breaks_no_lending(disturb: Callable[[], None]) -> None:
    start = torch.zeros(2)
    known = {"start": torch.tensor([3.0, 4.0])}
    with _own_store():
        pyro.param("mine", torch.tensor(1.0))
        before = _state()
        for params in ({}, known):
            with runtime.session(params=params):
                pyro.param("start", start)
                with torch.no_grad():
                    start.add_(1.0)
                disturb()
                again = pyro.param("start", start)
                assert again.tolist() == ([4.0, 5.0] if params else [1.0, 1.0])
                assert "scoped" not in runtime.parameters()
            assert start.tolist() == [0.0, 0.0]
            assert _state() == before
            assert pyro.param("mine").item() == 1.0


def test_a_model_that_scopes_the_store_can_be_fitted() -> None:
    def model(y: Tensor) -> None:
        with pyro.get_param_store().scope():
            assert not pyro.get_param_store().keys()
        pyro.sample("y", dist.Normal(pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    with _own_store():
        pyro.param("mine", torch.tensor(1.0))
        fit = lvm.fit(lvm.Problem(model, torch.tensor(1.0)), "mean_field", max_steps=50, draws=10, progress=False)
        assert fit.losses[-1] < fit.losses[0]
        assert pyro.get_param_store().keys() == {"mine"}


# --- interrupts and threads -------------------------------------------------------------------------------------------


def _line(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_ctrl_c_in_a_fit_keeps_what_was_reached_and_restores_globals() -> None:
    def interrupt(step: Any) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    before = _state()
    fit = lvm.fit(
        lvm.Problem(_line, torch.arange(3.0)),
        "mean_field",
        max_steps=50,
        draws=10,
        progress=False,
        callbacks=[interrupt],
    )
    assert len(fit.losses) == 4 and "interrupted" in fit.stop_reason and not fit.converged
    assert _state() == before


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_an_error_inside_the_model_restores_globals(error: type[BaseException]) -> None:
    calls = 0

    def model(y: Tensor) -> None:
        nonlocal calls
        calls += 1
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            if calls > 1:
                raise error
            pyro.sample("y", dist.Normal(a, 1.0), obs=y)

    problem = lvm.Problem(model, torch.arange(3.0))
    before = _state()
    with pytest.raises((lvm.PyrolvmError, KeyboardInterrupt)) as raised:
        lvm.fit(problem, "mean_field", max_steps=5, draws=10, progress=False)
    assert isinstance(raised.value, KeyboardInterrupt) is (error is KeyboardInterrupt)
    assert _state() == before


def test_threads_take_turns() -> None:
    problems = [lvm.Problem(_line, torch.arange(3.0) + i) for i in range(4)]
    options: dict[str, Any] = {"max_steps": 20, "draws": 10, "progress": False}
    expected = [lvm.fit(problem, "mean_field", seed=i, **options).losses for i, problem in enumerate(problems)]
    found: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        found[i] = lvm.fit(problems[i], "mean_field", seed=i, **options).losses

    before = _state()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    for i, losses in enumerate(expected):
        np.testing.assert_array_equal(found[i], losses)
    assert _state() == before


def test_a_session_waits_for_another_threads_session() -> None:
    entered, leave, order = threading.Event(), threading.Event(), []

    def hold() -> None:
        with runtime.session(seed=0):
            entered.set()
            leave.wait(10)
            order.append("first")

    def follow() -> None:
        with runtime.session(seed=0):
            order.append("second")

    first, second = threading.Thread(target=hold), threading.Thread(target=follow)
    first.start()
    assert entered.wait(10)
    second.start()
    second.join(0.2)
    assert second.is_alive() and order == []
    leave.set()
    first.join(10)
    second.join(10)
    assert order == ["first", "second"]


# --- plates -----------------------------------------------------------------------------------------------------------


def test_a_plate_policy_sets_size_and_rows_of_named_plates_only() -> None:
    rows = torch.tensor([5, 1])

    def program() -> Tensor:
        with pyro.plate("rows", 2) as i:
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0))
        with pyro.plate("other", 3):
            pyro.sample("z", dist.Normal(0.0, 1.0))
        return i  # type: ignore[no-any-return]

    with runtime.session(seed=0), runtime.plates({"rows": runtime.Subsample(6, rows)}):
        trace = poutine.trace(program).get_trace()
    assert trace.nodes["_RETURN"]["value"].tolist() == [5, 1]
    assert trace.nodes["x"]["scale"] == 3.0
    assert trace.nodes["z"]["scale"] == 1.0 and trace.nodes["z"]["value"].shape == (3,)


def test_recorded_plates_are_what_the_program_declared() -> None:
    def program() -> None:
        with pyro.plate("a", 6, subsample_size=2), pyro.plate("b", 3, dim=-2):
            pass
        with pyro.plate("c", 4, subsample=torch.tensor([3])):
            pass
        for _ in pyro.plate("d", 2):
            pass

    with runtime.session(seed=0), runtime.record_plates() as calls:
        program()
    assert {name: (call.size, call.subsampled) for name, call in calls.items()} == {
        "a": (6, True),
        "b": (3, False),
        "c": (4, True),
        "d": (2, False),
    }


def test_buffers_of_modules_get_their_values_back() -> None:
    norm = torch.nn.BatchNorm1d(1)

    def model(y: Tensor, norm: torch.nn.Module) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(norm(y[:, None])[:, 0] + a, 1.0), obs=y)

    problem = lvm.Problem(model, torch.arange(8.0), norm)
    assert float(norm.running_mean) == 0 and int(norm.num_batches_tracked) == 0
    lvm.fit(problem, "mean_field", max_steps=5, draws=10, progress=False)
    assert float(norm.running_mean) == 0 and int(norm.num_batches_tracked) == 0
