"""What is on disk of a result: which files, and how each is written and read.

Nothing is unpickled, and no file names anything to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pyrolvm import _runs as runs
from pyrolvm._base.errors import PyrolvmError, StoreError, checked_seed
from pyrolvm._program.problem import Problem
from pyrolvm._results.base import Posterior
from pyrolvm._results.chains import Chains
from pyrolvm._results.exact import Exact
from pyrolvm._results.fit import Fit
from pyrolvm._results.identity import counted, describe, identity
from pyrolvm._results.saving import KIND, bundle, form, is_partial, save, write_tree
from pyrolvm._runs.identity import warn_of
from pyrolvm._runs.readers import parsing
from pyrolvm.family import registry
from pyrolvm.family.choice import resolve
from pyrolvm.family.guide import Guide

__all__ = [
    "KIND",
    "OURS",
    "Kinds",
    "bundle",
    "check_types",
    "codec",
    "counted",
    "describe",
    "identity",
    "is_partial",
    "keep",
    "read",
    "save",
    "write_tree",
]

_FILES = ("data", "params", "meta")


Kinds = Callable[[str], type[Posterior] | None]
"""The type of a result by its name; ``None`` where there is none."""

OURS: Kinds = {kind.__name__: kind for kind in (Fit, Chains, Exact)}.get
"""The types of this room; :func:`pyrolvm._methods.table.result_type` knows those of all methods."""


def codec(
    problem: Problem | None = None, guide: Any = None, about: Mapping[str, Any] | None = None, kinds: Kinds = OURS
) -> runs.Codec[Any]:
    """How posteriors are written and read.

    Args:
        problem: what they are of, to read them with.
        guide: their guide, to read them with.
        about: the identity of the run that makes them.
        kinds: what knows their types.
    """
    written = form(about)
    return runs.Codec(written.kind, written.parts, lambda folder: read(folder, problem, guide, kinds), written.partial)


def keep(
    asked: runs.Order,
    verb: Callable[..., Any],
    given: Mapping[str, Any],
    work: Callable[[runs.Run | None], Any],
    problem: Problem,
    *,
    kind: str | None,
    guide: Guide | None = None,
    kinds: Kinds = OURS,
    **resolved: Any,
) -> Any:
    """The posterior that a call of a method gives, kept where that is asked for, as the run that the call's arguments say it is.

    Args:
        asked: where it is kept, and what may happen to what is there.
        verb: the method; its runs are called as it is.
        given: the arguments of the call by name.
        work: makes the posterior.
        problem: the problem, in the dtype and on the device that it runs in.
        kind: the type of the result; ``None`` where the result says which method and guide it ended with.
        guide: the guide, if there is one.
        kinds: what knows the types of results.
        **resolved: what arguments came to, where that counts rather than what was given; and what else counts.

    Raises:
        StoreError: as :func:`pyrolvm._runs.run` does.
    """
    if asked.out is None:
        return work(None)
    options = counted(verb, given, {"device": problem.device, **resolved})
    about = identity(kind, problem, guide, checked_seed(given["seed"]), options)
    return runs.run(asked, verb.__name__, about, codec(problem, guide, about, kinds), work)


def read(folder: Path, problem: Problem | None, guide: object, kinds: Kinds = OURS) -> Posterior:
    """The posterior in force in a folder.

    Raises:
        StoreError: if there is none, a file is damaged, or the problem is another one.
    """
    paths = runs.verified(folder, _FILES)
    meta = paths["meta"].json()
    check_types(paths["meta"].path, meta, _META)
    with parsing(paths["meta"].path):  # values of other types than they should be
        return _made(folder, paths, meta, problem, guide, kinds)


def _made(
    folder: Path,
    paths: Mapping[str, runs.Stored],
    meta: Mapping[str, Any],
    problem: Problem | None,
    guide: Any,
    kinds: Kinds,
) -> Posterior:
    kind = kinds(meta["kind"])
    if kind is None:
        raise StoreError(
            f"{folder} holds a {meta['kind']!r}, which no method here makes. Fix: update pyrolvm, or install what made it."
        )
    attached = _attach(folder, meta, problem)
    fields: dict[str, Any] = {
        "name": meta["name"],
        "data": paths["data"].tree(),
        "problem": attached,
        "params": paths["params"].tensors(),
        "seconds": meta["seconds"],
        "engine": meta["engine"],
        "engine_reason": meta["engine_reason"],
        "seed": meta["seed"],
    }
    if kind is Fit:
        fields["guide"] = _attach_guide(meta["guide"], guide, attached)
    if attached is not None:
        now, then = identity(str(meta["kind"]), attached, fields.get("guide"), meta["seed"]), meta.get("run") or {}
        # A run that was begun for one guide may have ended with another, whose code the run says nothing of.
        same = not meta["guide"] or then.get("guide") == meta["guide"]["text"]
        spoken = [what for what in _SPOKEN_OF if now[what] is not None and (same or what != "guide code")]
        warn_of(folder, then, {what: now[what] for what in spoken})
    return kind(**fields)


_SPOKEN_OF = ("model code", "guide code", *(f"version of {name}" for name in ("pyrolvm", "torch", "pyro-ppl")))
"""What a result that is loaded may differ in from the program as it is now, and is warned of."""


_META = {
    "kind": str, "name": str, "problem": dict, "guide": dict | None, "seconds": dict, "engine": str, "engine_reason": str, "seed": int,
}  # fmt: skip


def check_types(path: Path, meta: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Checks that a file says what it should.

    Raises:
        StoreError: with the first name that is missing or of another type.
    """
    for key, expected in types.items():
        if key not in meta or not isinstance(meta[key], expected):
            raise StoreError(
                f"{path} is damaged: {key!r} is missing or of a wrong type. Fix: restore it, or run again."
            )


def _attach(folder: Path, meta: Mapping[str, Any], problem: Problem | None) -> Problem | None:
    """The result's problem: as given, or by its registered name."""
    saved = meta["problem"]
    if problem is not None:
        problem = _in_dtype(problem, saved)
        if saved.get("fingerprint") not in (None, problem.fingerprint):
            raise StoreError(
                f"{folder} is of {saved['name']!r} with other data (sha256 {_short(saved['fingerprint'])}) than the given problem "
                f"{problem.name!r} ({_short(problem.fingerprint)}). Fix: pass the problem it was made from."
            )
        return problem
    source = saved.get("source")
    if not source:
        return None
    try:
        found = _in_dtype(registry.problem(source["name"], **source["options"]), saved)
    except (PyrolvmError, TypeError, KeyError):
        return None
    return found if found.fingerprint == saved["fingerprint"] else None


def _in_dtype(problem: Problem, saved: Mapping[str, Any]) -> Problem:
    """The problem in the dtype that the result was made in."""
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
    dtype = known.get(str(saved.get("dtype")))
    return problem if dtype is None else problem.to(dtype=dtype)


def _attach_guide(saved: Mapping[str, Any] | None, guide: Any, problem: Problem | None) -> Guide | None:
    if guide is not None and problem is not None:
        return resolve(guide, problem)
    if not saved:
        return None
    if problem is not None and problem.info.guide is not None:  # the one that the model names need not be registered
        named = resolve("auto", problem)
        if str(named) == saved["text"]:
            return named
    if saved.get("options") is None:
        return None
    try:
        return registry.guide(saved["name"], **saved["options"])
    except PyrolvmError:
        return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
