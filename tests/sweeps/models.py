"""Models and methods of the sweeps that are tested: importable by the worker processes of nobody."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

X, Y = torch.linspace(-1.0, 1.0, 8), torch.linspace(-1.0, 2.0, 8)
SHORT: dict[str, Any] = {"max_steps": 20, "draws": 100, "progress": False}


def line(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(w * x, 1.0), obs=y)


def problem() -> lvm.Problem:
    return lvm.Problem(line, X, Y)


def by_hand(x: Tensor, y: Tensor) -> None:
    pyro.sample("w", dist.Normal(pyro.param("loc", torch.zeros(())), 0.4))


class Fit:
    """A short fit."""

    __name__ = "fit"

    def __call__(self, problem: Any, seed: int) -> Any:
        return lvm.fit(problem, "mean_field", seed=seed, engine="pyro", **SHORT)


class Draws:
    """A method that needs no fit: quick, and its own seed decides what happens to it.

    Args:
        fail: seeds that raise.
        die: seeds whose process kills itself, the first time if ``once`` is a folder, else each time.
        sleep: seconds that a cell takes.
    """

    def __init__(self, fail: Any = (), die: Any = (), once: str | None = None, sleep: float = 0.0) -> None:
        self.fail, self.die, self.once, self.sleep = tuple(fail), tuple(die), once, sleep
        self.__name__ = "draws"

    def __call__(self, problem: Any, seed: int) -> Any:
        if self.once is not None:
            with (Path(self.once) / f"begun-{seed}").open("a") as file:
                file.write(f"{os.getpid()}\n")
        if seed in self.fail:
            raise ValueError(f"seed {seed} is not wanted\nand this is a second line")
        time.sleep(self.sleep)
        if seed in self.die and (self.once is None or self._first(seed)):
            os.kill(os.getpid(), signal.SIGKILL)
        from xarray import Dataset, DataTree

        draws = torch.randn(1, 50, generator=torch.Generator().manual_seed(seed)).numpy()
        return DataTree.from_dict({"posterior": Dataset({"w": (("chain", "draw"), draws)})})

    def _first(self, seed: int) -> bool:
        mark = Path(str(self.once)) / f"died-{seed}"
        if mark.exists():
            return False
        mark.write_text("")
        return True


class Locked(Draws):
    """A method that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
