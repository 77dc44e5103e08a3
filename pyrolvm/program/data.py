"""From what users hold (lists, NumPy, pandas, tensors) to the tensors that a model is called with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm.errors import DataError

__all__ = ["cast", "fingerprint", "to_tensors"]


def to_tensors(named: Mapping[str, Any]) -> dict[str, Any]:
    """Converts every array-like argument of a model to a tensor, and leaves everything else as it is.

    NumPy arrays, pandas objects and lists of numbers become tensors: integers and booleans keep their kind, floats
    take the dtype of the floating tensors among the arguments, or torch's default where there is none. Scalars,
    strings, tuples, modules and functions pass through.

    Args:
        named: the model's arguments by name, for the messages.

    Raises:
        DataError: if an argument is ragged, not numeric, empty, or on another device or of another floating dtype
            than the rest.
    """
    floating = {name: value.dtype for name, value in named.items() if _is_floating(value)}
    if len(set(floating.values())) > 1:
        listing = ", ".join(f"{name}: {_short(dtype)}" for name, dtype in floating.items())
        raise DataError(
            f"arguments have different floating dtypes ({listing}). "
            "Fix: convert them to one dtype, or build the problem and call problem.to(dtype=torch.float64)."
        )
    dtype = next(iter(floating.values()), torch.get_default_dtype())
    converted = {name: _convert(name, value, dtype) for name, value in named.items()}
    devices = {name: value.device for name, value in converted.items() if isinstance(value, Tensor)}
    moved = {device for name, device in devices.items() if isinstance(named[name], Tensor)}
    if len(moved) > 1:
        listing = ", ".join(f"{name}: {device}" for name, device in devices.items())
        raise DataError(
            f"arguments are on different devices ({listing}). Fix: call problem.to(device=...) or move them."
        )
    device = next(iter(moved), torch.device("cpu"))
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in converted.items()}


def cast(value: Any, *, dtype: torch.dtype | None, device: torch.device | None) -> Any:
    """Moves a tensor to ``device`` and, if it is floating, to ``dtype``; a module is copied there, anything else is left."""
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).to(device=device, dtype=dtype)
    if not isinstance(value, Tensor):
        return value
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)


def fingerprint(values: Iterable[Any]) -> str:
    """A sha256 over the shapes, dtypes and bytes of the tensors and modules among ``values``, and the ``repr`` of scalars."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            array = value.detach().cpu().contiguous().numpy()
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
        elif isinstance(value, torch.nn.Module):
            digest.update(fingerprint(value.state_dict().values()).encode())
        elif isinstance(value, bool | int | float | str | tuple | type(None)):
            digest.update(repr(value).encode())
        else:
            digest.update(type(value).__qualname__.encode())
    return digest.hexdigest()


def first_non_finite(tensor: Tensor) -> str | None:
    """Says where the first NaN or infinity of a floating tensor is and how many there are, or ``None``."""
    if not tensor.is_floating_point():
        return None
    bad = ~torch.isfinite(tensor)
    count = int(bad.sum())
    if not count:
        return None
    index = tuple(int(i) for i in bad.nonzero()[0])
    where = f"at {list(index)}" if index else "as its only value"
    return f"{count} non-finite value{'s' if count > 1 else ''}, the first ({float(tensor[index])}) {where}"


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _convert(name: str, value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        tensor = value
    else:
        array = _as_array(name, value)
        if array is None:
            return value
        if array.dtype == object:
            array = _from_objects(name, array)
        if array.dtype.kind in "iu":
            array = array.astype(np.int64)
        elif array.dtype.kind not in "fb":
            raise DataError(
                f"argument {name!r} holds {getattr(value, 'dtype', array.dtype)} values, expected numbers. "
                "Fix: encode categories as integers and drop or convert text columns."
            )
        # Torch takes neither a foreign byte order nor negative strides.
        tensor = torch.tensor(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape))
        tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
    if tensor.numel() == 0 and not (
        tensor.dim() > 1 and len(tensor)
    ):  # rows without columns are the program's business
        raise DataError(f"argument {name!r} is empty: shape {tuple(tensor.shape)}. Fix: pass at least one row.")
    return tensor


def _as_array(name: str, value: Any) -> np.ndarray[Any, Any] | None:
    """The NumPy array behind an array-like, or ``None`` if ``value`` is not meant as one."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if isinstance(value, list):
        return _from_list(name, value)
    if hasattr(value, "to_numpy"):  # pandas, polars and xarray alike
        _check_columns(name, value)
        return np.asarray(value.to_numpy())
    return None


def _from_list(name: str, value: list[Any]) -> np.ndarray[Any, Any] | None:
    numbers = (bool, int, float, list, tuple, np.ndarray, np.generic, type(None))
    if value and not all(isinstance(item, numbers) for item in value):
        return None  # strings, tensors, modules: the model's own business
    return _stacked(name, value) if value else np.empty(0)


def _from_objects(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What an array of Python objects holds, if those are numbers; otherwise the array as it is."""
    return _stacked(name, array.tolist()) if array.ndim and array.size else np.asarray(array.tolist())


def _stacked(name: str, rows: list[Any]) -> np.ndarray[Any, Any]:
    for i, item in enumerate(rows):
        if item is None or type(item).__name__ == "NAType":  # pandas.NA, which NumPy has no number for
            raise DataError(
                f"argument {name!r} has a missing value ({item}) at [{i}]. "
                "Fix: drop or impute those rows, or mask them in the model with poutine.mask and a finite placeholder."
            )
    try:
        return np.asarray(rows)
    except ValueError:
        lengths = [len(item) if hasattr(item, "__len__") else 1 for item in rows]
        odd = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
        found = f"row 0 has length {lengths[0]}, row {odd} has {lengths[odd]}" if odd else "its rows differ in shape"
        raise DataError(
            f"argument {name!r} is ragged: {found}. "
            "Fix: pad the rows to one length and pass a mask, or give the rows as one long column with an index."
        ) from None


def _check_columns(name: str, value: Any) -> None:
    dtypes = getattr(value, "dtypes", None)
    columns = getattr(value, "columns", None)
    if dtypes is None or columns is None:
        return
    for column in columns:
        kind = getattr(value[column].dtype, "kind", "O")
        if kind not in "iufb":
            raise DataError(
                f"column {column!r} of argument {name!r} holds {value[column].dtype} values, expected numbers. "
                "Fix: encode categories as integers, or drop the column."
            )
