"""``pyrolvm sample``: draws from a saved result, written to a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError, unknown_name
from pyrolvm._base.writing import replace_file
from pyrolvm._cli.fitted import attached
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_file
from pyrolvm._cli.signals import Stopped
from pyrolvm._results import store

__all__ = ["run"]

KINDS = ("new", "latents", "predictive")
SUFFIXES = (".nc", ".csv", ".png")

MOST_COLUMNS = 20_000
"""Columns of a table that a spreadsheet can still open."""


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``sample``."""
    if args.of not in KINDS:
        raise unknown_name("kind of draw", args.of, KINDS)
    file = choose_file(args.out, SUFFIXES, overwrite=args.overwrite)
    fit = attached(args)
    tree = _drawn(fit, args)
    if file.suffix.lower() == ".nc":
        replace_file(file, lambda opened: store.write_tree(tree, opened))
    elif file.suffix.lower() == ".csv":
        _write_table(_main(tree), file)
    else:
        _picture(fit, tree, args, file)
    shapes = {f"{group}/{name}": list(v.shape) for group in tree.children for name, v in tree[group].data_vars.items()}
    out.line(f"{args.draws:,} draws of {fit.name} on {fit.attached.name}, {args.of}, seed {args.seed}", style="bold")
    out.table([[name, " x ".join(map(str, shape))] for name, shape in shapes.items()], ["group/variable", "shape"])
    out.line(f"written: {file}")
    out.write_json(
        {
            "command": "sample",
            "run": args.target,
            "of": args.of,
            "draws": args.draws,
            "file": str(file),
            "shapes": shapes,
        }
    )
    return 0


def _drawn(fit: lvm.Posterior, args: argparse.Namespace) -> Any:
    """The draws as a tree."""
    import xarray as xr

    if args.of == "new":
        return lvm.generate(fit, args.draws, seed=args.seed)
    if args.of == "latents":
        return xr.DataTree.from_dict({"posterior": fit.sample(args.draws, seed=args.seed)})
    if "posterior_predictive" not in fit.data.children:
        raise ArgumentError(
            f"{args.target} has no stored predictive draws. Fix: use --of new, or fit again with draws."
        )
    stored = fit.data["posterior_predictive"].to_dataset().stack(sample=("chain", "draw"))
    total = stored.sizes["sample"]
    if args.draws > total:
        raise ArgumentError(
            f"--draws {args.draws} is more than the {total:,} that are stored. Fix: use --draws {total}."
        )
    chosen = np.random.default_rng(args.seed).choice(total, size=args.draws, replace=False)
    picked = stored.isel(sample=chosen).drop_vars(["sample", "chain", "draw"]).transpose("sample", ...)
    return xr.DataTree.from_dict({"posterior_predictive": picked})


def _main(tree: Any) -> Any:
    """The group that was asked for: of new rows, the data."""
    for group in ("prior_predictive", "posterior", "posterior_predictive"):
        if group in tree.children:
            return tree[group].to_dataset()
    raise ArgumentError("there is nothing to write. Fix: use --out with .nc.")


def _write_table(dataset: Any, file: Path) -> None:
    """A line for each draw, a column for each value: ``x`` or ``x.1``, ``x.2``, ..., as ``--data`` reads them."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, values in dataset.data_vars.items():
        lead = 2 if values.dims[:2] == ("chain", "draw") else 1
        array = values.to_numpy()
        array = array.reshape(int(np.prod(array.shape[:lead])), -1)
        if array.shape[1] > MOST_COLUMNS:
            raise ArgumentError(
                f"{name} has {array.shape[1]:,} values a draw, too many for columns. Fix: use --out with .nc."
            )
        single = array.shape[1] == 1
        columns |= {str(name) if single else f"{name}.{i + 1}": array[:, i] for i in range(array.shape[1])}
    text = pd.DataFrame(columns).to_csv(index=False)
    replace_file(file, lambda opened: opened.write(text.encode()))


def _picture(fit: lvm.Posterior, tree: Any, args: argparse.Namespace, file: Path) -> None:
    """A grid of images: of new rows, the likelihood's mean where it has one."""
    from pyrolvm._check.evaluate.plots import image_grid

    if args.of == "latents":
        raise ArgumentError("--of latents is no image. Fix: use --out with .nc or .csv, or --of new.")
    images = fit.attached.info.images
    dataset = tree["likelihood_mean"].to_dataset() if "likelihood_mean" in tree.children else _main(tree)
    if args.of == "predictive":
        dataset = _main(tree)
    name = next((name for name in images if name in dataset), next(iter(dataset.data_vars)))
    image = lvm.Image.of(args.shape) if args.shape else images.get(name)
    if image is None:
        raise ArgumentError(
            f"nothing says that {name!r} is an image. Fix: add --shape 28x28, with its height and width."
        )
    grid = image_grid(image, dataset[name].to_numpy())
    replace_file(file, lambda opened: grid.savefig(opened, format="png", dpi=130))
