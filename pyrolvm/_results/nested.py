"""Results that are numbers, text, tables and verdicts, as nested values in two files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm import _runs as runs
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._runs.packing import pack, unpack

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["nested_parts", "read_frame", "read_nested", "read_verdict", "stored_frame", "stored_verdict"]


def nested_parts(value: Any) -> Mapping[str, runs.Part]:
    """The files of nested dictionaries and lists of numbers, text and arrays."""
    tensors: dict[str, Any] = {}
    packed = pack(_exactly(value), tensors)
    return {
        "value": (".json", runs.as_json({"value": packed})),
        "arrays": (".safetensors", lambda file: runs.write_tensors(tensors, file)),
    }


def _exactly(value: Any) -> Any:
    """With floats as NumPy's, which have NaN and infinities on disk too."""
    if isinstance(value, Mapping):
        return {key: _exactly(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_exactly(one) for one in value]
    return np.float64(value) if isinstance(value, float) else value


def read_nested(folder: Path) -> Any:
    """What :func:`nested_parts` was given.

    Raises:
        StoreError: if it is not there, or is damaged.
    """
    paths = runs.verified(folder, ("value", "arrays"))
    return unpack(paths["value"].json().get("value"), paths["arrays"].tensors())


def stored_frame(frame: pd.DataFrame | None) -> dict[str, Any] | None:
    """A table as nested values: columns of numbers, an index of numbers or text."""
    if frame is None:
        return None
    index = frame.index.to_numpy()
    plain = index.dtype.kind in "biuf"
    return {
        "name": frame.index.name,
        "index": np.array(index) if plain else [str(one) for one in index],
        "columns": [[str(name), frame[name].to_numpy()] for name in frame.columns],
    }


def read_frame(stored: Mapping[str, Any] | None) -> pd.DataFrame | None:
    """The table."""
    import pandas as pd

    if stored is None:
        return None
    index = pd.Index(stored["index"], name=stored["name"])
    return pd.DataFrame({name: values for name, values in stored["columns"]}, index=index)


def stored_verdict(verdict: Verdict) -> dict[str, Any]:
    """A verdict as nested values."""
    return dict(verdict.as_dict())


def read_verdict(stored: Mapping[str, Any]) -> Verdict:
    """The verdict."""
    reasons = [
        Reason(one["status"], one["text"], {name: float(value) for name, value in one["figures"].items()})
        for one in stored["reasons"]
    ]
    return Verdict.of(reasons, stored["next_steps"])
