"""One simulation after the other: draw, infer, rank. Which process runs one changes nothing about it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyrolvm._base.errors import ArgumentError, GuideError, UnknownNameError
from pyrolvm._check.calibrate.methods import Method
from pyrolvm._check.calibrate.ranking import Ranking
from pyrolvm._program.problem import Problem
from pyrolvm._program.simulate import Simulator

__all__ = ["Job", "Record", "failed"]

Record = dict[str, Any]
"""What is kept of one simulation, in JSON types.

``simulation`` (its number), ``status`` (the verdict of the fit, ``"none"`` or ``"error"``), ``error``, ``seconds``, ``khat``, ``ess``,
and, unless it is an error, ``ranks``, ``truth``, ``mean`` and ``sd`` by quantity, each a flat list.
"""

_CALLERS = (ArgumentError, GuideError, UnknownNameError)
"""What depends on the call and not on the data: it would fail every time."""


@dataclass
class Job:
    """All that a process needs to run any simulation of a calibration."""

    simulator: Simulator
    ranking: Ranking
    method: Method
    draws: int
    seed: int

    @classmethod
    def of(cls, problem: Problem, method: Method, quantities: object, draws: int, seed: int) -> Job:
        """The job, once the problem can be simulated and its quantities evaluated.

        Raises:
            ProblemError: if the problem cannot be simulated.
            ArgumentError: if there is nothing to rank.
        """
        simulator = Simulator.of(problem)
        ranking = Ranking.of(problem, quantities, *simulator.draw(seed))
        return cls(simulator, ranking, method, draws, seed)

    def run(self, number: int) -> Record:
        """Runs one simulation. What stops its fit is part of the record.

        Raises:
            ArgumentError: if the call cannot work for any data.
        """
        seeds = np.random.SeedSequence(self.seed, spawn_key=(number,)).generate_state(3)
        simulate, infer, rank = (int(seed) for seed in seeds)
        started = time.perf_counter()
        record = failed(number, "")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                truth, observed = self.simulator.draw(simulate)
                found = self.method(self.simulator.attach(observed), self.draws, infer)
                ranked = self.ranking.rank(truth, observed, found.draws, rank)
        except _CALLERS:
            raise
        except Exception as error:  # whatever stops one fit: how often that happens is a result
            record["error"] = f"{type(error).__name__}: {error}"[:2000]
        else:
            record |= {"status": found.status, "khat": _number(found.khat), "ess": _number(found.ess)}
            record |= {"ranks": {name: value.reshape(-1).tolist() for name, value in ranked.ranks.items()}}
            for name in ("truth", "mean", "sd"):
                parts: Mapping[str, Any] = getattr(ranked, name)
                record[name] = {key: [_number(v) for v in value.reshape(-1).tolist()] for key, value in parts.items()}
        finally:
            torch.set_num_threads(threads)
        record["seconds"] = time.perf_counter() - started
        return record


def failed(number: int, why: str) -> Record:
    """The record of a simulation whose fit gave nothing."""
    return {"simulation": number, "status": "error", "error": why, "seconds": 0.0, "khat": None, "ess": None}


def _number(value: float) -> float | None:
    """A number that JSON has: not NaN, and no infinity."""
    return float(value) if np.isfinite(value) else None
