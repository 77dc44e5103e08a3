"""Arrays in ``.npz``, each measured before it is unpacked. Nothing is unpickled."""

from __future__ import annotations

import ast
import math
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyrolvm._cli.data_files import DATA, Refused
from pyrolvm._runs.readers import check_room, opened, parsing

__all__ = ["read_npz"]

MEMBERS = 10_000
"""How many arrays a file may hold."""
HEADER = 10_000
"""How many characters the header of an array may have, as NumPy itself has it."""
DENSEST = 1100
"""A deflated byte never makes more than 1032 bytes."""
BESIDE = 100
"""Bytes beside a member's name and content, fewer than an array that its list has lost would take."""
_MAGIC = b"\x93NUMPY"
_NUMBER = re.compile(r"[<>|=](b1|[iu][1248]|f(2|4|8|16)|c(8|16|32))")


def read_npz(path: Path) -> dict[str, object]:
    """The arrays of a file, by name; what holds no numbers is refused where it is asked for.

    Raises:
        DataError: if the file is damaged, or makes more of itself than it can rightly hold.
    """
    with opened(path, DATA) as file:
        _check_magic(file, path)
        with parsing(path, DATA), zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(path, members)
            _check_whole(path, members, archive.start_dir)
            found = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                found[name] = _read(archive, member, path, name)
            return found


def _check_magic(file: BinaryIO, path: Path) -> None:
    """Tells apart what else is saved under this name."""
    start = file.read(len(_MAGIC))
    file.seek(0)
    if start == _MAGIC:
        raise DATA.error(
            f"data file {str(path)!r} holds one array without a name. "
            f"Fix: save with numpy.savez({path.name!r}, x=x, y=y)."
        )
    if start[:2] != b"PK":
        raise DATA.refusal(path, "is no .npz: it does not begin like one")


def _check_whole(path: Path, members: list[zipfile.ZipInfo], end: int) -> None:
    """Refuses a file with an array that its list, at its end, does not name."""
    at = 0
    for member in sorted(members, key=lambda one: one.header_offset):
        if member.header_offset - at > BESIDE:
            break
        at = member.header_offset + len(member.filename.encode()) + member.compress_size
    else:
        if end - at <= BESIDE:
            return
    raise DATA.damage(path, f"at byte {at:,} it holds something that it does not list")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MEMBERS:
        raise DATA.refusal(path, f"holds {len(members):,} arrays, expected at most {MEMBERS:,}")
    names, total = set(), 0
    for member in members:
        name = member.filename
        if not name.endswith(".npy") or name in names:
            why = "twice" if name in names else "which is no array"
            raise DATA.refusal(path, f"holds {name[:100]!r} {why}")
        if member.flag_bits & 0x1:
            raise DATA.refusal(path, f"holds {name[:100]!r} encrypted")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DATA.refusal(path, f"holds {name[:100]!r} compressed in a way that NumPy does not write")
        if member.file_size > DENSEST * member.compress_size + HEADER:
            raise DATA.damage(path, f"{name[:100]!r} is to have {member.file_size:,} bytes")
        names.add(name)
        total += member.file_size
    check_room(path, 2.0 * total, DATA)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, name: str) -> object:
    with archive.open(member) as stream:
        start = stream.read(8)
        length = int.from_bytes(stream.read(2 if start[6:7] == b"\x01" else 4), "little")
        if start[:6] != _MAGIC or start[6:8] not in (b"\x01\0", b"\x02\0", b"\x03\0") or length > HEADER:
            raise DATA.damage(path, f"{name[:100]!r} is no array as NumPy writes it")
        kind, shape, by_columns = _header(stream.read(length), path, name)
        if not _NUMBER.fullmatch(kind):
            return Refused(
                f"{name!r} in {str(path)!r} holds {_words(kind)}, expected numbers. "
                "Fix: encode categories as integers, and save numbers as arrays of numbers."
            )
        dtype = np.dtype(kind)
        size = math.prod(shape) * dtype.itemsize
        left = member.file_size - len(start) - (2 if start[6:7] == b"\x01" else 4) - length
        if size != left:
            raise DATA.damage(path, f"{name[:100]!r} of shape {shape} takes {size:,} bytes, and {left:,} are there")
        content = stream.read(size)
        if len(content) != size or stream.read(1):
            raise DATA.damage(path, f"{name[:100]!r} ends too early")
    flat = np.frombuffer(content, dtype).astype(
        dtype.newbyteorder("=")
    )  # what can be written to, as this machine counts
    value = flat.reshape(shape, order="F" if by_columns else "C")
    return value.item() if value.ndim == 0 else value


def _header(text: bytes, path: Path, name: str) -> tuple[str, tuple[int, ...], bool]:
    """Type, shape and order of an array, as its header says them in Python's notation."""
    try:
        said = ast.literal_eval(text.decode("utf-8").strip())
        kind, shape, by_columns = said["descr"], said["shape"], said["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, RecursionError, MemoryError):
        raise DATA.damage(path, f"the header of {name[:100]!r} cannot be read") from None
    whole = isinstance(shape, tuple) and len(shape) <= 32 and all(type(one) is int and one >= 0 for one in shape)
    if not whole or type(by_columns) is not bool or len(said) != 3 or max(shape, default=0) >= 2**48:
        raise DATA.damage(path, f"{name[:100]!r} is to have shape {str(shape)[:100]}")
    return str(kind), shape, by_columns


def _words(kind: str) -> str:
    words = {"U": "text", "S": "text", "O": "Python objects", "M": "dates", "m": "spans of time"}
    return words.get(kind[1:2], f"values of type {kind[:60]}")
