"""From what users hold (lists, NumPy, pandas, tensors) to the tensors that a model is called with."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import DataError
from pyrolvm._base.numerics import Array
from pyrolvm._compat.python import is_named_tuple
from pyrolvm._program.arrays import as_array, kept_as_is, numbers_of
from pyrolvm._program.columns import Columns
from pyrolvm._program.labels import Code, coded
from pyrolvm._program.missing import as_nan, check_present
from pyrolvm._program.rounding import loss

__all__ = [
    "FLOATING",
    "Converted",
    "cast",
    "cast_modules",
    "check_no_module",
    "convert",
    "fingerprint",
    "leaves",
    "mapped",
    "named_leaves",
    "to_tensors",
]

FLOATING = (torch.float32, torch.float64)
"""The floating dtypes that inference has enough digits in."""


@dataclass(frozen=True)
class Converted:
    """A model's arguments as it takes them.

    Attributes:
        values: the arguments by name, arrays as tensors.
        originals: the same with floats as they were given, where ``values`` has them rounded.
        widened: why floats were kept at 64 bits, where the dtype asked for would have lost something of them; empty if not.
        dtype: the floating dtype of the values.
        notes: what was made of arguments that a model may have wanted otherwise, by name.
        codes: what the numbers of columns of labels and dates stand for, by argument or place in it, such as ``table['school']``.
    """

    values: dict[str, Any]
    originals: dict[str, Any]
    widened: str
    dtype: torch.dtype
    notes: dict[str, str]
    codes: dict[str, Code]


def to_tensors(named: Mapping[str, Any]) -> dict[str, Any]:
    """The values of :func:`convert` alone."""
    return convert(named).values


def convert(named: Mapping[str, Any], *, dtype: torch.dtype | None = None, gaps: bool = False) -> Converted:
    """Converts every array-like argument of a model to a tensor, and leaves everything else as it is.

    NumPy arrays, pandas objects and lists of numbers become tensors: integers and booleans keep their kind, floats
    take the dtype of the floating tensors among the arguments, or torch's default where there is none. If that is float32 and
    rounding would harm an array of 64 bits (:func:`pyrolvm._program.rounding.loss`), all floats are float64. Scalars, strings,
    modules and functions pass through; dictionaries and tuples are converted value by value.

    Args:
        named: the model's arguments by name, for the messages.
        dtype: the floating dtype, whatever is lost; ``None`` to choose as above.
        gaps: whether values that containers mark as missing become NaN.

    Raises:
        DataError: if an argument is ragged, not numeric, empty, has missing values, or is on another device or of another floating
            dtype than the rest, or would be harmed by the dtype of a module among the arguments.
    """
    with torch.inference_mode(False):
        codes: dict[str, Code] = {}
        if gaps:
            named = {name: mapped(value, name, lambda _, leaf: as_nan(leaf)) for name, value in named.items()}
        read = {name: mapped(value, name, partial(_read, codes, gaps)) for name, value in named.items()}
        tensors = {label: leaf for label, leaf in named_leaves(read) if isinstance(leaf, Tensor)}
        wanted = _dtype(tensors) if dtype is None else dtype
        harmed = _harmed(read) if dtype is None and wanted == torch.float32 else ""
        if harmed:
            check_no_module(read, harmed)
            wanted = torch.float64
        device = _device(tensors)
        values, originals = {}, {}
        for name, value in read.items():
            given = mapped(value, name, lambda _, leaf: _tensor(leaf, device))
            values[name] = cast(given, dtype=wanted, device=None, modules=False)
            originals[name] = owned(values[name] if _exact(given, values[name]) else given)
            values[name] = owned(values[name])
    return Converted(values, originals, harmed, wanted, _notes(named, values), codes)


def cast(value: Any, *, dtype: torch.dtype | None, device: torch.device | None, modules: bool = True) -> Any:
    """Moves a tensor to ``device`` and, if it is floating, to ``dtype``; a module is copied there, anything else is left.

    Args:
        value: a tensor, a module, or a dictionary, list or tuple with some.
        dtype: the floating dtype; ``None`` to leave it.
        device: the device; ``None`` to leave it.
        modules: whether modules are moved too.
    """

    def moved(_: str, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

    found = mapped(value, "", moved)
    return cast_modules(found, dtype=dtype, device=device) if modules else found


def cast_modules(value: Any, *, dtype: torch.dtype | None, device: torch.device | None) -> Any:
    """Copies modules to ``device`` and ``dtype``; anything else is left."""

    def moved(_: str, leaf: Any) -> Any:
        return copy.deepcopy(leaf).to(device=device, dtype=dtype) if isinstance(leaf, torch.nn.Module) else leaf

    return mapped(value, "", moved)


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
        elif isinstance(value, Mapping):
            digest.update(
                f"{sorted(map(repr, value))}{fingerprint(value[key] for key in sorted(value, key=repr))}".encode()
            )
        elif isinstance(value, list | tuple) and any(isinstance(leaf, Tensor) for leaf in leaves(value)):
            digest.update(f"{len(value)}{fingerprint(value)}".encode())
        elif isinstance(value, bool | int | float | str | tuple | type(None)):
            digest.update(repr(value).encode())
        else:
            digest.update(type(value).__qualname__.encode())
    return digest.hexdigest()


def leaves(value: Any) -> Iterator[Any]:
    """The values in dictionaries, lists and tuples, however deep; of anything else itself."""
    for _, leaf in named_leaves({"": value}):
        yield leaf


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


# --- values in values -------------------------------------------------------------------------------------------------


def mapped(value: Any, label: str, function: Callable[[str, Any], Any]) -> Any:
    """Applies ``function`` to a value, or to those inside of dictionaries, lists and tuples; the same object if none changes."""
    if isinstance(value, dict):
        made = {key: mapped(item, f"{label}[{key!r}]", function) for key, item in value.items()}
        if all(made[key] is value[key] for key in value):
            return value
        filled = copy.copy(value)
        filled.update(made)
        return filled
    if isinstance(value, tuple):
        items = [mapped(item, f"{label}[{i}]", function) for i, item in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if is_named_tuple(value) else type(value)(items)
    found = function(label, value)
    if found is value and isinstance(value, list):
        items = [mapped(item, f"{label}[{i}]", function) for i, item in enumerate(value)]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return found


def owned(value: Any) -> Any:
    """The same with dictionaries and lists of our own, so that a program that changes one changes nothing of the caller's."""
    if isinstance(value, dict):
        made = copy.copy(value)
        made.update({key: owned(item) for key, item in value.items()})
        return made
    if isinstance(value, tuple):
        items = [owned(item) for item in value]
        return type(value)(*items) if is_named_tuple(value) else type(value)(items)
    return [owned(item) for item in value] if type(value) is list else value


