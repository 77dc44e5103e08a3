"""``pyrolvm predict``: what a saved posterior says of new data, as a table or with all its draws."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.writing import replace_file
from pyrolvm._check.predict.inference import draws_taken
from pyrolvm._check.predict.streaming import BEHIND, STATISTICS, rows_at_once, seed_of
from pyrolvm._cli.fitted import attached
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_file
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.sources import checked, data_pieces, load_data
from pyrolvm._results import store

__all__ = ["run"]

SUFFIXES = (".nc", ".csv")
SCORES = ("lpd", "crps", "pit")

New = dict[str, Any]
"""New arguments by name."""

Shapes = dict[str, list[int]]


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``predict``."""
    file = choose_file(args.out, SUFFIXES, overwrite=args.overwrite)
    posterior = attached(args)
    words = {"members": dict(args.members), "rows": args.rows, "kind": args.kind, "draws": args.draws}
    words = {name: value for name, value in words.items() if value}
    if file.suffix.lower() == ".nc":
        found = lvm.predict(posterior, seed=args.seed, **words, **_new(args, posterior, out))
        replace_file(file, lambda opened: store.write_tree(found, opened))
        shapes = _shapes(found)
    else:
        shapes = {}
        replace_file(file, lambda opened: _write(opened, args, posterior, words, out, shapes))
    out.line(f"{posterior.name} of {posterior.attached.name}, {args.kind}, seed {args.seed}", style="bold")
    out.table([[name, " x ".join(map(str, shape))] for name, shape in shapes.items()], ["group/variable", "shape"])
    out.line(f"written: {file}")
    out.write_json({"command": "predict", "run": args.target, "file": str(file), "shapes": shapes})
    return 0


def _shapes(found: Any) -> Shapes:
    return {f"{group}/{name}": list(v.shape) for group in found.children for name, v in found[group].data_vars.items()}


def _new(args: argparse.Namespace, posterior: lvm.Posterior, out: Output) -> New:
    """The new arguments, all of them."""
    content = {} if args.new is None else load_data(Path(args.new))
    return _known(args, posterior, content, out)


def _known(
    args: argparse.Namespace, posterior: lvm.Posterior, content: Mapping[str, object], out: Output | None
) -> New:
    """The arguments of the model among what a file holds."""
    names = list(posterior.attached.arguments)
    data = {name: checked(value) for name, value in content.items()}
    new = {name: value for name, value in data.items() if name in names}
    if data and not new:
        raise ArgumentError(
            f"--new {args.new} has {', '.join(data)}, none of which is an argument of {posterior.attached.name} ({', '.join(names)}). "
            "Fix: name its columns like them."
        )
    unknown = [name for name in data if name not in names]
    if unknown and out is not None:
        out.note(f"left aside, since {posterior.attached.name} has no such argument: {', '.join(unknown)}")
    return new


def _write(
    opened: BinaryIO,
    args: argparse.Namespace,
    posterior: lvm.Posterior,
    words: dict[str, Any],
    out: Output,
    shapes: Shapes,
) -> None:
    """The table of a prediction, piece after piece of the new data."""
    pieces = _pieces(args, posterior, words, out)
    before, number = next(pieces), 0
    for number, piece in enumerate(pieces, 1):
        _piece(opened, args, posterior, words, before, number - 1, shapes, several=True)
        before = piece
    _piece(opened, args, posterior, words, before, number, shapes, several=number > 0)


def _pieces(args: argparse.Namespace, posterior: lvm.Posterior, words: dict[str, Any], out: Output) -> Iterator[New]:
    """The new arguments: of a table as many rows at a time as go at once, unless members are named one by one."""
    by_number = any(not isinstance(who, str) for who in words.get("members", {}).values())
    if args.new is None or Path(args.new).suffix.lower() != ".csv" or by_number:
        yield _new(args, posterior, out)
        return
    step = rows_at_once(draws_taken(posterior, args.draws))
    for number, content in enumerate(data_pieces(Path(args.new), step)):
        yield _known(args, posterior, content, None if number else out)


def _piece(
    opened: BinaryIO, args: argparse.Namespace, posterior: lvm.Posterior, words: dict[str, Any], new: New,
    number: int, shapes: Shapes, *, several: bool,
) -> None:  # fmt: skip
    """Predicts a piece of the new data and writes its lines.

    Raises:
        ArgumentError: if its rows follow from those of other pieces.
    """
    found = lvm.predict(posterior, summary=True, seed=seed_of(args.seed, number), **words, **new)
    if several and BEHIND in found["predictions"].attrs:
        raise ArgumentError(
            f"rows of {posterior.attached.name} follow from those before them, so that --new {args.new} cannot be predicted in pieces. "
            "Fix: ask for fewer --draws, so that all rows go at once, or write --out FILE.nc."
        )
    rows = max((len(one) for one in new.values() if hasattr(one, "__len__")), default=0)
    told = _shapes(found)
    if several:
        told = {name: shape for name, shape in told.items() if shape and shape[0] == rows}
    table = _table(
        found, {name: shapes[name][0] for name in told if name in shapes and several}, told if several else None
    )
    for name, shape in told.items():
        shapes[name] = [shapes[name][0] + shape[0], *shape[1:]] if name in shapes else shape
    opened.write(table.to_csv(index=False, header=number == 0).encode())


def _table(found: Any, before: Mapping[str, int], kept: Mapping[str, Any] | None) -> Any:
    """A line for each value: its mean, sd and quantiles over all draws; of what is given, its scores.

    Args:
        found: the prediction.
        before: how many rows there were of each variable before.
        kept: the variables that go on from piece to piece; ``None`` for all.
    """
    import pandas as pd

    lines = []
    scored = found["scores"].to_dataset() if "scores" in found.children else {}
    for name, values in found["predictions"].data_vars.items():
        if kept is not None and f"predictions/{name}" not in kept:
            continue
        flat = values.to_numpy().reshape(-1, len(STATISTICS))
        marks = {
            mark: np.asarray(scored[f"{name}_{mark}"]).reshape(-1) for mark in SCORES if f"{name}_{mark}" in scored
        }
        first = before.get(f"predictions/{name}", 0) * (len(flat) // max(len(values), 1))
        lines.append(
            pd.DataFrame(
                {
                    "variable": str(name), "index": np.arange(first, first + len(flat)),
                    **dict(zip(STATISTICS, flat.T, strict=True)),
                    **{mark: one for mark, one in marks.items() if len(one) == len(flat)},
                }
            )
        )  # fmt: skip
    return pd.concat(lines, ignore_index=True)
