"""Runs a function of one draw for many draws, the fastest way that gives what single runs give.

In turn: ``vmap`` of the function itself, or of the function with tensors of their own for each draw where it makes some and writes
into them; ``vmap`` of its recorded graph, which has no write in place and no check any more; a graph for each of the ways that the
program takes through its branches, for the draws that take it (:mod:`pyrolvm._program.density.paths`); and a loop that runs the
program draw by draw, a hundred times slower, which is why nobody asks it for more draws than it must.
"""

from __future__ import annotations

import math
import random
import threading
import time
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base import budget
from pyrolvm._base.errors import CaptureError
from pyrolvm._base.progress import Progress, showing
from pyrolvm._capture import Captured, capture
from pyrolvm._capture.vmap import vmapped
from pyrolvm._program.density.paths import Paths
from pyrolvm._program.density.watch import Evaluation, note

__all__ = ["Evaluator", "Tree", "close", "map_draws", "repeat"]

Tree = dict[str, Tensor]
Function = Callable[[Tree], Tree]

CAPTURED = 4
"""Chunks from which on recording the function once is cheaper than running its handlers for each."""

AT_ONCE = 20_000_000
"""Numbers that one chunk may compute."""

LONG = 64
"""Draws from which on a graph is recorded where ``vmap`` refuses: recording takes as long as dozens of runs."""

RUNS = 3
"""Runs in each of which a generator must move to be the function's own doing, where there are other threads."""

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
"""How far a draw among others may be from the draw by itself, relative to the largest number: sums are taken in another order."""


def map_draws(
    function: Function, draws: Mapping[str, Tensor], *, chunk: int | None = None, inside: int = 0, what: str = ""
) -> Tree:
    """Applies ``function``, of one draw, to every draw.

    Args:
        function: maps a dictionary of tensors to another; may be random.
        draws: tensors of shape ``(n, ...)``.
        chunk: how many draws to take at once; ``None`` chooses by the size of the first result, so that memory stays
            bounded.
        inside: how many numbers ``function`` computes for a draw on its way, if more than it is given or returns.
        what: what it computes, for messages and records.

    Returns:
        The results, each of shape ``(n, ...)``.
    """
    return Evaluator(function, draws, inside=inside, what=what)(draws, chunk=chunk)


def repeat(
    function: Callable[[], Tree],
    count: int,
    *,
    like: Tensor,
    chunk: int | None = None,
    inside: int = 0,
    what: str = "",
) -> Tree:
    """Runs a random ``function`` of nothing ``count`` times; ``like`` gives device and dtype, the rest is as for :func:`map_draws`."""
    lanes = torch.zeros(count, dtype=like.dtype, device=like.device)
    return map_draws(lambda _: function(), {"lane": lanes}, chunk=chunk, inside=inside, what=what)