def named_leaves(named: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The same with their places, such as ``table['x']``."""
    for label, value in named.items():
        if isinstance(value, dict):
            yield from named_leaves({f"{label}[{key!r}]": item for key, item in value.items()})
        elif isinstance(value, list | tuple):
            yield from named_leaves({f"{label}[{i}]": item for i, item in enumerate(value)})
        else:
            yield label, value


# --- conversion -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Numbers:
    """An argument that is to become a tensor; not an array, which would be taken for one by whoever maps over values."""

    array: Array


def _read(codes: dict[str, Code], gaps: bool, label: str, value: Any) -> Any:
    """A value as numbers of one kind, if it is meant as numbers, labels or dates; a tensor as a plain one."""
    if isinstance(value, Tensor):
        tensor = _plain(label, value)
        _check_filled(label, tuple(tensor.shape))
        return tensor
    if kept_as_is(value) and not hasattr(value, "__array__"):
        return value
    column = coded(label, value, gaps=gaps)
    if column is not None:
        codes[label] = column[1]
        _check_filled(label, column[0].shape)
        return _Numbers(column[0])
    array = as_array(label, value)
    if array is None:
        return value
    _check_filled(label, array.shape)
    return _Numbers(numbers_of(label, value, array))


def _check_filled(label: str, shape: tuple[int, ...]) -> None:
    if 0 in shape and not (len(shape) > 1 and shape[0]):  # rows without columns are the program's business
        raise DataError(f"argument {label!r} is empty: shape {shape}. Fix: pass at least one row.")


def _tensor(leaf: Any, device: torch.device) -> Any:
    if not isinstance(leaf, _Numbers):
        return leaf
    # Torch takes neither a foreign byte order nor negative strides; NumPy's memory stays the caller's own.
    array = np.ascontiguousarray(leaf.array, dtype=leaf.array.dtype.newbyteorder("=")).reshape(leaf.array.shape)
    return torch.tensor(array, device=device)


def _exact(given: Any, made: Any) -> bool:
    """Whether every digit of what was given is in what was made of it, so that it need not be kept."""
    return all(
        not isinstance(a, Tensor) or a.dtype.itemsize <= b.dtype.itemsize or bool((b.to(a.dtype) == a).all())
        for a, b in zip(leaves(given), leaves(made), strict=True)
    )


def _plain(label: str, value: Tensor) -> Tensor:
    """A dense tensor of numbers without a history: what is done with it leaves nothing on the caller's own.

    Raises:
        DataError: if it holds no numbers, or in a dtype of too few digits.
    """
    if hasattr(value, "get_mask"):
        check_present(label, value)
        value = value.get_data()  # type: ignore[attr-defined]
    if value.is_nested:
        raise DataError(
            f"argument {label!r} is a nested tensor, whose rows differ in length. Fix: pad the rows to one length and pass "
            "a mask, or give "
            "the rows as one long column with an index."
        )
    if value.is_complex():
        raise DataError(
            f"argument {label!r} holds {_short(value.dtype)} values, expected real ones. Fix: pass real and imaginary "
            "parts, x.real and x.imag."
        )
    if value.is_quantized:
        value = value.dequantize()
    if value.layout is not torch.strided:
        value = value.to_dense()
    if value.is_floating_point() and value.dtype not in FLOATING:
        raise DataError(
            f"argument {label!r} is of dtype {_short(value.dtype)}, which has too few digits for densities. "
            f"Fix: pass {label}.float(), which has the same values."
        )
    if value.is_inference():
        return value.clone()
    return value.detach() if value.requires_grad else value


def _dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The floating dtype of the tensors among the arguments, or torch's default.

    Raises:
        DataError: if they have several.
    """
    floating = {label: value.dtype for label, value in tensors.items() if value.is_floating_point()}
    if len(set(floating.values())) > 1:
        listing = ", ".join(f"{label}: {_short(dtype)}" for label, dtype in floating.items())
        raise DataError(
            f"arguments have different floating dtypes ({listing}). "
            "Fix: convert them to one dtype, or build the problem and call problem.to(dtype=torch.float64)."
        )
    default = torch.get_default_dtype()
    return next(iter(floating.values()), default if default in FLOATING else torch.float32)


def _device(tensors: Mapping[str, Tensor]) -> torch.device:
    """The device of the tensors among the arguments.

    Raises:
        DataError: if they are on several.
    """
    devices = {label: value.device for label, value in tensors.items()}
    if len(set(devices.values())) > 1:
        listing = ", ".join(f"{label}: {device}" for label, device in devices.items())
        raise DataError(
            f"arguments are on different devices ({listing}). Fix: call problem.to(device=...) or move them."
        )
    if any(device.type == "meta" for device in devices.values()):
        raise DataError(
            f'argument {next(iter(devices))!r} is on device "meta", where tensors have a shape and no values. '
            "Fix: pass the data themselves."
        )
    return next(iter(devices.values()), torch.device("cpu"))


def _harmed(read: Mapping[str, Any]) -> str:
    """Which argument would lose something as float32, and what; empty if none would."""
    for label, leaf in named_leaves(read):
        lost = loss(leaf.array) if isinstance(leaf, _Numbers) and leaf.array.dtype.kind == "f" else None
        if lost:
            return f"as float32, argument {label!r} {lost}"
    return ""


def check_no_module(named: Mapping[str, Any], harmed: str) -> None:
    """Refuses data that need float64 beside a module that is in float32, which would not take them."""
    for label, leaf in named_leaves(named):
        if isinstance(leaf, torch.nn.Module) and any(p.dtype == torch.float32 for p in leaf.parameters()):
            raise DataError(
                f"{harmed}, and module {label!r} takes float32. Fix: subtract an origin and divide by a scale before, or pass "
                f"{label}.double()."
            )


def _notes(named: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
    """What a model that fails may not have expected of its arguments."""
    notes = {}
    for name, value in named.items():
        if isinstance(value, Columns):
            notes[name] = (
                f"argument {name!r}, a table that holds more than numbers, is given to the model as its columns, {name}[...]: "
                f"{', '.join(map(repr, value))}"
            )
            continue
        table = getattr(value, "columns", getattr(value, "column_names", None))
        if isinstance(values[name], Tensor) and table is not None:
            columns = list(table)
            picked = ", ".join(f"{name}[{column!r}]" for column in columns[:2])
            notes[name] = (
                f"argument {name!r}, a {type(value).__name__}, is given to the model as a tensor of shape "
                f"{tuple(values[name].shape)}: where "
                f"the model wants its columns, pass them, as in lvm.Problem(model, {picked}, ...)"
            )
        elif isinstance(value, list) and value and isinstance(values[name], list):
            notes[name] = f"argument {name!r} is given to the model as it is, a list of {type(value[0]).__name__}"
        elif (
            type(value).__module__.partition(".")[0] not in ("builtins", "torch")
            and values[name] is value
            and not callable(value)
        ):
            notes[name] = f"argument {name!r} is given to the model as it is, a {type(value).__name__}"
    return notes


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
