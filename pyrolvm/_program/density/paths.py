"""A program that branches on the values it is given, as a graph for each way that it takes.

The program is recorded at one draw, with what it read of whole numbers and truth values on its way: ``if tau > 1``, ``int(k)``, the
mask of ``y[y > tau]``. The graph is right for every draw that gives the same to read. It is run for all draws that are left; those
that give the same are done, and the first of the others is recorded next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import Path, capture_path
from pyrolvm._capture.vmap import vmapped

__all__ = ["Paths"]

Tree = dict[str, Tensor]

MOST = 24
"""Ways that are recorded; draws that take others are run one by one."""

TRIAL = 32
"""Draws by which to see whether ways are few."""

AT_ONCE = 20_000_000


class Paths:
    """A function of one draw, recorded way by way; must be called inside a session, as the function itself."""

    def __init__(self, function: Callable[[Tree], Tree], like: Tree, *, random: bool = False) -> None:
        """Begins without a way.

        Args:
            function: the function, which may be random as long as no random number decides on its way.
            like: a result.
            random: whether it is, so that its results cannot be compared with those of a single run.
        """
        self.function, self.like, self.random = function, like, random
        self._known: list[Path] = []
        self.refused = ""

    def take(self, draws: Mapping[str, Tensor]) -> bool:
        """Whether the ways of a few of the draws are few, and their graphs give what the program gives."""
        count = len(next(iter(draws.values())))
        few = {name: value[:: max(count // TRIAL, 1)][:TRIAL] for name, value in draws.items()}
        found, left = self(few, most=6)
        if len(left) > TRIAL // 4:
            return False
        if self.random:
            return True
        with torch.no_grad():
            for i in (0, TRIAL // 2):
                if i in left.tolist():
                    continue
                single = self.function({name: value[i] for name, value in few.items()})
                for name, value in single.items():
                    tolerance = 1e-6 if value.dtype == torch.float64 else 1e-3
                    if not torch.allclose(found[name][i], value, rtol=tolerance, atol=tolerance, equal_nan=True):
                        return False
        return True

    def __call__(self, draws: Mapping[str, Tensor], *, most: int = MOST) -> tuple[Tree, Tensor]:
        """Results for all draws, each of shape ``(n, ...)``, and the numbers of the draws that they are missing for."""
        count = len(next(iter(draws.values())))
        device = next(iter(draws.values())).device
        found = {name: value.new_zeros(count, *value.shape) for name, value in self.like.items()}
        left = torch.arange(count, device=device)
        for known in self._known:
            left = self._run(known, draws, left, found)
        while len(left) and len(self._known) < most:
            before = len(left)
            path = self._record({name: value[left[0]] for name, value in draws.items()})
            if path is None:
                break
            self._known.append(path)
            left = self._run(path, draws, left, found)
            if len(left) == before or before - len(left) < before // 100:
                break
        return found, left

    def _record(self, draw: Mapping[str, Tensor]) -> Path | None:
        names = list(draw)
        try:
            return capture_path(
                lambda *values: self.function(dict(zip(names, values, strict=True))),
                *(value.clone() for value in draw.values()),
                what="it",
            )
        except CaptureError as error:
            self.refused = str(error)
            return None

    def _run(self, path: Path, draws: Mapping[str, Tensor], left: Tensor, found: Tree) -> Tensor:
        """Fills in the results of the draws that take a way, and returns the numbers of the others."""
        mapped = vmapped(lambda draw: path.graph(*draw.values()))
        others = []
        for part in left.split(max(AT_ONCE // max(path.graph.numbers, 1), 1)):
            try:
                results, reads = mapped({name: value[part] for name, value in draws.items()})
            except RuntimeError as error:  # an operation that stays what vmap refuses
                self.refused = str(error)
                return left
            mine = torch.ones(len(part), dtype=torch.bool, device=part.device)
            for read, value in zip(reads, path.reads, strict=True):
                mine &= (read == value).reshape(len(part), -1).all(1)
            for name, value in results.items():
                if value.shape[1:] == found[name].shape[1:]:
                    found[name][part[mine]] = value[mine].to(found[name].dtype)
                else:
                    mine[:] = False
            others.append(part[~mine])
        return torch.cat(others) if others else left
