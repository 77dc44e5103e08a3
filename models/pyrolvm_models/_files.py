"""Files of data that others publish: from a folder of the user's, or downloaded once into the cache."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pyrolvm as lvm

__all__ = ["damaged", "fetch", "local", "verify"]


def local(folder: str, name: str) -> Path | None:
    root = os.environ.get("PYROLVM_DATA")
    return Path(root) / folder / name if root else None


def fetch(folder: str, name: str, source: str) -> bytes:
    """The bytes of a file: from ``PYROLVM_DATA`` where that is set, else from the cache, downloaded first if need be."""
    here = local(folder, name)
    if here is not None:
        if not here.is_file():
            raise lvm.DataError(
                f"{here} does not exist, and PYROLVM_DATA says that data are there. "
                f"Fix: put {name} of {source} in that folder, or unset PYROLVM_DATA to download it."
            )
        return here.read_bytes()
    import pooch

    cache = Path(pooch.os_cache("pyrolvm")) / folder
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        # The content is checked when it has been unpacked.
        pooch.retrieve(source + name, known_hash=None, fname=name, path=cache)
    except Exception as error:  # whatever the network, a proxy or a full disk raises
        (cache / name).unlink(missing_ok=True)
        raise lvm.DataError(
            f"{source}{name} cannot be downloaded ({type(error).__name__}: {error}). "
            f"Fix: check the network; or put the file in a folder {folder!r} of another folder, and set PYROLVM_DATA to that one."
        ) from None
    return (cache / name).read_bytes()


def verify(name: str, content: bytes, checksum: str) -> None:
    """Refuses what has another checksum: SHA-256, or MD5 where that is what was published.

    Raises:
        DataError: It has another one.
    """
    found = hashlib.sha256(content) if len(checksum) == 64 else hashlib.md5(content, usedforsecurity=False)
    if found.hexdigest() != checksum:
        raise damaged(name, f"{len(content):,} bytes with another checksum than the published content")


def damaged(name: str, what: str) -> lvm.DataError:
    folder = "PYROLVM_DATA" if os.environ.get("PYROLVM_DATA") else "the cache (pooch.os_cache('pyrolvm'))"
    return lvm.DataError(f"{name} is not what was published: {what}. Fix: delete it from {folder}, and fetch it again.")
