"""``key=value`` on the command line: how options of problems and guides are written."""

from __future__ import annotations

__all__ = ["key_value", "split_options"]


def key_value(text: str) -> tuple[str, object]:
    """Reads ``key=value``: the value as JSON where it is JSON, as text otherwise.

    Raises:
        ValueError: if there is no ``=`` or the key is no Python name.

    Example:
        >>> key_value("hidden=[32, 32]"), key_value("kind=spline")
        (('hidden', [32, 32]), ('kind', 'spline'))
    """
    import json  # which no help needs

    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key.isidentifier():
        raise ValueError(f"must be KEY=VALUE with a Python name as KEY, got {text!r}. Fix: write for example k=3.")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, {"True": True, "False": False, "None": None}.get(value, value)


def split_options(text: str) -> dict[str, object]:
    """Reads ``a=1,b=[2,3]``: options separated by the commas that stand outside of brackets and quotes.

    Raises:
        ValueError: if a part is no ``key=value``.
    """
    parts, depth, quoted = [""], 0, False
    for character in text:
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return dict(key_value(part) for part in parts if part.strip())
