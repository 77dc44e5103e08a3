"""What attributes of a result's tree say as JSON: held to the bounds of files, since they come from one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pyrolvm._runs.readers import STORED, check_json_size, check_room, parse_json, parsing

__all__ = ["check_sizes", "said"]

T = TypeVar("T")


def said(attrs: Mapping[Any, Any], name: str, read: Callable[[Any], T], nothing: T) -> T:
    """What an attribute says.

    Args:
        attrs: the attributes of a tree.
        name: which one.
        read: what makes the value of the JSON.
        nothing: the value where there is no such attribute, or an empty one.

    Raises:
        StoreError: if it is no JSON, nested too deeply or too large, or is not what ``read`` expects.
    """
    text = attrs.get(name)
    if not text:
        return nothing
    where = f"attribute {name!r} of the result"
    if not isinstance(text, str):
        raise STORED.damage(where, f"it is a {type(text).__name__}, expected text")
    content = text.encode(errors="surrogatepass")
    check_json_size(len(content), where)
    value = parse_json(content, where)
    with parsing(where):
        return read(value)


def check_sizes(name: str, numbers: float) -> None:
    """Refuses an attribute that declares more numbers than memory has room for.

    Raises:
        StoreError: if that is so.
    """
    check_room(f"attribute {name!r} of the result", 8.0 * numbers)
