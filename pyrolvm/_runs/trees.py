"""Trees of arrays in netCDF, walked before they are read: what is declared must be there, and nothing leads elsewhere.

HDF5 lets a file of a few thousand bytes declare any number of numbers that were never written, compress them, or refer to other files.
What is written here does none of this: each array lies in the file in full. So whatever else is found is refused, and reading takes
no more than a small multiple of the file's size.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._base.errors import PyrolvmError
from pyrolvm._runs.readers import STORED, Manner, check_room, parsing

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["parse_tree"]

DEPTH = 16
"""How deeply groups may be nested."""
OBJECTS = 20_000
"""How many groups and arrays there may be."""
ATTRIBUTES = 1000
"""How many words and numbers may be said about one of them."""
GROWTH = 6.0
"""How many times its size in memory reading may take: the file, its arrays, and labels as text."""
_BARE = b"This is a netCDF dimension but not a netCDF variable"
"""How netCDF says that an array is only the length of a dimension, which nobody reads."""
_HEAP = b"GCOL\x01"
"""How a heap of texts begins."""
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
"""How an array of texts refers to each."""
_REFERENCES = (b"DIMENSION_LIST", b"REFERENCE_LIST")
"""What netCDF says about dimensions by reference."""


def parse_tree(content: bytes, path: object, manner: Manner = STORED) -> xr.DataTree:
    """The tree in a netCDF file that was read.

    Raises:
        PyrolvmError: of the manner, if it is damaged, holds what is never written, or memory has no room for it.
    """
    import h5py
    import xarray as xr

    check_room(path, GROWTH * len(content), manner)
    with parsing(path, manner):
        with h5py.File(io.BytesIO(content), "r") as file:
            _Walk(content, path, manner).file(file.id)
        with xr.open_datatree(io.BytesIO(content), engine="h5netcdf") as tree:
            for group in tree.subtree:
                for array in group.variables.values():
                    array.load()  # tree.load() passes over arrays that are called like a group
            return tree


@dataclass
class _Walk:
    """Looks at everything in a file, and reads nothing but text.

    Args:
        content: the file.
        path: where it is from.
        manner: how it is refused.
    """

    content: bytes
    path: object
    manner: Manner
    heaps: dict[int, int] = field(default_factory=dict)
    objects: int = 0
    declared: int = 0
    text: int = 0
    seen: set[int] = field(default_factory=set)

    def file(self, file: Any) -> None:
        """Looks at everything from the root on."""
        plan = file.get_create_plist()
        if plan.get_userblock() or plan.get_sizes() != (8, 8):
            raise self.refuse("", "is laid out as no result is")
        self.heaps = _heaps(self.content)
        self.group(file, "", ())

    def refuse(self, place: str, why: str) -> PyrolvmError:
        return self.manner.damage(self.path, f"{(place or '/')[:200]!r} {why}")

    def take(self, place: str, size: int) -> None:
        """Counts bytes that are declared; all of them are in the file."""
        self.declared += size
        if self.declared > len(self.content):
            raise self.refuse(
                place, f"brings what is declared to {self.declared:,} bytes, and the file has {len(self.content):,}"
            )

    def group(self, group: Any, place: str, above: tuple[str, ...]) -> None:
        """Looks at a group and what is in it."""
        import h5py

        if len(above) > DEPTH:
            raise self.refuse(place, f"is nested deeper than {DEPTH} groups")
        self.attributes(group, place)
        for name in group:
            inner = f"{place}/{name.decode(errors='replace')}"
            if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                raise self.refuse(inner, "is a link, expected the array or group itself")
            self.objects += 1
            if self.objects > OBJECTS:
                raise self.refuse(inner, f"is one of more than {OBJECTS:,} arrays and groups")
            one = h5py.h5o.open(group, name)
            address = h5py.h5o.get_info(one).addr
            if address in self.seen:
                raise self.refuse(inner, "is in the file under two names")
            self.seen.add(address)
            if isinstance(one, h5py.h5g.GroupID):
                self.group(one, inner, (*above, inner))
            elif isinstance(one, h5py.h5d.DatasetID):
                self.array(one, inner)
            elif not (isinstance(one, h5py.h5t.TypeID) and self.is_plain(one)):  # as the one of complex numbers
                raise self.refuse(inner, "is neither an array nor a group")

    def array(self, array: Any, place: str) -> None:
        """Looks at an array: that its numbers are in this file, as they are, and all of them."""
        import h5py

        self.attributes(array, place)
        plan, space, kind = array.get_create_plist(), array.get_space(), array.get_type()
        if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
            raise self.refuse(place, "keeps its numbers in other files")
        if plan.get_nfilters():
            raise self.refuse(place, f"is compressed or filtered ({_filters(plan)}), which no result is")
        if space.get_simple_extent_type() not in (h5py.h5s.SCALAR, h5py.h5s.SIMPLE):
            raise self.refuse(place, "has no shape")
        if not self.is_plain(kind):
            raise self.refuse(place, "holds neither numbers nor text")
        count, there = int(space.get_simple_extent_npoints()), int(array.get_storage_size())
        size = count * int(kind.get_size())
        if size and _is_bare(array):
            return
        if plan.get_layout() == h5py.h5d.CHUNKED:
            size = max(size, math.prod(map(int, plan.get_chunk())) * int(kind.get_size()) if there else size)
        at = array.get_offset()
        if size > there or (at is not None and at + size > len(self.content)):
            raise self.refuse(place, f"is to have {size:,} bytes, and {there:,} of it are in the file")
        self.take(place, there)
        if _is_text(kind) and kind.is_variable_str() and count:
            self.labels(array, place, count)

    def is_plain(self, kind: Any) -> bool:
        """Whether a type is one of numbers or text, of a size that such have."""
        import h5py

        if _is_text(kind):
            return True
        if kind.get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT):
            return int(kind.get_size()) <= 16
        if kind.get_class() in (h5py.h5t.COMPOUND, h5py.h5t.ENUM):
            return int(kind.get_size()) <= 32 and kind.dtype.kind in "cb"
        return False

    def labels(self, array: Any, place: str, count: int) -> None:
        """Measures texts by what refers to them: a length, a heap, and a place in it."""
        at = array.get_offset()
        if at is None:
            raise self.refuse(place, "keeps its text in pieces, which no result does")
        found = np.frombuffer(self.content, _REFERENCE, count, at)
        self.text += int(found["length"].sum(dtype=np.float64))
        if self.text > len(self.content):
            raise self.refuse(place, f"brings the text to {self.text:,} bytes, and the file has {len(self.content):,}")
        if not np.isin(found["heap"][found["length"] > 0], list(self.heaps)).all():
            raise self.refuse(place, "refers to text that is not in the file")

    def attributes(self, one: object, place: str) -> None:
        """Looks at what is said about an array or a group."""
        import h5py

        number = h5py.h5a.get_num_attrs(one)
        if number > ATTRIBUTES:
            raise self.refuse(place, f"has {number:,} attributes, expected at most {ATTRIBUTES:,}")
        for index in range(number):
            said = h5py.h5a.open(one, index=index)
            space, kind = said.get_space(), said.get_type()
            place_of = f"{place}@{said.name.decode(errors='replace')}"
            if not self.is_plain(kind) and said.name not in _REFERENCES:
                raise self.refuse(place_of, "is neither numbers nor text")
            count = max(0, int(space.get_simple_extent_npoints()))
            self.take(place_of, count * int(kind.get_size()))
            if count > 1 and _is_text(kind) and kind.is_variable_str():
                check_room(self.path, 2.0 * count * max(self.heaps.values(), default=0), self.manner)


def _heaps(content: bytes) -> dict[int, int]:
    """Where texts lie: the heaps by their places, each with the bytes of its longest text.

    Raises:
        ValueError: if one is not sound; who reads it then might never come to its end.
    """
    found, at = {}, content.find(_HEAP)
    while at >= 0:
        size = int.from_bytes(content[at + 8 : at + 16], "little")
        if size <= len(content) - at:
            found[at] = _longest(content, at + 16, at + size)
        at = content.find(_HEAP, at + 1)
    return found


def _longest(content: bytes, at: int, end: int) -> int:
    longest = 0
    while at + 16 <= end:
        index, size = (
            int.from_bytes(content[at : at + 2], "little"),
            int.from_bytes(content[at + 8 : at + 16], "little"),
        )
        step = size if index == 0 else 16 + (size + 7) // 8 * 8  # what is free counts its own beginning
        if step < 16 or step > end - at:
            raise ValueError(f"the heap of text at byte {at:,} has a part of {size:,} bytes")
        longest = max(longest, size if index else 0)
        at += step
    return longest


def _is_text(kind: Any) -> bool:
    import h5py

    return bool(kind.get_class() == h5py.h5t.STRING)


def _is_bare(array: object) -> bool:
    import h5py

    if not h5py.h5a.exists(array, b"NAME") or not h5py.h5a.exists(array, b"CLASS"):
        return False
    name = h5py.Dataset(array).attrs["NAME"]
    return bytes(name).startswith(_BARE) if isinstance(name, bytes) else str(name).startswith(_BARE.decode())


def _filters(plan: Any) -> str:
    names = (plan.get_filter(index)[3] for index in range(plan.get_nfilters()))
    return ", ".join(name.decode(errors="replace") for name in names)[:100]
