"""What a calibration gives: ranks as an ArviZ object, statistics, a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._compat.notebooks import html
from pyrolvm.errors import unknown_name
from pyrolvm.program.names import variable

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from pyrolvm.calibration.job import Record
    from pyrolvm.verdict import Verdict

__all__ = ["Calibration"]


@dataclass(eq=False, repr=False)
class Calibration:
    """Ranks of true values among posterior draws, over many simulated data sets.

    If a method draws from the posterior, the truth is as likely to be in any place among its draws: ranks are uniform. That
    holds for every quantity, and still does among data sets chosen by what can be seen in them, such as those whose fit
    ended, or was called trusted.

    Attributes:
        method: what was calibrated.
        problem: the problem's name.
        data: an ``xarray.DataTree``. Groups ``ranks``, ``truth``, ``posterior_mean`` and ``posterior_sd`` have dims
            ``(simulation, ...)``; ``fits`` has ``status``, ``error``, ``seconds``, ``khat`` and ``ess`` of each; ``prior_sbc`` has the
            ranks on [0, 1] with dims ``(chain, draw, ...)``, as ArviZ's ``plot_ecdf_pit`` takes them.
        draws: how many posterior draws a truth was ranked among: ranks are 0 to ``draws``.
        simulations: how many data sets were asked for and run.
        seed: the seed.
        notes: what else is to be known, such as quantities left out.
        interrupted: whether it was stopped before all simulations were run.
    """

    method: str
    problem: str
    data: xr.DataTree
    draws: int
    simulations: int
    seed: int
    notes: Sequence[str] = ()
    interrupted: bool = False
    _cache: dict[str, Calibration] = field(default_factory=dict)

    @classmethod
    def of(cls, about: Mapping[str, Any], records: Iterable[Record], *, interrupted: bool = False) -> Calibration:
        """The calibration that records of simulations add up to."""
        ordered = sorted(records, key=lambda record: record["simulation"])
        made = cls(
            about["method"], about["problem"], _tree(about, ordered), about["draws"], len(ordered), about["seed"],
            tuple(about["notes"]), interrupted,
        )  # fmt: skip
        made.data.attrs.update(made._about())
        return made

    def _about(self) -> dict[str, Any]:
        return {
            "pyrolvm_problem": self.problem, "method": self.method, "draws": self.draws, "seed": self.seed,
            "inference_library": "pyrolvm",
        }  # fmt: skip

    # --- what is in it ------------------------------------------------------------------------------------------------

    @property
    def ranks(self) -> xr.Dataset:
        """How many draws lie below the truth, 0 to ``draws``, by quantity; -1 where that cannot be said."""
        return self.data["ranks"].to_dataset()

    @property
    def truth(self) -> xr.Dataset:
        """The true values, by quantity."""
        return self.data["truth"].to_dataset()

    @property
    def fits(self) -> pd.DataFrame:
        """A row for each simulation: the verdict of its fit, or its error, and what it took."""
        return self.data["fits"].to_dataset().to_dataframe()

    @property
    def failures(self) -> dict[str, int]:
        """Errors of fits that gave no posterior, the most frequent first, with how many there were of each."""
        fits = self.fits
        return {str(error): int(n) for error, n in fits["error"][fits["status"] == "error"].value_counts().items()}

    @property
    def successes(self) -> int:
        """How many simulations gave ranks."""
        return int(self.data["ranks"].sizes["simulation"]) if "ranks" in self.data.children else 0

    @cached_property
    def statistics(self) -> pd.DataFrame:
        """A row for each scalar quantity.

        ========================== =========================================================================================
        column                     meaning
        ========================== =========================================================================================
        ``simulations``            ranks there are
        ``ks``, ``ks_bound``       largest distance of the ranks' ECDF from uniform; what 95% of exact methods stay below
        ``bias``, ``bias_z``       by how many posterior sds the posterior is too high, from the mean rank; its z-score
        ``sd_ratio``, ``spread_z`` posterior sd over what it should be, from the spread of ranks; a z-score, above 0 if too narrow
        ``worst_part``             the lower part of the posterior at whose end ranks are least uniform; ``worst_share``, the truths
        ``symmetry_p``             probability of ranks this lopsided if the posterior is centred, whatever its width (VSBC)
        ``cover50``, ``cover90``   share of truths in central intervals, with ``_error``
        ``contraction``            median share of the prior variance that the data take away: near 0 the test says little
        ``p``, ``p_adjusted``      of the ECDF, mean and spread together; the same, allowing for the number of quantities (Holm)
        ``status``, ``finding``    what follows, in a word and in words
        ========================== =========================================================================================

        ``bias`` and ``sd_ratio`` translate ranks as if posteriors were normal; they are sizes, not tests.
        """
        from pyrolvm.calibration.statistics import statistics

        return statistics(self.data, self.draws)

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
        from pyrolvm.calibration.judge import judge

        return judge(self)

    def of_status(self, status: str) -> Calibration:
        """The same for those fits alone whose own verdict was ``"trusted"``, ``"doubtful"``, ``"failed"`` or ``"none"``.

        Raises:
            UnknownNameError: if there is no such status.
        """
        known = ("trusted", "doubtful", "failed", "none")
        if status not in known:
            raise unknown_name("verdict status", status, known)
        if status not in self._cache:
            import xarray as xr

            chosen = self.fits.index[self.fits["status"] == status].to_numpy()
            groups = {name: group.to_dataset() for name, group in self.data.children.items()}
            if "ranks" in groups:
                groups["prior_sbc"] = groups["prior_sbc"].isel(
                    draw=np.isin(groups["ranks"]["simulation"].values, chosen)
                )
            groups = {
                name: group if name == "prior_sbc" else group.sel(simulation=chosen) for name, group in groups.items()
            }
            tree = xr.DataTree.from_dict(groups)
            tree.attrs.update(self.data.attrs)
            self._cache[status] = replace(self, data=tree, simulations=len(chosen), _cache={})
        return self._cache[status]

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
        from pyrolvm.calibration import plots

        if kind not in plots.KINDS:
            raise unknown_name("kind of plot", kind, plots.KINDS)
        figure = plots.KINDS[kind](self, **options)
        if path is not None:
            figure.savefig(path, dpi=160)
        return figure

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes it to a folder, which :func:`pyrolvm.load` and :meth:`load` read.

        Raises:
            StoreError: if the folder holds something already and ``overwrite`` is false.
        """
        from pyrolvm import runs
        from pyrolvm.calibration.storage import CODEC

        return runs.save(CODEC, self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Reads a calibration; of one that was stopped or is still running, what there is so far.

        Raises:
            StoreError: if there is none, or a file is damaged.
        """
        from pyrolvm.calibration.storage import load

        return load(path)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON types."""
        from pyrolvm.diagnosis.core import jsonable

        statuses = {str(name): int(n) for name, n in self.fits["status"].value_counts().items()}
        rows = self.statistics.reset_index().to_dict(orient="records") if self.successes else []
        return {
            **self._about(), "simulations": self.simulations, "interrupted": self.interrupted, "statuses": statuses,
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
            table = self.statistics.sort_values("p", kind="stable")[list(SHOWN)].head(50)
            rows = table.to_html(float_format=lambda value: f"{value:.3g}", border=0, escape=True)
        head = escape(f"{self.method} on {self.problem}: {self.simulations} simulations")
        return f"<div><b>{head}</b> {html(self.verdict)}{rows}</div>"


SHOWN = ("ks", "bias", "sd_ratio", "cover50", "cover90", "p_adjusted", "status")


def _tree(about: Mapping[str, Any], records: Sequence[Record]) -> xr.DataTree:
    """Records as arrays."""
    import xarray as xr

    good = [record for record in records if record["status"] != "error"]
    places = {"simulation": [record["simulation"] for record in good]}
    shapes, dims, coords = about["shapes"], about["dims"], about["coords"]
    used = {dim for names in dims.values() for dim in names}
    labels = {dim: values for dim, values in coords.items() if dim in used}

    def group(key: str, dtype: Any) -> xr.Dataset:
        variables = {}
        for name, shape in shapes.items():
            values = np.array([record[key][name] for record in good], dtype=dtype).reshape(len(good), *shape)
            variables[variable(name, beside=("simulation",))] = (("simulation", *dims[name]), values)
        return xr.Dataset(variables, coords={**places, **labels})

    groups: dict[str, xr.Dataset] = {}
    if good:
        groups["ranks"] = group("ranks", np.int32)
        for key, name in (("truth", "truth"), ("mean", "posterior_mean"), ("sd", "posterior_sd")):
            groups[name] = group(key, np.float64)
        ranks = groups["ranks"]
        pit = xr.where(ranks >= 0, (ranks + 0.5) / (about["draws"] + 1), np.nan)
        pit = pit.rename(simulation="draw").expand_dims(chain=[0]).transpose("chain", "draw", ...)
        groups["prior_sbc"] = pit.assign_coords(draw=np.arange(len(good)))
    fits = {
        "status": np.array([record["status"] for record in records], dtype=str),
        "error": np.array([record["error"] for record in records], dtype=str),
        **{key: np.array([record[key] for record in records], dtype=np.float64) for key in ("seconds", "khat", "ess")},
    }
    variables = {name: ("simulation", values) for name, values in fits.items()}
    groups["fits"] = xr.Dataset(variables, coords={"simulation": [record["simulation"] for record in records]})
    return xr.DataTree.from_dict(groups)
