"""Run folders: where they are, what may be written there, and what they hold."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pyrolvm.cli.output import jsonable, replace_text
from pyrolvm.errors import ArgumentError, StoreError
from pyrolvm.runs.readers import read_json

__all__ = ["Comparing", "choose_folder", "choose_picture", "is_calibration", "is_sweep", "posteriors_in", "slug"]

ROOT = Path("runs")
MARKER = "comparison-run.json"
CALIBRATION = "calibration-run.json"
SWEEP = "sweep-run.json"
MANIFEST = "manifest.json"
CHECKPOINTS = "checkpoints"
POSTERIORS = "posteriors"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")


def slug(text: str) -> str:
    """``text`` as a run name: letters, digits, dots, dashes and underscores, at most 100, and no hidden file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "run"


def _is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and not name.startswith(".")


def choose_picture(plot: str | None, *, overwrite: bool) -> Path | None:
    """Returns the file that ``--plot`` names, or ``None``.

    Raises:
        ArgumentError: if it is there and may not be replaced.
    """
    picture = None if plot is None else Path(plot)
    if picture is not None and picture.exists() and not overwrite:
        raise ArgumentError(f"--plot {plot} exists already. Fix: add --overwrite, or use another name.")
    return picture


def choose_folder(out: str | None, default: str, *, overwrite: bool, resume: bool = False) -> Path:
    """Returns the folder a run is saved in, without making it.

    Args:
        out: what ``--out`` says, or ``None`` for the next free ``runs/<default>-<n>``.
        default: the name to number.
        overwrite: whether a run that is there already may be replaced.
        resume: whether a run that is there already may be used.

    Raises:
        ArgumentError: if the path leaves its root or is no run name, or if something is there that may not be replaced.
    """
    if out is None:
        name = slug(default)[:90]
        return next(path for n in range(1, 10**6) if not (path := ROOT / f"{name}-{n}").exists())
    path = Path(out)
    if ".." in path.parts or not _is_name(path.name):
        raise ArgumentError(
            f"--out {out!r} is no place for a run: its last part must be letters, digits, '.', '_' or '-' "
            "(100 at most), and '..' is not followed. Fix: use for example --out runs/a, or an absolute path."
        )
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        if not (overwrite or resume):
            raise ArgumentError(
                f"--out {out}: something is saved there already. Fix: add --overwrite, or use another --out."
            )
        if not is_run(path):
            raise ArgumentError(
                f"--out {out}: what is there is no run of pyrolvm, and is left as it is. "
                "Fix: use another --out, or move it away."
            )
    return path


def is_run(path: Path) -> bool:
    """Whether a folder is one that pyrolvm wrote."""
    marked = (path / MARKER).is_file() or (path / CHECKPOINTS).is_dir()
    return marked or is_calibration(path) or is_sweep(path) or is_posterior(path)


def is_calibration(path: Path) -> bool:
    """Whether a folder is a calibration, finished or not."""
    return (path / CALIBRATION).is_file()


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep, finished or not."""
    return (path / SWEEP).is_file()


def is_posterior(path: Path) -> bool:
    """Whether a folder is a saved posterior, to go by its manifest."""
    return (path / MANIFEST).is_file()


class Comparing:
    """The folder of a comparison: posteriors as they are reached, then the table, the figure and the page.

    ``comparison-run.json`` is written first and last, and says what ran and whether it came to its end.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.about = dict(about)
        self.folders: dict[str, str] = {}
        if path.exists():
            for name in (POSTERIORS, MARKER, "comparison.json", "report.html", "overview.png"):
                old = path / name
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        (path / POSTERIORS).mkdir(parents=True)
        self._note("running")

    def folder(self, label: str) -> Path:
        """The folder for the posterior called ``label``."""
        name, n = slug(label), 1
        while name in self.folders.values():
            n += 1
            name = f"{slug(label)[:95]}-{n}"
        self.folders[label] = name
        return self.path / POSTERIORS / name

    def done(self, status: str, left_out: Mapping[str, str]) -> None:
        """Notes how it ended: ``complete`` or ``interrupted``."""
        self.about["left_out"] = dict(left_out)
        self._note(status)

    def _note(self, status: str) -> None:
        content = {**self.about, "status": status, "posteriors": self.folders}
        replace_text(self.path / MARKER, json.dumps(jsonable(content), indent=2, allow_nan=False) + "\n")


def posteriors_in(paths: Iterable[str]) -> dict[str, Path]:
    """The saved posteriors in run folders, by name: each folder is one posterior, or a comparison with several.

    Raises:
        StoreError: if a folder holds neither.
    """
    found: dict[str, Path] = {}
    for given in paths:
        path = Path(given)
        if (path / MARKER).is_file():
            parts = _parts(path)
        elif is_calibration(path):
            raise StoreError(
                f"{given!r} is a calibration, which has no posterior of its own. Fix: pyrolvm diagnose {given} shows it."
            )
        elif is_sweep(path):
            raise StoreError(
                f"{given!r} is a sweep, with a posterior in each of its cells. Fix: pyrolvm diagnose {given} shows it; name a "
                "folder cells/.../result for one of them."
            )
        elif is_posterior(path):
            parts = {path.name: path}
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


def _parts(path: Path) -> dict[str, Path]:
    try:
        labels = read_json(path / MARKER)["posteriors"]
        # The names come from a file: they may not lead out of the run.
        parts = {str(label): path / POSTERIORS / folder for label, folder in labels.items() if _is_name(folder)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path / MARKER} cannot be read: {error}. Fix: run the comparison again.") from error
    parts = {label: folder for label, folder in parts.items() if is_posterior(folder)}
    if not parts:
        raise StoreError(f"{path} holds no finished posterior. Fix: run the comparison again.")
    return parts
