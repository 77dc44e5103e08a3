"""Values as JSON has them."""

from __future__ import annotations

import math
from collections.abc import Mapping

__all__ = ["jsonable"]


def jsonable(value: object) -> object:
    """Nested mappings, sequences, frames and NumPy values as JSON types; what is not finite becomes ``None``."""
    if hasattr(value, "reset_index") and hasattr(value, "to_dict"):
        # An index without a name numbers the rows or names them; only names say something.
        value = value.reset_index().to_dict(orient="records")
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
