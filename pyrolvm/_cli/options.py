"""The values of options, each checked as it is read, with a message that says what was meant."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from pyrolvm._cli import values
from pyrolvm._methods.options import Option

__all__ = ["count", "dtype", "key_value", "metavar", "positive", "read_by", "seed", "share", "sides"]

_MAX_SEED = 2**64


def _integer(text: str, least: int, most: int | None, example: int) -> int:
    value = int(text) if re.fullmatch(r"[+-]?\d+", text) else None
    if value is None or value < least or (most is not None and value > most):
        span = f"an integer of at least {least}" + (f" and at most {most}" if most is not None else "")
        raise argparse.ArgumentTypeError(f"must be {span}, got {text!r}. Fix: pass for example {example}.")
    return value


def count(text: str) -> int:
    """An integer of at least one."""
    return _integer(text, 1, None, 4)


def none_or_more(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0, None, 1)


def seed(text: str) -> int:
    """A seed."""
    return _integer(text, 0, _MAX_SEED, 0)


def share(text: str) -> float:
    """A number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, got {text!r}. Fix: pass for example 0.9.")
    return value


def positive(text: str) -> float:
    """A positive finite number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive finite number, got {text!r}. Fix: pass for example 0.01.")
    return value


def dtype(text: str) -> str:
    """A floating dtype by its name."""
    if text not in ("float32", "float64"):
        raise argparse.ArgumentTypeError(f"must be float32 or float64, got {text!r}. Fix: pass --dtype float64.")
    return text


def key_value(text: str) -> tuple[str, object]:
    """``KEY=VALUE``."""
    try:
        return values.key_value(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def sides(text: str) -> tuple[int, ...]:
    """Height and width as in ``28x28``, or with channels ``32x32x3``."""
    if not re.fullmatch(r"\d+x\d+(x[13])?", text):
        raise argparse.ArgumentTypeError(
            f"must be height and width as in 28x28, or 32x32x3 with channels, got {text!r}. Fix: pass --shape 28x28."
        )
    return tuple(int(part) for part in text.split("x"))


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    return 0.0 if re.fullmatch(r"\+?0+(\.0*)?", text) else positive(text)


def switch(text: str) -> bool | str:
    """``true``, ``false``, or a word."""
    return {"true": True, "false": False}.get(text.lower(), text)


_BY_NAME: dict[str, Callable[[str], object]] = {"seed": seed, "target_accept": share, "tolerance": not_negative}
_METAVARS = {"budget": "SECONDS", "methods": "NAMES", "target_accept": "P"}


def read_by(option: Option) -> Callable[[str], object]:
    """What reads the value of a method's option."""
    if option.name in _BY_NAME:
        return _BY_NAME[option.name]
    if "bool" in option.kinds:
        return switch
    if "int" in option.kinds:
        return none_or_more if option.default == 0 else count
    return positive if "float" in option.kinds else str


def metavar(option: Option) -> str:
    """What stands for the value of a method's option in help."""
    if option.name in _METAVARS:
        return _METAVARS[option.name]
    return "N" if "int" in option.kinds else "X" if "float" in option.kinds else "NAME"
