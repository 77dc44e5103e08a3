"""From what users hold to NumPy arrays of numbers: containers, their masks, and values that are no numbers."""

from __future__ import annotations

import array as buffers
import datetime
import decimal
import fractions
import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pyrolvm._base.errors import DataError
from pyrolvm._base.numerics import Array
from pyrolvm._compat.python import is_named_tuple
from pyrolvm._program.missing import check_present, missing_error

__all__ = ["as_array", "columns_of", "is_number_column", "kept_as_is", "numbers_of"]


DENSE = 50_000_000
"""A sparse matrix of more entries than this is not made dense."""

_NO_NUMBERS = {
    "M": "subtract an origin and divide by a unit, such as (t - t.min()) / np.timedelta64(1, 'D')",
    "m": "divide by a unit, such as dt / np.timedelta64(1, 'D')",
    "c": "pass real and imaginary parts, x.real and x.imag",
    "V": "pass each field as an argument of its own",
}
_CATEGORIES = "convert it to numbers, or to a column of labels alone"


def as_array(name: str, value: Any) -> Array | None:
    """The NumPy array behind an array-like, or ``None`` if ``value`` is not meant as one.

    Args:
        name: the argument's name, for messages.
        value: what was given.

    Raises:
        DataError: if its container says that values are missing, or it is ragged, or can be read only once.
    """
    _refuse(name, value)
    if isinstance(value, np.ndarray | np.generic):
        check_present(name, value)
        return np.asarray(value)
    if isinstance(value, list):
        return _from_list(name, value)
    if isinstance(value, buffers.array | memoryview):
        return np.asarray(value)
    if isinstance(value, decimal.Decimal | fractions.Fraction):
        return np.asarray(float(value))
    if _root(value) == "scipy" and hasattr(value, "toarray"):
        return _dense(name, value)
    if hasattr(value, "to_pandas") and hasattr(value, "column_names"):  # a table of pyarrow
        check_present(name, value)
        value = value.to_pandas()
    if hasattr(value, "to_numpy"):  # pandas, polars, pyarrow and xarray alike
        _check_columns(name, value)
        check_present(name, value)
        return np.asarray(value.to_numpy(zero_copy_only=False) if _root(value) == "pyarrow" else value.to_numpy())
    return _by_protocol(name, value)


def numbers_of(name: str, value: Any, array: Array) -> Array:
    """An array as one of booleans, of 64-bit integers, or of floats of at most 64 bits.

    Args:
        name: the argument's name, for messages.
        value: what the array was made from.
        array: the array.

    Raises:
        DataError: if it holds something else, or integers beyond 64 bits.
    """
    if array.dtype == object:
        array = _from_objects(name, array)
    if array.dtype.kind == "V" and array.dtype.name.startswith(("bfloat", "float")):
        array = array.astype(np.float32)  # of ml_dtypes, as JAX has them
    kind = array.dtype.kind
    if kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(
            f"argument {name!r} holds integers up to {int(array.max())}, beyond the {np.iinfo(np.int64).max} of 64 bits with a "
            "sign. Fix: subtract an origin, or number the values from 0."
        )
    if kind in "iu":
        return array.astype(np.int64)
    if kind == "f":
        return array.astype(np.float64) if array.dtype.itemsize > 8 else array
    if kind != "b":
        held = getattr(value, "dtype", array.dtype)
        raise DataError(
            f"argument {name!r} holds {held} values, expected numbers. Fix: {_NO_NUMBERS.get(kind, _CATEGORIES)}."
        )
    return array


def kept_as_is(value: Any) -> bool:
    """Whether ``value`` is a number, text or a function, in which there is nothing to convert."""
    return value is None or isinstance(value, bool | int | float | str | bytes) or callable(value)


def _refuse(name: str, value: Any) -> None:
    """Refuses what cannot be data of a model, whatever it holds."""
    if isinstance(value, DataLoader | Dataset):
        raise DataError(
            f"argument {name!r} is a {type(value).__name__}, expected tensors. Fix: stream its batches, "
            "lvm.Problem(model, *lvm.stream(dataset, batch_size=100)), or pass its tensors where they fit in memory."
        )
    if isinstance(value, Iterator):
        raise DataError(
            f"argument {name!r} is a {type(value).__name__}, which can be read only once, and a model is run many times. "
            "Fix: pass list(...) of it, or an array."
        )
    if isinstance(value, complex) and not isinstance(value, np.generic):
        raise DataError(f"argument {name!r} is a complex number, expected a real one. Fix: {_NO_NUMBERS['c']}.")
    if type(value).__name__ in ("NAType", "NaTType"):
        raise missing_error(name, 1, (), str(value))
    if _root(value) == "xarray" and hasattr(value, "data_vars"):
        names = ", ".join(map(repr, list(value.data_vars)[:3]))
        raise DataError(
            f"argument {name!r} is a Dataset of several variables ({names}). Fix: pass each one that the model takes, "
            f"lvm.Problem(model, data[{next(iter(value.data_vars), 'x')!r}], ...)."
        )


