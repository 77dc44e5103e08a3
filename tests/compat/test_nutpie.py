"""What pyrolvm takes from nutpie that nutpie does not promise is as it expects."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from pyrolvm._base import runtime
from pyrolvm._capture import capture
from pyrolvm._capture.native import compile_gradient
from pyrolvm._compat import nutpie

NAMES = ("tuning", "diverging", "mean_tree_accept", "step_size", "n_steps", "energy", "logp")
START = np.array([0.3, -0.2])


def _options(**changed: Any) -> Any:
    plain = {"dense": False, "warmup": 60, "draws": 40, "max_depth": 7, "target_accept": 0.8}
    return nutpie.options(3, **(plain | changed))


def _check(sampler: Any) -> dict[str, np.ndarray[Any, Any]]:
    sampler.wait(60.0)
    table = nutpie.trace(sampler, NAMES)
    assert {name: len(column) for name, column in table.items()} == dict.fromkeys((*NAMES, "x"), 100)
    assert table["x"].shape == (100, 2)
    assert table["tuning"].sum() == 60 and not table["tuning"][60:].any()
    assert not table["diverging"][60:].any()
    np.testing.assert_allclose(table["logp"], -0.5 * (table["x"] ** 2).sum(1), atol=1e-9)
    assert (table["n_steps"] < 2**7).all() and table["n_steps"].sum() > 100
    return table


def test_nothing_is_wrong_with_the_installed_release() -> None:
    assert nutpie.fault() is None


def _called(options: Any) -> Any:
    return nutpie.called_sampler(options, START, lambda x: (-0.5 * float(x @ x), -x), lambda x: {"x": x})


@pytest.mark.parametrize("dense", [False, True])
def test_a_density_in_python_is_sampled(dense: bool) -> None:
    first = _check(_called(_options(dense=dense)))
    again = _check(_called(_options(dense=dense)))
    np.testing.assert_array_equal(first["x"], again["x"])


def test_a_density_in_c_is_sampled_and_its_transitions_are_counted() -> None:
    with runtime.session(seed=0):
        native = compile_gradient(capture(lambda x: 0.5 * (x * x).sum(), torch.zeros(2, dtype=torch.float64)))
    calls = np.zeros(1, np.int64)
    args = (native.address, native.data, native.identity, calls.ctypes.data, (native, calls))
    _check(nutpie.native_sampler(_options(), START, *args))
    assert calls[0] == 100


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("scales", [(0.1, 0.2, 0.5), (30.0, 1.0, 7.0)])
def test_energies_are_those_of_the_given_coordinates(dense: bool, scales: tuple[float, ...]) -> None:
    scale = np.array(scales)
    turn = np.linalg.qr(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]))[0] if dense else np.eye(3)
    precision = turn @ np.diag(scale**-2) @ turn.T

    def density(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        return -0.5 * float(x @ precision @ x), -precision @ x

    sampler = nutpie.called_sampler(
        _options(dense=dense, warmup=200, draws=500), 0.1 * scale, density, lambda x: {"x": x}
    )
    sampler.wait(60.0)
    table = nutpie.trace(sampler, NAMES)
    kinetic = (table["energy"] + table["logp"])[~table["tuning"].astype(bool)]
    assert kinetic.min() > -1e-6
    assert kinetic.mean() == pytest.approx(1.5, abs=0.25)  # of three momenta


def test_settings_reach_the_sampler() -> None:
    sampler = _called(_options(max_depth=1, target_accept=0.99))
    sampler.wait(60.0)
    table = nutpie.trace(sampler, NAMES)
    assert (table["n_steps"] <= 1).all()
    assert table["mean_tree_accept"][60:].mean() > 0.9


def test_a_sampler_that_is_not_done_says_so_and_can_be_stopped() -> None:
    sampler = _called(_options(draws=10_000_000))
    with pytest.raises(TimeoutError):
        sampler.wait(0.01)
    sampler.abort()
    assert len(nutpie.trace(sampler, NAMES)["x"]) < 10_000_000


def test_a_density_that_raises_ends_its_sampler_with_an_error() -> None:
    def density(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        raise ValueError("no density here")

    sampler = nutpie.called_sampler(_options(), START, density, lambda x: {"x": x})
    with pytest.raises(RuntimeError, match="no density here"):
        sampler.wait(60.0)


# --- releases to come -------------------------------------------------------------------------------------------------


def test_a_release_that_wants_more_of_its_samplers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nutpie.library()
    from nutpie.compiled_pyfunc import PyFuncModel

    def more(
        self: Any, settings: Any, init_mean: Any, cores: Any, progress_type: Any, store: Any, moon: Any
    ) -> None: ...

    monkeypatch.setattr(PyFuncModel, "_make_sampler", more)
    assert "wants moon of its samplers" in str(nutpie.fault())


def test_what_a_release_has_by_default_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    nutpie.library()
    from nutpie.compiled_pyfunc import PyFuncModel

    def more(self: Any, settings: Any, init_mean: Any, *, store: Any, moon: Any = None) -> str:
        return f"{init_mean} {moon}"

    monkeypatch.setattr(PyFuncModel, "_make_sampler", more)
    assert nutpie.fault() is None
    assert _called(_options()) == "[0. 0.] None"


def test_a_release_without_a_part_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    nutpie.library()
    from nutpie import _lib

    monkeypatch.delattr(_lib, "LogpFunc")
    assert "has no LogpFunc" in str(nutpie.fault())


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nutpie", None)
    assert str(nutpie.fault()).startswith("nutpie cannot be imported: ModuleNotFoundError")


def test_a_panic_of_a_thread_is_an_error_and_the_sampler_can_be_ended(capfd: pytest.CaptureFixture[str]) -> None:
    def nowhere(x: Any) -> tuple[float, Any]:
        return 0.0, np.zeros(2)

    sampler = nutpie.called_sampler(_options(), START, nowhere, lambda x: {"x": x})
    with pytest.raises(RuntimeError, match="initial"):
        while not nutpie.waited(sampler, 1.0):
            pass
    nutpie.ended(sampler)


def test_a_sampler_tells_how_many_transitions_diverged() -> None:
    def funnel(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        v, z = x[0], x[1:]
        pulls = z * np.exp(-v)
        slope = np.concatenate([[-v / 9 + 0.5 * z @ pulls - 0.5 * len(z)], -pulls])
        return float(-v * v / 18 - 0.5 * z @ pulls - 0.5 * len(z) * v), slope

    told: list[int] = []
    options = _options(warmup=200, draws=2_000, target_accept=0.6)
    sampler = nutpie.called_sampler(options, np.full(5, 0.3), funnel, lambda x: {"x": x}, told.append)
    sampler.wait(60.0)
    table = nutpie.trace(sampler, NAMES)
    after = int(table["diverging"][~table["tuning"].astype(bool)].sum())
    assert after > 0 and told == sorted(told) and told[-1] == after
