"""Errors that are caught whatever they are leave a record: they go on, are told of, or are in the log."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pyrolvm as lvm
from pyrolvm._base.passing import passed_over

ROOT = Path(__file__).parents[2]
WHOLE = {"Exception", "BaseException"}


def unrecorded(source: str) -> Iterator[int]:
    """Lines of handlers of any exception that neither raise, nor name what they caught, nor record it."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if not any(kind is None or (isinstance(kind, ast.Name) and kind.id in WHOLE) for kind in kinds):
            continue
        inside = [part for statement in node.body for part in ast.walk(statement)]
        names = {part.id for part in inside if isinstance(part, ast.Name)}
        if not (any(isinstance(part, ast.Raise) for part in inside) or names & {node.name, "passed_over"}):
            yield node.lineno


def test_no_error_is_caught_without_a_record() -> None:
    files = [file for folder in ("pyrolvm", "models", "guides") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 300
    found = [f"{file.relative_to(ROOT)}:{line}" for file in files for line in unrecorded(file.read_text())]
    assert not found, f"{', '.join(found)}. Fix: call passed_over(why) there, or catch what is expected alone"


@pytest.mark.parametrize(
    ("body", "said"),
    [("pass", True), ("x = 1", True), ("raise", False), ("passed_over('why')", False), ("print(error)", False)],
)
def test_a_handler_without_a_record_is_found(body: str, said: bool) -> None:
    assert bool(list(unrecorded(f"try:\n    f()\nexcept Exception as error:\n    {body}\n"))) is said


def test_what_is_passed_over_is_in_the_log_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="pyrolvm"):
        try:
            torch.zeros(2) @ torch.zeros(3)
        except RuntimeError:
            passed_over("another way does it")
    assert "another way does it" in caplog.text and "torch.zeros(2) @ torch.zeros(3)" in caplog.text


def test_nothing_is_printed_of_what_is_passed_over(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("hidden")
    except ValueError:
        passed_over("of a test")
    assert capfd.readouterr() == ("", "") and lvm.__version__
