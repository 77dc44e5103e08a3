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
from pyrolvm._base.programs import key_of, processor, programs

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
    """The library that the system's C compiler (``CC``, or ``cc``) makes of a program, now or in an earlier process.

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
    """Compiled now, or by an earlier process: what is loaded is the bytes that were looked at, in a folder of their own."""
    options = (*FLAGS, *_libraries())
    known, kept = _identity(compiler), programs()
    key = None if known is None else key_of("c", text, *compiler, known, *options, processor())
    with tempfile.TemporaryDirectory(prefix="pyrolvm-") as folder:
        library = Path(folder, "density.so")
        body = None if key is None else kept.get(key)
        if body is None:
            _compile(compiler, text, library)
        else:
            library.write_bytes(body)
        try:
            loaded = ctypes.CDLL(str(library))
        except OSError as error:
            raise CaptureError(f"engine 'c' cannot load what it compiled: {error}") from error
        if key is not None and body is None:
            kept.put(key, library.read_bytes())
        return loaded


def _compile(compiler: tuple[str, ...], text: str, library: Path) -> None:
    source = library.with_suffix(".c")
    source.write_text(text)
    command = [*compiler, *FLAGS, str(source), "-o", str(library), *_libraries()]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise CaptureError(f"engine 'c' cannot be compiled: {_first_error(done.stderr)}")


_SEEN_BY_COMPILERS = (
    "CPATH", "C_INCLUDE_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH", "PATH", "SDKROOT", "MACOSX_DEPLOYMENT_TARGET"
)  # fmt: skip
"""Variables that change what a compiler makes, or which parts of it run."""


def _identity(compiler: tuple[str, ...]) -> str | None:
    """Which compiler it is: the file, what it says of itself, and the variables that it heeds; ``None`` if it says nothing."""
    path = os.path.realpath(shutil.which(compiler[0]) or compiler[0])
    state = os.stat(path)
    heeded = tuple(os.environ.get(name, "") for name in _SEEN_BY_COMPILERS)
    said = _version(compiler, path, state.st_size, state.st_mtime_ns, heeded)
    return said and "\n".join([path, str(state.st_size), str(state.st_mtime_ns), *heeded, said])


@functools.lru_cache(maxsize=16)
def _version(compiler: tuple[str, ...], path: str, size: int, changed: int, heeded: tuple[str, ...]) -> str | None:
    done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, errors="replace", check=False)
    return done.stdout if done.returncode == 0 and done.stdout else None


def _libraries() -> list[str]:
    vectors = sys.platform == "linux" and platform.machine() == "x86_64" and platform.libc_ver()[0] == "glibc"
    return ["-lmvec", "-lm"] if vectors else ["-lm"]


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line]
    return (lines or text.splitlines() or ["no message"])[0]
