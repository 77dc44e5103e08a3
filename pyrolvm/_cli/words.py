"""What several commands have in common: their common options, and the texts that explain them."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from pyrolvm._cli.options import dtype, key_value, metavar, positive, read_by, seed
from pyrolvm._methods.options import Option
from pyrolvm._methods.table import Method

__all__ = [
    "CODES",
    "DATA",
    "GUIDE",
    "TARGET",
    "Commands",
    "Parser",
    "add_data",
    "add_method",
    "add_picture",
    "add_problem",
    "add_run",
    "command",
    "plain_words",
]

TARGET = """\
TARGET is
  a registered name           eight_schools            (pyrolvm list shows them all)
  a file and a function       my_model.py:my_model     a Pyro model; its data come with --data, or from its defaults
                              my_model.py:make         a function that returns an lvm.Problem
                              my_model.py:problem      an lvm.Problem
"""

DATA = """\
--data gives the model's arguments by name: an .npz file, a .json object, or a .csv file with a column for each argument
(columns x.1, x.2, ... together are the matrix x).
"""

GUIDE = """\
--guide is a registered name, a name with options (flow:transforms=4,hidden=[32,32]), or a file and a function
(my_guides.py:my_guide).
"""

CODES = """\
exit codes: 0 done; 1 the verdict is "failed"; 2 cannot be done as asked; 130 stopped by Ctrl-C (and saved)
"""


class Parser(argparse.ArgumentParser):
    """A parser of arguments whose errors say what was probably meant.

    Attributes:
        known: the words that an error may suggest.
        wanted: whether it is the one that is to be read: others are listed, and may lack options.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**kwargs)
        self.known: set[str] = set()
        self.wanted = True

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses as argparse does, but for ``--option=--``, of which that makes a list."""
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"argument {word[:-3]}: '--' is no value. Fix: pass a value, or leave it out")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends the process with the message and a remedy."""
        if "Fix:" not in message:
            message = f"{message}. Fix: {self._remedy(message)}"
        self.exit(2, f"{self.prog}: {message}\n")

    def _remedy(self, message: str) -> str:
        wrong = re.search(r"invalid choice: '([^']*)'|unrecognized arguments: (\S+)", message)
        if wrong:
            near = difflib.get_close_matches((wrong[1] or wrong[2]).split("=")[0], sorted(self.known), n=1)
            if near:
                return f"did you mean {near[0]}?"
        return f"{self.prog} --help shows what it takes."


class Commands:
    """The commands of a parser.

    Attributes:
        wanted: the one that is to be read; ``None`` for all of them.
        parsers: those that were added, by name.
    """

    def __init__(self, parser: Parser, wanted: str | None) -> None:
        self.wanted = wanted
        self.parsers: dict[str, Parser] = {}
        self._held = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    def add(self, name: str, does: str, epilog: str) -> Parser:
        """A new one."""
        self.parsers[name] = self._held.add_parser(name, help=does, description=does, epilog=epilog)
        self.parsers[name].wanted = self.wanted in (None, name)
        return self.parsers[name]


def command(commands: Commands, name: str, module: str, does: str, epilog: str) -> Parser:
    """A command with what all of them take."""
    parser = commands.add(name, does, epilog)
    parser.set_defaults(module=module)
    parser.add_argument("--json", metavar="FILE", help="also write the outcome as JSON; '-' for stdout")
    parser.add_argument("--quiet", action="store_true", help="print errors only, and what --json asks for")
    return parser


def add_problem(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """A problem, or ``several``, and its data."""
    group = parser.add_argument_group("the problem")
    what = "a registered name or path/file.py:name, see below"
    if several:
        group.add_argument("targets", metavar="TARGET", nargs="+", help=f"{what}; one or more")
    else:
        group.add_argument("target", metavar="TARGET", help=what)
    add_data(group)


def add_data(group: Any) -> None:
    """Data and options of a model."""
    group.add_argument("--data", metavar="FILE", help="the model's arguments: .npz, .json or .csv")
    group.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        type=key_value,
        default=[],
        help="an option of the problem's function, or a plain argument of the model; VALUE is JSON or text; repeatable",
    )
    group.add_argument("--dtype", type=dtype, help="float32 or float64 (default: as the problem has it)")


RUN = ("seed", "engine", "device")
"""Options that all methods have in common, in a group of their own."""


def add_method(parser: Parser, row: Method, *, but: Collection[str] = ()) -> None:
    """The options of a method that can be given as text.

    Args:
        parser: the command's parser.
        row: the method.
        but: options that the command has already, or means otherwise.
    """
    if not parser.wanted:
        return  # what a method takes is read off its source, which takes a while
    group = parser.add_argument_group(row.name)
    for option in row.options.values():
        if option.is_plain and option.name not in (*RUN, *but):
            word = f"--{option.name.replace('_', '-')}"
            group.add_argument(word, metavar=metavar(option), type=read_by(option), help=_help(option))


def _help(option: Option) -> str:
    told = "" if option.default in (None, "") else f" (default: {option.default})"
    return f"{option.sentence}{told}".replace("%", "%%")


def plain_words(row: Method, *, but: Collection[str] = ()) -> tuple[str, ...]:
    """The options of a method that a command may have been given."""
    return tuple(option.name for option in row.options.values() if option.is_plain and option.name not in but)


def add_picture(group: Any, what: str) -> None:
    """Where a picture goes."""
    group.add_argument("--plot", metavar="FILE", help=what)
    group.add_argument("--overwrite", action="store_true", help="replace FILE, and what --out DIR holds, if they exist")


def add_run(parser: argparse.ArgumentParser, *, engine: bool = True, checkpoints: bool = True) -> None:
    """Where a run goes, and how it is made."""
    group = parser.add_argument_group("the run")
    group.add_argument("--seed", metavar="N", type=seed, help="the same seed gives the same result (default: 0)")
    if engine:
        group.add_argument(
            "--engine",
            metavar="NAME",
            help="what runs the model: auto, c, jax, torch (fit only) or pyro (default: auto)",
        )
    group.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: auto)")
    add_keeping(group, checkpoints=checkpoints)


def add_keeping(
    group: Any,
    *,
    what: str = "where to save (default: runs/, under the target's name)",
    overwrite: bool = True,
    checkpoints: bool = False,
) -> None:
    """Where a run is kept, and what may happen to what is there."""
    group.add_argument("--out", metavar="DIR", help=what)
    if overwrite:
        group.add_argument(
            "--overwrite", action="store_true", help="replace what DIR holds, which stays until this run is finished"
        )
    group.add_argument(
        "--resume", action="store_true", help="take the same run from DIR if it is there, or go on with it, else run it"
    )
    group.add_argument(
        "--any-version", action="store_true", help="with --resume: go on even if versions of libraries are others"
    )
    if checkpoints:
        group.add_argument(
            "--checkpoint-every",
            metavar="SECONDS",
            type=positive,
            help="time between checkpoints (default: 60, or more where they would take over 1%% of the time)",
        )
