"""What a calibration gives: ranks as an ArviZ object, statistics, a verdict."""

from __future__ import annotations

from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrolvm import _runs as runs
from pyrolvm._base.errors import StoreError, unknown_name
from pyrolvm._base.face import public
from pyrolvm._base.plain import jsonable
from pyrolvm._base.verdict import Verdict
from pyrolvm._check.calibrate.judge import judge
from pyrolvm._check.calibrate.ranks import Ranks
from pyrolvm._check.calibrate.saving import FORM
from pyrolvm._compat.notebooks import html
from pyrolvm._report.pictures import written
from pyrolvm._report.webpage import in_notebook, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Calibration"]


class Calibration(Ranks):
    """Ranks of true values among posterior draws over many simulated data sets, and the verdict that follows.

    Its attributes are those of :class:`~pyrolvm._check.calibrate.ranks.Ranks`.
    """

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the method is calibrated on this model.

        A quantity is *failed* if its adjusted p is below 0.01 and it is off by more than 0.1 sd, 10% of the sd or 0.04 in the ECDF;
        *doubtful* if p is below 0.05 only, or the deviation small. An exact method is called failed with probability 0.01 at
        most, over all quantities together. Fewer than 100 simulations are doubtful. Fits without a posterior are doubtful from
        1%, failed from 20%.

        When not to trust it: it is the method on data from the prior that is judged. Where the prior is wide, most of these
        are unlike the real ones; and data that no draw of the prior resembles are not judged at all.
        """
        return judge(self)

    # --- out ----------------------------------------------------------------------------------------------------------

    def plot(self, kind: str = "ecdf", path: str | Path | None = None, **options: Any) -> Figure:
        """Draws the ranks.

        Args:
            kind: ``"ecdf"``, the difference of the ranks' ECDF from uniform with the region that 95% of exact methods stay in,
                or ``"histogram"``.
            path: where to write it as well.
            **options: ``quantities=``, labels to show; by default the worst, at most ``limit=12``.

        Returns:
            A matplotlib Figure.

        Raises:
            UnknownNameError: if there is no such kind or quantity.
        """
        from pyrolvm._check.calibrate import plots  # it imports matplotlib

        if kind not in plots.KINDS:
            raise unknown_name("kind of plot", kind, plots.KINDS)
        figure = plots.KINDS[kind](self, **options)
        return written(figure, path)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes it to a folder, which :func:`pyrolvm.load` and :meth:`load` read.

        Raises:
            StoreError: if the folder holds something already and ``overwrite`` is false.
        """
        return runs.save(FORM, self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads a calibration; of one that was stopped or is still running, what there is so far.

        Raises:
            StoreError: if there is none, or a file is damaged.
        """
        found = public("load")(path)
        if not isinstance(found, cls):
            raise StoreError(f"{path} holds a {type(found).__name__}, not a calibration. Fix: use lvm.load(path).")
        return found

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with figures and pictures, which opens anywhere and fetches nothing; see :func:`pyrolvm.report`."""
        written: Path = public("report")(self, path)
        return written

    def as_dict(self) -> dict[str, object]:
        """The figures as JSON types."""
        statuses = {str(name): int(n) for name, n in self.fits["status"].value_counts().items()}
        rows = self.statistics.reset_index().to_dict(orient="records") if self.successes else []
        return {
            **self.about(), "simulations": self.simulations, "interrupted": self.interrupted, "statuses": statuses,
            "failures": self.failures, "seconds": float(self.fits["seconds"].sum()), "notes": list(self.notes),
            "verdict": jsonable(self.verdict.as_dict()), "quantities": jsonable(rows),
        }  # fmt: skip

    def __str__(self) -> str:
        head = f"{self.method} on {self.problem}: {self.simulations} simulations, ranks among {self.draws} draws"
        if not self.successes:
            return f"{head}\n{self.verdict}"
        table = self.statistics.sort_values("p", kind="stable")[list(SHOWN)]
        rows = table.head(20).to_string(float_format=lambda value: f"{value:.3g}")
        more = f"\n... and {len(table) - 20} quantities more" if len(table) > 20 else ""
        return f"{head}\n{rows}{more}\n{self.verdict}"

    def __repr__(self) -> str:
        return (
            f"<Calibration of {self.method} on {self.problem}: {self.simulations} simulations, {self.verdict.status}>"
        )

    def _repr_html_(self) -> str:
        rows = ""
        if self.successes:
            rows = table(self.statistics.sort_values("p", kind="stable")[list(SHOWN)], digits=3)
        head = escape(f"{self.method} on {self.problem}: {self.simulations} simulations")
        return in_notebook(f"<b>{head}</b> {html(self.verdict)}{rows}")


SHOWN = ("ks", "bias", "sd_ratio", "cover50", "cover90", "p_adjusted", "status")
