"""Where figures come from: problem, data, program and versions, as pages tell them and as results keep them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["ORIGIN", "Origin", "asked_by", "read", "stored_origin", "written_now"]

ORIGIN = "pyrolvm_origin"
"""The attribute of a result's tree that says it."""

_ASKED: ContextVar[str] = ContextVar("asked", default="")


@dataclass(frozen=True)
class Origin:
    """What a result is of, in words; what is not known is empty.

    Attributes:
        problem: its name.
        model: module and name of the program.
        data: names, types and shapes of its arguments.
        digest: a checksum of their values.
        source: the program's text.
        versions: of packages.
        made: when the result was made.
    """

    problem: str = ""
    model: str = ""
    data: str = ""
    digest: str = ""
    source: str = ""
    versions: str = ""
    made: str = ""

    def stored(self) -> str:
        """It as text, as :func:`read` takes it."""
        return json.dumps({name: text for name, text in asdict(self).items() if text})

    def facts(self) -> dict[str, str]:
        """What a page says of it, by name."""
        digest = f"sha256 {self.digest[:16]}" if self.digest else ""
        return {
            "problem": self.problem, "model": self.model, "data": ", ".join(filter(None, (self.data, digest))),
            "made": self.made, "versions": self.versions,
        }  # fmt: skip


def read(attributes: Mapping[Any, Any]) -> Origin:
    """The origin that a tree's attributes tell; as much of it as they do."""
    known = {one.name for one in fields(Origin)}
    try:
        told = json.loads(str(attributes.get(ORIGIN, "{}")))
    except ValueError:  # somebody else's attribute
        told = {}
    told = told if isinstance(told, dict) else {}
    found = {str(name): str(text) for name, text in told.items() if name in known}
    made = str(attributes.get("created_at", ""))[:19].replace("T", " ")
    name = {"problem": str(attributes["pyrolvm_problem"])} if "pyrolvm_problem" in attributes else {}
    return Origin(**{**name, **({"made": f"{made} UTC"} if made else {}), **found})


def stored_origin(stored: Mapping[str, object]) -> Origin:
    """The origin in what a file holds of a result; an empty one of files that were written without."""
    return read({ORIGIN: stored.get("origin", "{}")})


@contextmanager
def asked_by(words: list[str]) -> Iterator[None]:
    """Lets pages that are written inside say that this command asked for them."""
    token = _ASKED.set(shlex.join(words))
    try:
        yield
    finally:
        _ASKED.reset(token)


def written_now() -> dict[str, str]:
    """Which command writes a page, and when."""
    return {"command": _ASKED.get() or _of_process(), "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"}


def _of_process() -> str:
    """The command of this process, its programs without their folders; of a session at a keyboard, that it is one."""
    words = list(getattr(sys, "orig_argv", sys.argv))
    if len(words) < 2 or "ipykernel" in " ".join(words):
        return "an interactive session of Python"
    return shlex.join(Path(word).name if "/" in word and not word.startswith("-") else word for word in words)
