r"""Scores that tell rows of another data set from rows like those that a model was fitted to.

The log density by itself is a poor one. A density is high where data are simple, in few bits, and a model of complicated images gives
plain ones a higher density than the images it was fitted to (Nalisnick et al. 2019a). Three scores mend that:

- ``typicality``: how far log p(x) is from its mean over training rows, on either side (Nalisnick et al. 2019b);
- ``likelihood ratio``: log p(x) less the log density under a background model that knows each value by itself (Ren et al. 2019). Ours
  is the independent distribution of each value over the training rows, a tenth of it flat;
- ``complexity``: log p(x) in bits plus the bits that a lossless compressor takes for the row (Serrà et al. 2020).

Each is turned so that more means more of an outlier.

References:
    Nalisnick et al., *Do deep generative models know what they don't know?*, https://arxiv.org/abs/1810.09136;
    Nalisnick et al., *Detecting out-of-distribution inputs to deep generative models using typicality*, https://arxiv.org/abs/1906.02994;
    Ren et al., *Likelihood ratios for out-of-distribution detection*, https://arxiv.org/abs/1906.02845;
    Serrà et al., *Input complexity and out-of-distribution detection with likelihood-based generative models*,
    https://arxiv.org/abs/1909.11480
"""

from __future__ import annotations

import bz2
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Background", "areas", "auroc", "compressed_bits", "plain_rows", "scores"]

Array = NDArray[np.float64]

FLAT = 0.1
"""The share of a background model that is flat over all values."""

BINS = 32
"""Bins of a background model for continuous values."""


def auroc(normal: Array, outlying: Array) -> float:
    """The probability that a row of the second kind has the higher score, ties counted as a half.

    Args:
        normal: scores of rows like the training rows, shape ``(n,)``.
        outlying: scores of the others, shape ``(m,)``.
    """
    from scipy.stats import rankdata

    count, other = len(normal), len(outlying)
    ranks = rankdata(np.concatenate([normal, outlying]))
    return float((ranks[count:].sum() - other * (other + 1) / 2) / (count * other))


def areas(apart: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """By data set and score, :func:`auroc` of its rows against those of the first.

    Args:
        apart: the scores of each data set by row; the first is of rows like the training rows.
    """
    import pandas as pd

    (_, normal), *others = apart.items()
    told = {
        name: {column: auroc(normal[column].to_numpy(), found[column].to_numpy()) for column in found.columns}
        for name, found in others
    }
    return pd.DataFrame.from_dict(told, orient="index").rename_axis("data set")


@dataclass(frozen=True)
class Background:
    """An independent histogram of each value of a row.

    Attributes:
        edges: of the bins, shape ``(bins + 1,)``.
        log_mass: the log probability of each bin by value, shape ``(values, bins)``, as a density where values are continuous.
    """

    edges: Array
    log_mass: Array

    @classmethod
    def of(cls, rows: Array, levels: int | None) -> Background:
        """From training rows ``(n, values)``; ``levels`` where values are whole numbers below it."""
        if levels is None:
            low, high = float(rows.min()), float(rows.max())
            edges = low + (max(high - low, 1e-12) / BINS) * np.arange(BINS + 1, dtype=np.float64)
        else:
            edges = np.arange(levels + 1, dtype=np.float64) - 0.5
        bins = len(edges) - 1
        where = cls._bin(edges, rows)
        share = np.stack([(where == k).mean(axis=0) for k in range(bins)], axis=1)
        width = 1.0 if levels is not None else float(edges[1] - edges[0])
        return cls(edges, np.log(((1 - FLAT) * share + FLAT / bins) / width))

    @staticmethod
    def _bin(edges: Array, rows: Array) -> NDArray[np.int64]:
        return np.clip(np.searchsorted(edges, rows, side="right") - 1, 0, len(edges) - 2)

    def log_p(self, rows: Array) -> Array:
        """The log density of rows ``(n, values)``."""
        where = self._bin(self.edges, rows)
        return np.asarray(self.log_mass[np.arange(rows.shape[1]), where].sum(axis=1))


def compressed_bits(rows: Array, levels: int) -> Array:
    """Bits of each row by the better of two compressors, deflate and bzip2, for whole numbers below ``levels``, shape ``(n,)``.

    Headers that are the same for all rows are not taken off; they do not change an order.
    """
    packed = np.asarray(np.rint(rows), dtype=np.int64)
    if levels == 2:
        content = np.packbits(packed.astype(bool), axis=1)
    else:
        content = packed.astype(np.uint8 if levels <= 256 else np.uint16)
    return np.array([8.0 * _shortest(row.tobytes()) for row in content])


def _shortest(text: bytes) -> int:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return min(len(deflate.compress(text) + deflate.flush()), len(bz2.compress(text, 1)))


def scores(
    log_p: Array, rows: Array | None, *, centre: float | None, background: Background | None, levels: int | None
) -> pd.DataFrame:
    """The scores of rows, more for outliers.

    Args:
        log_p: shape ``(n,)``.
        rows: their values, whole numbers where ``levels`` is given, ``(n, values)``; ``None`` where they do not make one array.
        centre: the mean log p of training rows; ``None`` where it is not known.
        background: the model of single values; ``None`` for none.
        levels: how many whole numbers a value can be.
    """
    import pandas as pd

    found = {"log p(x)": -log_p}
    if centre is not None:
        found["typicality"] = np.abs(log_p - centre)
    if background is not None and rows is not None:
        found["likelihood ratio"] = background.log_p(rows) - log_p
    if levels is not None and rows is not None:
        found["complexity"] = -log_p / math.log(2) - compressed_bits(rows, levels)
    return pd.DataFrame(found)


def plain_rows(rows: Any, count: int) -> object:
    """The control: rows without any structure, every value at the one that is most common over all training rows."""
    values, counts = np.unique(np.asarray(rows), return_counts=True)
    return np.full((count, *np.shape(rows)[1:]), values[np.argmax(counts)])
