"""C code as a library in this process."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pyrolvm._base.errors import CaptureError

__all__ = ["library", "trial"]

# Sums may be reordered where the code says so, nothing else: what is not finite stays so.
FLAGS = (
    "-O2",
    "-march=native",
    "-std=gnu11",
    "-fPIC",
    "-shared",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
)


_TRIAL = """\
#include <math.h>
#include <string.h>
double trial(double x) { return sqrt(x) + 1.0; }
"""


def trial() -> float:
    """What a trivial program that is compiled gives of 4.0: 3.0.

    Raises:
        CaptureError: as :func:`library`.
    """
    function = library(_TRIAL).trial
    function.argtypes, function.restype = [ctypes.c_double], ctypes.c_double
    return float(function(4.0))


def library(text: str) -> ctypes.CDLL:
    """The library that the system's C compiler (``CC``, or ``cc``) makes of a program; no file of it stays behind.

    Raises:
        CaptureError: if there is no C compiler, it fails, or what it made cannot be loaded.
    """
    asked = os.environ.get("CC", "")
    try:
        compiler = shlex.split(asked) or ["cc"]
    except ValueError as error:
        raise CaptureError(f"engine 'c' cannot read CC, which is {asked!r}: {error}.") from error
    if shutil.which(compiler[0]) is None:
        raise CaptureError(f"engine 'c' needs a C compiler, and {compiler[0]!r} is not there.")
    try:
        return _library(tuple(compiler), text)
    except OSError as error:  # no folder for temporary files, a full disk, a compiler that cannot be started, no memory
        raise CaptureError(f"engine 'c' cannot run {compiler[0]!r} on a temporary file: {error}.") from error


@functools.lru_cache(maxsize=64)
def _library(compiler: tuple[str, ...], text: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="pyrolvm-") as folder:
        source, library = Path(folder, "density.c"), Path(folder, "density.so")
        source.write_text(text)
        command = [*compiler, *FLAGS, str(source), "-o", str(library), *_libraries()]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise CaptureError(f"engine 'c' cannot be compiled: {_first_error(done.stderr)}")
        try:
            return ctypes.CDLL(str(library))
        except OSError as error:
            raise CaptureError(f"engine 'c' cannot load what it compiled: {error}") from error


def _libraries() -> list[str]:
    vectors = sys.platform == "linux" and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc"
    return ["-lmvec", "-lm"] if vectors else ["-lm"]


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line]
    return (lines or text.splitlines() or ["no message"])[0]
