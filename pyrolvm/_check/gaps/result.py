"""What :func:`pyrolvm.gaps` gives: gaps with errors, a table by row, the units that collapsed, a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pyrolvm._base.face import public
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._compat.notebooks import html
from pyrolvm._diagnosis.collapse import ACTIVE
from pyrolvm._report.origin import Origin
from pyrolvm._report.webpage import in_notebook, table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ACTIVE", "Collapse", "Gaps"]

FEW_EFFECTIVE = 50.0
"""Effective draws of a row below which its evidence is not to be believed."""


@dataclass(frozen=True)
class Collapse:
    """Which units of the latents say anything about the data.

    Attributes:
        table: a row for each unit: ``variance_of_mean``, that of the guide's mean over rows in units of the prior variance; ``kl``, its
            mean divergence from the prior in nats; ``active``, whether the variance is above 0.01.
        kl: the mean divergence of a row's latents from their prior, nats.
        mutual_information: what the latents say about which row they are of, nats.
        mutual_information_error: its standard error.
        ceiling: the log of the number of rows, above which it cannot rise: near it, it is a lower bound.
    """

    table: pd.DataFrame
    kl: float
    mutual_information: float
    mutual_information_error: float
    ceiling: float

    @property
    def active(self) -> int:
        """The number of active units."""
        return int(self.table["active"].sum())

    @property
    def units(self) -> int:
        """The number of units."""
        return len(self.table)

    @property
    def marginal_kl(self) -> float:
        """How far all rows' posteriors together are from the prior, nats."""
        return self.kl - self.mutual_information

    @cached_property
    def reason(self) -> Reason:
        """What it amounts to."""
        figures = {
            "active_units": float(self.active), "units": float(self.units), "kl": self.kl,
            "mutual_information": self.mutual_information, "ceiling": self.ceiling,
        }  # fmt: skip
        told = f"a row's latents are {self.kl:.2f} nats from the prior and hold {self.mutual_information:.2f} about which row it is"
        told += f" (at most log N = {self.ceiling:.2f})"
        if self.active == 0:
            text = f"All {self.units} units have collapsed to the prior: {told}."
            return Reason("doubtful", text, figures)
        if self.active < self.units:
            idle = [str(name) for name in self.table.index[~self.table["active"]]]
            listing = ", ".join(idle[:6]) + (", ..." if len(idle) > 6 else "")
            same = f"{listing} {'are' if len(idle) > 1 else 'is'} the same for every row"
            text = f"{self.active} of {self.units} units are active, {same}: {told}."
            return Reason("trusted", text, figures)
        return Reason("trusted", f"All {self.units} units are active: {told}.", figures)


