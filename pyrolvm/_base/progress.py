"""Progress on standard error: a bar in a terminal, silence elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any

__all__ = ["Progress", "Show", "is_terminal", "showing", "shown"]


def is_terminal(stream: Any) -> bool:
    """Whether somebody sees what is written there; a stream that is closed, or that a process has none of, is none."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


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


class Progress:
    """A progress bar with a description that changes as the work goes on.

    Args:
        what: what is running.
        total: number of steps.
        show: ``True`` shows the bar where standard error is a terminal, ``False`` never; a function is called with
            ``(done, total, text)`` instead.
        every: seconds between two refreshes.
    """

    def __init__(
        self, what: str, total: int, show: bool | Callable[[int, int, str], None], *, every: float = 0.1
    ) -> None:
        self.what, self.total, self.every = what, total, every
        self._callback = show if callable(show) else None
        self._visible = show is True and is_terminal(sys.stderr)
        self._last = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._visible:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("[bold]{task.fields[what]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total, what=self.what)
        return self

    def update(self, done: int, text: Callable[[], str], *, total: int | None = None) -> None:
        """Shows that ``done`` steps are done; ``text`` is only called when the bar is redrawn."""
        if not (self._visible or self._callback):
            return
        now = time.monotonic()
        if now - self._last < self.every and done < self.total:
            return
        self._last = now
        self.total = total or self.total
        if self._callback:
            self._callback(done, self.total, text())
        else:
            with suppress(OSError):  # the terminal is gone
                self._bar.update(self._task, completed=done, total=self.total, description=text())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()
