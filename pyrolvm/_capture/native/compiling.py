"""Compiled programs: where the compiler fails, a word on whether it can compile anything in this installation."""

from __future__ import annotations

import ctypes

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import selfcheck
from pyrolvm._capture.native.build import library

__all__ = ["compiled"]


def compiled(text: str) -> ctypes.CDLL:
    """The library that the system's C compiler (``CC``, or ``cc``) makes of a program; no file of it stays behind.

    The same text is compiled once: data are not in it, so that the same model with other data of the same shapes is the
    same program.

    Raises:
        CaptureError: if there is no C compiler, it fails, or what it made cannot be loaded. Where nothing at all can be
            compiled in this installation, that is said once besides.
    """
    try:
        return library(text)
    except CaptureError:
        selfcheck.works("c")
        raise
