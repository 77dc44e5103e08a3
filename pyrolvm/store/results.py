"""Results on disk: netCDF for draws, safetensors for parameters, JSON for the rest; never a pickle.

A result is a folder. Its files carry the beginning of their sha256 in their names, and ``manifest.json``, written last and
replaced atomically, says which of them belong together. A crash at any moment leaves the previous result or the new one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrolvm.errors import PyrolvmError, StoreError
from pyrolvm.habits import verb
from pyrolvm.posterior import Chains, Exact, Fit, Posterior
from pyrolvm.program.guide import Guide, resolve
from pyrolvm.program.problem import Problem
from pyrolvm.runs import trees
from pyrolvm.store import checkpoints
from pyrolvm.store.files import (
    LOCK,
    PART,
    Lock,
    make_folder,
    read_json,
    replace,
    whole,
    write_json,
    write_part,
    writing,
)
from pyrolvm.store.identity import check, identity, versions, warn_of
from pyrolvm.store.packing import read_tensors, write_tensors

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "MANIFEST",
    "SWEEP",
    "Part",
    "check_types",
    "claim",
    "is_partial",
    "load",
    "read_tree",
    "remove",
    "save",
    "verified",
    "write_folder",
    "write_tree",
]

FORMAT = 1
MANIFEST = "manifest.json"
SWEEP = "sweep-run.json"
"""The file that makes a folder a sweep."""
SWEEP = "sweep-run.json"
"""What a folder of a sweep has in place of a manifest."""
Part = tuple[str, Callable[[Path], None]]
"""A file: the end of its name, and what writes it."""
_FILES = ("data", "params", "meta")
_KINDS: dict[str, type[Posterior]] = {"Fit": Fit, "Chains": Chains, "Exact": Exact}


def save(
    result: Posterior,
    path: str | Path,
    *,
    overwrite: bool = False,
    run: Mapping[str, Any] | None = None,
    locked: bool = False,
) -> Path:
    """Writes a result to the folder ``path``.

    Args:
        result: what to write.
        path: the folder.
        overwrite: whether what is there may be replaced.
        run: which run it is of (:func:`pyrolvm.store.identity`); by default without its options.
        locked: whether the caller holds the folder's lock.

    Raises:
        StoreError: if the folder holds a result already and ``overwrite`` is false, is a file or cannot be written to, or another
            process writes there.
    """
    return write_folder(
        path,
        {
            "data": (".nc", lambda file: write_tree(result.data, file)),
            "params": (".safetensors", lambda file: write_tensors(result.params, file)),
            "meta": (".json", lambda file: write_json(_meta(result, run), file)),
        },
        overwrite=overwrite,
        locked=locked,
    )


def write_folder(path: str | Path, parts: Mapping[str, Part], *, overwrite: bool, locked: bool = False) -> Path:
    """Writes files, by what they are, and the manifest that names them.

    Raises:
        StoreError: if the folder holds something already and ``overwrite`` is false, is a file, cannot be made or written to, or
            another process writes there.
        OSError: instead, where the caller holds the lock, if the disk does not take it.
    """
    folder = Path(path)
    with nullcontext() if locked else writing(folder):
        return _write_folder(folder, parts, overwrite=overwrite, locked=locked)


def _write_folder(folder: Path, parts: Mapping[str, Part], *, overwrite: bool, locked: bool) -> Path:
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file, expected a folder. Fix: name another path.")
    if (folder / MANIFEST).exists() and not overwrite:
        raise StoreError(f"{folder} holds a result already. Fix: pass overwrite=True, or name another path.")
    if not overwrite and folder.exists() and any(not own.name.startswith((LOCK, PART)) for own in folder.iterdir()):
        raise StoreError(f"{folder} is not empty and holds no result. Fix: name a new folder, or pass overwrite=True.")
    make_folder(folder)
    with nullcontext() if locked else Lock(folder):
        before = _manifest_files(folder)
        files = {stem: write_part(folder, stem, suffix, write) for stem, (suffix, write) in parts.items()}
        replace(folder, MANIFEST, lambda file: write_json({"format": FORMAT, "files": files}, file))
        for name in before - {entry["name"] for entry in files.values()}:
            with suppress(FileNotFoundError):
                (folder / name).unlink()
        if not locked:  # of a run that this result takes the place of
            checkpoints.Checkpoints(folder, {}).clear()
    return folder


def remove(path: str | Path) -> None:
    """Removes the result and the checkpoints that a folder holds, and nothing else in it.

    Raises:
        StoreError: if another process writes there.
    """
    folder = Path(path)
    if folder.is_dir():
        with Lock(folder):
            names = _manifest_files(folder)
            (folder / MANIFEST).unlink(missing_ok=True)
            for name in names:
                (folder / Path(name).name).unlink(missing_ok=True)
            checkpoints.Checkpoints(folder, {}).clear()


@verb
def load(path: str | Path, *, problem: Problem | None = None, guide: Any = None) -> Any:
    """Reads a saved ``Fit``, ``Chains``, ``Exact``, ``Calibration``, ``Evaluation`` or ``Sweep``.

    Draws, statistics and verdict are read as they were. To draw anew, the result needs its problem and guide: those of
    registered names are found by themselves, others are given here. Nothing is imported because a file names it.

    Args:
        path: the folder.
        problem: the problem, where it is not registered.
        guide: the guide, where it is not registered.

    Raises:
        StoreError: if there is no result, a file is damaged, or the problem is another one.
    """
    folder = Path(path)
    if _is_calibration(folder):
        from pyrolvm.calibration import Calibration

        return Calibration.load(folder)
    if (folder / SWEEP).is_file():
        from pyrolvm.sweeps import Sweep

        return Sweep.load(folder)
    _check_finished(folder)
    if _kind(folder) == "Evaluation":
        from pyrolvm.evaluation.storage import load as load_evaluation

        return load_evaluation(folder)
    paths = verified(folder, _FILES)
    meta = _read_meta(paths["meta"])
    kind = _KINDS.get(str(meta.get("kind")))
    if kind is None:
        raise StoreError(
            f"{folder} holds a {meta.get('kind')!r}, expected one of {', '.join(_KINDS)}. Fix: update pyrolvm."
        )
    attached = _attach(folder, meta, problem)
    fields: dict[str, Any] = {
        "name": meta["name"],
        "data": read_tree(paths["data"]),
        "problem": attached,
        "params": read_tensors(paths["params"]),
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


def _check_finished(folder: Path) -> None:
    """Says of a folder without a result whether a run in it can go on.

    Raises:
        StoreError: if it can.
    """
    if (folder / MANIFEST).is_file():
        return
    begun = checkpoints.about(folder)
    if begun is not None:
        raise StoreError(
            f"{folder} holds no saved result, but checkpoints of a run of {begun.get('problem')!r} that did not end. "
            "Fix: call it again with the same arguments, out= and resume=True; on the command line, --out and --resume."
        )


def _is_calibration(folder: Path) -> bool:
    """Whether a folder holds a calibration, to go by its manifest or, where it is not finished, by what it has begun with."""
    if not (folder / MANIFEST).is_file():
        from pyrolvm.calibration.ledger import is_calibration

        return is_calibration(folder)
    return _kind(folder) == "Calibration"


def _kind(folder: Path) -> str:
    """What a finished result says that it is."""
    return str(read_json(verified(folder, ("meta",))["meta"]).get("kind"))


def claim(
    out: str | Path, about: Mapping[str, Any], problem: Problem, guide: Guide | None, *, resume: bool | str
) -> Any:
    """What is to be done about ``out`` before a run: nothing, or the finished result that is there.

    Args:
        out: the run's folder.
        about: which run it will be (:func:`pyrolvm.store.identity`).
        problem: its problem.
        guide: its guide, if it has one.
        resume: whether a result that is there is wanted, or checkpoints may be gone on from.

    Raises:
        StoreError: if a result or checkpoints are there and ``resume`` is false, or they are of another run.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file, expected a folder. Fix: name another path.")
    if not (folder / MANIFEST).exists():
        begun = checkpoints.about(folder)
        if begun is not None and not resume:
            raise StoreError(
                f"{folder} holds a run that did not end. Fix: pass resume=True to go on with it, or name another folder."
            )
        if begun is not None:
            check(folder, begun, about, resume)
        return None
    if not resume:
        raise StoreError(f"{folder} holds a result already. Fix: pass resume=True to use it, or name another folder.")
    meta = _read_meta(verified(folder, _FILES)["meta"])
    found = {
        "method": meta["kind"],
        "problem": meta["problem"]["name"],
        "data": meta["problem"]["fingerprint"],
        "guide": meta["guide"]["text"] if meta["guide"] else None,
        "seed": meta["seed"],
    } | (meta.get("run") or {})
    if meta.get("interrupted"):
        check(folder, found, about, resume)
        return None
    # What is finished is as it was, whatever versions there are now.
    check(folder, found, {what: one for what, one in about.items() if not what.startswith("version of ")}, resume)
    return load(folder, problem=problem, guide=guide)


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
        "run": dict(run) if run else identity(type(result).__name__, problem, guide, result.seed) if problem else None,
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


