"""Names that distributions register by entry points: ours, and those of anybody else.

An entry point is imported when its name is asked for, not before. One that cannot be imported, or is not what its group is for, is
reported then, by name and distribution, and disturbs nothing else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast

from pyrolvm._base.errors import PluginError, unknown_name

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["OWN", "Entry", "Kind"]

OWN = "pyrolvm"
"""The distribution whose names nobody else can take."""

Thing = TypeVar("Thing", covariant=True)


def _places() -> tuple[tuple[str, int], ...]:
    """Where distributions are looked for, and when something was last put there or taken away."""
    found = []
    for path in sys.path:
        try:
            found.append((path, os.stat(path or ".").st_mtime_ns))
        except OSError:
            found.append((path, 0))
    return tuple(found)


@lru_cache(maxsize=32)
def _points(
    find: Callable[..., Iterable[EntryPoint]], group: str, places: tuple[tuple[str, int], ...]
) -> tuple[EntryPoint, ...]:
    """The entry points of a group: all distributions are read for it, which is too dear for each verdict and each name."""
    return tuple(find(group=group))


class Entry(NamedTuple):
    """A registered name, not yet imported."""

    name: str
    target: str
    distribution: str
    point: EntryPoint

    def __str__(self) -> str:
        return f"{self.name!r} of distribution {self.distribution!r} ({self.target})"


class Kind(NamedTuple, Generic[Thing]):
    """What one group of entry points is for.

    Attributes:
        word: what one of them is called, such as ``"guide"``.
        group: the group of entry points.
        expected: what an entry point has to name, in words, such as ``"a function"``.
        fits: whether an object is that.
    """

    word: str
    group: str
    expected: str
    fits: Callable[[object], bool]

    def entries(self) -> dict[str, Entry]:
        """Every registered name, sorted, without importing any of them."""
        import importlib.metadata  # which takes a while

        found: dict[str, Entry] = {}
        for point in _points(importlib.metadata.entry_points, self.group, _places()):
            distribution = point.dist.name if point.dist is not None else "unknown"
            # This distribution keeps its names whatever else is installed.
            if point.name not in found or distribution == OWN:
                found[point.name] = Entry(point.name, point.value, distribution, point)
        return dict(sorted(found.items()))

    def load(self, entry: Entry) -> Thing:
        """Imports what a name stands for.

        Raises:
            PluginError: if the import fails or gives something else.
        """
        try:
            loaded = entry.point.load()
        except Exception as error:
            raise PluginError(
                f"{self.word} {entry} cannot be imported: {type(error).__name__}: {error}. "
                f"Fix: repair or uninstall {entry.distribution}."
            ) from error
        if not self.fits(loaded):
            raise PluginError(
                f"{self.word} {entry} is a {type(loaded).__name__}, expected {self.expected}. "
                "Fix: point the entry point at one, see docs/write-a-plugin.md."
            )
        return cast("Thing", loaded)

    def named(self, name: str, *ours: str) -> Thing:
        """What is registered under a name.

        Args:
            name: the name.
            *ours: other names that there are, for the error.

        Raises:
            UnknownNameError: if there is none of that name.
            PluginError: if it is broken.
        """
        known = self.entries()
        if name not in known:
            raise unknown_name(self.word, name, (*ours, *known))
        return self.load(known[name])

    def sound(self) -> Iterator[tuple[str, Thing]]:
        """Those that can be imported; a broken one says so when its name is asked for."""
        for name, entry in self.entries().items():
            try:
                yield name, self.load(entry)
            except PluginError:
                continue
