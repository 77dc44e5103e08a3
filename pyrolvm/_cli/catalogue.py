"""``pyrolvm list``: what is registered, where it comes from, and what of it is broken."""

from __future__ import annotations

import argparse
import inspect
from importlib.metadata import entry_points
from typing import Any

from pyrolvm._base.errors import PluginError
from pyrolvm._cli.output import Output
from pyrolvm._cli.signals import Stopped
from pyrolvm._methods.table import GROUP, METHODS, registered
from pyrolvm.family.registry import GUIDES, MODELS, entries

__all__ = ["catalogue", "run"]


def catalogue(group: str) -> list[dict[str, Any]]:
    """Every registered name of a group: what it is, where it comes from, and why it is broken if it is."""
    rows = []
    for name, entry in entries(group).items():
        row: dict[str, Any] = {"name": name, "distribution": entry.distribution, "does": "", "broken": None}
        try:
            row["does"] = (inspect.getdoc(entry.load()) or "").partition("\n")[0]
        except PluginError as error:
            row["broken"] = str(error)
        rows.append(row)
    return rows


def _methods() -> list[dict[str, Any]]:
    """Every method, in the same form."""
    rows: list[dict[str, Any]] = [
        {"name": name, "distribution": "pyrolvm", "does": row.does, "broken": None} for name, row in METHODS.items()
    ]
    for point in entry_points(group=GROUP):
        origin = point.dist.name if point.dist is not None else "unknown"
        row: dict[str, Any] = {"name": point.name, "distribution": origin, "does": "", "broken": None}
        try:
            row["does"] = registered(point).does
        except PluginError as error:
            row["broken"] = str(error)
        rows.append(row)
    return rows


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``list``."""
    found = {"problems": catalogue(MODELS), "guides": catalogue(GUIDES), "methods": _methods()}
    for kind, rows in found.items():
        shown = [[row["name"], "BROKEN" if row["broken"] else row["does"], row["distribution"]] for row in rows]
        out.table(shown, [kind[:-1], "what it is", "from"])
        out.line()
    for row in (row for rows in found.values() for row in rows if row["broken"]):
        out.line(f"broken: {row['broken']}", style="red")
    first = next((row["name"] for row in found["problems"] if not row["broken"]), "TARGET")
    out.next([f"pyrolvm compare {first}", "pyrolvm fit my_model.py:my_model --data data.csv"])
    out.write_json({"command": "list", **found})
    return 0
