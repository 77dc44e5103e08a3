"""The words of ``evaluate`` and ``sample``: what is done with a fitted model."""

from __future__ import annotations

import argparse
from typing import Any

from pyrolvm._cli.options import count, key_value, seed, share, sides
from pyrolvm._cli.words import CODES, DATA, GUIDE, TARGET, Commands, add_data, add_keeping, add_method, command
from pyrolvm._methods.table import METHODS

__all__ = ["add_check", "add_compress", "add_evaluate", "add_predict", "add_sample"]


def add_evaluate(commands: Commands) -> None:
    """``pyrolvm evaluate``."""
    parser = command(
        commands,
        "evaluate",
        "evaluating",
        "Evaluate a fitted model on held-out data: log p(x), bound, bits, units, pictures, outliers; a table and a page.",
        "RUN is a folder that fit, nuts, smc, exact or infer wrote. A TARGET in its place is fitted first, as by pyrolvm fit.\n"
        "Where rows share latents they are scored as by pyrolvm predict: log p(x), CRPS, coverage, PIT.\n\n"
        f"{TARGET}\n{DATA}\n{GUIDE}\nexamples:\n"
        "  pyrolvm evaluate runs/a --held-out test.npz --shape 28x28 --out runs/a-test\n"
        "  pyrolvm evaluate runs/a --problem my_model.py:vae --data train.npz --guide my_model.py:encoder --held-out test.npz\n"
        "  pyrolvm evaluate vae --batch-size 100 --hold-out 0.25 --draws 1000 --out runs/vae-test\n\n"
        f"{CODES}",
    )
    _fitted(parser, "RUN or TARGET", "a saved result, or what to fit")
    parser.add_argument(
        "--hold-out", metavar="SHARE", type=share, help="of a TARGET: fit to the other rows, evaluate on these"
    )
    add_method(parser, METHODS["fit"], but=("draws",))
    group = parser.add_argument_group("the evaluation")
    group.add_argument("--held-out", metavar="FILE", help="the model's arguments on new rows: .npz, .json or .csv")
    group.add_argument(
        "--draws", metavar="K", type=count, help="draws of a row (default: 5000), or of the posterior (default: 1000)"
    )
    group.add_argument("--rows", metavar="N", type=count, help="how many rows to look at (default: all)")
    _add_members(group)
    group.add_argument("--labels", metavar="NAME", help="the array of --held-out (and --data) that holds classes")
    group.add_argument(
        "--outliers",
        metavar="[NAME=]FILE",
        action="append",
        default=[],
        help="another data set to tell from; repeatable",
    )
    group.add_argument("--shape", metavar="HxW", type=sides, help="a row is an image, such as 28x28, or 32x32x3")
    group.add_argument("--levels", metavar="N", type=count, help="levels of dequantised values, such as 256")
    group.add_argument("--seed", metavar="N", type=seed, help="the same seed gives the same figures (default: 0)")
    add_keeping(group, what="where figures, page and pictures go (default: runs/, numbered)")


def add_sample(commands: Commands) -> None:
    """``pyrolvm sample``."""
    parser = command(
        commands,
        "sample",
        "sampling",
        "Draw from a saved result: new data from the model, latents of the data, or data given those latents.",
        f"examples:\n"
        "  pyrolvm sample runs/a --draws 100 --shape 28x28 --out new.png\n"
        "  pyrolvm sample runs/a --of latents --draws 1000 --out latents.nc\n"
        "  pyrolvm sample runs/a --problem my_model.py:model --data data.npz --out new.csv\n\n"
        f"{CODES}",
    )
    _fitted(parser, "RUN", "a folder written by fit, nuts, exact or infer")
    group = parser.add_argument_group("the draws")
    group.add_argument(
        "--of", metavar="WHAT", default="new",
        help="new (rows: latents from the prior, data from the likelihood), latents (of the data's posterior), or predictive (data "
        "given those, as stored) (default: new)",
    )  # fmt: skip
    group.add_argument("--draws", metavar="N", type=count, default=100, help="how many (default: 100)")
    group.add_argument("--shape", metavar="HxW", type=sides, help="for a .png: a row is an image, such as 28x28")
    group.add_argument(
        "--seed", metavar="N", type=seed, default=0, help="the same seed gives the same draws (default: 0)"
    )
    _add_file(group, "a .nc (ArviZ), .csv or .png file", required=True)


def add_check(commands: Commands) -> None:
    """``pyrolvm check``."""
    parser = command(
        commands,
        "check",
        "checking",
        "Hold data that a model makes against the data that there are, before inference and after it; a table and a page.",
        "RUN is a folder that fit, nuts, exact or infer wrote. Of a TARGET in its place the prior is checked.\n\n"
        f"{TARGET}\n{DATA}\nexamples:\n"
        "  pyrolvm check my_model.py:model --data data.csv\n"
        "  pyrolvm check runs/a --problem my_model.py:model --data data.csv --by school --out runs/a-check\n\n"
        f"{CODES}",
    )
    _fitted(parser, "RUN or TARGET", "a saved result, or a problem")
    group = parser.add_argument_group("the check")
    group.add_argument("--by", metavar="COLUMN", help="look at groups of rows too: an argument or column of the data")
    group.add_argument("--draws", metavar="N", type=count, help="replicated data sets (default: 500)")
    group.add_argument("--seed", metavar="N", type=seed, help="of data sets from the prior of a TARGET (default: 0)")
    add_keeping(group, what="where the check and its page go (default: nowhere)")


