"""``pyrolvm predict``: what a saved posterior says of new data, as a table or with all its draws."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.writing import replace_file
from pyrolvm._check.predict.streaming import STATISTICS
from pyrolvm._cli.fitted import attached
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_file
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.sources import checked, load_data
from pyrolvm._results import store

__all__ = ["run"]

SUFFIXES = (".nc", ".csv")
SCORES = ("lpd", "crps", "pit")


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``predict``."""
    file = choose_file(args.out, SUFFIXES, overwrite=args.overwrite)
    posterior = attached(args)
    data = {} if args.new is None else {name: checked(value) for name, value in load_data(Path(args.new)).items()}
    names = list(posterior.attached.arguments)
    unknown = [name for name in data if name not in names]
    new = {name: value for name, value in data.items() if name in names}
    if data and not new:
        raise ArgumentError(
            f"--new {args.new} has {', '.join(data)}, none of which is an argument of {posterior.attached.name} ({', '.join(names)}). "
            "Fix: name its columns like them."
        )
    words = {
        "members": dict(args.members),
        "rows": args.rows,
        "kind": args.kind,
        "draws": args.draws,
        "seed": args.seed,
    }
    whole = file.suffix.lower() == ".nc"
    found = lvm.predict(posterior, summary=not whole, **{name: value for name, value in words.items() if value}, **new)
    if unknown:
        out.note(f"left aside, since {posterior.attached.name} has no such argument: {', '.join(unknown)}")
    if whole:
        replace_file(file, lambda opened: store.write_tree(found, opened))
    else:
        text = _table(found).to_csv(index=False)
        replace_file(file, lambda opened: opened.write(text.encode()))
    shapes = {
        f"{group}/{name}": list(v.shape) for group in found.children for name, v in found[group].data_vars.items()
    }
    out.line(f"{posterior.name} of {posterior.attached.name}, {args.kind}, seed {args.seed}", style="bold")
    out.table([[name, " x ".join(map(str, shape))] for name, shape in shapes.items()], ["group/variable", "shape"])
    out.line(f"written: {file}")
    out.write_json({"command": "predict", "run": args.target, "file": str(file), "shapes": shapes})
    return 0


def _table(found: Any) -> Any:
    """A line for each value: its mean, sd and quantiles over all draws; of what is given, its scores."""
    import pandas as pd

    lines = []
    scored = found["scores"].to_dataset() if "scores" in found.children else {}
    for name, values in found["predictions"].data_vars.items():
        flat = values.to_numpy().reshape(-1, len(STATISTICS))
        marks = {
            mark: np.asarray(scored[f"{name}_{mark}"]).reshape(-1) for mark in SCORES if f"{name}_{mark}" in scored
        }
        lines.append(
            pd.DataFrame(
                {
                    "variable": str(name), "index": np.arange(len(flat)), **dict(zip(STATISTICS, flat.T, strict=True)),
                    **{mark: one for mark, one in marks.items() if len(one) == len(flat)},
                }
            )
        )  # fmt: skip
    return pd.concat(lines, ignore_index=True)
