"""Results on disk: netCDF for draws, safetensors for parameters, JSON for the rest; never a pickle.

What a folder holds and how it is replaced is the business of :mod:`pyrolvm.runs`; here it is said what the files of a result are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pyrolvm import runs
from pyrolvm.errors import PyrolvmError, StoreError
from pyrolvm.habits import verb
from pyrolvm.posterior import Chains, Exact, Fit, Posterior
from pyrolvm.program.guide import Guide, resolve
from pyrolvm.program.problem import Problem
from pyrolvm.runs.identity import versions, warn_of
from pyrolvm.runs.readers import parsing
from pyrolvm.store.identity import identity

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["bundle", "check_types", "codec", "is_partial", "load", "save", "write_tree"]

_FILES = ("data", "params", "meta")
_KINDS: dict[str, type[Posterior]] = {"Fit": Fit, "Chains": Chains, "Exact": Exact}
KIND = "Posterior"


def codec(problem: Problem | None = None, guide: Any = None, about: Mapping[str, Any] | None = None) -> runs.Codec[Any]:
    """How posteriors are written and read.

    Args:
        problem: what they are of, to read them with.
        guide: their guide, to read them with.
        about: the identity of the run that makes them.
    """
    return runs.Codec(
        KIND, lambda result: _parts(result, about), lambda folder: _read(folder, problem, guide), is_partial
    )


def save(result: Posterior, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a result to the folder ``path``.

    Args:
        result: what to write.
        path: the folder.
        overwrite: whether what is there may be replaced.

    Raises:
        StoreError: if the folder is somebody else's, holds a result already and ``overwrite`` is false, is a file or cannot be written
            to, or another process writes there.
    """
    return runs.save(codec(), result, path, overwrite=overwrite)


def bundle(result: Posterior) -> dict[str, bytes]:
    """The files of a result by name, for a folder that is a part of another."""
    return runs.bundled(KIND, _parts(result, None))


def _parts(result: Posterior, about: Mapping[str, Any] | None) -> dict[str, runs.Part]:
    return {
        "data": (".nc", lambda file: write_tree(result.data, file)),
        "params": (".safetensors", lambda file: runs.write_tensors(result.params, file)),
        "meta": (".json", runs.as_json(_meta(result, about))),
    }


@verb
def load(path: str | Path, *, problem: Problem | None = None, guide: Any = None) -> Any:
    """Reads a saved ``Fit``, ``Chains``, ``Exact``, ``Evidence``, ``Calibration``, ``Evaluation``, ``Gaps`` or ``Sweep``.

    Draws, statistics and verdict are read as they were. To draw anew, the result needs its problem and guide: those of
    registered names are found by themselves, others are given here. Nothing is imported because a file names it.

    Args:
        path: the folder.
        problem: the problem, where it is not registered.
        guide: the guide, where it is not registered.

    Raises:
        StoreError: if there is no result, a file is damaged, or the problem is another one.
    """
    folder = runs.as_folder(path, "path", "that holds a result")
    manifest = runs.Manifest.read(folder)
    begun = runs.unfinished(folder) if manifest is None else None
    kind = manifest.kind if manifest is not None else _BEGUN.get(begun.command) if begun is not None else None
    if kind == "Calibration":
        from pyrolvm.calibration import Calibration

        return Calibration.load(folder)
    if kind == "Sweep":
        from pyrolvm.sweeps import Sweep

        return Sweep.load(folder)
    if kind == "Evaluation":
        from pyrolvm.evaluation.storage import load as load_evaluation

        return load_evaluation(folder)
    if kind == "Evidence":
        from pyrolvm.marginal.storage import load as load_evidence

        return load_evidence(folder)
    if kind == "Gaps":
        from pyrolvm.amortization.storage import load as load_gaps

        return load_gaps(folder)
    if begun is not None:
        raise StoreError(
            f"{folder} holds no saved result, but checkpoints of a run of {begun.about.get('problem')!r} that did not end. "
            "Fix: call it again with the same arguments, out= and resume=True; on the command line, --out and --resume."
        )
    if kind not in (None, KIND):
        raise StoreError(
            f"{folder} holds a {kind!r}, which is no result to load. Fix: see `pyrolvm diagnose {folder}`."
        )
    return _read(folder, problem, guide)


_BEGUN = {"calibrate": "Calibration", "sweep": "Sweep"}
"""Commands whose runs can be read before they are finished, and the type of what they hold."""


def _read(folder: Path, problem: Problem | None, guide: Any) -> Posterior:
    """The posterior in force in a folder.

    Raises:
        StoreError: if there is none, a file is damaged, or the problem is another one.
    """
    paths = runs.verified(folder, _FILES)
    meta = paths["meta"].json()
    check_types(paths["meta"].path, meta, _META)
    with parsing(paths["meta"].path):  # values of other types than they should be
        return _made(folder, paths, meta, problem, guide)


def _made(
    folder: Path, paths: Mapping[str, runs.Stored], meta: Mapping[str, Any], problem: Problem | None, guide: Any
) -> Posterior:
    kind = _KINDS.get(str(meta.get("kind")))
    if kind is None:
        raise StoreError(
            f"{folder} holds a {meta.get('kind')!r}, expected one of {', '.join(_KINDS)}. Fix: update pyrolvm."
        )
    attached = _attach(folder, meta, problem)
    fields: dict[str, Any] = {
        "name": meta["name"],
        "data": paths["data"].tree(),
        "problem": attached,
        "params": paths["params"].tensors(),
        "seconds": meta["seconds"],
        "engine": meta["engine"],
        "engine_reason": meta["engine_reason"],
        "seed": meta["seed"],
    }
    if kind is Fit:
        fields["guide"] = _attach_guide(meta["guide"], guide, attached)
    if attached is not None:
        now = identity(str(meta["kind"]), attached, fields.get("guide"), meta["seed"])
        warn_of(folder, meta.get("run") or {}, {what: now[what] for what in _SPOKEN_OF if now[what] is not None})
    return kind(**fields)


