"""Every mistake is reported at once: the right type, the place, the value seen, and a remedy, before the first step."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pyrolvm as lvm


def _load() -> ModuleType:
    """The table beside this file, which is no package."""
    spec = importlib.util.spec_from_file_location("bad_input_table", Path(__file__).with_name("table.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


table = _load()


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Imports and caches are not part of any row's second."""
    table.Steps().fit(table._line())


def _marked(row: table.Row) -> Any:  # type: ignore[name-defined]
    marks = () if row.id == "-" else (pytest.mark.bad_input(row.id),)
    return pytest.param(row, id=f"{row.id} {row.what}", marks=marks)


@pytest.mark.parametrize("row", [_marked(row) for row in table.ROWS])
def test_mistake_is_reported(row: table.Row, record_property: Any) -> None:  # type: ignore[name-defined]
    outcome = table.run(row)
    record_property("evidence", outcome.message)
    if row.warns:
        assert outcome.error is None, outcome.message
        assert len(outcome.warned) == 1
    else:
        assert type(outcome.error) is row.expect, f"{type(outcome.error).__name__}: {outcome.message}"
        assert isinstance(outcome.error, ValueError | TypeError | LookupError | RuntimeError)
        assert outcome.steps == 0, f"{outcome.steps} steps were taken before the mistake was noticed"
    for pattern in row.says:
        assert re.search(pattern, outcome.message), f"{pattern!r} is not in: {outcome.message}"
    said, found, remedy = outcome.message.partition("Fix: ")
    assert found and len(remedy) > 10, outcome.message
    assert said.rstrip().endswith((".", "?", "!")), f"the sentence before the remedy does not end: {said!r}"
    assert outcome.message.rstrip().endswith((".", "?")), outcome.message
    assert "Traceback" not in outcome.message and "Trace Shapes" not in outcome.message


def test_the_scorecard_is_covered() -> None:
    """Every mistake has a test: of this table, of outcomes that are no errors, or of runs on disk."""
    marked = re.compile(r"pytest\.mark\.bad_input\(\"(B\d+)\"\)")
    elsewhere = {name for path in Path(__file__).parent.glob("test_*.py") for name in marked.findall(path.read_text())}
    assert {f"B{i}" for i in range(1, 31)} == ({row.id for row in table.ROWS} | elsewhere) - {"-"}


def test_counter_sees_steps() -> None:
    """The check that no step was taken can fail."""
    steps = table.Steps()
    steps.fit(table._line())
    assert steps.taken == 5
    steps = table.Steps()
    steps.nuts(table._line())
    assert steps.taken > 0


def test_every_error_is_the_built_in_one_too() -> None:
    for built_in, error in (
        (ValueError, lvm.DataError),
        (LookupError, lvm.UnknownNameError),
        (RuntimeError, lvm.FitError),
    ):
        assert issubclass(error, built_in) and issubclass(error, lvm.PyrolvmError)
