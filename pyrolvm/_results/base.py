"""A posterior, whichever method made it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, StoreError, positive_int
from pyrolvm._base.face import public
from pyrolvm._base.numerics import Array
from pyrolvm._base.pickling import Portable
from pyrolvm._base.verdict import Verdict
from pyrolvm._compat.notebooks import html
from pyrolvm._program.problem import Problem
from pyrolvm._report.card import card
from pyrolvm._results.draws import stored
from pyrolvm._results.elpd import LOO
from pyrolvm._results.evidence import Evidence
from pyrolvm._results.gathering import marked
from pyrolvm._results.leaving import leave_out
from pyrolvm._results.saving import save
from pyrolvm._results.sensitivity import psense
from pyrolvm._results.summary import chosen, dataframe, summarised
from pyrolvm._results.tables import levels
from pyrolvm._runs.attributes import said

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["Posterior"]

SHOWN = 20
"""Quantities that a notebook shows of a result."""
LADDER = "pyrolvm_ladder"
"""The attribute of a tree that says what :func:`pyrolvm.infer` tried."""


@dataclass(eq=False, repr=False)
class Posterior(Portable):
    """Draws from an approximation of a posterior, with what is known about them.

    Attributes:
        name: the method's name in tables.
        data: an ``xarray.DataTree`` that every ArviZ function takes.
        problem: the problem; ``None`` for a result loaded without it.
        params: learnable parameters, unconstrained, by store name: the guide's, and those of the model.
        seconds: wall time by phase.
        engine: what ran the model.
        engine_reason: why that engine.
        seed: the seed it was made with.
    """

    name: str
    data: xr.DataTree
    problem: Problem | None
    params: Mapping[str, Tensor] = field(repr=False)
    seconds: Mapping[str, float]
    engine: str
    engine_reason: str
    seed: int

    @property
    def log_p(self) -> Array:
        """The log density log p(data, draw) on the constrained scale, discrete latents summed out. Shape ``(chain, draw)``."""
        return np.asarray(self.data["sample_stats"]["lp"].values)

    @property
    def log_q(self) -> Array | None:
        """The normalised log density log q(draw) that draws are from; ``None`` for MCMC. Shape ``(chain, draw)``."""
        stats = self.data["sample_stats"]
        return np.asarray(stats["log_q"].values) if "log_q" in stats else None

    @property
    def num_draws(self) -> int:
        """Draws in all, over all chains."""
        sizes = self.data["posterior"].sizes
        return int(sizes["chain"] * sizes["draw"])

    @property
    def evidence(self) -> Evidence | None:
        """The log marginal likelihood; ``None`` where the method does not give it."""
        return None

    @cached_property
    def verdict(self) -> Verdict:
        """Whether to trust it, with reasons and next steps."""
        verdict: Verdict = public("diagnose")(self).verdict
        return verdict

    def sample(self, n: int, *, seed: int = 0) -> xr.Dataset:
        """``n`` draws of the latents, dims ``(chain=1, draw=n, ...)``.

        They are stored ones, chosen at random, without repetition as long as there are enough, where the method has no fresh ones.
        """
        positive_int("n", n)
        return stored(self.data, n, seed)

    def summary(self, *, interval: float = 0.9, group: str | None = None, max_quantities: int = 500) -> pd.DataFrame:
        """Estimates with their errors, a row for each scalar quantity.

        Args:
            interval: the share of draws between the ends of the central interval.
            group: the group of draws, such as ``"posterior"``. By default what verdicts are about: identified ``quantities`` where the
                model names them; of a posterior that consists of copies of one mode, draws brought to one copy; else all sites.
            max_quantities: how many rows at most; variables that have more elements than their share are cut, and
                ``.attrs["left_out"]`` says how many rows there are more.

        Returns:
            Columns ``mean``, ``sd``, the ends of the interval with the median between (``q5``, ``median``, ``q95``), and
            ``mcse_mean``, the standard error of the mean. Of chains ``ess_bulk``, ``ess_tail`` and ``rhat``; of independent draws
            ``ess``, and where they have importance weights ``khat``, the tail shape of the weights for this quantity's variance.
            ``mcse_mean`` of a fit is its Monte Carlo error alone: how far the guide is from the posterior is said by ``khat`` and
            the verdict.
        """
        limit = positive_int("max_quantities", max_quantities)
        return summarised(self.data, interval=interval, group=group, limit=limit)

    def to_dataframe(self, *, group: str = "posterior") -> pd.DataFrame:
        """The draws, a row for each (index ``chain``, ``draw``) and a column for each scalar quantity, such as ``theta[3]``.

        Args:
            group: the group of draws.
        """
        return dataframe(self.data, group)

    def plot(
        self,
        kind: str = "marginals",
        *,
        quantities: str | Iterable[str] | None = None,
        interval: float = 0.9,
        path: str | Path | None = None,
    ) -> Figure:
        """Draws the posterior.

        Args:
            kind: ``"marginals"`` (a density for each quantity), ``"forest"`` (intervals), ``"ranks"`` (of each chain's draws among
                all) or ``"trace"`` (draw by draw); of chains also ``"divergences"``, the draws that diverged among all, over the pair
                of unknowns in which they gather.
            quantities: what to show: labels as in :meth:`summary`, or names of variables; by default the first of each.
            interval: the share of draws that the drawn interval holds.
            path: where to write the picture as well, for example ``"posterior.png"``.

        Returns:
            A matplotlib Figure, which notebooks show by themselves.

        Raises:
            UnknownNameError: if there is no such kind, or nothing of a name.
            ArgumentError: if the result has no draws of anything, or there are no divergences that gather.
        """
        from pyrolvm._report.posterior import draw  # it imports matplotlib

        if kind == "divergences":
            pair, diverging = marked(self.data)
            both = {name: (values, False) for name, values in zip(pair.names, pair.draws, strict=True)}
            return draw(kind, both, interval, path, diverging)
        shown = chosen(self.data, quantities, 24 if kind == "forest" else 12)
        if not shown:
            raise ArgumentError(f"{self.name} has no draws to show. Fix: its parameters are in .params.")
        levels(interval)
        return draw(kind, shown, interval, path)

    def loo(
        self, *, site: str | None = None, integrate: bool = True, moment_match: bool = True, refit: bool = False
    ) -> LOO:
        """Leave-one-out cross-validation: how well the model predicts each row of the data from all others, in nats.

        The draws are weighed by what leaving a row out makes of them; those of a guide by log p - log q as well, so that the estimate
        is of the posterior's predictions and not of the guide's. Rows that the model masks are no rows.

        Args:
            site: the observed site whose rows are left out. By default the only one; several of the same rows are left out together.
            integrate: whether latents that a row has of its own, or shares with few others, are integrated out, where they are
                independent given the rest and draws run at once: the weights are then of what is shared, and have short tails.
            moment_match: whether draws are moved to where leaving a row out puts the posterior, for rows whose k-hat is too high; where
                there are more than 50 of these, or the model runs draw by draw, they are left as they are.
            refit: whether rows whose k-hat is too high still are left out by a fit without each of them, by the same method.

        Returns:
            The sum with its error, the figures of each row, and a verdict by their k-hat.

        Raises:
            ArgumentError: if there is no log likelihood by row (a likelihood that is one ``pyro.factor`` for all), several sites have
                other rows, or this is a point estimate.

        References:
            Vehtari, Gelman and Gabry (2017), https://arxiv.org/abs/1507.04544; Magnusson et al. (2019), "Bayesian leave-one-out
            cross-validation for large data", https://arxiv.org/abs/1904.10679; Merkle, Furr and Rabe-Hesketh (2019), "Bayesian
            comparison of latent variable models: conditional versus marginal likelihoods", https://arxiv.org/abs/1802.04452
        """
        again = self._again if refit else None
        problem = self.attached if refit else self.problem
        return leave_out(self.name, self.data, problem, self.params, site, moment_match, integrate, again, self.seed)

    @property
    def _again(self) -> object:
        """The method that made it, as a sweep takes it."""
        return self.data["posterior"].attrs.get("inference_method", "infer")

    def psense(self) -> pd.DataFrame:
        """How much prior and likelihood each decide a quantity: how far it moves when one of them is raised to a power near one.

        The priors of the top are scaled, those that no other latent sets; of a model with several, each by itself as well. Draws of a
        guide are resampled by log p - log q before.

        When not to trust it: it is a derivative at the prior that is there, not what another prior would give; and a sensitivity is no
        fault where the prior is meant. Draws of a guide whose weights have a high k-hat say little of it.

        Returns:
            A row for each scalar quantity: ``prior``, ``likelihood``, ``prior of <site>``, and a ``diagnosis``: a sensitivity from 0.05
            on counts. ``.attrs["prior_sites"]`` says which priors were scaled.

        Raises:
            ArgumentError: if the result has no densities of prior and likelihood by site, or is a point estimate.

        References:
            Kallioinen et al. (2024), "Detecting and diagnosing prior and likelihood sensitivity with power-scaling",
            https://doi.org/10.1007/s11222-023-10366-5
        """
        return psense(self.data, self.problem, self.name)

    @property
    def ladder(self) -> list[dict[str, Any]]:
        """What :func:`pyrolvm.infer` tried, in order, and why it went on; empty for a result of one method."""
        return said(self.data.attrs, LADDER, list, [])

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with figures and pictures, which opens anywhere and fetches nothing; see :func:`pyrolvm.report`."""
        written: Path = public("report")(self, path)
        return written

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the result to a folder, which :func:`pyrolvm.load` reads.

        Raises:
            StoreError: if the folder holds something already and ``overwrite`` is false.
        """
        return save(self, path, overwrite=overwrite)

    def __str__(self) -> str:
        problem = self.data["posterior"].attrs.get("pyrolvm_problem", "")
        seconds = sum(self.seconds.values())
        if self.data["posterior"].attrs.get("inference_method") == "maximum_likelihood":
            log_p = float(self.log_p.mean())
            return f"{type(self).__name__} of {problem}: log p(data) {log_p:,.2f} in {seconds:.1f} s, {self.verdict.status}"
        return f"{type(self).__name__} {self.name} of {problem}: {self.num_draws} draws in {seconds:.1f} s, {self.verdict.status}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def _repr_html_(self) -> str:
        table = self.summary(max_quantities=SHOWN)
        hidden = int(table.attrs["left_out"])
        evidence = {} if self.evidence is None else {"log evidence": str(self.evidence)}
        phases = ", ".join(f"{name} {value:.2g}" for name, value in self.seconds.items())
        facts = {"engine": self.engine, "seed": str(self.seed), "seconds": phases, **evidence}
        more = f"{hidden} quantities more: .summary() has them." if hidden else ""
        return card(str(self), facts, self.verdict, table, more, html(self.data))

    def _session(self, seed: int) -> Any:
        problem = self.attached
        return problem.session(seed=seed, params=self.params)

    @property
    def attached(self) -> Problem:
        """The problem.

        Raises:
            StoreError: if the result was loaded without it.
        """
        if self.problem is None:
            raise StoreError(
                f"{self.name} was loaded without its problem, so it cannot run the model. "
                "Fix: lvm.load(path, problem=lvm.Problem(model, *data))."
            )
        return self.problem