_SPOKEN_OF = ("model code", "guide code", *(f"version of {name}" for name in ("pyrolvm", "torch", "pyro-ppl")))
"""What a result that is loaded may differ in from the program as it is now, and is warned of."""


# --- writing ----------------------------------------------------------------------------------------------------------


def _meta(result: Posterior, run: Mapping[str, Any] | None) -> dict[str, Any]:
    problem, guide = result.problem, getattr(result, "guide", None)
    attrs = result.data["posterior"].attrs
    return {
        "kind": type(result).__name__,
        "name": result.name,
        "problem": {
            "name": problem.name if problem else attrs.get("pyrolvm_problem"),
            "fingerprint": problem.fingerprint if problem else None,
            "dtype": str(problem.dtype).removeprefix("torch.") if problem else None,
            "source": _jsonable(problem.source) if problem else None,
        },
        "guide": {
            "name": guide.name,
            "text": str(guide),
            "options": _jsonable(dict(guide.options)) if guide.registered else None,
        }
        if guide
        else None,
        "seconds": dict(result.seconds),
        "engine": result.engine,
        "engine_reason": result.engine_reason,
        "seed": result.seed,
        "interrupted": int(is_partial(result)),
        "versions": versions(),
        "run": dict(run)
        if run is not None
        else identity(type(result).__name__, problem, guide, result.seed)
        if problem
        else None,
    }


def is_partial(result: Posterior) -> bool:
    """Whether the run that made a result was stopped before its end."""
    group = "optimization" if isinstance(result, Fit) else "sample_stats"
    return bool(result.data[group].attrs.get("interrupted", 0))


def _jsonable(value: Any) -> Any:
    """``value`` if JSON can hold it, else ``None``: the result can then be read, but not attached by itself."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return None


def write_tree(tree: xr.DataTree, file: BinaryIO) -> None:
    """Writes a tree as netCDF.

    Raises:
        OSError: if the disk does not take it.
    """
    # By way of memory: where HDF5 writes the file, a disk that fills up as it is closed goes unreported.
    with _own_locks():
        content = _plain(tree).to_netcdf(engine="h5netcdf")
    file.write(content)


def _plain(tree: xr.DataTree) -> xr.DataTree:
    """The tree without what its arrays remember of files they came from, such as how they were compressed there."""
    import xarray as xr

    if not any(values.encoding for group in tree.subtree for values in group.variables.values()):
        return tree
    parts = {group.path: group.to_dataset(inherit=False).drop_encoding() for group in tree.subtree}
    return xr.DataTree.from_dict(parts, name=tree.name)


@contextmanager
def _own_locks() -> Iterator[None]:
    """Inside a worker of Dask, xarray would lock what it writes for the whole cluster, which knows nothing of this memory."""
    if "distributed" not in sys.modules:
        yield
        return
    import dask

    with dask.config.set(scheduler="synchronous"):
        yield


# --- reading ----------------------------------------------------------------------------------------------------------


_META = {
    "kind": str, "name": str, "problem": dict, "guide": dict | None, "seconds": dict, "engine": str, "engine_reason": str, "seed": int,
}  # fmt: skip


def check_types(path: Path, meta: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Checks that a file says what it should.

    Raises:
        StoreError: with the first name that is missing or of another type.
    """
    for key, expected in types.items():
        if key not in meta or not isinstance(meta[key], expected):
            raise StoreError(
                f"{path} is damaged: {key!r} is missing or of a wrong type. Fix: restore it, or run again."
            )


def _attach(folder: Path, meta: Mapping[str, Any], problem: Problem | None) -> Problem | None:
    """The result's problem: as given, or by its registered name."""
    saved = meta["problem"]
    if problem is not None:
        problem = _in_dtype(problem, saved)
        if saved.get("fingerprint") not in (None, problem.fingerprint):
            raise StoreError(
                f"{folder} is of {saved['name']!r} with other data (sha256 {_short(saved['fingerprint'])}) than the given problem "
                f"{problem.name!r} ({_short(problem.fingerprint)}). Fix: pass the problem it was made from."
            )
        return problem
    source = saved.get("source")
    if not source:
        return None
    from pyrolvm import registry

    try:
        found = _in_dtype(registry.problem(source["name"], **source["options"]), saved)
    except (PyrolvmError, TypeError, KeyError):
        return None
    return found if found.fingerprint == saved["fingerprint"] else None


def _in_dtype(problem: Problem, saved: Mapping[str, Any]) -> Problem:
    """The problem in the dtype that the result was made in."""
    import torch

    known = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
    dtype = known.get(str(saved.get("dtype")))
    return problem if dtype is None else problem.to(dtype=dtype)


def _attach_guide(saved: Mapping[str, Any] | None, guide: Any, problem: Problem | None) -> Guide | None:
    if guide is not None and problem is not None:
        return resolve(guide, problem)
    if not saved:
        return None
    if problem is not None and problem.info.guide is not None:  # the one that the model names need not be registered
        named = resolve("auto", problem)
        if str(named) == saved["text"]:
            return named
    if saved.get("options") is None:
        return None
    from pyrolvm import registry

    try:
        return registry.guide(saved["name"], **saved["options"])
    except PyrolvmError:
        return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
