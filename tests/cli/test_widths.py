"""What commands print fits the terminal that there is, whatever its width, and has no colours where nobody wants them."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.progress import Progress as Bar

from pyrolvm._base.progress import Progress, _columns
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._cli.output import Output, _Console

WIDTHS = [30, 40, 60, 80, 120, 200]
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9)\d")
STYLE = re.compile(r"\x1b\[[\d;]*m")


def _printed(width: int) -> tuple[Output, io.StringIO]:
    text = io.StringIO()
    console = _Console(file=text, width=width, highlight=False, markup=False, emoji=False)
    return Output(result=console, log=console, json=None, quiet=False), text


@pytest.fixture
def frame() -> pd.DataFrame:
    names = ["mean", "sd", "q5", "median", "q95", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "rhat", "status"]
    row = [4.4133, 1234567.0, -4.11e-9, 4.162, 11.39, 0.0348, 0.0344, 25730.0, 19740.0, 1.0003, "moving"]
    return pd.DataFrame([row, row], index=pd.Index(["theta[A]", "theta[B]"], name="quantity"), columns=names)


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_of_a_table_are_never_broken(width: int, frame: pd.DataFrame) -> None:
    out, text = _printed(width)
    out.frame(frame)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = text.getvalue().split()
    for shown in (*frame.columns, "1.235e+06", "-4.11e-09", "2.573e+04", "moving"):
        assert shown in words
    parts = sum("quantity" in line for line in lines)
    assert words.count("theta[A]") == parts == (1 if width >= 120 else parts)
    assert parts > 1 or width >= 120


@pytest.mark.parametrize("width", WIDTHS)
def test_sentences_of_a_table_go_on_below_each_other(width: int) -> None:
    out, text = _printed(width)
    out.table(
        [["flow", "Inverse autoregressive transforms of a Gaussian in a frame.", "pyrolvm"]], ["guide", "is", "from"]
    )
    assert max(map(len, text.getvalue().splitlines())) <= width
    assert {"Inverse", "autoregressive", "frame.", "pyrolvm"} <= set(text.getvalue().split())


@pytest.mark.parametrize("width", WIDTHS)
def test_reasons_hang_below_their_mark(width: int) -> None:
    out, text = _printed(width)
    sentence = "R-hat is up to 1.012, above 1.01, for `theta[G]`: the chains disagree, and some more words about it."
    out.verdict(Verdict.of([Reason("doubtful", sentence)]))
    out.next(["pyrolvm compare eight_schools_centered    this and other methods against NUTS"])
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    if width in (40, 60, 80):
        assert lines[2].startswith(" " * 6) and not lines[2].startswith(" " * 7)
    assert " ".join(text.getvalue().split()).count(sentence) == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_a_bar_says_what_diverged_on_any_terminal(width: int) -> None:
    text = io.StringIO()
    console = _Console(file=text, width=width, force_terminal=True, color_system=None)
    bar = Bar(*_columns(width), console=console)
    bar.add_task("sampling, 12 diverged", total=92_000, completed=25_885, what="nuts on eight_schools[centered]")
    console.print(bar.get_renderable())
    (line,) = text.getvalue().splitlines()
    assert len(line) <= width and line.startswith("nuts")
    if width >= 60:
        assert "25885/92000" in line and "sampling, 12 diverged" in line
    assert "[centered]" in line or width < 80 + len("nuts on eight_schools[centered]") - 18


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _of_colours(wanted: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> _Terminal:
    """A terminal that has colours, in place of a stream, where they are wanted or not."""
    for variable in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if not wanted:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = _Terminal()
    monkeypatch.setattr(sys, name, stream)
    return stream


@pytest.mark.parametrize("wanted", [True, False])
def test_no_colour_is_respected(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _of_colours(wanted, "stdout", monkeypatch)
    out = Output.of(SimpleNamespace(json=None, quiet=False))  # type: ignore[arg-type]
    out.verdict(Verdict.of([Reason("doubtful", "R-hat is up to 1.012.")]))
    out.note("what was done")
    out.table([["a", 1.0]], ["name", "value"], "title")
    assert bool(COLOUR.search(stream.getvalue())) is wanted
    assert bool(STYLE.search(stream.getvalue())) is wanted  # nor bold or dim ones


@pytest.mark.parametrize("wanted", [True, False])
def test_a_bar_has_no_styles_without_colour(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _of_colours(wanted, "stderr", monkeypatch)
    with Progress("sampling", 3, True, every=0.0) as bar:
        bar.update(2, lambda: "12 diverged")
    assert "2/3" in stream.getvalue()
    assert bool(STYLE.search(stream.getvalue())) is wanted


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(("said", "width"), [("72", 72), ("0", 80), ("wide", None), (None, None)])
def test_the_width_is_what_columns_says(
    terminal: bool, said: str | None, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if said is not None:
        monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr(sys, "stdout", _Terminal() if terminal else io.StringIO())
    out = Output.of(SimpleNamespace(json=None, quiet=False))  # type: ignore[arg-type]
    assert out.result.width == (width or (80 if terminal else 140))


def test_a_pipe_has_no_escapes(pyrolvm) -> None:
    run = pyrolvm("fit", "eight_schools", "--max-steps", "20", "--json", "o.json")
    assert "\x1b" not in run.out + run.err and "\r" not in run.out + run.err
    assert json.loads(Path("o.json").read_text())["command"] == "fit"
