"""Run folders on the command line: where they are, what may be written there, and what they hold."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pyrolvm import _runs as runs
from pyrolvm._base.errors import ArgumentError, StoreError
from pyrolvm._runs.sealing import opened, sealed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "PARTS",
    "choose_file",
    "choose_folder",
    "choose_picture",
    "in_force",
    "kept",
    "kind_of",
    "picture",
    "posteriors_in",
    "slug",
    "told",
    "write_parts",
]

ROOT = Path("runs")
POSTERIORS = "posteriors.json"
"""The file of a comparison that names its posteriors."""
PARTS = "posteriors"
"""Where the posteriors of a comparison are, and the link to them beside its pages."""
SCHEMA = 1
"""Of the form of what names them."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


def slug(text: str) -> str:
    """``text`` as a run name: letters, digits, dots, dashes and underscores, at most 100, and no hidden file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "run"


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and not name.startswith(".")


def choose_file(out: str, suffixes: Sequence[str], *, overwrite: bool) -> Path:
    """Returns the file that ``--out`` names.

    Raises:
        ArgumentError: if it ends in none of the suffixes, is there and may not be replaced, or its folder does not exist.
    """
    file = Path(out)
    if file.suffix.lower() not in suffixes:
        wanted = " or ".join(filter(None, (", ".join(suffixes[:-1]), suffixes[-1])))
        raise ArgumentError(f"--out {out!r} must end in {wanted}. Fix: use for example --out draws{suffixes[0]}.")
    if os.path.lexists(file) and not overwrite:
        raise ArgumentError(f"--out {out} exists already. Fix: add --overwrite, or use another --out.")
    if not file.absolute().parent.is_dir():
        raise ArgumentError(f"--out {out}: its folder does not exist. Fix: make the folder first.")
    return file


def choose_picture(plot: str | None, *, overwrite: bool) -> Path | None:
    """Returns the file that ``--plot`` names, or ``None``.

    Raises:
        ArgumentError: if it is there and may not be replaced.
    """
    picture = None if plot is None else Path(plot)
    if picture is not None and os.path.lexists(picture) and not overwrite:
        raise ArgumentError(f"--plot {plot} exists already. Fix: add --overwrite, or use another name.")
    return picture


def choose_folder(args: argparse.Namespace, default: str) -> Path:
    """Returns the folder a run is saved in, without making it.

    Args:
        args: what ``--out``, ``--resume`` and ``--overwrite`` say; without ``--out``, the next free ``runs/<default>-<n>``.
        default: the name to number.

    Raises:
        ArgumentError: if the path leaves its root or is no run name, or if something is there that may not be replaced.
    """
    if args.any_version and not args.resume:
        raise ArgumentError("--any-version says how to --resume. Fix: add --resume and --out DIR, or leave it out.")
    out = args.out
    if out is None:
        if args.resume:
            raise ArgumentError("--resume goes on with the run in --out. Fix: add --out DIR.")
        name = slug(default)[:90]
        return next(path for n in range(1, 10**6) if not (path := ROOT / f"{name}-{n}").exists())
    path = Path(out)
    if ".." in path.parts or not _is_name(path.name):
        raise ArgumentError(
            f"--out {out!r} is no place for a run: its last part must be letters, digits, '.', '_' or '-' "
            "(100 at most), and '..' is not followed. Fix: use for example --out runs/a, or an absolute path."
        )
    if runs.is_free(path):
        return path
    if not runs.is_run(path):
        raise ArgumentError(
            f"--out {out}: what is there is no run of pyrolvm, and is left as it is. "
            "Fix: use another --out, or move it away."
        )
    there = runs.Manifest.read(path) is not None
    if not (args.overwrite or args.resume) and (there or runs.unfinished(path) is not None):
        what = "something is saved there already" if there else "a run that did not end is there"
        raise ArgumentError(
            f"--out {out}: {what}. Fix: add --resume to go on with it or use it, --overwrite to replace it, or use another --out."
        )
    return path


def kept(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The arguments of a call that is kept in a folder."""
    words = {
        "out": folder,
        "overwrite": args.overwrite,
        "resume": runs.ANY_VERSION if args.any_version else args.resume,
    }
    every = getattr(args, "checkpoint_every", None)
    return words if every is None else words | {"checkpoint_every": every}


