"""The command line, ``pyrolvm COMMAND``: inference, comparison, calibration, sweeps, reports; ``pyrolvm --help`` names them all.

Uses the public API only, as anybody's script would. Exit codes:

- 0: done, and nothing failed its verdict;
- 1: done, and the verdict is ``failed`` (``compare``: the reference failed, or every method did; ``doctor``: something
  required is broken);
- 2: what was asked for cannot be done; the message ends in ``Fix:``;
- 3: pyrolvm itself broke; a traceback follows;
- 130, 143, 129: stopped by Ctrl-C, SIGTERM or SIGHUP, with what was reached saved.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pyrolvm._base.errors import PyrolvmError, PyrolvmWarning
from pyrolvm._cli.parser import build_parser
from pyrolvm._cli.signals import listening
from pyrolvm._report.origin import asked_by

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: the arguments after the program's name; those of the process by default.
    """
    _have_streams()
    try:
        args = build_parser(_wanted(argv)).parse_args(argv)
    except SystemExit as stop:  # how argparse says that help was printed, or that the usage was wrong
        return int(stop.code or 0)
    except PyrolvmError as error:  # a command of another distribution that is broken
        print(f"pyrolvm: {error}", file=sys.stderr)
        return 2

    from pyrolvm._cli.output import Output  # which takes as long as all of the help

    command = import_module(f"pyrolvm._cli.{args.module}")
    with listening() as stopped, warnings.catch_warnings():
        warnings.showwarning = _plainly(warnings.showwarning)
        try:
            with asked_by(["pyrolvm", *(sys.argv[1:] if argv is None else argv)]):
                code: int = command.run(args, Output.of(args), stopped)
        except PyrolvmError as error:
            print(f"pyrolvm {args.command}: {error}", file=sys.stderr)
            code = 2
        except KeyboardInterrupt:
            print(f"pyrolvm {args.command}: stopped.", file=sys.stderr)
            code = 130
        except BrokenPipeError:  # the reader went away, as in `pyrolvm list | head -1`
            sys.stdout = None
            code = 0
        except Exception as error:
            code = _failed(args.command, error)
        return stopped.exit_code or code


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNWRITABLE = (*_FULL, errno.EIO, errno.EBADF)
_CLOSED = (*_FULL, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
"""What the system says of a path that is not there or is closed."""


def _have_streams() -> None:
    """Streams for a process that was started without, and ones that show what their encoding cannot as escapes."""
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream, "reconfigure") and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _failed(command: str, error: Exception) -> int:
    """Says what broke: where the words go, or pyrolvm; returns the exit code."""
    if isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None:
        sys.stdout = None  # flushed at the end, it would fail again
        print(
            f"pyrolvm {command}: nothing more can be written: {error.strerror}. Fix: make room, or send the output elsewhere.",
            file=sys.stderr,
        )
        return 2
    if isinstance(error, OSError) and error.errno in _CLOSED and error.filename is not None:
        print(
            f"pyrolvm {command}: {str(error.filename)!r}: {error.strerror}. Fix: name a path that can be read and written.",
            file=sys.stderr,
        )
        return 2
    import traceback

    traceback.print_exception(error)
    print(f"pyrolvm {command}: this is a bug in pyrolvm. Fix: please report the lines above.", file=sys.stderr)
    return 3


def _plainly(show: Callable[..., object]) -> Callable[..., Any]:
    """Shows our own warnings as sentences, without the line of code that raised them; all others as before."""

    def show_plainly(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, PyrolvmWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            show(message, category, *where, **more)

    return show_plainly


def _wanted(argv: Sequence[str] | None) -> str:
    """The command that is asked for; empty if there is none."""
    given = sys.argv[1:] if argv is None else argv
    return next((word for word in given if not word.startswith("-")), "")
