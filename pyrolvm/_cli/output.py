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
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.plain import jsonable
from pyrolvm._base.progress import is_terminal
from pyrolvm._base.writing import replace_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Output"]

_STYLE = {"trusted": "green", "doubtful": "yellow", "failed": "red"}
_PLAIN_WIDTH = 140


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

    def line(self, text: str = "", style: str | None = None) -> None:
        """Prints a line of result."""
        self.result.print(Text(text, style=style or ""))

    def note(self, text: str) -> None:
        """Prints a line of progress."""
        self.log.print(Text(text, style="dim"))

    def verdict(self, verdict: Any) -> None:
        """Prints a verdict with its reasons and next steps."""
        head, *rest = str(verdict).splitlines()
        self.result.print(Text.assemble("verdict: ", (head, f"bold {_STYLE.get(verdict.status, '')}")))
        for line in rest:
            self.line(line)

    def table(self, rows: Sequence[Sequence[object]], columns: Sequence[str], title: str | None = None) -> None:
        """Prints rows under column names; numbers stand to the right, verdicts have their colours."""
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for position, column in enumerate(columns):
            numeric = any(
                isinstance(row[position], int | float) and not isinstance(row[position], bool) for row in rows
            )
            table.add_column(Text(str(column)), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_cell(value), style=_STYLE.get(str(value), "")) for value in row))
        self.result.print(table)

    def frame(self, frame: pd.DataFrame, title: str | None = None, limit: int = 30) -> None:
        """Prints a DataFrame with its index, up to ``limit`` rows."""
        shown = frame.head(limit)
        index = list(shown.index.names) if frame.index.nlevels > 1 else [shown.index.name or ""]
        rows = []
        for label, *values in shown.itertuples(name=None):
            labels = list(label) if frame.index.nlevels > 1 else [label]
            rows.append([*(str(part) for part in labels), *values])
        self.table(rows, [*(str(name or "") for name in index), *map(str, frame.columns)], title)
        if len(frame) > limit:
            self.line(f"... and {len(frame) - limit} rows more")

    def next(self, steps: Iterable[str]) -> None:
        """Prints what can be done next."""
        for position, step in enumerate(steps):
            self.result.print(Text(("next: " if position == 0 else "      ") + step, style="dim"))

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
    width = None if is_terminal(stream) else _PLAIN_WIDTH  # a file or a pipe has no width of its own
    return _Console(file=stream, quiet=quiet, width=width, highlight=False, markup=False, emoji=False)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
