"""The public verbs of pyrolvm, by name: results have them as methods, and stand below the rooms that do the work."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["public"]


def public(name: str) -> Any:
    """The public function of that name, imported when it is asked for.

    For methods that are another way to write a verb, as ``fit.verdict`` is of ``lvm.diagnose(fit)``, and for nothing else.

    Args:
        name: a name of the module ``pyrolvm``.
    """
    return getattr(import_module("pyrolvm"), name)
