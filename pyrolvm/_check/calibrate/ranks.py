"""Ranks of true values among posterior draws, as an ArviZ object with statistics of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pyrolvm._base.errors import unknown_name
from pyrolvm._check.calibrate.job import Record
from pyrolvm._check.calibrate.statistics import statistics
from pyrolvm._program.names import variable
from pyrolvm._report.origin import ORIGIN

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Ranks"]


@dataclass(eq=False, repr=False)
class Ranks:
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
    _cache: dict[str, Self] = field(default_factory=dict)

    @classmethod
    def of(cls, about: Mapping[str, Any], records: Iterable[Record], *, interrupted: bool = False) -> Self:
        """The calibration that records of simulations add up to."""
        ordered = sorted(records, key=lambda record: record["simulation"])
        made = cls(
            about["method"], about["problem"], _tree(about, ordered), about["draws"], len(ordered), about["seed"],
            tuple(about["notes"]), interrupted,
        )  # fmt: skip
        made.data.attrs.update({**made.about(), ORIGIN: about.get("origin", "{}")})
        return made

    def about(self) -> dict[str, Any]:
        """What it is of, as attributes of its tree."""
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
        return statistics(self.data, self.draws)

    def of_status(self, status: str) -> Self:
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
