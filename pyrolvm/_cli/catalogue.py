"""``pyrolvm list``: what is registered, where it comes from, and what of it is broken.

Names of this distribution are read in its sources, which takes a tenth of a second where their import takes four; those of others are
imported, since only that shows whether they work.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

from pyrolvm._base.commands import COMMANDS
from pyrolvm._base.entries import OWN, Entry, Kind
from pyrolvm._base.errors import PluginError
from pyrolvm._base.kinds import DIAGNOSTICS, ENGINE_WORDS, ENGINES, GUIDES, MODELS, OBJECTIVE_WORDS, OBJECTIVES
from pyrolvm._cli.output import Output
from pyrolvm._cli.signals import Stopped
from pyrolvm._methods.table import METHODS
from pyrolvm._methods.table import REGISTERED as OTHER_METHODS

__all__ = ["SHELVES", "Shelf", "run"]


class Shelf(NamedTuple):
    """All of one kind that there is to choose from.

    Attributes:
        kind: how it is registered.
        ours: those that this distribution has without entry points, and what each is.
        does: says what a registered one is.
    """

    kind: Kind[object]
    ours: Mapping[str, str]
    does: Callable[[object], str]

    def rows(self, *, imported: bool = False) -> list[dict[str, str | None]]:
        """Each by name: what it is, where it comes from, and why it is broken if it is.

        Args:
            imported: whether names of this distribution are imported too.
        """
        rows: list[dict[str, str | None]] = [_row(name, OWN, does) for name, does in self.ours.items()]
        for entry in self.kind.entries().values():
            if entry.name in self.ours:
                continue
            row = _row(entry.name, entry.distribution, "")
            told = None if imported or entry.distribution != OWN else _written(entry)
            if told is not None:
                rows.append({**row, "does": told})
                continue
            try:
                row["does"] = self.does(self.kind.load(entry))
            except PluginError as error:
                row["broken"] = str(error)
            rows.append(row)
        return rows


def _row(name: str, distribution: str, does: str) -> dict[str, str | None]:
    return {"name": name, "distribution": distribution, "does": does, "broken": None}


def _written(entry: Entry) -> str | None:
    """The first line of a function's docstring as it stands in the source; ``None`` where it is not found there."""
    module, _, name = entry.target.partition(":")
    found = re.search(
        rf'^def {re.escape(name)}\(.*?^    r?"""(.*?)(?:"""|$)', _source(module), re.DOTALL | re.MULTILINE
    )
    if found is None or "\ndef " in found[0]:
        return None
    return found[1].strip()


@lru_cache(maxsize=128)
def _source(module: str) -> str:
    """A module's source, found without the import of the packages that it lies in; empty where there is none."""
    top, *rest = module.split(".")
    spec = PathFinder.find_spec(top)
    for folder in (spec.submodule_search_locations if spec is not None else None) or []:
        path = Path(folder, *rest).with_suffix(".py")
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _documented(thing: object) -> str:
    """The first line of its docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _said(row: object) -> str:
    """The sentence that a row has for what it does."""
    return str(getattr(row, "does", ""))


SHELVES = (
    Shelf(MODELS, {}, _documented),
    Shelf(GUIDES, {}, _documented),
    Shelf(OTHER_METHODS, {name: row.does for name, row in METHODS.items()}, _said),
    Shelf(OBJECTIVES, OBJECTIVE_WORDS, _documented),
    Shelf(ENGINES, ENGINE_WORDS, _documented),
    Shelf(DIAGNOSTICS, {}, _documented),
    Shelf(COMMANDS, {}, _said),
)
"""What can be registered."""


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``list``."""
    found = {f"{shelf.kind.word}s": shelf.rows() for shelf in SHELVES}
    for kind, rows in found.items():
        if not rows:
            continue
        shown = [[row["name"], "BROKEN" if row["broken"] else row["does"], row["distribution"]] for row in rows]
        out.table(shown, [kind[:-1], "what it is", "from"])
        out.line()
    for row in (row for rows in found.values() for row in rows if row["broken"]):
        out.line(f"broken: {row['broken']}", style="red")
    first = next((row["name"] for row in found["problems"] if not row["broken"]), "TARGET")
    out.next([f"pyrolvm compare {first}", "pyrolvm fit my_model.py:my_model --data data.csv"])
    out.write_json({"command": "list", **found})
    return 0
