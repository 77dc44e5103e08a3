"""Each public function shows how it is called, and what is shown runs."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest

import pyrolvm as lvm

FUNCTIONS = sorted(name for name in lvm.__all__ if inspect.isfunction(getattr(lvm, name)))
ELSEWHERE = (
    "check",
    "compare_models",
    "compress",
    "cross_validate",
    "decompress",
    "model",
    "predict",
    "sample",
    "simulate",
    "sparse",
    "stream",
)
"""Those whose examples need a model and data of the reader's; tests of their own call them."""


def _examples(name: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(getattr(lvm, name)) or "")


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_shows_how_it_is_called(name: str) -> None:
    assert any(f"lvm.{name}(" in example.source or f"@lvm.{name}" in example.source for example in _examples(name))


@pytest.fixture(scope="module")
def scope() -> dict[str, Any]:
    problem = lvm.problem("eight_schools_noncentered")
    fit = lvm.fit(problem, "full_rank", seed=0, progress=False)
    return {"lvm": lvm, "pyro": pyro, "dist": dist, "problem": problem, "fit": fit}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ELSEWHERE])
def test_what_a_docstring_shows_runs(
    name: str, scope: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = dict(scope)
    for example in _examples(name):
        exec(compile(example.source, f"docstring of {name}", "exec"), own)
