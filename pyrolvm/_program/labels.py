"""Columns of labels and of dates as numbers: what each number stands for, and the same for data that come later."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from pyrolvm._base.errors import DataError
from pyrolvm._base.numerics import Array
from pyrolvm._program.missing import is_missing, missing_error

__all__ = ["Code", "Levels", "Times", "coded", "coded_again"]

_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,6}(?P<finer>\d{1,3})?)?)?(?P<zone>Z|[+-]\d{2}(:?\d{2})?)?)?"
)
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Levels:
    """What codes from 0 on stand for: the categories of a column in their order, or the values of a column of text, sorted."""

    labels: tuple[object, ...]

    @property
    def numeric(self) -> bool:
        """Whether the labels are numbers themselves, such as those of people: a column of numbers holds labels then, and no codes."""
        return bool(self.labels) and all(isinstance(label, Real) for label in self.labels)

    def along(self, size: int) -> list[object]:
        """Labels of a dimension of members, of which there may be more than labels: those have their numbers."""
        if size <= len(self.labels):
            return list(self.labels[:size])
        return [*map(str, self.labels), *(str(i) for i in range(len(self.labels), size))]

    def attrs(self) -> dict[str, str]:
        """What a variable of a result says of its codes."""
        return {"levels": json.dumps([str(label) for label in self.labels], ensure_ascii=False)}

    def encode(self, items: Iterable[object]) -> tuple[list[int], Levels]:
        """Codes of labels; unknown ones get the next numbers, in their order, and the levels with them are returned too."""
        known = dict(zip(self.labels, range(len(self.labels)), strict=True))
        listed = list(items)
        new = sorted(
            {item for item in listed if item not in known}, key=lambda item: (type(item).__name__, _order(item))
        )
        known |= {item: len(known) + i for i, item in enumerate(new)}
        return [known[item] for item in listed], Levels((*self.labels, *new))


@dataclass(frozen=True)
class Times:
    """What numbers of days stand for: dates since ``origin``, in ISO form and UTC; durations where it is empty."""

    origin: str

    def attrs(self) -> dict[str, str]:
        """What a variable of a result says of its numbers."""
        return {"unit": "days", **({"origin": self.origin} if self.origin else {})}

    def encode(self, times: Array) -> Array:
        """Days since the origin."""
        spans = times - np.datetime64(self.origin) if self.origin else times
        return np.asarray(spans / _DAY, dtype=np.float64)


Code = Levels | Times


def _order(label: object) -> tuple[float, str]:
    """By what labels are sorted: numbers by value, all else as text."""
    return (float(label), "") if isinstance(label, int | float) else (0.0, str(label))


def coded(name: str, value: object, *, gaps: bool = False) -> tuple[Array, Code] | None:
    """The numbers of a column of categories, text, dates or durations, and what they stand for; ``None`` of anything else.

    Text of ISO dates (``2024-05-01``, ``2024-05-01 12:30``, ``2024-05-01T12:30:00+02:00``) is dates. Numbers of dates are days since
    midnight of the first.

    Args:
        name: the argument's name, for messages.
        value: a column of pandas, polars or pyarrow, or a NumPy array.
        gaps: whether values may be missing, which are NaN then.

    Raises:
        DataError: if values are missing, or some of the text reads as numbers, so that nothing says which is meant.
    """
    held = _column(value)
    if held is None:
        return None
    items, categories = held
    missing = _missing(items)
    if not missing.any():
        return _coded(name, items, categories)
    if not gaps:
        _check_present(name, items)
    found = _coded(name, items[~missing], categories) if not missing.all() else None
    if found is None:
        return None
    numbers = np.full(items.shape, np.nan)
    numbers[~missing] = found[0]
    return numbers, found[1]


def _coded(name: str, items: Array, categories: Sequence[object] | None) -> tuple[Array, Code] | None:
    if categories is not None:
        codes, levels = Levels(tuple(categories)).encode(items.reshape(-1).tolist())
        return np.asarray(codes, dtype=np.int64).reshape(items.shape), levels
    times = _times(items)
    if times is not None:
        code = Times(str(times.min().astype("datetime64[D]")) if times.dtype.kind == "M" else "")
        return code.encode(times), code
    if not _is_text(items):
        return None
    _check_no_numbers(name, items)
    codes, levels = Levels(()).encode(items.reshape(-1).tolist())
    return np.asarray(codes, dtype=np.int64).reshape(items.shape), levels


def coded_again(name: str, value: object, code: Code) -> tuple[Array, Code] | None:
    """New values by a code that is known; ``None`` of tensors and of other numbers than labels, which are codes or days already.

    Args:
        name: the argument's name, for messages.
        value: as :func:`coded` takes it, or a list.
        code: that of the column before.

    Raises:
        DataError: if values are missing, or are no labels and no dates.
    """
    if isinstance(value, list | tuple):
        value = np.array(value, dtype=object)
    elif isinstance(value, str | datetime.date):
        value = np.array([value], dtype=object)
    numeric = isinstance(code, Levels) and code.numeric
    held = _column(value) or (_numbers(value) if numeric else None)
    if held is None:
        return None
    items = held[0]
    _check_present(name, items)
    if isinstance(code, Levels):
        known = numeric or _is_text(items) or set(items.reshape(-1).tolist()) <= set(code.labels)
        if held[1] is None and not known:
            return None
        codes, levels = code.encode(items.reshape(-1).tolist())
        return np.asarray(codes, dtype=np.int64).reshape(items.shape), levels
    times = _times(items)
    if times is None or (times.dtype.kind == "M") != bool(code.origin):
        if not _is_text(items):
            return None
        raise DataError(
            f"argument {name!r} holds {items.reshape(-1)[0]!r}, expected {'dates' if code.origin else 'durations'} as in the fit. "
            "Fix: pass dates such as '2024-05-01', or numbers of days"
            + (f" since {code.origin}." if code.origin else ".")
        )
    return code.encode(times), code


# --- what a column holds ----------------------------------------------------------------------------------------------


def _column(value: Any) -> tuple[Array, Sequence[object] | None] | None:
    """The objects in a column, and its categories where it declares some; ``None`` of numbers and of what is no column."""
    root = type(value).__module__.partition(".")[0]
    if root == "pyarrow" and hasattr(value, "to_pandas") and not hasattr(value, "column_names"):
        value, root = value.to_pandas(), "pandas"
    if root == "xarray" and hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, list) and value and isinstance(value[0], datetime.date | datetime.timedelta):
        value = np.array(value, dtype=object)
    dtype: Any = getattr(value, "dtype", None)
    if isinstance(value, np.ndarray | np.generic):
        return (np.asarray(value), None) if dtype.kind in "UMm" or _may_be_labels(np.asarray(value)) else None
    if root == "polars" and hasattr(value, "to_list") and hasattr(dtype, "is_numeric"):
        if dtype.is_numeric() or str(dtype) == "Boolean":
            return None
        categories = getattr(dtype, "categories", None)
        listed = None if categories is None else list(categories)
        return np.array(value.to_list(), dtype=object), listed
    if root != "pandas" or dtype is None or getattr(value, "ndim", 1) != 1:
        return None
    if hasattr(dtype, "categories"):
        return _of_pandas(value), list(dtype.categories)
    if dtype.kind in "Mm":
        return np.asarray(value.to_numpy(dtype=f"{'datetime' if dtype.kind == 'M' else 'timedelta'}64[us]")), None
    items = _of_pandas(value) if dtype.kind not in "iufbc" and "decimal" not in str(dtype).lower() else None
    return (items, None) if items is not None and (_may_be_labels(items)) else None


def _numbers(value: Any) -> tuple[Array, None] | None:
    """A column, list or array of numbers as objects; ``None`` of anything else, tensors among it."""
    if type(value).__module__.partition(".")[0] not in ("numpy", "pandas", "polars", "pyarrow", "xarray"):
        return None
    items = np.asarray(value)
    if items.dtype.kind == "O" and all(
        isinstance(item, Real) or is_missing(item) for item in items.reshape(-1).tolist()
    ):
        return items, None
    return (items.astype(object), None) if items.dtype.kind in "iufb" else None


def _of_pandas(value: Iterable[object]) -> Array:
    return np.array([*value, None], dtype=object)[:-1]


def _may_be_labels(items: Array) -> bool:
    """Whether an array of objects holds text or dates, and beside these nothing but what is missing."""
    if items.dtype != object:
        return items.dtype.kind in "UMm"
    present = [item for item in items.reshape(-1).tolist() if not is_missing(item)]
    return bool(present) and all(isinstance(item, str | datetime.date | datetime.timedelta) for item in present)


def _is_text(items: Array) -> bool:
    return items.dtype.kind == "U" or (
        items.dtype == object and bool(items.size) and all(isinstance(item, str) for item in items.reshape(-1).tolist())
    )


def _times(items: Array) -> Array | None:
    """Dates or durations as NumPy has them; ``None`` of anything else."""
    if items.dtype.kind in "Mm":
        return items
    listed = items.reshape(-1).tolist()
    if _is_text(items) and all(found := [_DATE.fullmatch(item) for item in listed]):
        kind = "datetime64[us]"
        if any(one["zone"] or one["finer"] for one in found if one is not None):
            try:
                listed = [_naive(datetime.datetime.fromisoformat(item)) for item in listed]
            except ValueError:  # of text such as 2024-13-45T12:00Z
                return None
    elif listed and all(isinstance(item, datetime.date) for item in listed):
        kind, listed = "datetime64[us]", [_naive(item) for item in listed]
    elif listed and all(isinstance(item, datetime.timedelta) for item in listed):
        kind = "timedelta64[us]"
    else:
        return None
    try:
        return np.array(listed, dtype=kind).reshape(items.shape)
    except ValueError:  # of text such as 2024-13-45
        return None


def _naive(date: datetime.date) -> datetime.date:
    if not isinstance(date, datetime.datetime) or date.tzinfo is None:
        return date
    return date.astimezone(datetime.UTC).replace(tzinfo=None)


def _missing(items: Array) -> Array:
    """Which values of a column are missing."""
    if items.dtype.kind in "Mm":
        return np.asarray(np.isnat(items))
    if items.dtype != object:
        return np.zeros(items.shape, dtype=bool)
    return np.array([is_missing(item) for item in items.reshape(-1).tolist()], dtype=bool).reshape(items.shape)


def _check_present(name: str, items: Array) -> None:
    missing = _missing(items)
    if missing.any():
        raise missing_error(name, int(missing.sum()), tuple(int(i) for i in np.argwhere(missing)[0]), "NA")


def _check_no_numbers(name: str, items: Array) -> None:
    """Refuses text of which some is numbers: as a rule a column of numbers with a mark for what is missing."""
    listed = items.reshape(-1).tolist()
    numbers = [i for i, item in enumerate(listed) if _NUMBER.fullmatch(item.strip())]
    if not numbers:
        return
    other = next((i for i, item in enumerate(listed) if not _NUMBER.fullmatch(item.strip())), None)
    at = f"{listed[numbers[0]]!r} at {_place(numbers[0], items)}"
    beside = "" if other is None else f" and others do not, the first ({listed[other]!r}) at {_place(other, items)}"
    raise DataError(
        f"argument {name!r} holds text, of which {len(numbers)} values read as numbers ({at}){beside}: it is not said whether they are "
        "numbers or labels. Fix: convert it to numbers, or to a categorical column, column.astype('category')."
    )


def _place(index: int, items: Array) -> list[int]:
    return [int(i) for i in np.unravel_index(index, items.shape)]
