"""A saved run with the model that it was made with."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.errors import ArgumentError, DataError, StoreError
from pyrolvm._cli.sources import checked
from pyrolvm._cli.target import load_guide, load_problem

__all__ = ["arguments_in", "attached", "is_run"]


def is_run(target: str) -> bool:
    """Whether a target is a folder, and not something to fit."""
    return Path(target).is_dir()


def arguments_in(content: Mapping[str, object], fit: lvm.Posterior, what: str) -> dict[str, object]:
    """The model's arguments among the arrays of a file.

    Raises:
        DataError: if there is none.
    """
    names = list(fit.attached.arguments)
    found = {name: checked(content[name]) for name in names if name in content}
    if not found:
        raise DataError(
            f"{what} holds {', '.join(sorted(content)) or 'nothing'}, and {fit.attached.name} takes {', '.join(names)}. "
            "Fix: name the arrays as the model's arguments."
        )
    return found


def attached(args: argparse.Namespace) -> lvm.Posterior:
    """The saved posterior that ``args.target`` names, with its problem and guide.

    Raises:
        StoreError: if there is none, or it needs a model that was not given, or was made with another one.
    """
    path = Path(args.target)
    if not path.exists():
        raise StoreError(f"there is no run at {args.target!r}. Fix: check the path; `ls runs` shows what is saved.")
    if runs.Manifest.read(path) is None:
        raise StoreError(
            f"{args.target!r} holds no saved result. Fix: pass a folder that pyrolvm fit wrote, or one of a comparison's posteriors/."
        )
    problem, guide = None, None
    if args.problem is not None:
        problem = load_problem(argparse.Namespace(**{**vars(args), "target": args.problem}))
        guide = None if args.guide is None else load_guide(args.guide)
    elif args.data or args.guide:
        raise ArgumentError(
            "--data and --guide belong to a model of your own. Fix: name it with --problem path/file.py:model."
        )
    found: object = lvm.load(path, problem=problem, guide=guide)
    if not isinstance(found, lvm.Posterior):
        raise StoreError(
            f"{args.target} holds a {type(found).__name__}, which cannot be drawn from. Fix: pass a folder of pyrolvm fit."
        )
    if found.problem is None:
        raise StoreError(
            f"{args.target} was made with a model of your own, {found.data['posterior'].attrs.get('pyrolvm_problem', '')!r}. "
            "Fix: add --problem path/file.py:model --data FILE, as it was fitted."
        )
    if isinstance(found, lvm.Fit) and found.guide is None and found.problem.latents:
        raise StoreError(
            f"{args.target} was made with a guide of your own. Fix: add --problem {args.problem or 'TARGET'} --guide file.py:guide."
        )
    return found
