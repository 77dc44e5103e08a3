"""Results on disk: netCDF for draws, safetensors for parameters, JSON for the rest; never a pickle.

A result is a folder. Its files carry the beginning of their sha256 in their names, and ``manifest.json``, written last and
replaced atomically, says which of them belong together. A crash at any moment leaves the previous result or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrolvm.errors import PyrolvmError, StoreError
from pyrolvm.posterior import Chains, Exact, Fit, Posterior
from pyrolvm.program.guide import Guide, resolve
from pyrolvm.program.problem import Problem

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "MANIFEST", "SWEEP", "Part", "claim", "load", "read_json", "read_tree", "replace", "save", "verified",
    "write_folder", "write_json", "write_tree",
]  # fmt: skip

FORMAT = 1
MANIFEST = "manifest.json"
SWEEP = "sweep-run.json"
"""What a folder of a sweep has in place of a manifest."""
Part = tuple[str, Callable[[Path], None]]
"""A file: the end of its name, and what writes it."""
_FILES = ("data", "params", "meta")
_KINDS: dict[str, type[Posterior]] = {"Fit": Fit, "Chains": Chains, "Exact": Exact}


def save(result: Posterior, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a result to the folder ``path``.

    Raises:
        StoreError: if the folder holds a result already and ``overwrite`` is false, or is a file.
    """
    return write_folder(
        path,
        {
            "data": (".nc", lambda file: write_tree(result.data, file)),
            "params": (".safetensors", lambda file: _write_params(result.params, file)),
            "meta": (".json", lambda file: write_json(_meta(result), file)),
        },
        overwrite=overwrite,
    )


def write_folder(path: str | Path, parts: Mapping[str, Part], *, overwrite: bool) -> Path:
    """Writes files, by what they are, and the manifest that names them.

    Raises:
        StoreError: if the folder holds something already and ``overwrite`` is false, or is a file.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file, expected a folder. Fix: name another path.")
    if (folder / MANIFEST).exists() and not overwrite:
        raise StoreError(f"{folder} holds a result already. Fix: pass overwrite=True, or name another path.")
    if not overwrite and folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is not empty and holds no result. Fix: name a new folder, or pass overwrite=True.")
    folder.mkdir(parents=True, exist_ok=True)
    before = _manifest_files(folder)
    files = {stem: _write(folder, stem, suffix, write) for stem, (suffix, write) in parts.items()}
    replace(folder, MANIFEST, lambda file: write_json({"format": FORMAT, "files": files}, file))
    for name in before - {entry["name"] for entry in files.values()}:
        with suppress(FileNotFoundError):
            (folder / name).unlink()
    return folder


def load(path: str | Path, *, problem: Problem | None = None, guide: Any = None) -> Any:
    """Reads a saved ``Fit``, ``Chains``, ``Exact``, ``Calibration`` or ``Sweep``.

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
        "params": _read_params(paths["params"]),
        "seconds": meta["seconds"],
        "engine": meta["engine"],
        "engine_reason": meta["engine_reason"],
        "seed": meta["seed"],
    }
    if kind is Fit:
        fields["guide"] = _attach_guide(meta["guide"], guide, attached)
    return kind(**fields)


def _is_calibration(folder: Path) -> bool:
    """Whether a folder holds a calibration, to go by its manifest or, where it is not finished, by what it has begun with."""
    if not (folder / MANIFEST).is_file():
        from pyrolvm.calibration.ledger import is_calibration

        return is_calibration(folder)
    return read_json(verified(folder, ("meta",))["meta"]).get("kind") == "Calibration"


def claim(out: str | Path, problem: Problem, guide: Guide | None, seed: int, *, resume: bool, kind: str | None) -> Any:
    """What is to be done about ``out`` before a run: nothing, or the finished result that is there.

    ``kind`` is the type of result that the run would have; ``None`` if it may be of any method and guide.

    Raises:
        StoreError: if a result is there and ``resume`` is false, or it is of other inputs.
    """
    folder = Path(out)
    if not (folder / MANIFEST).exists():
        return None
    if not resume:
        raise StoreError(f"{folder} holds a result already. Fix: pass resume=True to use it, or name another folder.")
    meta = _read_meta(verified(folder, _FILES)["meta"])
    wanted = {
        "method": kind,
        "problem": problem.name,
        "data": problem.fingerprint,
        "guide": str(guide) if guide else None,
        "seed": seed,
    }
    found = {
        "method": meta["kind"],
        "problem": meta["problem"]["name"],
        "data": meta["problem"]["fingerprint"],
        "guide": meta["guide"]["text"] if meta["guide"] else None,
        "seed": meta["seed"],
    }
    if kind is None:  # which method and guide it ended with is the result's to say
        wanted |= {"method": found["method"], "guide": found["guide"]}
    for what, value in wanted.items():
        if found[what] != value:
            raise StoreError(
                f"{folder} was made with another {what}: {_short(found[what])}, now {_short(value)}. "
                "Fix: name another folder, or use the same inputs."
            )
    if meta.get("interrupted"):
        return None
    return load(folder, problem=problem, guide=guide)


