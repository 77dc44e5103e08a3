"""What holds for every test: one thread, no display, and no trace left in anybody's globals."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")
# A thread of numpy's that waits for another, on a processor that a second worker has, waits a hundred times as long as it works.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Workers share what they compile, and no test reads or fills the caller's own folder.
os.environ["PYROLVM_CACHE"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "programs")

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine import runtime as pyro_runtime

torch.set_num_threads(1)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in a job of a shell's background, where tests send it all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _globals() -> dict[str, Any]:
    """Everything a test may not leave changed, as values that can be compared."""
    state: dict[str, Any] = {
        "Pyro's parameter store": sorted(pyro.get_param_store().keys()),
        "Pyro's handler stack": list(pyro_runtime._PYRO_STACK),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": str(torch.get_default_device()),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's validation flag": torch.distributions.Distribution._validate_args,
    }
    state.update({f"Pyro's setting {name!r}": value for name, value in pyro.settings.get().items()})
    jax = sys.modules.get("jax")
    # The flag exists only once jax has finished importing; a test that imports jax itself must leave the default.
    state["jax's 64-bit flag"] = bool(jax.config.jax_enable_x64) if hasattr(jax, "config") else False
    pyplot = sys.modules.get("matplotlib.pyplot")
    state["open figures"] = list(pyplot.get_fignums()) if hasattr(pyplot, "get_fignums") else []
    return state


def _random_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), (name, keys.tobytes(), *rest), torch.get_rng_state().numpy().tobytes()


@pytest.fixture(autouse=True)
def no_leaked_globals() -> Iterator[None]:
    """Fails a test that leaves a global of Pyro, torch, jax or matplotlib other than it found it."""
    before, settings = _globals(), pyro.settings.get()
    yield
    after = _globals()
    leaks = [
        f"{what}: {before.get(what)!r} became {after.get(what)!r}"
        for what in sorted(before.keys() | after.keys())
        if before.get(what) != after.get(what)
    ]
    if leaks:
        # The next test must not pay for this one.
        pyro.clear_param_store()
        pyro_runtime._PYRO_STACK.clear()
        torch.set_default_dtype(before["torch's default dtype"])
        pyro.settings.set(**settings)
        pytest.fail("globals leaked: " + "; ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def nothing_was_said_before() -> None:
    """What is said once in a process is said once in a test."""
    selfcheck = sys.modules.get("pyrolvm._capture.selfcheck")
    if selfcheck is not None:
        selfcheck.forget()


LOOPS = os.environ.get("PYROLVM_LOOPS")
"""A file that gets a line for each test: its seconds, those in loops over draws, how many draws, and its name."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Any:
    """Measures how much of a test's time goes into running programs draw by draw, where that is asked for."""
    if LOOPS is None:
        return (yield)
    from pyrolvm._program.density import watched

    began = time.perf_counter()
    with watched() as seen:
        result = yield
    looped = [one for one in seen if one.looped]
    with open(LOOPS, "a") as file:
        seconds = f"{time.perf_counter() - began:.2f} {sum(one.seconds for one in looped):.2f}"
        file.write(f"{seconds} {sum(one.looped for one in looped)} {item.nodeid}\n")
    return result


@pytest.fixture
def untouched_rng() -> Iterator[None]:
    """Fails a test that moves the global random state of torch, NumPy or Python without seeding it."""
    before = _random_states()
    yield
    moved = [
        name
        for name, old, new in zip(("random", "numpy.random", "torch"), before, _random_states(), strict=True)
        if old != new
    ]
    if moved:
        pytest.fail(f"global random state moved: {', '.join(moved)}", pytrace=False)