@dataclass(frozen=True, eq=False, repr=False)
class Gaps:
    """What lies between the log evidence and the ELBO of a fit with local latents, in nats a row.

    log evidence - ELBO = approximation gap + amortisation gap. The first is what the best guide of the family loses, fitted to each row
    by itself; the second is what the encoder loses beside that. Where a guide has parameters for each row, the second is what its
    optimisation left.

    Attributes:
        name: the fit's name.
        rows: how many rows were looked at.
        figures: means over rows: ``evidence``, ``best`` (the ELBO of the best guides), ``elbo``, ``approximation_gap``,
            ``amortization_gap``, ``gap`` (their sum), each with ``_error``.
        table: the same for each row, and ``ess``, the effective draws of its evidence.
        method: how the evidence was found.
        collapse: what the latents say about the data.
        refinement: the mean ELBO of a row after each step of refinement, as its own draws estimate it.
        seconds: wall time.
        origin: what problem and data they are of.
    """

    name: str
    rows: int
    figures: Mapping[str, float]
    table: pd.DataFrame
    method: str
    collapse: Collapse
    refinement: pd.Series = field(repr=False)
    seconds: float = 0.0
    origin: Origin = field(default=Origin(), repr=False, compare=False)

    def __repr__(self) -> str:
        lost = f"approximation {self.approximation:.3g}, amortization {self.amortization:.3g} nats a row"
        return f"<Gaps of {self.name}: {lost} of {self.rows}, {self.verdict.status}>"

    def _repr_html_(self) -> str:
        import pandas as pd

        frame = pd.DataFrame({"nats a row": dict(self.figures)})
        return in_notebook(f"<b>{escape(repr(self)[1:-1])}</b> {html(self.verdict)}{table(frame)}")

    @property
    def approximation(self) -> float:
        """The approximation gap, nats a row."""
        return self.figures["approximation_gap"]

    @property
    def amortization(self) -> float:
        """The amortisation gap, nats a row."""
        return self.figures["amortization_gap"]

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the figures can be believed, what they say, and what to do next."""
        return Verdict.of(self._reasons(), self._steps())

    def _reasons(self) -> Iterator[Reason]:
        figures = self.figures
        if self.method != "exact":
            few = int((self.table["ess"] < FEW_EFFECTIVE).sum())
            least = {"smallest_ess": float(self.table["ess"].min()), "rows_below": float(few)}
            if few:
                below = f"fewer than {FEW_EFFECTIVE:.0f} effective draws"
                text = f"The evidence of {few} of {self.rows} rows rests on {below} and is likely too low."
                yield Reason("doubtful", text, least)
            else:
                text = f"The evidence of every row rests on {least['smallest_ess']:.0f} effective draws or more."
                yield Reason("trusted", text, least)
        most = figures["approximation_gap"] + 4 * figures["approximation_gap_error"] + 1e-4
        if most < 0:
            text = "The best guides have an ELBO above the evidence, which is too low then."
            yield Reason("failed", text, {"approximation_gap": figures["approximation_gap"]})
        yield self.collapse.reason

    def _steps(self) -> Iterator[str]:
        figures = self.figures
        if self.method != "exact" and float(self.table["ess"].min()) < FEW_EFFECTIVE:
            yield 'take more draws, or method="ais"'
        larger = max(figures["approximation_gap"], figures["amortization_gap"])
        if larger > 0.1:
            if figures["amortization_gap"] == larger:
                yield "the encoder loses most: widen it (hidden=), train longer, or refine its output for the rows that matter"
            else:
                yield "the family loses most: a guide with dependence within a row, or the bound of several draws (iw_bound)"
        if self.collapse.active < self.collapse.units:
            yield (
                "collapsed units cost nothing: fewer latent dimensions do as well. To have them used, raise the weight of the "
                "divergence slowly from zero, or lower the likelihood's noise"
            )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Shows evidence, best and own ELBO, what refinement recovers, and the units' divergences.

        Args:
            path: where to write the picture as well.

        Returns:
            A matplotlib Figure.
        """
        from pyrolvm._check.gaps.plots import draw  # it imports matplotlib

        return draw(self.figures, self.refinement, self.collapse.table, path)

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with figures and pictures, which opens anywhere and fetches nothing; see :func:`pyrolvm.report`."""
        written: Path = public("report")(self, path)
        return written

    def as_dict(self) -> dict[str, object]:
        """The figures as JSON types."""
        collapse = self.collapse
        return {
            "name": self.name, "rows": self.rows, "method": self.method, "figures": dict(self.figures), "seconds": self.seconds,
            "verdict": self.verdict.as_dict(),
            "collapse": {
                "active": collapse.active, "units": collapse.units, "kl": collapse.kl, "marginal_kl": collapse.marginal_kl,
                "mutual_information": collapse.mutual_information, "ceiling": collapse.ceiling,
                "table": collapse.table.reset_index().to_dict(orient="records"),
            },
        }  # fmt: skip

    def __str__(self) -> str:
        figures = self.figures

        def line(label: str, key: str) -> str:
            return f"{label:<20} {figures[key]:>10.4f} +- {figures[f'{key}_error']:.2g}"

        return "\n".join(
            [
                f"{self.name}, nats a row, {self.rows:,} rows; evidence: {self.method}",
                line("log evidence", "evidence"),
                line("best of the family", "best"),
                line("ELBO", "elbo"),
                line("approximation gap", "approximation_gap"),
                line("amortisation gap", "amortization_gap"),
                str(self.verdict),
            ]
        )
