"""What an evaluation found: figures, rows and pictures, which text, pages, plots and files show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pyrolvm._base.verdict import Verdict
from pyrolvm._program.image import Image

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Evaluated"]


@dataclass(frozen=True, eq=False, repr=False)
class Evaluated:
    """What a fitted model is worth on data.

    Attributes:
        name: the fit's name.
        problem: the problem's.
        table: a row for each figure: ``value``, the mean over rows; ``error``, its Monte Carlo error; ``row_error``, its standard error
            as the mean of a sample of rows; ``train``, the same figure of training rows; ``unit``.
        units: a row for each unit of the continuous latents: ``variance_of_mean``, that of the posterior mean over rows, and
            ``posterior_variance``, both in units of the prior's; ``active``, whether the first is above 0.01. ``None`` without such.
        auroc: by data set (rows) and score (columns), the probability that a row of it has a higher score than a held-out one; ``None``
            where no other data were given.
        data: an ``xarray.DataTree``: ``rows`` and ``train_rows`` (figures by row), ``bounds`` (by draws), ``latents`` (posterior
            means and sds), ``units``, ``pictures``, ``outliers/<data set>`` (scores); where rows share latents, ``scores`` as
            :func:`pyrolvm.predict` gives them.
        left_out: what does not apply, and why.
        notes: what to know of the pictures.
        titles: labels of pictures by name.
        image: what says that rows are images.
        site: the observed site that is shown.
        draws: draws of a row, or of the posterior.
        exact: whether log p(x) is exact.
        verdict: whether the figures can be believed, and what they say.
        engine: what ran the model.
        engine_reason: why not a graph, where it is none.
        seed: the seed.
        seconds: wall time.
    """

    name: str
    problem: str
    table: pd.DataFrame
    units: pd.DataFrame | None
    auroc: pd.DataFrame | None
    data: xr.DataTree = field(repr=False)
    left_out: Mapping[str, str]
    notes: tuple[str, ...]
    titles: Mapping[str, list[str]]
    image: Image | None
    site: str
    draws: int
    exact: bool
    verdict: Verdict
    engine: str
    engine_reason: str
    seed: int
    seconds: float = 0.0

    def __repr__(self) -> str:
        told = f"{len(self.table)} figures in {self.seconds:.1f} s, {self.verdict.status}"
        return f"<Evaluation of {self.name} of {self.problem}: {told}>"

    @property
    def rows(self) -> pd.DataFrame:
        """A row for each data point: ``log_p``, ``log_p_error``, ``khat``, ``ess``, ``elbo``, ``log_likelihood``, ``kl_<site>``, ...

        Where rows share latents ``log_p``, ``log_p_error``, ``crps`` and ``pit``.
        """
        return self.data["rows"].to_dataset().to_dataframe()

    @property
    def how(self) -> str:
        """How log p(x) of rows was found."""
        if self.exact:
            return "log p(x) exact"
        if "scores" in self.data.children:
            return f"log p(x) by {self.draws:,} draws of the posterior"
        return f"log p(x) by importance sampling, K = {self.draws:,}"

    @property
    def log_p(self) -> float:
        """The mean log p(x) of a row, nats."""
        return float(self.table.loc["log p(x)", "value"])

    @property
    def log_p_error(self) -> float:
        """Its Monte Carlo error."""
        return float(self.table.loc["log p(x)", "error"])

    def __getitem__(self, figure: str) -> float:
        """A figure of the table by its name.

        Raises:
            KeyError: if it was left out, with the reason.
        """
        if figure in self.table.index:
            return float(self.table.loc[figure, "value"])
        why = self.left_out.get(figure)
        raise KeyError(
            f"{figure!r} was left out: {why}" if why else f"{figure!r}; there are {', '.join(self.table.index)}"
        )

    def as_dict(self) -> dict[str, object]:
        """The figures as JSON types."""
        return {
            "name": self.name, "problem": self.problem, "rows": int(self.data["rows"].sizes["row"]), "draws": self.draws,
            "exact": self.exact, "table": _records(self.table),
            "auroc": None if self.auroc is None else _records(self.auroc), "left_out": dict(self.left_out),
            "verdict": self.verdict.as_dict(), "engine": self.engine, "engine_reason": self.engine_reason, "seed": self.seed,
            "seconds": self.seconds,
        }  # fmt: skip


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Rows as JSON types; what is not finite becomes ``None``."""
    records = frame.reset_index().to_dict(orient="records")
    return [
        {
            str(key): None if isinstance(value, float | np.floating) and not np.isfinite(value) else value
            for key, value in row.items()
        }
        for row in records
    ]
