"""The processes that a launcher of ``torch.distributed`` started for one call, which all make it together.

Each of them runs the same program on the same arguments, takes its share of the rows, and adds what all of them found, in the order of
their ranks, so that all go on with the same numbers. The first one leads where one has to: it alone writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, FitError
from pyrolvm._base.machine import available

__all__ = ["Team", "launched", "local_rank", "rank_of_launch", "team"]

HANGS = timedelta(minutes=10)
"""How long one process may keep the others waiting: for a checkpoint to be written, say. One that ends is noticed at once."""

_ASKED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What every launcher of torch.distributed puts into the environment."""


def launched() -> bool:
    """Whether a launcher of ``torch.distributed`` started this process."""
    return dist.is_available() and (dist.is_initialized() or all(name in os.environ for name in _ASKED))


def rank_of_launch() -> int:
    """Which of the processes this is, by what its launcher says; 0 without one."""
    return int(os.environ["RANK"]) if launched() and "RANK" in os.environ else 0


def local_rank() -> int:
    """Which of the processes on this machine this is, by what its launcher says; 0 without one."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))


@dataclass(frozen=True)
class Team:
    """The processes, as one of them sees them.

    Attributes:
        rank: which one this is, from 0.
        size: how many there are.
        group: what they exchange numbers on processors by.
        near: how many of them are on this machine.
    """

    rank: int
    size: int
    group: Any
    near: int

    @property
    def leads(self) -> bool:
        """Whether this is the first one."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """How many threads each may use, of the processors that those of one machine share."""
        return max(1, available() // self.near)

    @property
    def local(self) -> torch.device | None:
        """The GPU that is this process's own; ``None`` where there are fewer than processes."""
        count = torch.cuda.device_count()
        return torch.device("cuda", local_rank()) if self.near <= count and local_rank() < count else None

    def part(self, total: int) -> slice:
        """This process's share of so many rows, which ``size`` divides."""
        each = total // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gathered(self, tensor: Tensor) -> list[Tensor]:
        """A tensor of each process, in the order of ranks; all of one shape."""
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._together():
            dist.all_gather(found, tensor.contiguous(), group=self.group)
        return found

    def averaged(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over the processes, the same bits in all of them."""
        with self._together():
            if tensor.is_cuda and self.local is not None:
                dist.all_reduce(tensor)
                return tensor / self.size
            here = tensor.cpu()
            dist.all_reduce(here, group=self.group)
        return (here / self.size).to(tensor.device)

    def led(self, tensor: Tensor) -> Tensor:
        """The first process's tensor; all are of one shape."""
        found = tensor.detach().cpu().contiguous().clone()
        with self._together():
            dist.broadcast(found, group_src=0, group=self.group)
        return found.to(tensor.device)

    def told(self, message: bytes = b"") -> bytes:
        """What the first process says."""
        size = int(self.led(torch.tensor([len(message)]))[0])
        text = (
            torch.frombuffer(bytearray(message), dtype=torch.uint8)
            if self.leads and size
            else torch.zeros(size, dtype=torch.uint8)
        )
        return bytes(self.led(text).numpy()) if size else b""

    def decided(self, flag: bool) -> bool:
        """What the first process has decided."""
        return bool(self.led(torch.tensor([flag], dtype=torch.uint8))[0])

    def agree(self, about: Mapping[str, object]) -> None:
        """Makes sure that all processes were asked for the same.

        Raises:
            ArgumentError: with the first thing in which one of them differs from the first.
        """
        mine = {name: json.dumps(value, sort_keys=True, default=str) for name, value in about.items()}
        wanted: dict[str, str] = json.loads(self.told(json.dumps(mine).encode()))
        other = next((name for name in sorted(mine.keys() | wanted.keys()) if mine.get(name) != wanted.get(name)), None)
        unlike = [bool(one[0]) for one in self.gathered(torch.tensor([other is not None]))]
        if not any(unlike):
            return
        what = "" if other is None else f": {other} is {mine.get(other)}, and there {wanted.get(other)}"
        raise ArgumentError(
            f"process {unlike.index(True)} of {self.size} was asked for something else than process 0{what}. Fix: call it in all "
            "processes with the same model, data and options; each takes its share of the rows by itself."
        )

    def close(self) -> None:
        """Leaves the others, who notice."""
        if dist.is_initialized():
            dist.destroy_process_group(None if self.group is dist.group.WORLD else self.group)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """An exchange.

        Raises:
            FitError: if another process has ended, or does not answer.
        """
        try:
            yield
        except RuntimeError as error:
            raise FitError(
                f"process {self.rank} of {self.size} has lost another one, which ended or has not answered for "
                f"{HANGS.total_seconds():.0f} s ({_first_line(error)}). Fix: look at what that one said; then start all of them again, "
                "with resume=True where there is a folder: they go on from the last checkpoint."
            ) from error


@contextmanager
def team() -> Iterator[Team]:
    """The processes that a call is made by.

    A group that there is already is used, and stays. One that is made here stays open for further calls, but after an error.

    Raises:
        ArgumentError: if no launcher started this process.
        FitError: if they do not find each other.
    """
    if not launched():
        raise ArgumentError(
            f"distributed=True in a process that no launcher of torch.distributed started: {', '.join(_ASKED)} are not all set. "
            "Fix: start the script by torchrun --nproc-per-node 4 script.py, or leave distributed out."
        )
    found = _begun()
    try:
        yield found
    except BaseException:
        found.close()
        raise


def _begun() -> Team:
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(backend, timeout=HANGS)
        except (RuntimeError, ValueError) as error:
            raise FitError(
                f"the processes did not find each other at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} "
                f"({_first_line(error)}). Fix: make sure that all of them run, and that this address is open to them."
            ) from error
    group: Any = dist.group.WORLD
    if "gloo" not in str(dist.get_backend_config(group)):
        group = dist.new_group(backend="gloo", timeout=HANGS)
    size = dist.get_world_size()
    return Team(dist.get_rank(), size, group, min(size, int(os.environ.get("LOCAL_WORLD_SIZE", size))))


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
