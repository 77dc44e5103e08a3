"""What attributes of a tree say as JSON is held to the bounds of files."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from typing import Any

import pytest
import xarray as xr

from pyrolvm._base.errors import StoreError
from pyrolvm._diagnosis.recorded import RECORD, recorded, remedies
from pyrolvm._diagnosis.restarts import RESTARTS, judge_restarts
from pyrolvm._diagnosis.trying import tried
from pyrolvm._program.names import dump_names, read_names
from pyrolvm._program.symmetry.record import SYMMETRY, read_symmetries
from pyrolvm._results.attempts import MISSING, missing
from pyrolvm._results.base import LADDER


def tree(name: str, text: Any) -> xr.DataTree:
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={name: text}), "/posterior": xr.Dataset()})


READERS: dict[str, Callable[[Any], Any]] = {
    "missing": lambda text: missing({MISSING: text}),
    "ladder": lambda text: tried(tree(LADDER, text)),
    "verdict": lambda text: recorded(tree(RECORD, text)),
    "steps": lambda text: remedies(tree(RECORD, text)),
    "restarts": lambda text: list(judge_restarts(tree(RESTARTS, text))),
    "symmetry": lambda text: read_symmetries({SYMMETRY: text}),
}
BLOCK = {"text": "", "short": "", "copies": 2, "slices": None}
MOVED = {"moved": [10**12], "source": [1], "sign": [1], "shift": [0], "low": [0], "period": [None]}


@pytest.mark.parametrize(
    "text",
    [
        "{", "[" * 5000, "[" * 101 + "]" * 101, '{"a": 1, "a": 2}', "[1, 2]", '{"verdict": 1}', "7", '"x"', 7,
        '{"verdict": {"reasons": [{}]}, "steps": 3, "restarts": null}', '{"sites": [["x", [2]]], "blocks": 3, "invariant": []}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("reader", READERS)
def test_what_was_never_written_is_refused_in_words_or_read(reader: str, text: Any) -> None:
    try:
        READERS[reader](text)
    except StoreError as error:
        assert "attribute" in str(error) and "Fix: " in str(error)


def test_names_nested_too_deeply_are_refused() -> None:
    assert read_names(dump_names(["a,b", "c"])) == ("a,b", "c")
    with pytest.raises(StoreError, match=r"attribute 'names'.*Fix: "):
        read_names('["a", ' + "[" * 5000)


def test_a_symmetry_of_more_numbers_than_memory_has_room_for_is_refused() -> None:
    raw = {"sites": [["x", [10**12]]], "blocks": [{**BLOCK, "generators": [MOVED]}], "invariant": []}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError, match=r"attribute 'pyrolvm_symmetry'.*GB are free.*Fix: "):
        read_symmetries({SYMMETRY: json.dumps(raw)})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
