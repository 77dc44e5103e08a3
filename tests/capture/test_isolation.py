"""Our programs on JAX do not see the switches of the user's session, and leave them as they were."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base.errors import CaptureError
from pyrolvm._capture.jax import isolation, precision

FOREIGN: dict[str, Any] = {
    "array_garbage_collection_guard": "fatal",
    "check_tracer_leaks": True,
    "debug_infs": True,
    "debug_key_reuse": True,
    "debug_nans": True,
    "default_matmul_precision": "bfloat16",
    "default_prng_impl": "rbg",
    "disable_jit": True,
    "enable_custom_prng": True,
    "legacy_prng_key": "error",
    "no_execution": True,
    "no_tracing": True,
    "numpy_dtype_promotion": "strict",
    "numpy_rank_promotion": "raise",
    "softmax_custom_jvp": True,
    "thread_guard": True,
    "threefry_partitionable": False,
    "transfer_guard": "disallow",
}
"""What a user may have switched on, for each of JAX's switches that changes or breaks programs."""

RUNS = {"debug_nans", "disable_jit", "numpy_dtype_promotion", "numpy_rank_promotion", "default_prng_impl"}
RUNS |= {"transfer_guard", "threefry_partitionable", "no_tracing"}


@contextmanager
def switched(**switches: Any) -> Iterator[None]:
    """JAX as a user's session may have it, for all threads."""
    before = {name: getattr(jax.config, f"jax_{name}") for name in switches}
    try:
        for name, value in switches.items():
            jax.config.update(f"jax_{name}", value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(f"jax_{name}", value)


def reading(name: str) -> Any:
    return getattr(jax.config, f"jax_{name}")


@pytest.mark.parametrize("name", sorted(set(FOREIGN) - {"transfer_guard"}))
def test_a_switch_is_ours_inside_and_the_users_afterwards(name: str) -> None:
    with switched(**{name: FOREIGN[name]}):
        with precision(torch.float32):
            assert reading(name) == isolation._OWN[name]
        assert reading(name) == FOREIGN[name]


@pytest.mark.parametrize("switch", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_is_that_of_the_dtype_at_both_values_of_the_switch(switch: bool, dtype: torch.dtype) -> None:
    with switched(enable_x64=switch):
        with precision(dtype):
            assert str(jnp.zeros(1, float).dtype) == str(dtype).removeprefix("torch.")
        assert jnp.zeros(1).dtype == (np.float64 if switch else np.float32)


def test_other_threads_keep_the_users_switch_meanwhile() -> None:
    seen: list[Any] = []
    with switched(enable_x64=True), precision(torch.float32):
        thread = threading.Thread(target=lambda: seen.append(jnp.zeros(1).dtype))
        thread.start()
        thread.join()
    assert seen == [np.float64]


@pytest.mark.parametrize("guard", ["log", "disallow", "disallow_explicit"])
def test_arrays_move_whatever_guard_the_user_has_set(guard: str) -> None:
    with switched(transfer_guard=guard), precision(torch.float64):
        assert float(jnp.asarray(np.ones(3)).sum() + 1) == 4.0


def test_an_error_inside_gives_the_users_switches_back() -> None:
    with switched(enable_x64=True, debug_nans=True):
        with pytest.raises(ZeroDivisionError), precision(torch.float32):
            raise ZeroDivisionError
        assert reading("enable_x64") and reading("debug_nans")


def test_a_jax_that_does_not_start_is_a_reason_to_run_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("Unable to initialize backend 'tpu'")

    monkeypatch.setattr(jax, "devices", broken)
    with pytest.raises(CaptureError, match="JAX does not start here: Unable to initialize backend 'tpu'"):
        with precision(torch.float32):
            pass


# --- whole runs -------------------------------------------------------------------------------------------------------


def model(x: Tensor, y: Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ slope, scale), obs=y)


def draws(problem: lvm.Problem, how: str) -> np.ndarray[Any, Any]:
    if how == "fit":
        found: lvm.Posterior = lvm.fit(problem, "mean_field", engine="jax", max_steps=10, draws=10, progress=False)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ArviZ, about its next version, where nutpie is first imported
            found = lvm.nuts(
                problem, chains=1, warmup=10, draws=5, engine="jax", kernel=how, precondition="none", progress=False
            )
    assert found.engine == "jax", found.engine_reason
    return np.asarray(found.data["posterior"]["slope"].values)


@pytest.fixture(scope="module")
def problem() -> lvm.Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 2, generator=generator)
    return lvm.Problem(model, x, x.sum(1) + torch.randn(12, generator=generator))


@pytest.fixture(scope="module")
def plain(problem: lvm.Problem) -> dict[str, np.ndarray[Any, Any]]:
    return {how: draws(problem, how) for how in ("fit", "numpyro")}


@pytest.mark.parametrize("how", ["fit", "numpyro"])
def test_draws_do_not_depend_on_what_the_user_has_switched_on(
    problem: lvm.Problem, plain: dict[str, np.ndarray[Any, Any]], how: str
) -> None:
    with switched(enable_x64=True, **{name: FOREIGN[name] for name in RUNS}):
        found = draws(problem, how)
        assert reading("enable_x64") and reading("disable_jit")
    np.testing.assert_array_equal(found, plain[how])


def test_a_run_in_a_thread_does_not_see_the_switch_either(
    problem: lvm.Problem, plain: dict[str, np.ndarray[Any, Any]]
) -> None:
    found: list[np.ndarray[Any, Any]] = []
    with switched(enable_x64=True):
        thread = threading.Thread(target=lambda: found.append(draws(problem, "numpyro")))
        thread.start()
        thread.join()
        assert jnp.zeros(1).dtype == np.float64
    np.testing.assert_array_equal(found[0], plain["numpyro"])


def test_a_potential_that_calls_back_into_torch_does_not_see_the_switch(
    problem: lvm.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrolvm._capture.jax.missing", lambda captured: ["mystery"])
    with switched(enable_x64=True, transfer_guard="disallow"):
        assert np.isfinite(draws(problem, "numpyro")).all()
