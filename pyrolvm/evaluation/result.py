"""What :func:`pyrolvm.evaluate` gives: a table of figures, a row for each data point, pictures, a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm.program.image import Image
from pyrolvm.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = ["Evaluation"]


@dataclass(frozen=True, eq=False)
class Evaluation:
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
            means and sds), ``units``, ``pictures``, ``outliers/<data set>`` (scores).
        left_out: what does not apply, and why.
        notes: what to know of the pictures.
        titles: labels of pictures by name.
        image: what says that rows are images.
        site: the observed site that is shown.
        draws: draws of a row.
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

    @property
    def rows(self) -> pd.DataFrame:
        """A row for each data point: ``log_p``, ``log_p_error``, ``khat``, ``ess``, ``elbo``, ``log_likelihood``, ``kl_<site>``, ..."""
        return self.data["rows"].to_dataset().to_dataframe()

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

    def plot(self, path: str | Path | None = None) -> Figure:
        """Shows densities of rows, the bound against the number of draws, units and scores.

        Args:
            path: where to write the picture as well.

        Returns:
            A matplotlib Figure.
        """
        from pyrolvm.evaluation.plots import draw

        figure = draw(self)
        if path is not None:
            figure.savefig(path, dpi=160)
        return figure

    def pictures(self, folder: str | Path) -> list[Path]:
        """Writes every picture to a folder as PNG: figures, reconstructions, samples, interpolations, traversals.

        Returns:
            The files.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = []
        for name, figure in self.drawn().items():
            files.append(target / name)
            figure.savefig(files[-1], dpi=130)
        return files

    def drawn(self) -> dict[str, Figure]:
        """Its pictures, by the names of their files."""
        from pyrolvm.evaluation.plots import drawn

        return {f"{_file_name(name)}.png": figure for name, figure in drawn(self).items()}

    def to_html(self, path: str | Path) -> Path:
        """Writes one page with all figures and pictures, which opens anywhere and fetches nothing."""
        from pyrolvm.evaluation.html import page

        target = Path(path)
        target.write_text(page(self), encoding="utf-8")
        return target

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes it to a folder, which :func:`pyrolvm.load` reads.

        Raises:
            StoreError: if the folder holds something already and ``overwrite`` is false.
        """
        from pyrolvm import runs
        from pyrolvm.evaluation.storage import CODEC

        return runs.save(CODEC, self, path, overwrite=overwrite)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return {
            "name": self.name, "problem": self.problem, "rows": int(self.data["rows"].sizes["row"]), "draws": self.draws,
            "exact": self.exact, "table": _records(self.table),
            "auroc": None if self.auroc is None else _records(self.auroc), "left_out": dict(self.left_out),
            "verdict": self.verdict.as_dict(), "engine": self.engine, "engine_reason": self.engine_reason, "seed": self.seed,
            "seconds": self.seconds,
        }  # fmt: skip

    def __str__(self) -> str:
        count = int(self.data["rows"].sizes["row"])
        how = "log p(x) exact" if self.exact else f"log p(x) by importance sampling, K = {self.draws:,}"
        width = max(len(str(name)) for name in self.table.index)
        lines = [f"{self.name} on {self.problem}: {count:,} rows; {how}; {self.engine}; {self.seconds:.1f} s"]
        for name, row in self.table.iterrows():
            error = "" if not math.isfinite(row["error"]) or row["error"] == 0 else f" +- {row['error']:.2g}"
            rows = "" if not math.isfinite(row["row_error"]) else f" (rows +- {row['row_error']:.2g})"
            train = "" if not math.isfinite(row["train"]) else f"; training rows {row['train']:.4g}"
            value = f"{row['value']:.0f}" if "active units" in str(name) else f"{row['value']:.4f}"
            lines.append(f"{name!s:<{width}} {value:>10}{error} {row['unit']}{rows}{train}")
        if self.auroc is not None:
            lines += ["AUROC of scores for outliers:", self.auroc.round(3).to_string()]
        lines += [f"left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join([*lines, str(self.verdict)])

    def _repr_html_(self) -> str:
        from pyrolvm.evaluation.html import fragment

        return fragment(self)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON types; what is not finite becomes ``None``."""
    records = frame.reset_index().to_dict(orient="records")
    return [
        {
            str(key): None if isinstance(value, float | np.floating) and not np.isfinite(value) else value
            for key, value in row.items()
        }
        for row in records
    ]


def _file_name(name: str) -> str:
    return (
        "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[:80].lstrip(".") or "picture"
    )
