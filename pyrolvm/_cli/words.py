"""What several commands have in common: their common options, and the texts that explain them."""

from __future__ import annotations

import argparse
from typing import Any

from pyrolvm._cli.options import count, dtype, key_value, positive, seed, share

__all__ = [
    "CODES",
    "DATA",
    "GUIDE",
    "TARGET",
    "add_data",
    "add_optimisation",
    "add_picture",
    "add_problem",
    "add_run",
    "add_sampling",
    "command",
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


def command(commands: Any, name: str, module: str, does: str, epilog: str) -> argparse.ArgumentParser:
    """A command with what all of them take."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=does, description=does, epilog=epilog)
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


def add_optimisation(parser: argparse.ArgumentParser) -> None:
    """What a fit takes."""
    group = parser.add_argument_group("variational inference")
    group.add_argument("--objective", metavar="NAME", help="what is maximised (default: chosen for guide and problem)")
    group.add_argument("--learning-rate", metavar="X", type=positive, help="the rate before it decays")
    group.add_argument("--max-steps", metavar="N", type=count, help="the most optimisation steps to take")
    group.add_argument("--num-particles", metavar="N", type=count, help="draws per gradient estimate")
    group.add_argument("--batch-size", metavar="N", type=count, help="rows per step (default: all)")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """What NUTS takes."""
    group = parser.add_argument_group("NUTS")
    group.add_argument("--chains", metavar="N", type=count, help="independent chains (default: 4)")
    group.add_argument("--warmup", metavar="N", type=count, help="adaptation steps per chain (default: 1000)")
    group.add_argument("--draws", metavar="N", type=count, help="draws per chain (default: 1000)")
    group.add_argument("--target-accept", metavar="P", type=share, help="acceptance rate to adapt to (default: 0.8)")
    group.add_argument("--kernel", metavar="NAME", help="the sampler: auto, numpyro or nutpie (default: auto)")


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
