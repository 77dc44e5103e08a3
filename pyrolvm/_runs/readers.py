"""Files that may be damaged or forged: opened without surprise, and measured before anything is allocated.

A file is opened by its descriptor, read as it was when it was opened, and refused in words if it is no regular file, is larger than
what it can rightly be or than memory has room for, or changes on the way. What parses it gets bytes that were looked at first.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pyrolvm._base.errors import PyrolvmError, StoreError
from pyrolvm._base.machine import WORTH_A_LOOK, flags, free_memory

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "STORED", "Manner", "as_object", "check_json_size", "check_room", "opened", "parse_json", "parse_tensors", "parsing",
    "read_bytes", "read_json", "read_object",
]  # fmt: skip

JSON_BYTES = 64_000_000
"""How large a file of JSON may be; the largest that are written have a few million."""
JSON_DEPTH = 100
"""How deeply brackets may be nested."""
JSON_GROWTH = 30
"""How many bytes of memory a byte of JSON may take, as in ``[[],[],[]]``."""
PIECE = 1 << 20
_WIDTHS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""How many bytes a number of each type takes in safetensors."""


@dataclass(frozen=True)
class Manner:
    """How a file is taken, and how it is refused.

    Attributes:
        error: what is raised.
        prefix: what stands before the path in its message, which is then quoted.
        fix: the remedy.
        follow: whether the path may be a symbolic link.
        fault: what is said of contents that cannot be used.
    """

    error: type[PyrolvmError]
    prefix: str
    fix: str
    follow: bool
    fault: str

    def refusal(self, path: object, why: str) -> PyrolvmError:
        """The error for a file that cannot be taken."""
        name = repr(str(path)) if self.prefix else str(path)
        return self.error(f"{self.prefix}{name} {why}. Fix: {self.fix}.")

    def damage(self, path: object, why: str) -> PyrolvmError:
        """The error for contents that cannot be used."""
        return self.refusal(path, f"{self.fault}: {why}")


STORED = Manner(StoreError, "", "restore it, or run again", follow=False, fault="is damaged")
"""Files of runs, which lie in their folder themselves."""


# --- opening ----------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, manner: Manner = STORED) -> Iterator[BinaryIO]:
    """A regular file, open for reading, that is on leaving what it was on entering.

    Nothing is waited for: a pipe, a device or a socket is not opened as such. What the system says becomes the manner's error.

    Args:
        path: the file.
        manner: how it is taken.

    Raises:
        PyrolvmError: of the manner, if there is no such file, or it changes meanwhile.
    """
    try:
        with os.fdopen(_descriptor(path, manner), "rb") as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise manner.refusal(path, f"is {_what(before.st_mode)}, expected a file")
            yield file
            after = os.fstat(file.fileno())
    except OSError as error:
        raise manner.refusal(path, f"cannot be read: {error.strerror or error}") from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise manner.refusal(path, "changed while it was read")


def _descriptor(path: Path, manner: Manner) -> int:
    no_link = () if manner.follow else ("O_NOFOLLOW",)
    try:
        return os.open(path, flags("O_RDONLY", "O_NONBLOCK", "O_NOCTTY", *no_link))
    except ValueError as error:  # a null character
        raise manner.refusal(ascii(str(path)), f"cannot be read: {error}") from None
    except OSError:
        if not manner.follow and path.is_symlink():
            raise manner.refusal(path, "is a symbolic link, expected the file itself") from None
        raise


