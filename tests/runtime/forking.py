"""Run by test_forks.py: a process that uses threads of libraries and of its own, and what its forked children then can do."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch

import pyrolvm as lvm


def model(x: torch.Tensor, y: torch.Tensor) -> None:
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def problem(rows: int = 40_000) -> lvm.Problem:
    x = torch.linspace(-1.0, 1.0, rows)
    return lvm.Problem(model, x, 2 * x)


def fit(engine: str, **options: Any) -> str:
    options = {"max_steps": 20, "draws": 100, "progress": False, **options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = lvm.fit(problem(), "mean_field", engine=engine, **options)
    said = " ".join(str(one.message) for one in caught if issubclass(one.category, lvm.PyrolvmWarning))
    return f"{found.engine}: {said or found.engine_reason}"


def nuts(engine: str) -> str:
    return lvm.nuts(problem(50), warmup=20, draws=5, chains=2, engine=engine, progress=False).engine


def in_child(job: Callable[[], str], seconds: float = 100.0) -> str:
    """What a job says in a forked child; ``hangs`` if it says nothing in time."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = job()
        except lvm.PyrolvmError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:
            said = f"raw {type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    until = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return "hangs"
        time.sleep(0.02)
    with open(read, "rb") as pipe:
        return pipe.read().decode()


def in_the_middle() -> str:
    """A fork while another thread is inside a fit."""
    inside, done = threading.Event(), threading.Event()

    def watch(*_: Any) -> None:
        inside.set()
        done.wait()

    thread = threading.Thread(target=lambda: fit("pyro", progress=watch))
    thread.start()
    inside.wait()
    try:
        return in_child(lambda: fit("pyro"))
    finally:
        done.set()
        thread.join()


def main() -> None:
    warnings.simplefilter("ignore")  # of JAX and Python, about forks
    torch.set_num_threads(2)
    said = {}
    torch.ones(400, 400) @ torch.ones(400, 400)
    fit("c")
    said["c after c"] = in_child(lambda: fit("c"))
    said["nuts after torch"] = in_child(lambda: nuts("auto"))
    said["pyro in the middle"] = in_the_middle()
    import jax.numpy as jnp

    jnp.ones(3).sum().block_until_ready()
    said["jax after jax"] = in_child(lambda: fit("jax"))
    said["nuts on jax after jax"] = in_child(lambda: nuts("jax"))
    said["auto after jax"] = in_child(lambda: fit("auto", max_steps=400))
    said["jax in a grandchild"] = in_child(lambda: in_child(lambda: nuts("jax")))
    said["jax in the parent"] = str(jnp.ones(3).sum())
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