# --- writing ----------------------------------------------------------------------------------------------------------


def _meta(result: Posterior) -> dict[str, Any]:
    from importlib.metadata import version

    problem, guide = result.problem, getattr(result, "guide", None)
    attrs = result.data["posterior"].attrs
    group = "optimization" if isinstance(result, Fit) else "sample_stats"
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
        "interrupted": int(result.data[group].attrs.get("interrupted", 0)),
        "versions": {name: version(name) for name in ("pyrolvm", "torch", "pyro-ppl", "arviz-base", "numpy")}
        | {"python": sys.version.split()[0]},
    }


def _jsonable(value: Any) -> Any:
    """``value`` if JSON can hold it, else ``None``: the result can then be read, but not attached by itself."""
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return None


def _write(folder: Path, stem: str, suffix: str, write: Callable[[Path], None]) -> dict[str, Any]:
    """Writes one file under a name that holds its checksum."""
    temporary = _temporary(folder, suffix)
    try:
        write(temporary)
        digest = _sha256(temporary)
        target = folder / f"{stem}-{digest[:12]}{suffix}"
        _sync(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return {"name": target.name, "sha256": digest, "bytes": target.stat().st_size}


def replace(folder: Path, name: str, write: Callable[[Path], None]) -> None:
    """Writes a file so that a reader finds the old one or the new one, never a part."""
    temporary = _temporary(folder, ".json")
    try:
        write(temporary)
        _sync(temporary)
        _sync(folder)
        os.replace(temporary, folder / name)
        _sync(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(folder: Path, suffix: str) -> Path:
    handle, name = tempfile.mkstemp(dir=folder, prefix=".part-", suffix=suffix)
    os.close(handle)
    return Path(name)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_tree(tree: xr.DataTree, file: Path) -> None:
    """Writes a tree as netCDF."""
    tree.to_netcdf(file, engine="h5netcdf")


def _write_params(params: Mapping[str, Any], file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous().clone() for name, value in params.items()}, file)


def write_json(value: Any, file: Path) -> None:
    """Writes JSON."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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
        name = str(entry.get("name"))
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise StoreError(f"{folder} lacks its file {name!r}. Fix: restore the folder from a copy, or run again.")
        if _sha256(path) != entry.get("sha256"):
            raise StoreError(
                f"{path} is damaged: its checksum differs from the manifest's. Fix: restore it, or run again."
            )
        paths[key] = path
    return paths


def _manifest_files(folder: Path) -> set[str]:
    try:
        files = read_json(folder / MANIFEST)["files"]
        return {str(entry["name"]) for entry in files.values()}
    except (StoreError, FileNotFoundError, KeyError, AttributeError, TypeError):
        return set()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        StoreError: if it holds none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} is damaged: {error}. Fix: restore it, or run again.") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path} is damaged: expected a JSON object. Fix: restore it, or run again.")
    return value


_META = {
    "kind": str, "name": str, "problem": dict, "guide": dict | None, "seconds": dict, "engine": str, "engine_reason": str, "seed": int,
}  # fmt: skip


def _read_meta(path: Path) -> dict[str, Any]:
    """What is said about a result, as far as it is needed to build it again."""
    meta = read_json(path)
    for key, expected in _META.items():
        if key not in meta or not isinstance(meta[key], expected):
            raise StoreError(
                f"{path} is damaged: {key!r} is missing or of a wrong type. Fix: restore it, or run again."
            )
    return meta


def read_tree(path: Path) -> xr.DataTree:
    """Reads a tree into memory."""
    import xarray as xr

    with xr.open_datatree(path, engine="h5netcdf") as tree:
        return tree.load()


def _read_params(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if not saved or saved.get("options") is None:
        return None
    from pyrolvm import registry

    try:
        return registry.guide(saved["name"], **saved["options"])
    except PyrolvmError:
        return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
