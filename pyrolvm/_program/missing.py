"""Missing values, as the containers of data mark them: masks, nulls, ``None``, fill values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pyrolvm._base.errors import DataError
from pyrolvm._base.numerics import Array
from pyrolvm._compat.scipy import netcdf_attributes

__all__ = ["REMEDY", "as_nan", "check_present", "covariate_error", "is_missing", "missing_error"]


UNWRITTEN = 9.969209968386869e36
"""What netCDF libraries write where no value was given; the same number in single precision."""

REMEDY = (
    'of observations, lvm.Problem(..., missing="latent"), which leaves them to the model; of covariates, give them a distribution '
    'there as well, x = pyro.sample("x", dist.Normal(m, s), obs=x); or drop those rows. '
    "A model that masks NaN itself, with a finite placeholder, takes NaN in a plain float array."
)
"""What can be done about values that are missing."""


def missing_error(name: str, count: int, index: tuple[int, ...], how: str) -> DataError:
    """The error for an argument with ``count`` missing values, the first at ``index``.

    Args:
        name: the argument's name.
        count: how many there are.
        index: where the first one is; empty for a single value.
        how: how the container says so.
    """
    where = f"the first at {list(index)}" if index else "its only one"
    plural = "s" if count != 1 else ""
    return DataError(f"argument {name!r} has {count} missing value{plural} ({how}), {where}. Fix: {REMEDY}")


def covariate_error(problem: str, name: str, count: int, *, observed: bool) -> DataError:
    """The error for missing values of which the model does not say where they come from.

    Args:
        problem: the model's name.
        name: the argument.
        count: how many there are.
        observed: whether sites observe them, several times or changed.
    """
    found = f"argument {name!r} of {problem} has {count} missing value{'s' if count != 1 else ''}"
    if observed:
        return DataError(f"{found}, which are observed more than once. Fix: observe each once, or drop those rows.")
    return DataError(
        f"{found}, and no site observes them as they are: nothing says how they are distributed. Fix: give them a distribution inside "
        f'the plate, {name} = pyro.sample("{name}", dist.Normal(m, s), obs={name}), where m and s are latents, and use that value; '
        "transform what is observed before it is passed; or drop those rows."
    )


def as_nan(value: Any) -> Any:
    """An array of floats with NaN where a container marks a value as missing; the value itself where it marks none."""
    marks = [np.asarray(mask, dtype=bool) for mask, _ in _masks(value)]
    if not any(mask.any() for mask in marks) or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(float), np.nan) if value.dtype.kind in "biuf" else value
    items: Any = value.to_numpy(dtype=object, na_value=None) if type(value).__module__.startswith("pandas") else None
    if items is None:
        listed = value.to_pylist if hasattr(value, "to_pylist") else getattr(value, "to_list", None)
        items = np.array(value if listed is None else listed(), dtype=object)
    flat = [np.nan if is_missing(item) else item for item in items.reshape(-1).tolist()]
    if not all(isinstance(item, int | float | np.number) for item in flat):
        return value
    return np.array([float(item) for item in flat]).reshape(items.shape)


def is_missing(item: object) -> bool:
    """Whether an object is what containers put where a value is missing: ``None``, ``pandas.NA``, ``NaT``, NaN, or a masked value."""
    return (
        item is None
        or item is np.ma.masked
        or type(item).__name__ in ("NAType", "NaTType")
        or (isinstance(item, float | np.floating) and bool(item != item))
    )


def check_present(name: str, value: object) -> None:
    """Refuses data whose container says that values are missing, whatever lies in their place.

    Raises:
        DataError: with their number and the first position.
    """
    for mask, how in _masks(value):
        mask = np.asarray(mask, dtype=bool)
        if mask.any():
            first = tuple(int(i) for i in np.argwhere(mask)[0]) if mask.ndim else ()
            raise missing_error(name, int(mask.sum()), first, how)
    _check_packed(name, value)


def _masks(value: Any) -> Iterator[tuple[Any, str]]:
    """Masks that are true where a value is missing, each with how the container says so."""
    root = type(value).__module__.partition(".")[0]
    if isinstance(value, np.ma.MaskedArray):
        yield np.ma.getmaskarray(value), "masked"
    elif isinstance(value, torch.Tensor) and hasattr(value, "get_mask"):
        yield ~value.get_mask().numpy(), "masked"
    elif isinstance(value, list):
        yield _in_rows(value), "None or NA"
    elif root == "pandas":
        yield _of_pandas(value), "NA"
    elif root == "pyarrow":
        columns = value.columns if hasattr(value, "column_names") else [value]
        marks = [np.asarray(column.is_null().to_numpy(zero_copy_only=False), dtype=bool) for column in columns]
        yield np.column_stack(marks) if hasattr(value, "column_names") else marks[0], "null"
    elif root == "polars":
        columns = value.get_columns() if hasattr(value, "get_columns") else [value]
        marks = [np.asarray(column.is_null().to_numpy(), dtype=bool) for column in columns]
        yield np.column_stack(marks) if hasattr(value, "get_columns") else marks[0], "null"
    if (
        isinstance(value, np.ndarray)
        and value.dtype.kind == "f"
        and value.dtype.itemsize >= 4
        and value.size
        and np.nanmax(np.asarray(value), initial=0.0) > 9e36
    ):
        yield np.asarray(value) == UNWRITTEN, f"{UNWRITTEN:.6g}, where netCDF has no value"
    yield from _fills(value)


def _of_pandas(value: Any) -> Any:
    """Where a column has pandas' own missing value. NaN in plain NumPy columns is a number that a model may mask."""
    if not hasattr(value, "isna"):
        return False
    columns = (
        [value.iloc[:, i] for i in range(value.shape[1])] if hasattr(value, "iloc") and value.ndim == 2 else [value]
    )
    marks = [
        np.asarray(column.isna(), dtype=bool)
        if not isinstance(column.dtype, np.dtype) or column.dtype == object
        else np.zeros(len(column), dtype=bool)
        for column in columns
    ]
    return np.column_stack(marks) if getattr(value, "ndim", 1) == 2 and marks else marks[0] if marks else False


