"""Checksums of programs: the same for the same program, another for another."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyrolvm._program.code import fingerprint


def written(source: str, **scope: Any) -> Callable[..., Any]:
    """A function ``f`` of a file of its own."""
    module = types.ModuleType("mine")
    module.__dict__.update(scope)
    exec(compile(source, "mine.py", "exec"), module.__dict__)
    return module.f  # type: ignore[no-any-return]


PLAIN = "def f(x, k=2):\n    return k * x + 1\n"


@pytest.mark.parametrize(
    "source",
    [
        PLAIN,
        "\n\n# a comment\ndef f(x, k=2):\n    # another\n    return k * x + 1\n",
        "def f(x, k=2):\n\n    return (k * x\n            + 1)\n",
    ],
)
def test_layout_and_comments_do_not_count(source: str) -> None:
    assert fingerprint(written(source)) == fingerprint(written(PLAIN))


@pytest.mark.parametrize(
    "source",
    [
        "def f(x, k=2):\n    return k * x + 2\n",
        "def f(x, k=3):\n    return k * x + 1\n",
        "def f(x, k=2):\n    return k - x + 1\n",
        "def f(x, k=2):\n    return k * abs(x) + 1\n",
    ],
)
def test_another_program_has_another(source: str) -> None:
    assert fingerprint(written(source)) != fingerprint(written(PLAIN))


HELPED = "def g(x):\n    return x {sign} 1\n\ndef f(x):\n    return [g(y) * SCALE for y in x]\n"


def test_what_it_refers_to_counts() -> None:
    def made(sign: str = "+", scale: Any = 2.0) -> str:
        return fingerprint(written(HELPED.format(sign=sign), SCALE=scale))

    assert made() == made()
    assert len({made(), made("-"), made(scale=3.0), made(scale=torch.ones(2)), made(scale=torch.zeros(2))}) == 5


def test_enclosed_values_count() -> None:
    def make(scale: float) -> Callable[[float], float]:
        return lambda x: scale * x

    assert fingerprint(make(1.0)) == fingerprint(make(1.0)) != fingerprint(make(2.0))
    assert fingerprint(functools.partial(make, 1.0)) != fingerprint(functools.partial(make, 2.0))


def test_of_a_module_the_structure_counts_and_not_the_weights() -> None:
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    assert fingerprint(one) == fingerprint(other) != fingerprint(torch.nn.Linear(3, 4))


def test_functions_that_call_each_other_end() -> None:
    source = "def g(x):\n    return f(x - 1)\n\ndef f(x):\n    return g(x) if x else 0\n"
    assert fingerprint(written(source)) == fingerprint(written(source))