def _what(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_bytes(path: Path, manner: Manner = STORED, *, limit: int | None = None, growth: float = 2.0) -> bytes:
    """All of a file, at most ``limit`` bytes of it, where memory has room for ``growth`` times as much.

    Raises:
        PyrolvmError: of the manner, if it is too large, cannot be read or changes meanwhile.
    """
    with opened(path, manner) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise manner.refusal(path, f"has {size:,} bytes, expected at most {limit:,}")
        check_room(path, size * growth, manner)
        content = file.read(size)
        if len(content) != size or file.read(1):
            raise manner.refusal(path, f"changed while it was read: it had {size:,} bytes")
    return content


def check_room(path: object, size: float, manner: Manner = STORED) -> None:
    """Refuses what memory has no room for.

    Raises:
        PyrolvmError: of the manner, if more than ``size`` bytes are not free.
    """
    if size < WORTH_A_LOOK:
        return
    free = free_memory()
    if free is not None and size > free:
        raise manner.refusal(path, f"takes up to {size / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free")


@contextmanager
def parsing(path: object, manner: Manner = STORED) -> Iterator[None]:
    """Whatever a library raises over a file's content, as the manner's error, which names it."""
    try:
        yield
    except PyrolvmError:
        raise
    except Exception as error:
        why = repr(error) if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise manner.damage(path, f"{why[:300]}") from error


# --- JSON -------------------------------------------------------------------------------------------------------------


def read_json(path: Path, manner: Manner = STORED, *, limit: int = JSON_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        PyrolvmError: of the manner, if it holds none.
    """
    return parse_json(read_bytes(path, manner, limit=limit, growth=JSON_GROWTH), path, manner)


def check_json_size(size: int, path: object) -> None:
    """Refuses a file of a run that is too large for JSON, or for the memory that parsing it takes.

    Raises:
        StoreError: if that is so.
    """
    if size > JSON_BYTES:
        raise STORED.refusal(path, f"has {size:,} bytes, expected at most {JSON_BYTES:,}")
    check_room(path, JSON_GROWTH * size)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Raises:
        StoreError: if it holds none.
    """
    return as_object(read_json(path), path)


def as_object(value: Any, path: object) -> dict[str, Any]:
    """A value that was read, if it is an object.

    Raises:
        StoreError: if it is none.
    """
    if not isinstance(value, dict):
        raise STORED.damage(path, "expected a JSON object")
    return value


def parse_json(
    content: bytes, path: object, manner: Manner = STORED, *, number: Callable[[str], float] | None = None
) -> Any:
    """The value in JSON that was read: UTF-8, not nested too deeply, no name twice, no number beyond Python's own limit.

    Args:
        content: the JSON; a mark of its encoding may stand before it.
        path: where it is from.
        manner: how it is taken.
        number: what reads a number with a point or an exponent, instead of ``float``.

    Raises:
        PyrolvmError: of the manner, if it holds none.
    """
    _check_encoding(content, path, manner)
    _check_depth(content, path, manner)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise manner.refusal(path, f"has name {twice[:100]!r} twice")
        return found

    with parsing(path, manner):
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=once, parse_float=number)


def _check_encoding(content: bytes, path: object, manner: Manner) -> None:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise manner.damage(path, "it is text in UTF-16, expected UTF-8")
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        why = f"byte {error.start} is no UTF-8 (0x{content[error.start]:02x})"
        raise manner.damage(path, why) from None


def _check_depth(content: bytes, path: object, manner: Manner) -> None:
    """Counts brackets outside of text; those of a parser that calls itself would end in the middle."""
    plain = content.replace(rb"\\", b"").replace(rb"\"", b"")
    brackets = re.sub(rb'"[^"]*"?', b"", plain).translate(None, _NO_BRACKETS)
    if not brackets:
        return
    codes = np.frombuffer(brackets, np.uint8)
    opening = (codes == ord("[")) | (codes == ord("{"))
    depth = int(np.cumsum(np.where(opening, 1, -1), dtype=np.int32).max())
    if depth > JSON_DEPTH:
        raise manner.damage(path, f"its brackets are nested {depth:,} deep, expected at most {JSON_DEPTH}")


_NO_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")


# --- safetensors ------------------------------------------------------------------------------------------------------


def parse_tensors(content: bytes, path: object, manner: Manner = STORED) -> dict[str, Tensor]:
    """The tensors in a safetensors file that was read.

    Raises:
        PyrolvmError: of the manner, if they are not what their header says.
    """
    from safetensors.torch import load

    _check_tensors(content, path, manner)
    with parsing(path, manner):
        return dict(load(content))


def _check_tensors(content: bytes, path: object, manner: Manner) -> None:
    """Holds what a header says of each tensor against the bytes that are there."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, JSON_BYTES):
        raise manner.damage(path, f"its header is to have {length:,} bytes, and it has {len(content):,}")
    header = parse_json(content[8 : 8 + length], path, manner)
    if not isinstance(header, dict):
        raise manner.damage(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    spans = sorted(_span(name, one, path, manner) for name, one in header.items())
    at = 0
    for start, end, name in spans:
        if start != at:
            raise manner.damage(path, f"{name!r} begins at {start:,}, expected {at:,}")
        at = end
    if at != len(content) - 8 - length:
        raise manner.damage(path, f"its tensors take {at:,} bytes, and it holds {len(content) - 8 - length:,}")


def _span(name: str, said: Any, path: object, manner: Manner) -> tuple[int, int, str]:
    """Where a tensor begins and ends."""
    said = said if isinstance(said, dict) else {}
    shape, span, width = said.get("shape"), said.get("data_offsets"), _WIDTHS.get(str(said.get("dtype")))
    whole = _are_counts(shape) and _are_counts(span) and len(span) == 2 and max(shape, default=0) <= 2**40
    if not whole or width is None or span[1] - span[0] != math.prod(shape) * width:
        raise manner.damage(path, f"{name[:100]!r} is of {str(said)[:200]}, which does not add up")
    return span[0], span[1], name[:100]


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(one) is int and one >= 0 for one in value)
