"""Python files and data files named on the command line."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import re
import sys
import traceback
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pyrolvm.errors import ArgumentError, DataError, ProblemError, unknown_name

__all__ = ["file_and_name", "load_data", "load_module", "member"]

_FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>[^:]*))?")
_MATRIX_COLUMN = re.compile(r"(?P<name>.+)\.(?P<index>\d+)")


def file_and_name(text: str) -> tuple[Path, str | None] | None:
    """Splits ``path/file.py:name``; ``None`` where ``text`` names no Python file."""
    match = _FILE.fullmatch(text)
    return (Path(match["path"]), match["name"] or None) if match else None


def load_module(path: Path) -> ModuleType:
    """Imports a Python file under a name of its own, so that it can shadow no other module.

    Raises:
        ArgumentError: if there is no such file.
        ProblemError: if it cannot be imported.
    """
    if not path.is_file():
        raise ArgumentError(
            f"there is no file {str(path)!r}. Fix: check the path; it is relative to the current folder."
        )
    resolved = path.resolve()
    name = f"_pyrolvm_file_{hashlib.sha256(str(resolved).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"{str(path)!r} cannot be imported. Fix: pass a Python source file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(resolved.parent)
    sys.path.insert(0, folder)  # as `python file.py` does, for the file's own helpers
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ProblemError(
            f"{path} cannot be imported: {type(error).__name__}: {error}{_line_in(error, resolved)}. "
            f"Fix: make `python {path}` run."
        ) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    return module


def _line_in(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f" (line {lines[-1]})" if lines else ""


def member(module: ModuleType, path: Path, name: str | None, kind: str) -> Any:
    """Returns what ``name`` stands for in a file; without a name, the one public function or object the file defines.

    Raises:
        UnknownNameError: if the file has no such name.
        ArgumentError: if no name is given and the file offers several.
    """
    public = _public(module)
    if name is None:
        if len(public) == 1:
            return getattr(module, public[0])
        raise ArgumentError(
            f"{path} defines {', '.join(public) or 'nothing public'}: which one is the {kind}? "
            f"Fix: write {path}:{public[0] if public else 'name'}."
        )
    if not hasattr(module, name):
        raise unknown_name(f"{kind} in {path}", name, public)
    return getattr(module, name)


def _public(module: ModuleType) -> list[str]:
    """The functions, classes and problems that a file defines itself, in its order."""
    names = []
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__ and callable(value)
        if not name.startswith("_") and (own or type(value).__name__ == "Problem"):
            names.append(name)
    return names


# --- data -------------------------------------------------------------------------------------------------------------


def load_data(path: Path) -> dict[str, Any]:
    """Reads a model's arguments by name from ``.npz``, ``.json`` or ``.csv``. Nothing is unpickled.

    Raises:
        DataError: if the file is missing, of another kind, or holds what is no number.
    """
    if not path.is_file():
        raise DataError(
            f"there is no data file {str(path)!r}. Fix: check the path; it is relative to the current folder."
        )
    readers = {".npz": _read_npz, ".json": _read_json, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"data file {str(path)!r} ends in {path.suffix or 'nothing'!r}, expected .npz, .json or .csv. "
            "Fix: save it as one of these."
        )
    try:
        return reader(path)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, RecursionError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(
            f"data file {str(path)!r} cannot be read: {error}. Fix: save it again as {path.suffix}."
        ) from error


def _read_npz(path: Path) -> dict[str, Any]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise DataError(
            f"data file {str(path)!r} holds one array without a name. "
            f"Fix: save with numpy.savez({path.name!r}, x=x, y=y)."
        )
    with loaded:
        return {name: _scalar_or_array(loaded[name]) for name in loaded.files}


def _read_json(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _check_once(path, "name", [name for name, _ in pairs])
        return dict(pairs)

    content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    if not isinstance(content, dict):
        raise DataError(
            f"data file {str(path)!r} holds a {type(content).__name__}, expected an object of names and values. "
            'Fix: write {"x": [1.0, 2.0], "y": [0, 1]}.'
        )
    return {str(name): _from_json(path, name, value) for name, value in content.items()}


def _from_json(path: Path, name: str, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name!r} in {path} is ragged: {error}. Fix: give rows of equal length.") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name!r} in {path} holds values that are no numbers. Fix: encode categories as integers.")
    return array


def _read_csv(path: Path) -> dict[str, Any]:
    import pandas as pd

    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header, first = [name.strip() for name in next(rows, [])], next(rows, [])
    _check_once(path, "column", header)
    frame = pd.read_csv(path, encoding="utf-8-sig", skipinitialspace=True)
    if len(first) > len(header):  # pandas would take the first value of each row for its label
        raise DataError(
            f"data file {str(path)!r} has more values in a row than its header has names ({', '.join(header)}). "
            "Fix: separate values by commas, and write decimals with a point."
        )
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    columns: dict[str, Any] = {}
    for column in frame.columns:
        if frame[column].dtype.kind in "biuf":
            columns[str(column)] = frame[column].to_numpy()
        else:
            columns[str(column)] = _NotNumbers(path, str(column), frame[column].dropna().iloc[:1].tolist())
    return {**columns, **_matrices(path, columns)}


def _check_once(path: Path, what: str, names: Iterable[str]) -> None:
    """Refuses names that come twice, of which one would be taken silently.

    Raises:
        DataError: if there are any.
    """
    names = [name for name in names if name]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"data file {str(path)!r} has {what} {twice!r} twice. Fix: give each a name of its own, or leave one out."
        )


class _Refused:
    """A value that cannot be used: no fault while no model asks for it."""

    def __init__(self, message: str) -> None:
        self.message = message


class _NotNumbers(_Refused):
    """A column of text."""

    def __init__(self, path: Path, column: str, example: Iterable[Any]) -> None:
        super().__init__(
            f"column {column!r} of {path} holds values such as {next(iter(example), '')!r}, expected numbers. "
            "Fix: encode categories as integers, or leave the column out."
        )


def _matrices(path: Path, columns: dict[str, Any]) -> dict[str, Any]:
    """Columns x.1, x.2, ... side by side as the matrix x; they count from 0 or 1 without a gap."""
    groups: dict[str, dict[int, Any]] = {}
    for column, values in columns.items():
        match = _MATRIX_COLUMN.fullmatch(column)
        if match and match["name"] not in columns:
            groups.setdefault(match["name"], {})[int(match["index"])] = values
    return {name: _matrix(path, name, parts) for name, parts in groups.items()}


def _matrix(path: Path, name: str, parts: dict[int, Any]) -> Any:
    numbers = sorted(parts)
    missing = next((i for i in range(numbers[0], numbers[-1]) if i not in parts), None)
    if numbers[0] > 1 or missing is not None:
        missing = numbers[0] - 1 if numbers[0] > 1 else missing
        return _Refused(
            f"{path} has columns {name}.{numbers[0]} to {name}.{numbers[-1]} without {name}.{missing}: the matrix {name!r} has a "
            "gap. Fix: number its columns from 0 or 1 without a gap."
        )
    text = next((parts[i] for i in numbers if isinstance(parts[i], _Refused)), None)
    return text or np.column_stack([parts[i] for i in numbers])


def _scalar_or_array(value: np.ndarray[Any, Any]) -> Any:
    return value.item() if value.ndim == 0 else value


def checked(value: Any) -> Any:
    """Returns a value of :func:`load_data` for a model.

    Raises:
        DataError: if it is a column of text, or a matrix with a gap.
    """
    if isinstance(value, _Refused):
        raise DataError(value.message)
    return value
