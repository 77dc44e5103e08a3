"""``pyrolvm loo`` and ``pyrolvm compare-models``: leave-one-out cross-validation of saved posteriors."""

from __future__ import annotations

import argparse
from pathlib import Path

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError, StoreError
from pyrolvm._base.writing import replace_file
from pyrolvm._cli.fitted import attached
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_file
from pyrolvm._cli.signals import Stopped

__all__ = ["run"]

SUFFIXES = (".csv",)


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs either command; returns 1 where the verdict is ``failed``."""
    file = None if args.out is None else choose_file(args.out, SUFFIXES, overwrite=args.overwrite)
    if args.command == "loo":
        found = _posterior(args).loo(site=args.site, refit=args.refit)
        out.line(f"{found.name}: {found}", style="bold")
        out.verdict(found.verdict)
        told, status, table = found.as_dict(), found.verdict.status, found.to_dataframe().reset_index()
    else:
        compared = lvm.compare_models(_named(args.run), site=args.site)
        out.frame(compared.table.dropna(axis=1, how="all"))
        for line in compared.advice:
            out.line(line)
        out.verdict(compared.verdict)
        told, status, table = compared.as_dict(), compared.verdict.status, compared.table.reset_index()
    if file is not None:
        text = table.to_csv(index=False)
        replace_file(file, lambda opened: opened.write(text.encode()))
        out.line(f"written: {file}")
    out.write_json({"command": args.command, **told})
    return 1 if status == "failed" else 0


def _posterior(args: argparse.Namespace) -> lvm.Posterior:
    """The saved posterior; with its model only where that was named, or rows are to be fitted again."""
    if args.problem is not None or args.refit:
        return attached(args)
    return _loaded(args.target)


def _loaded(path: str) -> lvm.Posterior:
    found: object = lvm.load(path)
    if not isinstance(found, lvm.Posterior):
        raise StoreError(
            f"{path} holds a {type(found).__name__}, not a posterior. Fix: pass a folder of pyrolvm fit or nuts."
        )
    return found


def _named(paths: list[str]) -> dict[str, lvm.Posterior]:
    """Posteriors by the names of their folders, or their paths where names are alike."""
    names = [Path(path).name for path in paths]
    labels = names if len(set(names)) == len(names) else paths
    if len(set(labels)) < len(labels):
        raise ArgumentError("one run is given twice. Fix: give each once.")
    return {label: _loaded(path) for label, path in zip(labels, paths, strict=True)}
