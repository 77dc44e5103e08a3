"""Commands that other distributions register."""

from __future__ import annotations

import argparse

from pyrolvm._base.commands import COMMANDS
from pyrolvm._base.errors import PluginError
from pyrolvm._cli.output import Output
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_problem

__all__ = ["run"]


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs a registered command; what was stopped has code 130 whatever it returns."""
    command = COMMANDS.named(args.command)
    if command.problem:
        args.problem = load_problem(args)
    code = command.run(args, out)
    if not isinstance(code, int):
        raise PluginError(
            f"command {args.command!r} returned a {type(code).__name__}, expected its exit code. "
            "Fix: end its function with return 0."
        )
    return code