class Evaluator:
    """A function of one draw, made to take many; must be called inside a session, as the function itself.

    Attributes:
        way: how it takes them: ``"vmap"``, ``"graph"``, ``"paths"`` or ``"loop"``.
        reason: why not a faster way; empty for ``"vmap"``.
        cost: the seconds that one run of the function by itself took.
    """

    def __init__(self, function: Function, draws: Mapping[str, Tensor], *, inside: int = 0, what: str = "") -> None:
        """Finds the way, by a few draws.

        Args:
            function: maps a dictionary of tensors to another; may be random.
            draws: tensors of shape ``(n, ...)``: examples of the draws that it will be given, and how many they will be.
            inside: how many numbers ``function`` computes for a draw on its way, if more than it is given or returns.
            what: what it computes, for messages and records.
        """
        self.function, self.what = function, what or getattr(function, "__name__", "").strip("<>")
        self._count = len(next(iter(draws.values())))
        before = _generators(draws)
        began = time.perf_counter()
        self._first = function(_at(draws, 0))
        self.cost = time.perf_counter() - began
        after = _generators(draws)
        self._random = after[0] != before[0]
        self._elsewhere = after[1:] != before[1:] and self._moves_others(draws)
        given = sum(value[0].numel() for value in draws.values())
        self._numbers = max(20 * (sum(value.numel() for value in self._first.values()) + given), 20 * inside, 1)
        self.way, self.reason = "loop", ""
        self._graph: Captured | None = None
        self._paths: Paths | None = None
        with torch.random.fork_rng(devices=_devices(draws)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._choose(draws)

    def __call__(self, draws: Mapping[str, Tensor], *, chunk: int | None = None, record: bool = True) -> Tree:
        """The results for all draws, each of shape ``(n, ...)``.

        Args:
            draws: tensors of shape ``(n, ...)``.
            chunk: as for :func:`map_draws`.
            record: whether a graph of many chunks may be recorded, which is faster and keeps memory.
        """
        count, began = len(next(iter(draws.values()))), time.perf_counter()
        looped = 0
        if self.way == "paths" and self._paths is not None:
            found, left = self._paths(draws)
            if len(left):
                rows = self._loop({name: value[left] for name, value in draws.items()})
                found = {name: value.index_copy(0, left, rows[name]) for name, value in found.items()}
            looped = len(left)
        elif self.way == "loop":
            found, looped = self._loop(draws), count
        else:
            size = self._at_once(count)
            found = self._together(draws, size if size == 1 else chunk or size, record)
        note(Evaluation(self.what, self.way, count, looped, time.perf_counter() - began, self.reason))
        return found

    def affordable(self, draws: Mapping[str, Tensor], looped: int) -> tuple[int, float]:
        """How many of the draws there is time for in a budget's seconds (:func:`~pyrolvm._base.budget.affordable`), and those of one.

        Of a loop it is known what one takes, and it has all the seconds. Of several chunks the first is taken to find out, and they
        have an eighth of the seconds: draws of so large a program are worth no more. One chunk is no matter of time.

        Args:
            draws: tensors of shape ``(n, ...)``.
            looped: how many at most in a loop.
        """
        count, cost = len(next(iter(draws.values()))), self.cost
        if self.way == "loop":
            return budget.affordable(cost, min(looped, count)), cost
        size = self._at_once(count)
        seconds = budget.left(soft=True) / 8
        if self.way == "paths" or size >= count or math.isinf(seconds):
            return count, cost
        if size == 1:  # which the first run was
            return budget.affordable(cost, count, seconds), cost
        with torch.random.fork_rng(devices=_devices(draws)):
            began = time.perf_counter()
            self._mapped()({name: value[:size] for name, value in draws.items()})
            cost = (time.perf_counter() - began) / size
        return budget.affordable(cost, count, seconds), cost

    def _at_once(self, count: int) -> int:
        """The draws of a chunk."""
        return max(1, min(count, AT_ONCE // self._numbers))

    def _moves_others(self, draws: Mapping[str, Tensor]) -> bool:
        """Whether the function, which has seemed to move NumPy's or Python's generator, does so each time; other threads may."""
        for _ in range(RUNS if threading.active_count() > 1 else 0):
            with torch.random.fork_rng(devices=_devices(draws)):
                before = _generators(draws)
                self.function(_at(draws, 0))
                if _generators(draws)[1:] == before[1:]:
                    return False
        return True

    # --- the choice ---------------------------------------------------------------------------------------------------

    def _choose(self, draws: Mapping[str, Tensor]) -> None:
        if self._elsewhere:
            self.reason = "it draws random numbers by Python or NumPy, which are the same in all draws taken at once"
            return
        self.way, vmap_says = "vmap", ""
        for apart in (False, True):
            self._vmapped = vmapped(self.function, items=True, apart=apart)
            self.reason = self._refusal(self._vmapped, draws)
            if not self.reason:
                return
            vmap_says = vmap_says or self.reason
        names = list(draws)
        if self._count < LONG:
            self.way = "loop"
            return
        example = [value[0].clone() for value in draws.values()]
        try:
            graph = capture(lambda *values: self.function(dict(zip(names, values, strict=True))), *example, what="it")
            self.way, self._graph = "graph", graph
            self.reason = self._refusal(self._mapped(), draws)
            if not self.reason:
                self.reason = vmap_says
                self._numbers = max(self._numbers, graph.numbers)
                return
        except CaptureError as error:
            self.reason = str(error)
        self.way, self._graph = "loop", None
        paths = Paths(self.function, self._first, random=self._random)
        if paths.take(draws):
            self.way, self._paths = "paths", paths

    def _mapped(self) -> Callable[[Tree], Tree]:
        """The function of many draws at once."""
        graph = self._graph
        if graph is None:
            return self._vmapped
        return vmapped(lambda draw: graph(*draw.values()))

    def _refusal(self, mapped: Callable[[Tree], Tree], draws: Mapping[str, Tensor]) -> str:
        """Why not to take draws at once; empty if they give what they give by themselves, as far as that is not random."""
        alone = (
            self._at_once(self._count) == 1
        )  # so that there are never two to be mixed up, of a function that takes long
        ends = {name: value[[0] if alone else [0, -1]] for name, value in draws.items()}
        try:
            few = mapped(ends)
        except Exception as error:  # whatever vmap cannot do: the loop can, or raises the real error
            return _first_line(error)
        first = self._first
        if few.keys() != first.keys() or any(few[n].shape[1:] != value.shape for n, value in first.items()):
            return "several draws at once give results of another shape"
        if self._random:
            return ""
        singles = [first] if alone else [first, self.function(_at(draws, -1))]
        for i, single in enumerate(singles):
            for name, value in single.items():
                if not close(few[name][i], value):
                    return f"several draws at once give another {name} than one by itself"
        return ""

    # --- the ways -----------------------------------------------------------------------------------------------------

    def _together(self, draws: Mapping[str, Tensor], chunk: int, record: bool) -> Tree:
        count = len(next(iter(draws.values())))
        run = self._chunks(draws, chunk) if record else self._mapped()
        if chunk >= count:
            return run(dict(draws))
        # Written into place, and not kept until the end: small results that stay between large ones come and go tear holes
        # into the heap, which then grows by a large one for each.
        found = {name: value.new_empty(count, *value.shape) for name, value in self._first.items()}
        for start in range(0, count, chunk):
            part = run({name: value[start : start + chunk] for name, value in draws.items()})
            for name, value in found.items():
                value[start : start + chunk] = part[name]
        return found

    def _chunks(self, draws: Mapping[str, Tensor], chunk: int) -> Callable[[Tree], Tree]:
        """The function of one chunk: as a graph, recorded once, where there are several.

        Not where a single draw is as much as a chunk may compute: its handlers are nothing beside that, and a recording keeps all
        that is computed on the way until its end.
        """
        names, mapped = list(draws), self._mapped()
        large = self._numbers > AT_ONCE
        if self._graph is not None or large or len(draws[names[0]]) < CAPTURED * chunk:
            return mapped
        try:
            graph = capture(
                lambda *values: mapped(dict(zip(names, values, strict=True))), *(v[:chunk] for v in draws.values())
            )
        except CaptureError:
            return mapped

        def run(part: Tree) -> Tree:
            whole = len(part[names[0]]) == chunk
            result: Tree = graph(*part.values()) if whole else mapped(part)
            return result

        return run

    def _loop(self, draws: Mapping[str, Tensor]) -> Tree:
        count = len(next(iter(draws.values())))
        rows = []
        with Progress(f"{self.what}: one draw at a time", count, showing()) as bar:
            for i in range(count):
                rows.append(self.function(_at(draws, i)))
                bar.update(i + 1, lambda: f"{1e3 * self.cost:.3g} ms each: {self.reason}")
        return {name: torch.stack([row[name] for row in rows]) for name in self._first}


def _at(draws: Mapping[str, Tensor], i: int) -> Tree:
    return {name: value[i] for name, value in draws.items()}


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two results are the same but for the order in which sums were taken."""
    if not theirs.is_floating_point():
        return bool((ours == theirs).all())
    tolerance = _TOLERANCE.get(theirs.dtype, 5e-2)
    size = theirs[torch.isfinite(theirs)].abs()
    largest = float(size.max()) if size.numel() else 0.0
    return torch.allclose(ours.to(theirs.dtype), theirs, rtol=tolerance, atol=tolerance * (1 + largest), equal_nan=True)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    if "vmap: It looks like you're" in text or "Cannot access data pointer" in text:
        return "it reads the value of a tensor that changes from draw to draw"
    return (text.splitlines()[0] if text else type(error).__name__)[:300]


def _generators(draws: Mapping[str, Tensor]) -> tuple[bytes, bytes, object]:
    """Where the generators of torch, NumPy and Python are."""
    torch_state = torch.get_rng_state().numpy().tobytes()
    for device in _devices(draws):
        torch_state += torch.cuda.get_rng_state(device).numpy().tobytes()
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    return torch_state, repr(numpy["state"]["pos"]).encode() + numpy["state"]["key"].tobytes(), random.getstate()


def _devices(draws: Mapping[str, Tensor]) -> list[int]:
    return sorted({value.device.index or 0 for value in draws.values() if value.is_cuda})