def write_tree(tree: xr.DataTree, file: Path) -> None:
    """Writes a tree as netCDF.

    Raises:
        OSError: if the disk does not take it.
    """
    # By way of memory: where HDF5 writes the file, a disk that fills up as it is closed goes unreported.
    with _own_locks():
        content = _plain(tree).to_netcdf(engine="h5netcdf")
    file.write_bytes(content)


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


def verified(folder: Path, keys: Sequence[str]) -> dict[str, Path]:
    """Files of a result, each checked against its checksum.

    Raises:
        StoreError: if one is not there, or not what was written.
    """
    if not (folder / MANIFEST).is_file():
        raise StoreError(
            f"{folder} holds no saved result: there is no {MANIFEST}. Fix: give the folder of result.save(path)."
        )
    manifest = read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise StoreError(
            f"{folder} has format {manifest.get('format')!r}, this version reads {FORMAT}. Fix: update pyrolvm."
        )
    files = manifest.get("files")
    paths = {}
    for key in keys:
        entry = files.get(key) if isinstance(files, dict) else None
        if not isinstance(entry, dict):
            raise StoreError(
                f"{folder / MANIFEST} is damaged: it names no {key!r} file. Fix: restore it, or run again."
            )
        paths[key] = whole(folder, entry)
    return paths


def _manifest_files(folder: Path) -> set[str]:
    try:
        files = read_json(folder / MANIFEST)["files"]
        return {str(entry["name"]) for entry in files.values()}
    except (StoreError, FileNotFoundError, KeyError, AttributeError, TypeError):
        return set()


_META = {
    "kind": str, "name": str, "problem": dict, "guide": dict | None, "seconds": dict, "engine": str, "engine_reason": str, "seed": int,
}  # fmt: skip


def _read_meta(path: Path) -> dict[str, Any]:
    """What is said about a result, as far as it is needed to build it again."""
    meta = read_json(path)
    check_types(path, meta, _META)
    return meta


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


def read_tree(path: Path) -> xr.DataTree:
    """Reads a tree into memory.

    Raises:
        StoreError: if it is damaged, or holds what no result does.
    """
    return trees.read_tree(path)


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
