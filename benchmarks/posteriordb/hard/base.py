"""What every problem of this folder is made of, and how a reference is read and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

import pyrolvm as lvm

__all__ = ["Array", "Entry", "Moments", "Reference", "Sampling", "elements", "labels", "read", "write"]

Array = np.ndarray[Any, Any]

FOLDER = Path(__file__).parent / "references"


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of one scalar, and the standard errors of both; these are 0 where both are exact."""

    mean: float
    sd: float
    mcse_mean: float = 0.0
    mcse_sd: float = 0.0


@dataclass(frozen=True)
class Sampling:
    """How NUTS makes a reference: runs of four chains, of which there are as many as the goal takes, up to ``runs``.

    Attributes:
        draws: transitions kept of each chain.
        warmup: transitions before them.
        target_accept: as in :func:`pyrolvm.nuts`.
        runs: the most runs.
    """

    draws: int = 5000
    warmup: int = 1000
    target_accept: float = 0.8
    runs: int = 8


@dataclass(frozen=True)
class Entry:
    """A problem and how its reference is made.

    Attributes:
        problem: builds the problem.
        scored: the sites whose moments the reference holds.
        exact: the exact moments by label; ``None`` where NUTS makes them.
        twin: builds the same posterior in other coordinates, which NUTS samples in place of the problem. It has the latent
            sites of the problem, or deterministic sites of their names, as functions of its own latents.
        unscored: why a latent site is not scored, by its name.
        sampling: how NUTS is run.
    """

    problem: Callable[[], lvm.Problem]
    scored: tuple[str, ...]
    exact: Callable[[], dict[str, Moments]] | None = None
    twin: Callable[[], lvm.Problem] | None = None
    unscored: Mapping[str, str] = field(default_factory=dict)
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Reference:
    """What is known about a posterior.

    Attributes:
        problem: the problem's name.
        made_by: ``"exact"``: closed forms; ``"nuts"``: draws, with the errors that draws have.
        moments: by label, such as ``"theta[3]"``: elements of a site count from zero in the order of its flattened array;
            a scalar site is just its name.
        unscored: latent sites that have no moments here, and why.
        log_density: of the problem at its centre (all unconstrained unknowns 0, log Jacobian included), from which
            a change of the model or of its data is seen.
        diagnostics: of NUTS: worst R-hat, smallest effective sample sizes, chains, draws, divergences, engine, and
            ``short``: the effective sample sizes of what missed the goal. Empty if exact.
        versions: of the libraries that made it.
        command: the command that makes it again.
    """

    problem: str
    made_by: Literal["exact", "nuts"]
    moments: Mapping[str, Moments]
    unscored: Mapping[str, str]
    log_density: float
    diagnostics: Mapping[str, Any]
    versions: Mapping[str, str]
    command: str

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that have moments."""
        return tuple(dict.fromkeys(label.partition("[")[0] for label in self.moments))


def labels(site: str, shape: Iterable[int]) -> list[str]:
    """The labels of a site's elements."""
    shape = tuple(shape)
    return [f"{site}[{i}]" for i in range(int(np.prod(shape)))] if shape else [site]


def elements(draws: Mapping[str, Array]) -> dict[str, Array]:
    """The scalars of draws, by label.

    Args:
        draws: by site, shape ``(chain, draw, ...)``.

    Returns:
        Arrays of shape ``(chain, draw)``.
    """
    out: dict[str, Array] = {}
    for site, values in draws.items():
        flat = np.asarray(values).reshape(*values.shape[:2], -1)
        out.update({label: flat[..., i] for i, label in enumerate(labels(site, values.shape[2:]))})
    return out


def write(reference: Reference, folder: Path = FOLDER) -> Path:
    """Writes a reference, one scalar a line."""
    head = {
        "problem": reference.problem,
        "made_by": reference.made_by,
        "command": reference.command,
        "versions": dict(reference.versions),
        "log_density_at_centre": reference.log_density,
        "diagnostics": dict(reference.diagnostics),
        "unscored": dict(reference.unscored),
        "columns": ["mean", "sd", "mcse_mean", "mcse_sd"],
    }
    rows = [
        f"  {json.dumps(label)}: {json.dumps([_short(m.mean), _short(m.sd), _short(m.mcse_mean, 3), _short(m.mcse_sd, 3)])}"
        for label, m in reference.moments.items()
    ]
    text = json.dumps(head, indent=1).removesuffix("\n}") + ',\n "moments": {\n' + ",\n".join(rows) + "\n }\n}\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{reference.problem}.json"
    path.write_text(text, encoding="utf-8")
    return path


def read(name: str, folder: Path = FOLDER) -> Reference:
    """Reads a reference.

    Raises:
        ValueError: if it has not been made.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise ValueError(
            f"problem {name!r} has no reference: there is no references/{name}.json. "
            f"Fix: python benchmarks/posteriordb/hard/make_references.py {name}"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    return Reference(
        problem=found["problem"],
        made_by=found["made_by"],
        moments={label: Moments(*row) for label, row in found["moments"].items()},
        unscored=found["unscored"],
        log_density=found["log_density_at_centre"],
        diagnostics=found["diagnostics"],
        versions=found["versions"],
        command=found["command"],
    )


def _short(value: float, digits: int = 8) -> float:
    """A number without digits that mean nothing."""
    return float(f"{value:.{digits}g}")
