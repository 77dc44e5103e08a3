"""The log marginal likelihood of the data, as one method estimates it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyrolvm._base.face import public
from pyrolvm._base.numerics import NORMAL95
from pyrolvm._base.verdict import Verdict
from pyrolvm._compat.notebooks import html
from pyrolvm._program.problem import Problem
from pyrolvm._report.origin import Origin
from pyrolvm._report.webpage import in_notebook

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Evidence"]

ONE_SIDED95 = 1.7
"""Above minus how many standard errors 95% of estimates lie; rounded up, since errors are estimates too."""


@dataclass(frozen=True, repr=False)
class Evidence:
    """An estimate of the log marginal likelihood of the data, or bounds on it.

    Attributes:
        value: log p(data), in nats; of a lower bound, the bound.
        error: its standard error, in nats.
        method: how it was estimated.
        verdict: whether value and error can be believed, why, and what to do next.
        lower: a stochastic lower bound on log p(data), where the method gives one; its expectation is never above log p(data).
        upper: a stochastic upper bound, where the method gives one.
        figures: what else was measured, such as ``khat``, ``ess`` or ``largest_weight``.
        trace: a row for each amount of computation: ``evaluations`` of the density, ``value`` and ``error``; ``None`` where there
            is no course to show.
        evaluations: how many densities of the model were evaluated, with gradients or without; of a bridge, those of the chains too,
            but not those that a guide was fitted with.
        seconds: wall time.
        problem: what it is the evidence of, where that is not the problem that was given: one with simulated data.
        origin: what problem and data :func:`pyrolvm.evidence` was asked about.
    """

    value: float
    error: float
    method: str
    verdict: Verdict = field(default=Verdict("trusted"), repr=False, compare=False)
    lower: float | None = None
    upper: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)
    trace: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    evaluations: int = 0
    seconds: float = field(default=0.0, compare=False)
    problem: Problem | None = field(default=None, repr=False, compare=False)
    origin: Origin = field(default=Origin(), repr=False, compare=False)

    @property
    def reliable(self) -> bool:
        """Whether value and error can be believed, as far as the method can tell."""
        return self.verdict.trusted

    @property
    def interval(self) -> tuple[float, float]:
        """Where log p(data) lies with 95% probability, in nats; the upper end is infinite where only a lower bound is known.

        It is the interval of p(data) on a logarithmic scale, so it reaches further up than down where the error is large.
        """
        if self.lower is not None and self.upper is not None:
            below, above = (self.figures.get(name, 0.0) for name in ("lower_error", "upper_error"))
            return self.lower - NORMAL95 * below, self.upper + NORMAL95 * above
        if self.lower is not None:
            return self.lower - ONE_SIDED95 * self.error, math.inf
        reach = NORMAL95 * self.error
        return self.value - math.log1p(reach), self.value - math.log1p(-reach) if reach < 1 else math.inf

    def plot(self, exact: float | Evidence | None = None, path: str | Path | None = None) -> Figure:
        """Shows how value and error come about as more densities are evaluated.

        Args:
            exact: the true value, to be drawn in.
            path: where to write the picture as well.

        Returns:
            A matplotlib Figure.

        Raises:
            ArgumentError: if there is no course to show.
        """
        from pyrolvm._report.evidence import draw  # it imports matplotlib

        return draw({self.method: self}, exact.value if isinstance(exact, Evidence) else exact, path)

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with figures and pictures, which opens anywhere and fetches nothing; see :func:`pyrolvm.report`."""
        written: Path = public("report")(self, path)
        return written

    def as_dict(self) -> dict[str, object]:
        """The estimate as JSON types; figures that are not finite are left to who writes them."""
        low, high = self.interval
        return {
            "method": self.method, "value": self.value, "error": self.error, "interval": [low, high], "lower": self.lower,
            "upper": self.upper, "verdict": self.verdict.as_dict(), "figures": dict(self.figures), "evaluations": self.evaluations,
            "seconds": self.seconds, "trace": None if self.trace is None else self.trace.to_dict(orient="records"),
        }  # fmt: skip

    def __str__(self) -> str:
        doubt = "" if self.reliable else " (unreliable)"
        if self.lower is not None and self.upper is not None:
            return f"between {self.lower:.2f} and {self.upper:.2f} nats by {self.method}{doubt}"
        least = "at least " if self.lower is not None else ""
        return f"{least}{self.value:.2f} +- {self.error:.2g} nats by {self.method}{doubt}"

    def __repr__(self) -> str:
        return f"<Evidence {self}>"

    def _repr_html_(self) -> str:
        from html import escape

        return in_notebook(f"<b>{escape(str(self))}</b> {html(self.verdict)}")
