"""Results on disk, as they are written: netCDF for draws, safetensors for parameters, JSON for the rest; never a pickle.

What a folder holds and how it is replaced is the business of :mod:`pyrolvm._runs`; here it is said what the files of a result are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._program.problem import Problem
from pyrolvm._results.identity import identity
from pyrolvm._runs.identity import versions

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["KIND", "Kept", "bundle", "form", "is_partial", "save", "write_tree"]

KIND = "Posterior"


class Kept(Protocol):
    """What is kept of a posterior: the fields of :class:`pyrolvm.Posterior`."""

    name: str
    data: xr.DataTree
    problem: Problem | None
    params: Mapping[str, Tensor]
    seconds: Mapping[str, float]
    engine: str
    engine_reason: str
    seed: int


def form(about: Mapping[str, Any] | None = None) -> runs.Codec[Any]:
    """How posteriors are written.

    Args:
        about: the identity of the run that makes them.
    """
    return runs.Codec(KIND, lambda result: _parts(result, about), partial=is_partial)


def save(result: Kept, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a result to the folder ``path``.

    Args:
        result: what to write.
        path: the folder.
        overwrite: whether what is there may be replaced.

    Raises:
        StoreError: if the folder is somebody else's, holds a result already and ``overwrite`` is false, is a file or cannot be written
            to, or another process writes there.
    """
    return runs.save(form(), result, path, overwrite=overwrite)


def bundle(result: Kept) -> dict[str, bytes]:
    """The files of a result by name, for a folder that is a part of another."""
    return runs.bundled(KIND, _parts(result, None))


def _parts(result: Kept, about: Mapping[str, object] | None) -> dict[str, runs.Part]:
    return {
        "data": (".nc", lambda file: write_tree(result.data, file)),
        "params": (".safetensors", lambda file: runs.write_tensors(result.params, file)),
        "meta": (".json", runs.as_json(_meta(result, about))),
    }


def _meta(result: Kept, run: Mapping[str, object] | None) -> dict[str, object]:
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


def is_partial(result: Kept) -> bool:
    """Whether the run that made a result was stopped before its end."""
    group = "optimization" if "optimization" in result.data.children else "sample_stats"
    return bool(result.data[group].attrs.get("interrupted", 0))


def _jsonable(value: object) -> object:
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
