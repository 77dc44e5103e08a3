"""Reads a posteriordb folder: data, reference draws, and which reference a posterior has.

The environment variable ``POSTERIORDB`` names the folder, the one that holds ``posteriors/``, ``data/`` and
``reference_posteriors/``.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["VARIABLE", "PosteriordbError", "aliases", "available", "data", "draws", "folder", "info", "one_draw"]

VARIABLE = "POSTERIORDB"
"""The environment variable that names the folder."""

_FOLDERS = ("posteriors", "data/data", "reference_posteriors/draws/draws")


class PosteriordbError(ValueError):
    """The posteriordb folder, or something in it, is not what it should be."""


def folder() -> Path:
    """The posteriordb folder.

    Raises:
        PosteriordbError: if the variable is not set, or names something else.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        raise PosteriordbError(
            f"the environment variable {VARIABLE} is not set, so there are no data and no reference draws. "
            f"Fix: get the folder posterior_database of github.com/stan-dev/posteriordb and set {VARIABLE} to its path."
        )
    path = Path(named).expanduser()
    if not path.is_dir():
        raise PosteriordbError(
            f"{VARIABLE} names {named!r}, which is not a folder. Fix: set it to a posteriordb folder."
        )
    missing = [part for part in _FOLDERS if not (path / part).is_dir()]
    if missing:
        raise PosteriordbError(
            f"{VARIABLE} names {named!r}, which has no folder {missing[0]!r}; expected {', '.join(_FOLDERS)}. "
            "Fix: set it to the folder posterior_database itself."
        )
    return path


def available() -> list[str]:
    """The names of the posteriors that are there."""
    return sorted(path.stem for path in (folder() / "posteriors").glob("*.json"))


def aliases() -> dict[str, str]:
    """Short names and the posteriors they stand for; empty where the folder has none."""
    path = folder() / "alias" / "posteriors.json"
    found = _json(path) if path.exists() else {}
    return {str(short): name for short, name in found.items() if isinstance(name, str)}


def info(name: str) -> dict[str, Any]:
    """What the folder says of a posterior: its data, its model, its reference.

    Args:
        name: the posterior's name, or a short name.

    Raises:
        PosteriordbError: if there is none, or its description lacks a field.
    """
    name = aliases().get(name, name)
    path = folder() / "posteriors" / f"{name}.json"
    if not path.exists():
        known = available()
        raise PosteriordbError(
            f"{VARIABLE} has no posterior {name!r}; it has {len(known)}: {', '.join(known[:5])}, ... Fix: use one of those."
        )
    found = _json(path)
    if not isinstance(found, dict) or "data_name" not in found:
        raise PosteriordbError(
            f"{path.name} has no field 'data_name', expected the description of a posterior. Fix: take the file from posteriordb."
        )
    return {"name": name, **found}


def data(name: str) -> dict[str, Any]:
    """The fields of a posterior's data set.

    Raises:
        PosteriordbError: if the file is missing or not one of fields.
    """
    found = _zipped(folder() / "data" / "data" / f"{info(name)['data_name']}.json.zip")
    if not isinstance(found, dict):
        raise PosteriordbError(
            f"the data of {name!r} are a {type(found).__name__}, expected fields by name. Fix: take the file from posteriordb."
        )
    return found


@cache
def _draws(folder: Path, source: str) -> dict[str, np.ndarray]:
    path = folder / "reference_posteriors" / "draws" / "draws" / f"{source}.json.zip"
    chains = _zipped(path)
    shaped = isinstance(chains, list) and chains and all(isinstance(chain, dict) and chain for chain in chains)
    if not shaped or any(chain.keys() != chains[0].keys() for chain in chains):
        raise PosteriordbError(
            f"{path.name} is not a list of chains, each with draws by the same names. Fix: take the file from posteriordb."
        )
    lengths = {len(values) for chain in chains for values in chain.values()}
    if len(lengths) != 1:
        raise PosteriordbError(
            f"{path.name} has chains of {min(lengths)} to {max(lengths)} draws, expected one length. "
            "Fix: take the file from posteriordb."
        )
    return {name: np.array([chain[name] for chain in chains], dtype=float) for name in chains[0]}


def draws(name: str) -> dict[str, np.ndarray]:
    """The reference draws of a posterior, by names such as ``beta[1]``, each of shape ``(chain, draw)``.

    Raises:
        PosteriordbError: if the posterior has no reference, or the file is not one of draws.
    """
    described = info(name)
    source = described.get("reference_posterior_name")
    if not source:
        raise PosteriordbError(
            f"posterior {name!r} has no reference draws: its 'reference_posterior_name' is empty. Fix: leave it out."
        )
    return dict(_draws(folder(), source))


def one_draw(columns: Mapping[str, np.ndarray], chain: int, draw: int) -> dict[str, Tensor]:
    """One draw in double precision, with ``beta[1]``, ``beta[2]``, ... put together into ``beta``."""
    parts: dict[str, list[float]] = {}
    for name, values in columns.items():
        parts.setdefault(name.partition("[")[0], []).append(float(values[chain, draw]))
    scalars = {name for name in columns if "[" not in name}
    return {
        name: torch.tensor(values[0] if name in scalars else values, dtype=torch.float64)
        for name, values in parts.items()
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise PosteriordbError(f"{path.name} is not JSON: {error}. Fix: take the file from posteriordb.") from None


def _zipped(path: Path) -> Any:
    """The JSON in a zip file that holds one."""
    if not path.exists():
        raise PosteriordbError(
            f"{path.parent.name} has no file {path.name!r}, which is expected in {VARIABLE}. Fix: take it from posteriordb."
        )
    try:
        with zipfile.ZipFile(path) as opened:
            inside = [name for name in opened.namelist() if name.endswith(".json")]
            if len(inside) != 1:
                raise PosteriordbError(
                    f"{path.name} holds {len(inside)} JSON files, expected one. Fix: take the file from posteriordb."
                )
            return json.loads(opened.read(inside[0]))
    except (zipfile.BadZipFile, json.JSONDecodeError) as error:
        raise PosteriordbError(f"{path.name} cannot be read: {error}. Fix: take the file from posteriordb.") from None
