"""What a command prints: results on stdout, progress on stderr, JSON where it was asked for."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.plain import jsonable
from pyrolvm._base.progress import console_options
from pyrolvm._base.writing import replace_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Output"]

_STYLE = {"trusted": "green", "doubtful": "yellow", "failed": "red"}
_MARK = 6
"""Columns of what stands before a reason, or before what comes next."""
_BETWEEN = 2
"""Columns between those of a table."""
_SENTENCE = 24
"""Columns that a cell of several words has at least."""


@dataclass(frozen=True)
class Output:
    """Where one command's words go.

    Attributes:
        result: results for a person: stdout, or stderr where stdout is taken by JSON.
        log: progress, on stderr.
        json: the file for JSON, ``"-"`` for stdout, or ``None``.
        quiet: whether only errors and JSON are wanted.
    """

    result: Console
    log: Console
    json: str | None
    quiet: bool

    @classmethod
    def of(cls, args: argparse.Namespace) -> Output:
        """The output that ``--json`` and ``--quiet`` ask for.

        Raises:
            ArgumentError: if the JSON file cannot be written; better now than after an hour of inference.
        """
        if args.json not in (None, "-") and not os.access(Path(args.json).absolute().parent, os.W_OK):
            raise ArgumentError(
                f"--json {args.json}: its folder does not exist or cannot be written. Fix: make the folder first."
            )
        return cls(
            result=_console(stderr=args.json == "-", quiet=args.quiet),
            log=_console(stderr=True, quiet=args.quiet),
            json=args.json,
            quiet=args.quiet,
        )

    @property
    def progress(self) -> bool:
        """Whether live progress is wanted: somebody is watching."""
        return not self.quiet and self.log.is_terminal

    def line(self, text: str = "", style: str | None = None, hang: int = 0) -> None:
        """Prints a line of result; what does not fit goes on below, ``hang`` columns further in."""
        width = self.result.width
        if len(text) > width and 0 < hang < width // 2:
            text = fill(text, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False)
        self.result.print(Text(text, style=style or ""))

    def note(self, text: str) -> None:
        """Prints a line of progress."""
        self.log.print(Text(text, style="dim"))

    def verdict(self, verdict: Any) -> None:
        """Prints a verdict with its reasons and next steps."""
        head, *rest = str(verdict).splitlines()
        self.result.print(Text.assemble("verdict: ", (head, f"bold {_STYLE.get(verdict.status, '')}")))
        for line in rest:
            self.line(line, hang=_MARK)

    def table(
        self, rows: Sequence[Sequence[object]], columns: Sequence[str], title: str | None = None, labels: int = 1
    ) -> None:
        """Prints rows under column names; numbers stand to the right, verdicts have their colours.

        What is too wide goes below, under the same ``labels``, the first columns; numbers are never broken, sentences are.
        """
        numeric = [any(_is_number(row[k]) for row in rows) for k in range(len(columns))]
        cells = [[_cell(value) for value in row] for row in rows]
        needed = [_needed(str(name), [row[k] for row in cells]) for k, name in enumerate(columns)]
        for number, chosen in enumerate(_side_by_side(needed, labels, self.result.width)):
            table = Table(
                title=title if number == 0 else None,
                title_justify="left",
                box=None,
                pad_edge=False,
                header_style="bold",
            )
            for k in chosen:
                alone = needed[k] >= self.result.width
                table.add_column(
                    Text(str(columns[k])), justify="right" if numeric[k] else "left", overflow="fold",
                    min_width=None if alone else needed[k],
                )  # fmt: skip
            for row, written in zip(rows, cells, strict=True):
                table.add_row(*(Text(written[k], style=_STYLE.get(str(row[k]), "")) for k in chosen))
            if number:
                self.line()
            self.result.print(table)

    def frame(self, frame: pd.DataFrame, title: str | None = None, limit: int = 30) -> None:
        """Prints a DataFrame with its index, up to ``limit`` rows."""
        shown = frame.head(limit)
        index = list(shown.index.names) if frame.index.nlevels > 1 else [shown.index.name or ""]
        rows = []
        for label, *values in shown.itertuples(name=None):
            labels = list(label) if frame.index.nlevels > 1 else [label]
            rows.append([*(str(part) for part in labels), *values])
        self.table(rows, [*(str(name or "") for name in index), *map(str, frame.columns)], title, len(index))
        if len(frame) > limit:
            self.line(f"... and {len(frame) - limit} rows more")

    def next(self, steps: Iterable[str]) -> None:
        """Prints what can be done next."""
        for position, step in enumerate(steps):
            self.line(("next: " if position == 0 else " " * _MARK) + step, style="dim", hang=_MARK)

    def write_json(self, content: Mapping[str, object]) -> None:
        """Writes the machine-readable outcome where ``--json`` asked for it."""
        if self.json is None:
            return
        text = json.dumps(jsonable(content), indent=2, allow_nan=False)
        if self.json == "-":
            print(text, file=sys.stdout)
        else:
            replace_file(Path(self.json), lambda file: file.write(f"{text}\n".encode()))


class _Console(Console):
    """A console that tells its caller when its reader has gone away, where rich ends the process."""

    def on_broken_pipe(self) -> None:
        """Lets the error through that is being handled."""
        raise BrokenPipeError


def _console(*, stderr: bool, quiet: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return _Console(quiet=quiet, highlight=False, markup=False, emoji=False, **console_options(stream))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _needed(name: str, cells: Sequence[str]) -> int:
    """How wide a column has to be at least: its longest cell, of sentences their longest word or a few words."""
    words = max((len(word) for cell in (name, *cells) for word in cell.split()), default=0)
    longest = max((len(cell) for cell in (name, *cells)), default=0)
    return min(longest, max(words, _SENTENCE))


def _side_by_side(needed: Sequence[int], labels: int, width: int) -> list[list[int]]:
    """Which columns stand beside each other, each time after the labels."""
    first = list(range(min(labels, len(needed))))
    room = width + _BETWEEN - sum(needed[k] + _BETWEEN for k in first)
    tables: list[list[int]] = [[]]
    left = room
    for k in range(len(first), len(needed)):
        if tables[-1] and needed[k] + _BETWEEN > left:
            tables.append([])
            left = room
        tables[-1].append(k)
        left -= needed[k] + _BETWEEN
    return [[*first, *each] for each in tables]


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
