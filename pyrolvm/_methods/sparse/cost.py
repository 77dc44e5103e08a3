"""What weighing will take, told before it is begun, and how much of it there is time for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyrolvm._base import budget
from pyrolvm._base.machine import available
from pyrolvm._methods.sparse.fields.coupled import NUMBERS as FIELD_NUMBERS
from pyrolvm._methods.sparse.fields.coupled import Coupled
from pyrolvm._methods.sparse.marginal import NUMBERS, Marginal
from pyrolvm._methods.sparse.weighted import Weighted
from pyrolvm._program.density.rowwise import Rowwise

__all__ = ["TRIED", "Cost", "as_chains", "cost_of_blocks", "cost_of_field", "cost_of_rows"]

Array = NDArray[np.float64]

TRIED = 2
"""Draws by which it is counted how many densities one of the shared unknowns' takes."""

MORE = 1.6
"""Draws for each effective one, and finer integrals at some of them."""

GRADIENTS = 60
"""Gradients of all rows that are taken as a rule, curvatures and what is compared among them."""

NEWTON = 3
"""Newton steps to the place of coupled unknowns as a rule."""

AROUND, ACROSS = 1e-8, 8e-9
"""Seconds that each part of a density takes besides, and each number of a matrix: sums over windows, and products."""

CHAINS = 100_000
"""Gradients that chains of NUTS take as a rule."""

FEWEST = 200.0
"""Effective draws that are waited for however little time there is."""

HELD = 8
"""Arrays of as many numbers as are held at a time."""


@dataclass(frozen=True)
class Cost:
    """What is reckoned from operations and from how many densities it usually takes: it tells minutes from hours.

    Attributes:
        seconds: on this process's processors.
        memory: bytes, beside what is there.
    """

    seconds: float
    memory: float

    def __str__(self) -> str:
        return f"about {_rounded(self.seconds)} s and {_rounded(max(self.memory / 1e9, 0.1))} GB to come"

    def affordable(self, enough: float) -> float:
        """How many effective draws there is time for: as many as are wanted, or fewer where a budget is short."""
        left = budget.left()
        return enough if self.seconds <= left else max(min(enough, FEWEST), enough * max(left, 0.0) / self.seconds)


def cost_of_blocks(marginal: Marginal, weighted: Weighted, points: Array, enough: float, kept: int) -> Cost:
    """What it takes to weigh draws whose blocks are integrated out.

    Args:
        marginal: the density.
        weighted: what is compiled of it.
        points: draws of its Gaussian.
        enough: effective draws that are wanted.
        kept: draws that are kept.
    """
    before = weighted.evaluations
    marginal.values(points[:TRIED])
    each = (weighted.evaluations - before) / len(points[:TRIED])
    threads = available() if weighted.engine == "c" else 1
    blocks, width = marginal.shape
    local = blocks * (width**2 + width + 1) * MORE * enough
    numbers = min(HELD * NUMBERS, MORE * enough * each * weighted.numbers) + (
        local if marginal.fits(int(MORE * enough)) else 0
    )
    return Cost(MORE * enough * each * weighted.each / threads, 8.0 * (numbers + 3 * kept * weighted.size))


def cost_of_field(coupled: Coupled, evaluations: int, enough: float, kept: int) -> Cost:
    """What it takes to weigh draws of which some unknowns are coupled.

    Args:
        coupled: the density.
        evaluations: densities that annealing one of the draws takes; 0 for what it takes at least.
        enough: effective draws that are wanted.
        kept: draws that are kept.
    """
    weighted, shared = coupled.weighted, len(coupled.pattern.shared) > 0
    each = evaluations + shared * NEWTON * (1 + coupled.moves)
    threads = available() if weighted.engine == "c" else 1
    around = weighted.groups * AROUND + coupled.pattern.layout.numbers * ACROSS
    seconds = MORE * enough * each * (weighted.each / threads + around)
    numbers = HELD * FIELD_NUMBERS + MORE * enough * weighted.size
    return Cost(seconds, 8.0 * (numbers + 3 * kept * weighted.size))


def cost_of_rows(rows: Rowwise, kept: int) -> Cost:
    """What it takes to weigh draws of unknowns that many rows share."""
    return Cost(GRADIENTS * rows.seconds, 8.0 * (NUMBERS + 3 * kept * rows.size))


def as_chains(weighted: Weighted) -> float:
    """The seconds that chains of NUTS would take as a rule."""
    return CHAINS * weighted.each / (available() if weighted.engine == "c" else 1)


def _rounded(value: float) -> str:
    """One digit below ten, two above, which is as much as is known."""
    if value < 10:
        return f"{value:.1f}"
    return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"
