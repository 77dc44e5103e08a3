"""Each sentence about durability and security is held by tests, or promises nothing: ``claims.json`` says which and why."""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CLAIMS: dict[str, dict[str, list[str] | str]] = json.loads(Path(__file__).with_name("claims.json").read_text())
NO_PROMISE = ("heading", "example", "advice", "limit", "background", "figures")
"""Why a sentence has no test: it leads to others, gives an example or advice, says what is not promised, or where figures are from."""


def sentences(text: str) -> list[str]:
    """The sentences of a page, and the rows of its tables; not its code, its headings and what benchmarks write there."""
    text = re.sub(r"^```.*?^```$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!-- results.*?<!-- end -->", "\n", text, flags=re.DOTALL)
    found: list[str] = []
    for block in re.split(r"\n\s*\n|\n(?=[-|#] ?)", text):
        line = " ".join(block.split())
        if not line or line.startswith("#") or re.fullmatch(r"[-| ]+", line):
            continue
        parts = [line] if line.startswith("|") else re.split(r"(?<=[.!?:])\s+(?=[A-Z*`-])", line.removeprefix("- "))
        found += parts
    return found


@functools.cache
def names_in(path: str) -> set[str]:
    """The names of the tests in a file."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("page", CLAIMS)
def test_each_sentence_of_the_page_has_its_tests(page: str) -> None:
    said = sentences((ROOT / "docs" / page).read_text(encoding="utf-8"))
    unheld = [sentence for sentence in said if sentence not in CLAIMS[page]]
    assert not unheld, "name the tests that hold it in tests/docs/claims.json"
    assert not set(CLAIMS[page]) - set(said), "no longer on the page"


@pytest.mark.parametrize("page", CLAIMS)
def test_the_tests_that_hold_a_sentence_exist(page: str) -> None:
    for sentence, held in CLAIMS[page].items():
        if isinstance(held, str):
            assert held in NO_PROMISE, sentence
            continue
        assert held, sentence
        for test in held:
            path, _, name = test.partition("::")
            assert name in names_in(path), f"{test}, which is to hold {sentence!r}"


def test_most_sentences_are_held_by_tests() -> None:
    held = [one for claims in CLAIMS.values() for one in claims.values()]
    assert sum(isinstance(one, list) for one in held) > 0.7 * len(held)


def test_a_page_is_taken_apart_into_sentences() -> None:
    page = "# Title\n\nOne thing. Another: `x` is.\n\n```\ncode. here.\n```\n\n- A point\n  that goes on.\n"
    page += "\n| a | b |\n|---|---|\n| c. | D |\n"
    assert sentences(page) == ["One thing.", "Another:", "`x` is.", "A point that goes on.", "| a | b |", "| c. | D |"]
