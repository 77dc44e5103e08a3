"""Python files and data files named on the command line."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._base.errors import ArgumentError, DataError, ProblemError, unknown_name
from pyrolvm._base.numerics import Array
from pyrolvm._cli.archives import read_npz
from pyrolvm._cli.data_files import DATA, Refused
from pyrolvm._cli.tables import read_pieces, read_table
from pyrolvm._runs.readers import JSON_BYTES, JSON_GROWTH, parse_json, parsing, read_bytes

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["data_pieces", "file_and_name", "load_data", "load_module", "member"]

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
    readers = {".npz": read_npz, ".json": _read_json, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if not os.path.exists(path):
        raise DataError(
            f"there is no data file {str(path)!r}. Fix: check the path; it is relative to the current folder."
        )
    if reader is None:
        raise DataError(
            f"data file {str(path)!r} ends in {path.suffix or 'nothing'!r}, expected .npz, .json or .csv. "
            "Fix: save it as one of these."
        )
    with parsing(path, DATA):
        return reader(path)


def _read_json(path: Path) -> dict[str, Any]:
    content = parse_json(read_bytes(path, DATA, limit=JSON_BYTES, growth=JSON_GROWTH), path, DATA, number=_number)
    if not isinstance(content, dict):
        raise DataError(
            f"data file {str(path)!r} holds a {type(content).__name__}, expected an object of names and values. "
            'Fix: write {"x": [1.0, 2.0], "y": [0, 1]}.'
        )
    return {str(name): _from_json(path, name, value) for name, value in content.items()}


def _number(text: str) -> float:
    """A number as JSON has it, which does not become infinite by being read."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:60]} is beyond what a float of 64 bits holds")
    return value


def _from_json(path: Path, name: str, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name!r} in {path} is ragged: {error}. Fix: give rows of equal length.") from error
    if array.dtype.kind == "U" and all(isinstance(item, str) for item in np.asarray(value, dtype=object).ravel()):
        return array
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name!r} in {path} holds values that are no numbers. Fix: write numbers alone, or text alone."
        )
    if array.dtype.kind == "f" and array.size and np.nanmax(np.abs(array), initial=0.0) >= 2**53:
        _check_digits(path, name, np.asarray(value, dtype=object).ravel())
    return array


def _check_digits(path: Path, name: str, values: Array) -> None:
    """Refuses integers that no float of 64 bits holds among numbers that become such."""
    for value in values:
        if isinstance(value, int) and int(float(value)) != value:
            raise DataError(
                f"{name!r} in {path} holds the integer {value}, which a float of 64 bits rounds. "
                "Fix: write integers alone, up to 2**63, or round it yourself."
            )


def data_pieces(path: Path, rows: int) -> Iterator[dict[str, Any]]:
    """The same of a table, so many rows at a time, in bounded memory.

    Raises:
        DataError: if the file is missing, or no table.
    """
    if not os.path.exists(path):
        raise DataError(
            f"there is no data file {str(path)!r}. Fix: check the path; it is relative to the current folder."
        )
    for header, frame in read_pieces(path, rows):
        yield _columns(path, header, frame)


def _read_csv(path: Path) -> dict[str, Any]:
    return _columns(path, *read_table(path))


def _columns(path: Path, header: list[str], frame: pd.DataFrame) -> dict[str, Any]:
    """The columns of a table by name, those of a matrix together."""
    import pandas as pd

    _check_once(path, "column", header)
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    columns: dict[str, Any] = {}
    for column in frame.columns:
        held = frame[column]
        columns[str(column)] = held.to_numpy() if held.dtype.kind in "biuf" else held
    return {**columns, **_matrices(path, columns)}


def _check_once(path: Path, what: str, names: Iterable[str]) -> None:
    """Refuses names that come twice, of which one would be taken silently.

    Raises:
        DataError: if there are any.
    """
    counts = Counter(name for name in names if name)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise DataError(
            f"data file {str(path)!r} has {what} {twice!r} twice. Fix: give each a name of its own, or leave one out."
        )


def _matrices(path: Path, columns: dict[str, Any]) -> dict[str, Any]:
    """Columns x.1, x.2, ... side by side as the matrix x; they count from 0 or 1 without a gap."""
    groups: dict[str, dict[int, Any]] = {}
    twice: dict[str, Refused] = {}
    for column, values in columns.items():
        match = _MATRIX_COLUMN.fullmatch(column)
        if match and match["name"] not in columns:
            name, index = match["name"], int(match["index"])
            if index in groups.setdefault(name, {}):  # as x.1 and x.01
                twice[name] = Refused(
                    f"{path} has two columns for {name}.{index}. Fix: number the columns of {name!r} each once."
                )
            groups[name][index] = values
    return {name: _matrix(path, name, parts) for name, parts in groups.items()} | twice


def _matrix(path: Path, name: str, parts: dict[int, Any]) -> Any:
    numbers = sorted(parts)
    missing = next((i for i in range(numbers[0], numbers[-1]) if i not in parts), None)
    if numbers[0] > 1 or missing is not None:
        missing = numbers[0] - 1 if numbers[0] > 1 else missing
        return Refused(
            f"{path} has columns {name}.{numbers[0]} to {name}.{numbers[-1]} without {name}.{missing}: the matrix {name!r} has a "
            "gap. Fix: number its columns from 0 or 1 without a gap."
        )
    text = next((i for i in numbers if not isinstance(parts[i], np.ndarray)), None)
    if text is not None:
        return Refused(
            f"column {f'{name}.{text}'!r} of {path} holds text, expected numbers like the rest of the matrix {name!r}. "
            "Fix: mend it, or rename the column."
        )
    return np.column_stack([parts[i] for i in numbers])


def checked(value: Any) -> Any:
    """Returns a value of :func:`load_data` for a model.

    Raises:
        DataError: if it is a matrix with a gap or with text.
    """
    if isinstance(value, Refused):
        raise DataError(value.message)
    return value
