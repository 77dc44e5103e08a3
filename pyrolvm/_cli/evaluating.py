"""``pyrolvm evaluate``: what a fitted model is worth on data that it has not seen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.errors import ArgumentError, DataError
from pyrolvm._check.evaluate import split
from pyrolvm._check.evaluate.html import page
from pyrolvm._check.evaluate.storage import CODEC, COMMAND
from pyrolvm._cli.fitted import arguments_in, attached, is_run
from pyrolvm._cli.inference import given
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import choose_folder, kept, picture
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.sources import checked, load_data
from pyrolvm._cli.target import load_guide, load_problem, target_name
from pyrolvm._cli.words import plain_words
from pyrolvm._methods.table import METHODS
from pyrolvm._results import store
from pyrolvm.family.choice import resolve

__all__ = ["run"]

FIT_WORDS = plain_words(METHODS["fit"], but=("draws", "engine", "device"))
WORDS = ("draws", "rows", "shape", "levels", "seed")
PAGE, PICTURES = "report.html", "pictures"


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``evaluate``; returns 1 where the verdict is ``failed``."""
    saved = is_run(args.target)
    if saved and args.hold_out is not None:
        raise ArgumentError("--hold-out is for a TARGET, before it is fitted. Fix: give new rows with --held-out FILE.")
    if args.hold_out is not None and args.held_out is not None:
        raise ArgumentError("--hold-out and --held-out both say what to evaluate on. Fix: leave one out.")
    default = f"{Path(args.target).name if saved else target_name(args.target)}-evaluation"
    folder = choose_folder(args, default)
    words: dict[str, Any] = given(args, WORDS) | ({"members": dict(args.members)} if args.members else {})
    if saved:
        found = _evaluated(args, attached(args), None, words, out, kept(args, folder))
    else:
        found = _fitted(args, words, out, kept(args, folder))
    _show(found, out)
    pictures = found.drawn()
    runs.write_pages(
        folder,
        {
            PAGE: lambda file: file.write(page(found).encode()),
            **{f"{PICTURES}/{name}": picture(figure) for name, figure in pictures.items()},
        },
    )
    out.line(f"saved in {folder}: {PAGE}, and {len(pictures)} pictures in {PICTURES}/")
    out.next([f"lvm.load({str(folder)!r}).rows    the figures of each row"])
    out.write_json({"command": "evaluate", "target": args.target, "saved": str(folder), **found.as_dict()})
    return int(found.verdict.status == "failed")


def _evaluated(
    args: argparse.Namespace,
    fit: lvm.Posterior,
    held: Any,
    words: dict[str, Any],
    out: Output,
    where: Mapping[str, Any],
) -> lvm.Evaluation:
    if args.held_out is not None:
        held, words = _held(args, fit, words)
    elif args.labels is not None:
        raise ArgumentError("--labels names an array of the held-out data. Fix: add --held-out FILE.")
    words = words | {"outliers": dict(_outliers(text, fit) for text in args.outliers) or None}
    return lvm.evaluate(fit, held, progress=out.progress, **words, **where)


def _fitted(args: argparse.Namespace, words: dict[str, Any], out: Output, where: Mapping[str, Any]) -> lvm.Evaluation:
    """The evaluation of a target, which is fitted first, to all rows or to those that are not held out."""
    if args.problem is not None:
        raise ArgumentError(
            f"--problem is for a saved run, and there is no folder {args.target!r}. Fix: check the path, or leave --problem out."
        )
    guide = load_guide(args.guide or "auto")
    problem = load_problem(args)
    out.note(f"{problem!r}")
    held = None
    if args.hold_out is not None:
        problem, held = split(problem, args.hold_out, seed=args.seed or 0)

    def work(run: runs.Run | None) -> lvm.Evaluation:
        assert run is not None
        asked = run.stage("fit")
        fit = lvm.fit(
            problem, guide, progress=out.progress, out=asked.out, resume=asked.resume, **given(args, FIT_WORDS)
        )
        out.note(f"{fit}")
        return _evaluated(args, fit, held, words, out, {})

    files = [Path(name) for name in (args.held_out, *(text.rpartition("=")[2] for text in args.outliers)) if name]
    about = store.identity(
        "Evaluation", problem, resolve(guide, problem), args.seed or 0,
        {"fit": given(args, FIT_WORDS), "arguments": words, "labels": args.labels, "held out": held,
         "files": [load_data(file) for file in files]},
    )  # fmt: skip
    return runs.run(runs.order(**where), COMMAND, about, CODEC, work)


def _held(
    args: argparse.Namespace, fit: lvm.Posterior, words: dict[str, object]
) -> tuple[Mapping[str, object], dict[str, object]]:
    """The held-out arguments by name, and the labels among them."""
    content = load_data(Path(args.held_out))
    held = arguments_in(content, fit, f"--held-out {args.held_out}")
    if args.labels is None:
        return held, words
    if args.labels not in content:
        raise DataError(
            f"--labels {args.labels}: {args.held_out} holds {', '.join(sorted(content))}. Fix: name an array of that file."
        )
    words = words | {"labels": np.asarray(checked(content[args.labels]))}
    if args.data:
        own = load_data(Path(args.data))
        if args.labels in own:
            words["train_labels"] = np.asarray(checked(own[args.labels]))
    return held, words


def _outliers(text: str, fit: lvm.Posterior) -> tuple[str, dict[str, object]]:
    """A data set and its name, from ``NAME=FILE`` or ``FILE``."""
    name, equals, file = text.partition("=")
    path = Path(file if equals else text)
    return (name if equals else path.stem), arguments_in(load_data(path), fit, f"--outliers {path}")


def _show(found: lvm.Evaluation, out: Output) -> None:
    rows = int(found.data["rows"].sizes["row"])
    out.line(
        f"{found.name} on {found.problem}: {rows:,} rows; {found.how}; {found.engine}; {found.seconds:.1f} s",
        style="bold",
    )
    out.frame(found.table[["value", "error", "row_error", "train", "unit"]])
    if found.auroc is not None:
        out.frame(found.auroc, title="AUROC of scores for outliers")
    for name, why in found.left_out.items():
        out.note(f"left out: {name}: {why}")
    out.verdict(found.verdict)
