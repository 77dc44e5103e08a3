"""pyrolvm on logistic regression with minibatches: the time of a step, and the memory held while it steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from fresh import resident
from problems import Arrays, find

from methods.clocks import pyrolvm_loaded
from methods.nuts import _tensor as tensor


def pyrolvm(job: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Fits with ``batch_size`` and notes, each time progress is told, how many steps are done and the memory held."""
    import arviz_base  # noqa: F401  imports are not timed
    import jax  # noqa: F401

    lvm = pyrolvm_loaded()

    notes: list[tuple[int, float]] = []

    def note(done: int, total: int, text: str) -> None:
        notes.append((done, resident()))

    data = [tensor(value, False) for value in arrays.values()]
    target = lvm.Problem(find(job["problem"]).twins.pyro_model(), *data)
    result = lvm.fit(
        target, lvm.guide("mean_field", precondition="none"), objective="Trace_ELBO", learning_rate=0.01,
        max_steps=job["steps"], tolerance=0, num_particles=1, batch_size=job["batch"],
        draws=10, seed=job["seed"], engine=job["engine"], progress=note,
    )  # fmt: skip
    phases = dict(result.seconds)
    found = {
        "seconds": {"run": phases["run"], "compile": phases.get("compile", 0.0)},
        "phases": phases,
        "engine": result.engine,
        "engine_reason": result.engine_reason,
        "error": float(np.abs(result.data["posterior"]["weights"].values.mean((0, 1)) - job["truth"]).max()),
    }
    return found, {"notes": np.array(notes, dtype=float).reshape(-1, 2)}
