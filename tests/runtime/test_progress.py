"""Progress below a notebook's cell."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import pyrolvm as lvm
from pyrolvm._base import progress
from pyrolvm._base.progress import Progress, stage, stages


class Notebook:
    """What IPython is to a cell: it takes what is displayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kernel: object) -> None:
        self.drawn: list[dict[str, str]] = []
        self.displays = 0
        self.now = 0.0
        shell, page = ModuleType("IPython"), ModuleType("IPython.display")
        shell.get_ipython = lambda: SimpleNamespace(kernel=kernel)  # type: ignore[attr-defined]
        page.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", shell)
        monkeypatch.setitem(sys.modules, "IPython.display", page)
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)

    def display(self, bundle: dict[str, str], **how: Any) -> Any:
        self.displays += 1
        self.drawn.append(bundle)
        return SimpleNamespace(update=lambda bundle, raw: self.drawn.append(bundle))


def test_a_notebook_shows_one_bar_with_rate_and_time_left_and_takes_it_away(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Notebook(monkeypatch, kernel=object())
    with Progress("fit <a>", 1000, True) as bar:
        for done in range(0, 1000, 100):
            book.now = done / 100
            bar.update(done, lambda: "ELBO -3.2")
    assert book.displays == 1
    assert book.drawn[2]["text/plain"] == "fit <a> 300/1,000 (100.0/s, 0:03, 0:07 left) ELBO -3.2"
    assert "fit &lt;a&gt;" in book.drawn[2]["text/html"] and 'value="300" max="1000"' in book.drawn[2]["text/html"]
    assert book.drawn[-1] == {"text/plain": "", "text/html": ""}


def test_work_that_is_done_at_once_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Notebook(monkeypatch, kernel=object())
    with Progress("fit", 10, True) as bar:
        bar.update(10, lambda: "")
    assert book.drawn == []


@pytest.mark.parametrize(("kernel", "show"), [(None, True), (object(), False)])
def test_no_cell_is_written_to_elsewhere_or_when_it_is_not_wanted(
    kernel: object, show: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = Notebook(monkeypatch, kernel=kernel)
    with Progress("fit", 10, show) as bar:
        book.now = 9.0
        bar.update(5, lambda: "")
    assert book.drawn == []


def test_what_takes_nobody_knows_how_long_says_what_it_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    book = Notebook(monkeypatch, kernel=object())
    stage("heard by nobody")
    with Progress("student on p", 1, True) as bar, stages(bar):
        for book.now in (2.0, 65.0):
            stage(f"ascent {book.now:.0f}")
    assert [bundle["text/plain"] for bundle in book.drawn] == [
        "student on p (0:02) ascent 2",
        "student on p (1:05) ascent 65",
        "",
    ]
    assert "value=" not in book.drawn[0]["text/html"]


def test_an_ascent_says_so_where_a_guide_has_an_algorithm_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Progress, "update", lambda self, done, text, total=None: said.append(text()))
    lvm.fit(lvm.problem("eight_schools_noncentered"), "student", seed=0, progress=lambda done, total, text: None)
    assert any(text.startswith("ascent 1") for text in said)
    assert any(text.startswith("natural gradients, step 3: ELBO -") for text in said)
