"""What the engines make of every distribution, measured."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base import runtime
from pyrolvm._capture.graph import Captured
from tests.capture.agreement import agree
from tests.capture.cases import CASES, tensor


@dataclass(frozen=True)
class Outcome:
    """What was seen of one part of a distribution.

    Attributes:
        how: in words, where all engines agree; empty otherwise.
        gradient: whether it has one.
        error: what was raised otherwise: the type and the text.
    """

    how: str = ""
    gradient: bool = False
    error: str = ""


@functools.cache
def outcome(kind: type, part: str) -> Outcome:
    """Whether stock Pyro, its captured graph and JAX agree about ``"log_prob"`` or ``"draws"``.

    Densities are compared in float64, with their gradient, and in float32; draws in float64.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is deprecated or singular, in torch and Pyro
            _check_stock(kind, part)
            captured, smooth = _density(kind) if part == "log_prob" else _draws(kind)
    except Exception as error:  # whatever it is, the row says what it must be
        if isinstance(error, AssertionError):
            raise
        return Outcome(error=f"{type(error).__name__}: {error}")
    return Outcome(_how(captured, smooth) if part == "draws" else "yes", smooth)


def _check_stock(kind: type, part: str) -> None:
    case = CASES[kind]
    with runtime.session(seed=5, dtype=torch.float64):
        d = case.build(*map(tensor, case.parameters))
        assert type(d) is kind, f"the case of {kind.__name__} builds a {type(d).__name__}"
        if part == "draws":
            d.sample()
        else:
            d.log_prob(_value(kind, torch.float64)[0])


def _value(kind: type, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """Where the density is taken, and whether it is differentiated by that."""
    case = CASES[kind]
    with runtime.session(seed=5, dtype=dtype):
        d = case.build(*map(tensor, case.parameters))
        value = d.sample().detach() if case.value is None else torch.as_tensor(case.value)
        value = value.to(dtype) if value.is_floating_point() else value
        return value, value.is_floating_point() and not case.fixed and not d.support.is_discrete


def _density(kind: type) -> tuple[Captured, bool]:
    case = CASES[kind]
    captured = None
    for dtype, gradient in ((torch.float32, False), (torch.float64, True)):
        value, smooth = _value(kind, dtype)
        with runtime.session(dtype=dtype):
            inputs = [tensor(p) for p in case.parameters]
        if smooth:
            captured = agree(lambda v, *p: case.build(*p).log_prob(v), [value, *inputs], dtype=dtype, gradient=gradient)
        else:
            captured = agree(_at(case.build, value), inputs, dtype=dtype, gradient=gradient)
    assert captured is not None
    return captured, True


def _at(build: Callable[..., Any], value: Tensor) -> Callable[..., Tensor]:
    return lambda *p: build(*p).log_prob(value)


def _draws(kind: type) -> tuple[Captured, bool]:
    case = CASES[kind]
    with runtime.session(dtype=torch.float64):
        inputs = [tensor(p) for p in case.parameters]
        smooth = bool(case.build(*inputs).has_rsample)

    def draw(*parameters: Tensor) -> Any:
        d = case.build(*parameters)
        return d.rsample(case.shape) if smooth else d.sample(case.shape)

    return agree(draw, inputs), smooth


def _how(captured: Captured, smooth: bool) -> str:
    if not captured.random:
        return "fixed"
    if all(str(node.target).split(".")[1] in ("randn", "rand", "randn_like", "rand_like") for node in captured.random):
        return "from shared noise"
    return "by each engine, with gradient" if smooth else "by each engine"
