"""Progress: a bar in a terminal or below a notebook's cell, silence elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from html import escape
from importlib import import_module
from types import TracebackType
from typing import Any

__all__ = ["Progress", "Show", "console_options", "in_notebook", "is_terminal", "showing", "shown", "stage", "stages"]


def is_terminal(stream: Any) -> bool:
    """Whether somebody sees what is written there; a stream that is closed, or that a process has none of, is none."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def console_options(stream: Any) -> dict[str, Any]:
    """How a console of rich's writes there: as wide as ``COLUMNS`` says, and without styles where ``NO_COLOR`` is set.

    Returns:
        Keyword arguments of ``rich.console.Console``. A stream that is no terminal has no width of its own: 140 columns, unless said.
    """
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal():
        width: int | None = int(said) or _NARROW
    else:
        width = None if is_terminal(stream) else _PLAIN  # a terminal's own
    return {"file": stream, "width": width, "color_system": None if os.environ.get("NO_COLOR") else "auto"}


_NARROW, _PLAIN = 80, 140

Show = bool | Callable[[int, int, str], None]

_SHOW: ContextVar[Show] = ContextVar("show", default=False)


@contextmanager
def shown(show: Show) -> Iterator[None]:
    """Lets what runs inside, however deep, show its progress so; see :class:`Progress`."""
    token = _SHOW.set(show)
    try:
        yield
    finally:
        _SHOW.reset(token)


def showing() -> Show:
    """How progress is shown here; not at all unless somebody has said how."""
    return _SHOW.get()


_STAGE: ContextVar[Callable[[str], None] | None] = ContextVar("stage", default=None)


@contextmanager
def stages(bar: Progress) -> Iterator[None]:
    """Lets what runs inside, however deep, say on a bar what it is at, by :func:`stage`."""
    token = _STAGE.set(lambda text: bar.update(0, lambda: text))
    try:
        yield
    finally:
        _STAGE.reset(token)


def stage(text: str) -> None:
    """Says what is being done, where a bar waits for the whole."""
    tell = _STAGE.get()
    if tell is not None:
        tell(text)


class Progress:
    """A progress bar with a description that changes as the work goes on.

    Args:
        what: what is running.
        total: number of steps.
        show: ``True`` shows the bar where standard error is a terminal, and below the cell in a notebook, ``False`` never; a function
            is called with ``(done, total, text)`` instead.
        every: seconds between two refreshes.
    """

    def __init__(
        self, what: str, total: int, show: bool | Callable[[int, int, str], None], *, every: float = 0.1
    ) -> None:
        self.what, self.total, self.every = what, total, every
        self._callback = show if callable(show) else None
        self._cell = _Cell() if show is True and in_notebook() else None
        self._visible = show is True and self._cell is None and is_terminal(sys.stderr)
        self._began = time.monotonic()
        self._last = self._began if self._cell else 0.0  # what is done at once needs no output of its own
        self._bar: Any = None
        self._task: Any = None

    @property
    def watched(self) -> bool:
        """Whether what is told is shown to somebody."""
        return bool(self._visible or self._callback or self._cell)

    def __enter__(self) -> Progress:
        if self._visible:
            from rich.console import Console
            from rich.progress import Progress as Bar

            console = Console(**console_options(sys.stderr))
            self._bar = Bar(*_columns(console.width), console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, what=self.what)
        return self

    def update(self, done: int, text: Callable[[], str], *, total: int | None = None) -> None:
        """Shows that ``done`` steps are done; ``text`` is only called when the bar is redrawn."""
        if not self.watched:
            return
        now = time.monotonic()
        every = max(self.every, _CELL_EVERY) if self._cell else self.every
        if now - self._last < every and (done < self.total or self._cell):
            return
        self._last = now
        self.total = total or self.total
        if self._callback:
            self._callback(done, self.total, text())
        elif self._cell:
            self._cell.show(self.what, done, self.total, now - self._began, text())
        else:
            with suppress(OSError):  # the terminal is gone
                self._bar.update(self._task, completed=done, total=self.total, description=text())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cell is not None:
            self._cell.stop()
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()


def _columns(width: int) -> list[Any]:
    """What a bar shows in so many columns of a terminal: name and what it has to say first, the rest as far as there is room."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    def text(what: str, most: int, style: str = "none") -> Any:
        return TextColumn(
            what, style=style, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", max_width=most)
        )

    rest = width - _COUNTS - _WORDS  # of what the numbers and the words leave
    columns: list[Any] = [text("{task.fields[what]}", max(8, min(40, rest - _BAR)), "bold")]
    if rest >= _BAR:
        columns.append(BarColumn(bar_width=max(_BAR, min(40, rest - 40))))
    columns += [MofNCompleteColumn()]
    if rest >= 2 * _BAR:
        columns += [TimeElapsedColumn()]
    if rest >= 0:
        columns += [TimeRemainingColumn()]
    return [*columns, text("{task.description}", max(_WORDS, width - _COUNTS - 80))]


_COUNTS, _WORDS, _BAR = 30, 24, 8
"""Columns of a bar's numbers and spaces, of its words, and of what moves, at least."""

_CELL_EVERY = 0.5
"""Seconds between two refreshes in a notebook, each of which is a message to its page."""


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook; IPython is not imported for that."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class _Cell:
    """A bar below a notebook's cell, which needs no widgets; it is gone when the work is done."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, what: str, done: int, total: int, seconds: float, text: str) -> None:
        """Shows how far the work is, how fast, and how long it will take."""
        rate = done / seconds if seconds > 0 else 0.0
        left = f", {_clock((total - done) / rate)} left" if rate > 0 and total > done else ""
        if total > 1:
            words = f"{what} {done:,}/{total:,} ({rate:,.1f}/s, {_clock(seconds)}{left}) {text}"
            share = f'value="{done}" max="{total}"'
        else:  # nobody knows how long it takes
            words, share = f"{what} ({_clock(seconds)}) {text}", ""
        bar = f'<progress {share} style="width:12em"></progress>'
        self._draw(
            {"text/plain": words, "text/html": f'<div style="font-family:monospace">{bar} {escape(words)}</div>'}
        )

    def stop(self) -> None:
        """Takes it away."""
        if self._handle is not None:
            self._draw({"text/plain": "", "text/html": ""})

    def _draw(self, bundle: dict[str, str]) -> None:
        if self._handle is None:
            self._handle = import_module("IPython.display").display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
