"""Names of Python's own library that begin with an underscore. All were checked with Python 3.11 and 3.13."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, NoReturn, TypeVar

__all__ = ["caller_module", "end_at_once", "is_named_tuple", "options_of", "replaced"]

_Tuple = TypeVar("_Tuple")


def end_at_once(code: int) -> NoReturn:
    """Ends the process, whatever its threads are at, and runs nothing of what waits for its end. Seen in Python 3.11 and 3.13."""
    os._exit(code)


def caller_module(level: int = 1) -> str:
    """The name of the module of a function's caller; of its caller's with a ``level`` of 2. Seen in Python 3.11 and 3.13.

    A method that is entered from C has the function below as its caller.
    """
    return str(sys._getframe(level + 1).f_globals.get("__name__", ""))


def is_named_tuple(value: object) -> bool:
    """Whether a tuple takes its items one by one when it is made. Seen in Python 3.11 and 3.13."""
    return hasattr(value, "_fields")


def replaced(value: _Tuple, **items: Any) -> _Tuple:
    """A named tuple with some other items. Seen in Python 3.11 and 3.13."""
    changed: _Tuple = value._replace(**items)  # type: ignore[attr-defined]
    return changed


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """The options that a parser knows, such as ``--seed``. Seen in Python 3.11 and 3.13."""
    return list(parser._option_string_actions)
