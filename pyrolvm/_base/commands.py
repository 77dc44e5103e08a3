"""What a command of another distribution is: a row that the command line reads before it imports anything heavy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pyrolvm._base.entries import Kind

if TYPE_CHECKING:
    import argparse

    from pyrolvm._base.verdict import Verdict

__all__ = ["COMMANDS", "Command", "Output"]


class Output(Protocol):
    """Where a command's words go: results on stdout, progress on stderr, JSON where ``--json`` asks for it; ``--quiet`` is seen to."""

    @property
    def progress(self) -> bool:
        """Whether live progress is wanted: somebody is watching."""

    def line(self, text: str = "", style: str | None = None) -> None:
        """Prints a line of result."""

    def note(self, text: str) -> None:
        """Prints a line of progress."""

    def verdict(self, verdict: Verdict) -> None:
        """Prints a verdict with its reasons and next steps."""

    def table(self, rows: Sequence[Sequence[object]], columns: Sequence[str], title: str | None = None) -> None:
        """Prints rows under column names."""

    def next(self, steps: Iterable[str]) -> None:
        """Prints what can be done next."""

    def write_json(self, content: Mapping[str, object]) -> None:
        """Writes the machine-readable outcome."""


class Command(NamedTuple):
    """A command, ``pyrolvm NAME``. The entry point's name is the command's.

    Attributes:
        does: one sentence for its help.
        run: does it, and returns the exit code: 0 for done, 1 for a verdict "failed". A :class:`pyrolvm.PyrolvmError` that it raises
            is printed, and ends in code 2.
        arguments: adds its arguments to the parser, which has ``--json`` and ``--quiet`` already.
        examples: lines that show it.
        problem: whether it takes a TARGET with ``--data``, ``--option`` and ``--dtype``,
            as ours do: ``args.problem`` is then the problem.
    """

    does: str
    run: Callable[[argparse.Namespace, Output], int]
    arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    examples: tuple[str, ...] = ()
    problem: bool = False


COMMANDS: Kind[Command] = Kind("command", "pyrolvm.commands", "a Command", lambda it: isinstance(it, Command))
