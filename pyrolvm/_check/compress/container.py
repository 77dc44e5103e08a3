"""The file: what it is of, the stack, and a digest of both.

8 bytes    PYROLVMZ
4 bytes    the length of the header, little-endian
header     JSON, with what must be known to decode
words      the stack, 4 bytes each, little-endian, the top last
32 bytes   SHA-256 of all that is before
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base.errors import DataError, StoreError

__all__ = ["Header", "packed", "unpacked"]

MAGIC = b"PYROLVMZ"
SCHEMA = 1
DIGEST = 32


@dataclass(frozen=True)
class Header:
    """What must be known to decode.

    Attributes:
        schema: of the form of the file.
        model: the digest of the model, its guide and all parameters.
        problem: the model's name.
        rows: how many rows there are.
        block: how many at most were pushed at once.
        grids: exponent and half of each continuous site.
        skipped: initial words that were never reached, below those in the file.
        initial: initial words that are in the file.
        check: the digest of the rows.
        versions: of what computed it.
    """

    schema: int
    model: str
    problem: str
    rows: int
    block: int
    grids: Mapping[str, tuple[int, int]]
    skipped: int
    initial: int
    check: str
    versions: str


def packed(header: Header, words: NDArray[np.uint32]) -> bytes:
    """The file's bytes."""
    head = json.dumps(asdict(header), separators=(",", ":")).encode()
    body = MAGIC + len(head).to_bytes(4, "little") + head + words.astype("<u4").tobytes()
    return body + hashlib.sha256(body).digest()


def unpacked(blob: object) -> tuple[Header, NDArray[np.uint32]]:
    """The header and the stack.

    Raises:
        DataError: if it is no such file, or of a form that this release does not know.
        StoreError: if it is damaged.
    """
    if not isinstance(blob, bytes | bytearray | memoryview):
        raise DataError(f"expected the bytes that lvm.compress made, got a {type(blob).__name__}. Fix: pass these.")
    raw = bytes(blob)
    if raw[: len(MAGIC)] != MAGIC:
        raise DataError("these bytes were not made by lvm.compress. Fix: pass what it returned, all of it.")
    body, digest = raw[:-DIGEST], raw[-DIGEST:]
    if len(raw) < len(MAGIC) + 4 + DIGEST or hashlib.sha256(body).digest() != digest:
        raise StoreError(
            "the compressed rows are damaged: their digest is another. Fix: take another copy of the file."
        )
    start = len(MAGIC) + 4
    end = start + int.from_bytes(body[len(MAGIC) : start], "little")
    try:
        header = _header(json.loads(body[start:end]))
        words = np.frombuffer(body[end:], dtype="<u4").astype(np.uint32)
        if len(words) and not words[-1]:
            raise ValueError("the last word of the stack is zero")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"the compressed rows cannot be read: {error}. Fix: make the file again.") from error
    return header, words


def _header(found: Any) -> Header:
    if found["schema"] != SCHEMA:
        raise ValueError(f"their form is {found['schema']!r}, and this release reads {SCHEMA}")
    header = Header(**{**found, "grids": {str(k): (int(a), int(b)) for k, (a, b) in found["grids"].items()}})
    for name in ("rows", "block", "skipped", "initial"):
        value = getattr(header, name)
        if not isinstance(value, int) or value < (1 if name in ("rows", "block") else 0):
            raise ValueError(f"{name} is {value!r}")
    if any(half < 1 or half > 2**22 or abs(exponent) > 64 for exponent, half in header.grids.values()):
        raise ValueError("a grid is out of range")
    return header
