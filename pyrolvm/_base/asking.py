"""Arguments of verbs that their numbers do not depend on, listed once: whatever else a verb takes is a part of its runs' identity."""

from __future__ import annotations

__all__ = ["KEEPING", "SHOWING", "counts"]

KEEPING = ("out", "resume", "overwrite", "checkpoint_every")
"""Options that say where a run is kept: whoever runs a method as a part of something larger sets them."""

SHOWING = ("progress", "callbacks")
"""Options that numbers do not depend on."""


def counts(name: str) -> bool:
    """Whether numbers depend on the option of that name, rather than where they are kept and how they are shown."""
    return name not in (*KEEPING, *SHOWING)