def add_predict(commands: Commands) -> None:
    """``pyrolvm predict``."""
    parser = command(
        commands,
        "predict",
        "predicting",
        "Predict new data from a saved posterior, or score new data that are known.",
        "--new gives new values of the model's arguments by name, as --data does; observations that it lacks are predicted,\n"
        "those that it has are scored.\n\nexamples:\n"
        "  pyrolvm predict runs/a --new new.csv --out predictions.csv\n"
        "  pyrolvm predict runs/a --problem my_model.py:model --data data.csv --new new.csv --out predictions.nc\n"
        "  pyrolvm predict runs/a --new new.npz --members school=new --kind mean --out predictions.csv\n\n"
        f"{CODES}",
    )
    _fitted(parser, "RUN", "a folder written by fit, nuts, exact or infer")
    group = parser.add_argument_group("what is predicted")
    group.add_argument("--new", metavar="FILE", help="new arguments: .npz, .json or .csv (default: the fit's own)")
    group.add_argument("--rows", metavar="N", type=count, help="how many rows, where no argument tells")
    _add_members(group)
    group.add_argument(
        "--kind",
        choices=("draws", "mean"),
        default="draws",
        help="draws of the data, or their mean given each draw (default: draws)",
    )
    group.add_argument("--draws", metavar="N", type=count, help="posterior draws to take (default: 1000)")
    group.add_argument(
        "--seed", metavar="N", type=seed, default=0, help="the same seed gives the same draws (default: 0)"
    )
    _add_file(group, "a .csv (summaries) or .nc (ArviZ, all draws) file", required=True)


def add_compress(commands: Commands) -> None:
    """``pyrolvm compress`` and ``pyrolvm decompress``."""
    parser = command(
        commands,
        "compress",
        "compressing",
        "Make rows of discrete data a file of as few bits as a saved fit says that they have, without loss.",
        "examples:\n"
        "  pyrolvm compress runs/a test.npz --out test.lvmz\n"
        "  pyrolvm decompress runs/a test.lvmz --out again.npz\n\n"
        f"{CODES}",
    )
    _fitted(parser, "RUN", "a folder written by fit")
    parser.add_argument("file", metavar="DATA", help="the rows: the model's argument, in an .npz, .json or .csv file")
    parser.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True, help="decode before writing (default: yes)"
    )
    _add_file(parser, "the compressed file, .lvmz", required=True)
    parser = command(
        commands,
        "decompress",
        "compressing",
        "Read the rows that pyrolvm compress wrote, by the same fit.",
        "examples:\n  pyrolvm decompress runs/a test.lvmz --out again.npz\n\n" + CODES,
    )
    _fitted(parser, "RUN", "the folder of the fit that they were compressed by")
    parser.add_argument("file", metavar="FILE", help="what pyrolvm compress wrote")
    _add_file(parser, "the rows: an .npz or .csv file", required=True)


def add_loo(commands: Commands) -> None:
    """``pyrolvm loo``."""
    parser = command(
        commands,
        "loo",
        "scoring",
        "How well the model of a saved posterior predicts each row from all others: leave-one-out cross-validation.",
        "examples:\n"
        "  pyrolvm loo runs/a\n"
        "  pyrolvm loo runs/a --problem my_model.py:model --data data.csv --refit --out rows.csv\n\n"
        f"{CODES}",
    )
    _fitted(parser, "RUN", "a folder written by fit, nuts, smc, exact or infer")
    group = parser.add_argument_group("what is left out")
    group.add_argument(
        "--site", metavar="NAME", help="the observed site whose rows are left out, where there are several"
    )
    group.add_argument("--refit", action="store_true", help="fit again without each row whose k-hat is too high")
    _add_file(group, "a .csv file for the figures of each row")


def add_compare_models(commands: Commands) -> None:
    """``pyrolvm compare-models``."""
    parser = command(
        commands,
        "compare-models",
        "scoring",
        "Saved posteriors of several models of the same rows, by how well each predicts rows that it has not seen.",
        "examples:\n"
        "  pyrolvm compare-models runs/linear runs/quadratic\n"
        "  pyrolvm compare-models runs/a runs/b --out compared.csv\n\n"
        f"{CODES}",
    )
    parser.add_argument("run", metavar="RUN", nargs="+", help="folders written by fit, nuts, smc, exact or infer")
    parser.add_argument(
        "--site", metavar="NAME", help="the observed site whose rows are left out, where there are several"
    )
    _add_file(parser, "a .csv file for the table")


def _add_members(group: Any) -> None:
    """Who the members of plates are."""
    group.add_argument(
        "--members", metavar="PLATE=WHO", action="append", type=key_value, default=[],
        help="which member of the fit each member of a plate is: new, same, or a JSON list of numbers, null for new ones; repeatable",
    )  # fmt: skip


def _add_file(group: Any, what: str, *, required: bool = False) -> None:
    """A file that a command writes, and whether it may replace one."""
    group.add_argument("--out", metavar="FILE", required=required, help=what)
    group.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def _fitted(parser: argparse.ArgumentParser, metavar: str, what: str) -> None:
    """A run, and what it takes to attach a model of the user's own to it."""
    parser.add_argument("target", metavar=metavar, help=what)
    group = parser.add_argument_group("the model of a RUN, where it is not a registered one")
    group.add_argument("--problem", metavar="TARGET", help="path/file.py:name of the model that the run was made with")
    group.add_argument(
        "--guide", metavar="GUIDE", help="the guide that it was made with, or that a TARGET is fitted with"
    )
    add_data(group)
