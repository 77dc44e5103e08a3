"""The rules of C and JAX where operations have edges: the values and gradients of torch, to 1e-10."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from pyrolvm._capture.native.rules import RULES
from tests.capture import edges
from tests.capture.agreement import agree

CASES = {case.name: case for case in edges.cases()}

NOT_IN_C = {
    "i0", "i0e", "i1e", "whole: determinant", "whole: inverse", "whole: log determinant", "whole: median", "whole: solve",
    "whole: sort",
}  # fmt: skip
"""What C leaves to the engines after it."""


WITHOUT_EDGES = {
    "_standard_gamma_grad",
    "addmv", "copy", "diagonal_scatter", "fill", "full_like", "new_ones", "prims.broadcast_in_dim.default", "prims.div.default",
    "prims.sum.default", "prims.var.default", "select_scatter", "slice_scatter",
}  # fmt: skip
"""Rules that only move entries, are those of others by another name, or have tests of their own (test_gammas.py)."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")  # of torch, about what it does at such points
def test_c_has_the_values_and_gradients_of_torch_at_edges(name: str) -> None:
    found = edges.by_c()[0][name]
    if isinstance(found, Exception):
        assert name in NOT_IN_C, found
        assert "no rule" in str(found)
        return
    assert name not in NOT_IN_C
    assert edges.differences(CASES[name], edges.on_torch(CASES[name]), found) == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_jax_has_the_values_and_gradients_of_torch_at_edges(name: str) -> None:
    found = edges.by_jax()[name]
    assert not isinstance(found, Exception), found
    assert edges.differences(CASES[name], edges.on_torch(CASES[name]), found, flushed=True) == []


def test_gradients_at_bounds_that_are_tensors_go_where_torch_sends_them() -> None:
    x, bound = torch.tensor([0.0, 0.5, 0.5, 1.0]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    agree(lambda x, y: [x.clamp(min=y), x.clamp(max=y), x.clamp(y, y + 1), torch.maximum(x, y)], [x, bound])


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_no_rule_of_c_is_left_out() -> None:
    assert sorted(RULES.keys() - edges.by_c()[1] - WITHOUT_EDGES) == []


def test_a_wrong_rule_is_told() -> None:
    case = CASES["lgamma"]
    expected = edges.on_torch(case)
    wrong = [expected[0].copy(), expected[1].copy()]
    wrong[0][5] += 1e-6
    wrong[1][7] = float("nan")
    told = edges.differences(case, expected, wrong)
    assert [line.split()[0] for line in told] == ["value", "gradient"]


def test_the_page_has_a_row_for_every_operation_tried() -> None:
    text = (Path(__file__).parents[2] / "docs" / "engines-coverage.md").read_text().partition("\n## Edges\n")[2]
    rows = re.findall(r"^\| (.+?) \| \d+ \| (\S+) \| (\S+) \|", text.partition("\n## ")[0], re.M)
    assert [row[0] for row in rows] == list(CASES)
    assert {row[0] for row in rows if row[1] != "yes"} == NOT_IN_C
    assert {row[2] for row in rows} == {"yes"}