def _in_rows(rows: list[object]) -> object:
    """Where nested lists hold ``None``, ``pandas.NA`` or a masked value; a scalar false where they hold none."""
    places: list[tuple[int, ...]] = list(_places(rows, ()))
    if not places:
        return False
    shape = tuple(max(place[d] for place in places) + 1 for d in range(min(len(place) for place in places)))
    mask = np.zeros(shape, dtype=bool)
    for place in places:
        mask[place[: len(shape)]] = True
    return mask


def _places(rows: Any, at: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for i, item in enumerate(rows):
        if item is None or item is np.ma.masked or type(item).__name__ in ("NAType", "NaTType"):
            yield (*at, i)
        elif isinstance(item, np.ma.MaskedArray):
            yield from ((*at, i, *map(int, place)) for place in np.argwhere(np.ma.getmaskarray(item)))
        elif isinstance(item, list | tuple):
            yield from _places(item, (*at, i))
        elif isinstance(item, np.ndarray) and item.dtype == object:
            yield from _places(item.tolist() if item.ndim else [item.item()], (*at, i))


def _attributes(value: object) -> Mapping[str, object]:
    """The attributes that a netCDF or HDF5 variable carries; empty for anything else."""
    found = getattr(value, "attrs", None)
    return found if isinstance(found, Mapping) else netcdf_attributes(value)


def _fills(value: object) -> Iterator[tuple[object, str]]:
    """Values that the attributes of a netCDF or HDF5 variable declare to be missing. Decoded ones no longer have them."""
    attributes = _attributes(value)
    for key in ("_FillValue", "missing_value"):
        if key in attributes:
            held = _content(value)
            codes = np.asarray(attributes[key]).reshape(-1)
            found = np.isin(held, codes)
            # NaN as fill value is NaN in the data, which a model may mask.
            yield found, f"{key} {', '.join(str(code) for code in codes.tolist())}"
    if attributes and _content(value).dtype.kind == "f":
        yield _content(value) == UNWRITTEN, f"{UNWRITTEN:.6g}, where netCDF has no value"


def _content(value: object) -> Array:
    if hasattr(value, "to_numpy"):
        return np.asarray(value.to_numpy())
    return np.asarray(value[...] if hasattr(value, "__getitem__") else value)


def _check_packed(name: str, value: object) -> None:
    """Refuses a variable whose numbers stand for others."""
    attributes = _attributes(value)
    packing = [key for key in ("scale_factor", "add_offset") if key in attributes]
    if packing:
        raise DataError(
            f"argument {name!r} is packed: its attributes {', '.join(packing)} say that its numbers stand for others. "
            "Fix: open the file with mask_and_scale=True, or compute scale_factor * x + add_offset."
        )
