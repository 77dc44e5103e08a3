"""Whatever a command kept, read from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyrolvm import _runs as runs
from pyrolvm._base.errors import StoreError
from pyrolvm._base.habits import verb
from pyrolvm._check.calibrate import storage as calibrations
from pyrolvm._check.discrepancy import result as checks
from pyrolvm._check.evaluate import storage as evaluations
from pyrolvm._check.gaps import storage as gaps
from pyrolvm._check.sweep import Sweep
from pyrolvm._check.validating import result as validations
from pyrolvm._methods.evidence import storage as evidences
from pyrolvm._methods.table import result_type
from pyrolvm._program.problem import Problem
from pyrolvm._results import store

__all__ = ["load"]

_KINDS = {
    "Calibration": calibrations.load,
    "Check": checks.load,
    "CrossValidation": validations.load,
    "Evaluation": evaluations.load,
    "Evidence": evidences.load,
    "Gaps": gaps.load,
    "Sweep": Sweep.load,
}
"""What reads each kind of result; posteriors take their problem and guide besides."""

_BEGUN = {"calibrate": "Calibration", "sweep": "Sweep"}
"""Commands whose runs can be read before they are finished, and the kind of what they hold."""


@verb
def load(path: str | Path, *, problem: Problem | None = None, guide: object = None) -> Any:
    """Reads what was saved: a posterior, or an evidence, calibration, check, cross-validation, evaluation, sweep or gaps.

        >>> fit.save("run")
        >>> again = lvm.load("run")
        >>> again.verdict.status == fit.verdict.status

    Draws, statistics and verdict are read as they were. To draw anew, the result needs its problem and guide: those of
    registered names are found by themselves, others are given here. Nothing is imported because a file names it.

    Args:
        path: the folder.
        problem: the problem, where it is not registered.
        guide: the guide, where it is not registered.

    Raises:
        StoreError: if there is no result, a file is damaged, or the problem is another one.
    """
    return runs.steady(
        runs.as_folder(path, "path", "that holds a result"), lambda folder: _read(folder, problem, guide)
    )


def _read(folder: Path, problem: Problem | None, guide: object) -> Any:
    manifest = runs.Manifest.read(folder)
    begun = runs.unfinished(folder) if manifest is None else None
    kind = manifest.kind if manifest is not None else _BEGUN.get(begun.command) if begun is not None else None
    if kind in _KINDS:
        return _KINDS[kind](folder)
    if begun is not None:
        raise StoreError(
            f"{folder} holds no saved result, but checkpoints of a run of {begun.about.get('problem')!r} that did not end. "
            "Fix: call it again with the same arguments, out= and resume=True; on the command line, --out and --resume."
        )
    if kind not in (None, store.KIND):
        raise StoreError(
            f"{folder} holds a {kind!r}, which is no result to load. Fix: see `pyrolvm diagnose {folder}`."
        )
    return store.read(folder, problem, guide, result_type)
