"""A method of another distribution: a function and its row, and nothing else."""

from __future__ import annotations

from typing import Any

import pyrolvm as lvm
from pyrolvm.plugins import Method

ROW = Method(
    "prior_weighted",
    "tests.architecture.a_method:prior_weighted",
    "pyrolvm:Exact",
    "Draw from the posterior in a way of our own.",
    ("pyrolvm prior_weighted my_model.py:model --effort 3",),
)


def prior_weighted(
    problem: lvm.Problem,
    *,
    draws: int | None = None,
    effort: float = 1.0,
    seed: int = 0,
    progress: Any = True,
    out: Any = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> lvm.Exact:
    """Draws from a posterior.

    Args:
        problem: a model with its data.
        draws: draws to keep.
        effort: how hard to try; more is slower.
        seed: the same seed gives the same draws.
        progress: whether to show a bar.
        out: a folder.
        resume: go on.
        overwrite: replace.
    """
    result = lvm.exact(problem, draws=draws, seed=seed, progress=progress, out=out, resume=resume, overwrite=overwrite)
    result.data["posterior"].attrs["effort"] = effort
    return result