def in_force(folder: Path, *, stopped: bool) -> bool:
    """Whether the result that a folder holds is of the run that has just been made there: one that was stopped replaces none."""
    manifest = runs.Manifest.read(folder)
    return manifest is not None and manifest.finished is not stopped


def told(folder: Path, *, complete: bool) -> str:
    """What is said of where a run of many parts is kept."""
    if complete:
        return f"saved in {folder}"
    return (
        f"not all of it is done: what is done is kept in {folder}, and --out {folder} --resume goes on; a result that was finished "
        "there before is still in force"
    )


def picture(figure: Figure) -> runs.Write:
    """What writes a figure as PNG, and clears it."""

    def write(file: BinaryIO) -> None:
        figure.savefig(file, format="png", dpi=160)
        figure.clear()

    return write


def kind_of(path: Path) -> str | None:
    """What a folder holds, finished or begun: ``"Posterior"``, ``"Comparison"``, ...; ``None`` if it is none of ours."""
    manifest = runs.Manifest.read(path)
    if manifest is not None:
        return manifest.kind
    begun = runs.unfinished(path)
    return None if begun is None else _KINDS.get(begun.command, "Posterior")


_KINDS = {
    "compare": "Comparison",
    "calibrate": "Calibration",
    "sweep": "Sweep",
    "cross-validate": "CrossValidation",
    "evaluate": "Evaluation",
    "check": "Check",
    "evidence": "Evidence",
    "gaps": "Gaps",
}


def posteriors_in(paths: Iterable[str]) -> dict[str, Path]:
    """The saved posteriors in run folders, by name: each folder is one posterior, or a comparison with several.

    Raises:
        StoreError: if a folder holds neither.
    """
    found: dict[str, Path] = {}
    for given in paths:
        path = Path(given)
        kind = kind_of(path)
        if kind == "Comparison":
            parts = _parts(path)
        elif kind == "Sweep":
            raise StoreError(
                f"{given!r} is a sweep, with a posterior in each of its cells. Fix: pyrolvm diagnose {given} shows it; name a "
                "folder .../cells/.../result for one of them."
            )
        elif kind == "Posterior":
            parts = {path.name: path}
        elif kind is not None:
            raise StoreError(
                f"{given!r} is of kind {kind}, which has no posterior of its own. Fix: pyrolvm diagnose {given} shows it."
            )
        elif not path.exists():
            raise StoreError(f"there is no run at {given!r}. Fix: check the path; `ls runs` shows what is saved.")
        else:
            raise StoreError(f"{given!r} is no saved run. Fix: pass a folder that fit, nuts, compare or save() wrote.")
        for label, folder in parts.items():
            name, n = label, 1
            while name in found:
                n += 1
                name = f"{label} ({n})"
            found[name] = folder
    return found


def write_parts(run: runs.Run, folders: Mapping[str, str]) -> None:
    """Writes which posteriors a comparison has, by the names of their folders."""
    content = sealed(folders, SCHEMA)
    run.generation.write(POSTERIORS, lambda file: file.write(content))


def _parts(path: Path) -> dict[str, Path]:
    manifest = runs.Manifest.read(path)
    begun = runs.unfinished(path) if manifest is None else None
    inside = path / manifest.generation if manifest is not None else begun.folder if begun is not None else path
    labels = opened(inside / POSTERIORS, SCHEMA) if (inside / POSTERIORS).is_file() else {}
    # The names come from a file: they may not lead out of the run.
    parts = {str(label): inside / PARTS / str(name) for label, name in labels.items() if _is_name(name)}
    parts = {label: folder for label, folder in parts.items() if runs.Manifest.read(folder) is not None}
    if not parts:
        raise StoreError(f"{path} holds no finished posterior. Fix: run the comparison again with --resume.")
    return parts