def _root(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _dense(name: str, value: Any) -> Array:
    entries = int(np.prod(value.shape))
    if entries > DENSE:
        raise DataError(
            f"argument {name!r} is a sparse matrix of {value.shape}, which has {entries:,} entries when dense. "
            "Fix: pass its rows, columns and values as arguments, or fewer rows."
        )
    return np.asarray(value.toarray())


def _by_protocol(name: str, value: Any) -> Array | None:
    """The array of whatever else says how it becomes one: JAX arrays, HDF5 and netCDF variables, images."""
    if isinstance(value, type | torch.Tensor | torch.nn.Module) or kept_as_is(value):
        return None
    if hasattr(value, "todense"):
        return np.asarray(value.todense())
    if hasattr(value, "set_auto_mask"):  # of the netCDF4 package, which masks what it reads
        value = value[...]
    check_present(name, value)
    if not hasattr(value, "__array__") and not hasattr(value, "__array_interface__"):
        return None
    try:
        return np.asarray(value)
    except Exception as error:  # whatever the other library raises, such as for a value that JAX is tracing
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"argument {name!r} is a {type(value).__name__} that cannot be read as an array: {reason} "
            "Fix: pass a NumPy array or a tensor."
        ) from error


def _from_list(name: str, value: list[Any]) -> Array | None:
    """The array of a list of numbers or of rows; ``None`` for text, tensors, records and the like: the model's own business."""
    if not value:
        return np.empty(0)
    plain = (*_SCALARS, list, tuple, np.ndarray, np.generic, type(None))
    if any(isinstance(item, tuple) and is_named_tuple(item) for item in value):
        return None
    found = [isinstance(item, plain) or type(item).__name__ in ("NAType", "NaTType") for item in value]
    if all(found):
        return _stacked(name, value)
    strings = [isinstance(item, str) for item in value]
    if any(strings) and any(found):
        i = strings.index(True)
        raise DataError(
            f"argument {name!r} mixes numbers and text: {value[i]!r} at [{i}]. Fix: pass numbers alone, and encode "
            "categories as integers."
        )
    return None


_SCALARS = (bool, numbers.Number, datetime.date, datetime.timedelta)


def _from_objects(name: str, array: Array) -> Array:
    """What an array of Python objects holds, if those are numbers; otherwise the array as it is."""
    return _stacked(name, array.tolist()) if array.ndim and array.size else _plain(np.asarray(array.tolist()))


def _stacked(name: str, rows: list[Any]) -> Array:
    """Rows as one array.

    Raises:
        DataError: if they are ragged, or one of their values is missing.
    """
    check_present(name, rows)
    try:
        array = np.asarray(rows)
    except (ValueError, OverflowError):
        lengths = [len(item) if hasattr(item, "__len__") else 1 for item in rows]
        odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        found = f"row 0 has length {lengths[0]}, row {odd} has {lengths[odd]}" if odd else "its rows differ in shape"
        raise DataError(
            f"argument {name!r} is ragged: {found}. "
            "Fix: pad the rows to one length and pass a mask, or give the rows as one long column with an index."
        ) from None
    return _plain(array)


def _plain(array: Array) -> Array:
    """An array of Python's own numbers, such as Decimal and Fraction, as one of floats; any other as it is."""
    if array.dtype != object or not array.size:
        return array
    kinds = (decimal.Decimal, fractions.Fraction, bool, float, np.bool_, np.floating)
    items = array.reshape(-1).tolist()
    whole = [isinstance(item, int) and not isinstance(item, bool) for item in items]
    if not all(ok or isinstance(item, kinds) for ok, item in zip(whole, items, strict=True)) or all(whole):
        return array
    return np.array([float(item) for item in items]).reshape(array.shape)


def _check_columns(name: str, value: Any) -> None:
    """Refuses categories and text, whose codes and labels are no quantities, in a column or in those of a table."""
    for label, column in columns_of(value):
        dtype: Any = column.dtype
        kind = _kind(dtype)
        if kind in "iufb" and not hasattr(dtype, "categories"):
            continue
        where = f"argument {name!r}" if label is None else f"column {label!r} of argument {name!r}"
        fix = _NO_NUMBERS.get(kind, "encode categories as integers, or drop the column")
        raise DataError(f"{where} holds {dtype} values, expected numbers. Fix: {fix}.")


def columns_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """The columns of a table with their labels, or a single column without one; nothing of what has no kinds of columns."""
    columns = getattr(value, "columns", None)
    if columns is not None and hasattr(value, "iloc"):
        yield from ((label, value.iloc[:, i]) for i, label in enumerate(columns))
    elif columns is not None and hasattr(value, "get_column"):  # polars
        yield from ((label, value.get_column(label)) for label in columns)
    elif hasattr(value, "dtype") and hasattr(value.dtype, "categories"):
        yield None, value


def is_number_column(column: Any) -> bool:
    """Whether a column of a table holds numbers, as its dtype says."""
    root = _root(column)
    if root == "pyarrow":
        column = column.to_pandas()
    return _kind(column.dtype) in "iufb" and not hasattr(column.dtype, "categories")


def _kind(dtype: Any) -> str:
    """NumPy's letter for a column's dtype: "O" where it is of no numbers."""
    kind = getattr(dtype, "kind", None)
    if isinstance(kind, str):
        # Decimals of Arrow are objects to pandas, and numbers all the same.
        return "f" if kind == "O" and "decimal" in str(dtype).lower() else kind
    is_numeric = getattr(dtype, "is_numeric", None)  # polars
    if callable(is_numeric):
        return "f" if is_numeric() else "b" if str(dtype) == "Boolean" else "O"
    return "O"
