"""How far a posterior is from its reference: errors of means in reference sds, and of sds as shares.

Every reference becomes one table of moments, whether it was draws, a closed form or somebody else's numbers. Moments that are
infinite are compared on the log scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrolvm_models.posteriordb import DESIGNS
from pyrolvm_models.posteriordb import columns as reference_draws
from pyrolvm_models.posteriordb import data as reference_data

__all__ = [
    "LOG_SCALE",
    "MIXING",
    "Moments",
    "Score",
    "arrays",
    "closed_form",
    "columns",
    "from_draws",
    "from_table",
    "score",
    "standard",
]

Columns = Mapping[str, np.ndarray]
"""Draws by label, each of shape ``(chain, draw)``."""

LOG_SCALE: dict[str, tuple[str, ...]] = {"one_comp_mm_elim_abs-one_comp_mm_elim_abs": ("K_m", "V_m")}
"""Parameters whose variance is infinite, so that only their logarithm has moments that can be compared."""

MIXING = ("z_mean", "z_square", "rhat", "ess")
"""What is known only of draws by Markov chains."""


@dataclass(frozen=True)
class Moments:
    """What a reference says about one number.

    Attributes:
        mean: its posterior mean.
        sd: its posterior standard deviation.
        mcse_mean: the Monte Carlo standard error of the mean; 0 for a closed form.
        mcse_sd: that of the standard deviation.
        log: whether all four are of its logarithm.
    """

    mean: float
    sd: float
    mcse_mean: float = 0.0
    mcse_sd: float = 0.0
    log: bool = False


@dataclass(frozen=True)
class Score:
    """The distance of draws from a table of moments.

    Attributes:
        rows: by label: ``mean_error``, the error of the mean in reference sds; ``sd_error``, sd over reference sd, less one;
            ``mcse``, the Monte Carlo error of the reference's mean in sds; and for chains ``z_mean``, ``z_square``, ``rhat``, ``ess``.
    """

    rows: Mapping[str, Mapping[str, float]]

    @property
    def finite(self) -> bool:
        """Whether the draws have finite moments at all."""
        return all(math.isfinite(row["mean_error"]) and math.isfinite(row["sd_error"]) for row in self.rows.values())

    def worst(self, what: str, *, smallest: bool = False) -> tuple[float, str]:
        """The largest absolute value (or the smallest) of a column, and its label; a value that is not a number is the worst."""

        def badness(label: str) -> float:
            value = abs(self.rows[label][what])
            return math.inf if math.isnan(value) else -value if smallest else value

        label = max(self.rows, key=badness)
        return abs(self.rows[label][what]), label

    def summary(self) -> dict[str, Any]:
        """The worst figures, with the labels they belong to."""
        mean, mean_at = self.worst("mean_error")
        sd, sd_at = self.worst("sd_error")
        found: dict[str, Any] = {
            "mean_error": mean,
            "mean_error_at": mean_at,
            "sd_error": sd,
            "sd_error_at": sd_at,
            "reference_mcse": self.worst("mcse")[0],
            "finite": self.finite,
        }
        if all(key in row for row in self.rows.values() for key in MIXING):
            for key in ("z_mean", "z_square", "rhat"):
                found[key], found[f"{key}_at"] = self.worst(key)
            found["ess"], found["ess_at"] = self.worst("ess", smallest=True)
        return found


# --- references as moments --------------------------------------------------------------------------------------------


def standard(name: str) -> dict[str, Moments]:
    """What a posterior of posteriordb is measured by: its closed form where it has one, else the reference draws."""
    if name in DESIGNS:
        x, y = DESIGNS[name](reference_data(name))
        return closed_form(x.numpy(), y.numpy())
    return from_draws(reference_draws(name), log=LOG_SCALE.get(name, ()))


def from_draws(draws: Columns, *, log: Iterable[str] = ()) -> dict[str, Moments]:
    """The moments of reference draws, with their Monte Carlo errors.

    Args:
        draws: by label.
        log: the labels to be compared on the log scale.
    """
    logged, table = set(log), {}
    for label, values in draws.items():
        x = np.log(values) if label in logged else values
        mean, sd = float(x.mean()), float(x.std())
        squares = (x - mean) ** 2
        table[label] = Moments(mean, sd, _mcse(x), _mcse(squares) / (2 * sd), label in logged)
    return table


def closed_form(x: np.ndarray, y: np.ndarray) -> dict[str, Moments]:
    r"""The exact posterior of a normal regression whose coefficients and scale are flat.

    With :math:`\nu = n - k - 1`, the coefficients are multivariate t around least squares with scale matrix :math:`s^2 (X^T X)^{-1}`,
    :math:`s^2 = RSS / \nu`, and :math:`\sigma^2` is inverse gamma with parameters :math:`\nu / 2` and :math:`RSS / 2`.

    Args:
        x: the design matrix, shape ``(n, k)``.
        y: the outcome, shape ``(n,)``.
    """
    n, k = x.shape
    freedom = n - k - 1
    if freedom <= 2:
        raise ValueError(
            f"a regression with {n} rows and {k} columns has {freedom} degrees of freedom, expected more than 2 for its variances "
            "to exist. Fix: use more rows."
        )
    q, r = np.linalg.qr(x)
    beta = np.linalg.solve(r, q.T @ y)
    rss = float(((y - x @ beta) ** 2).sum())
    inverse = np.linalg.inv(r)
    sd = np.sqrt(rss / (freedom - 2) * (inverse * inverse).sum(1))
    table = {f"beta[{i + 1}]": Moments(float(beta[i]), float(sd[i])) for i in range(k)}
    mean = math.sqrt(rss / 2) * math.exp(math.lgamma((freedom - 1) / 2) - math.lgamma(freedom / 2))
    return {**table, "sigma": Moments(mean, math.sqrt(rss / (freedom - 2) - mean * mean))}


def from_table(moments: Mapping[str, Any]) -> dict[str, Moments]:
    """A table out of anything by label that has ``mean``, ``sd``, and perhaps ``mcse_mean``, ``mcse_sd`` and ``log``."""
    return {
        label: Moments(
            float(found.mean),
            float(found.sd),
            float(getattr(found, "mcse_mean", 0.0)),
            float(getattr(found, "mcse_sd", 0.0)),
            bool(getattr(found, "log", False)),
        )
        for label, found in moments.items()
    }


# --- draws ------------------------------------------------------------------------------------------------------------


def arrays(group: Any) -> dict[str, np.ndarray]:
    """The variables of a DataTree's group as arrays ``(chain, draw, ...)``."""
    return {str(name): np.asarray(values.values, dtype=float) for name, values in group.data_vars.items()}


def columns(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The draws of every number, labelled as posteriordb does, which counts from one.

    Args:
        draws: arrays by name, of shape ``(chain, draw, ...)``.
    """
    found = {}
    for name, values in draws.items():
        flat = values.reshape(*values.shape[:2], -1)
        for i, label in enumerate(_labels(name, values.shape[2:])):
            found[label] = flat[:, :, i]
    return found


def score(
    draws: Columns, table: Mapping[str, Moments], *, weights: np.ndarray | None = None, chains: bool = False
) -> Score:
    """Measures draws by a table of moments.

    Args:
        draws: by label; more labels than the table has are ignored.
        table: the moments of the reference.
        weights: of the draws, shape ``(chain, draw)``, in any scale.
        chains: whether the draws are those of Markov chains, of which errors and mixing are known.

    Raises:
        ValueError: if a label of the table has no draws, or weights are given for chains.
    """
    missing = [label for label in table if label not in draws]
    if missing:
        raise ValueError(
            f"the draws have no {missing[0]!r}, which the reference has; they have {', '.join(list(draws)[:8])}. "
            "Fix: name the sites of the model as the reference does, or record it with pyro.deterministic."
        )
    if weights is not None and chains:
        raise ValueError("weights are given for draws by Markov chains, expected none. Fix: leave out one of the two.")
    return Score({label: _compare(draws[label], moments, weights, chains) for label, moments in table.items()})


def _compare(draws: np.ndarray, moments: Moments, weights: np.ndarray | None, chains: bool) -> dict[str, float]:
    with np.errstate(all="ignore"):
        x = np.log(draws) if moments.log else draws
        share = np.full(x.shape, 1 / x.size) if weights is None else weights / weights.sum()
        mean = float((share * x).sum())
        sd = math.sqrt(float((share * (x - mean) ** 2).sum())) if math.isfinite(mean) else math.nan
    row = {
        "mean_error": (mean - moments.mean) / moments.sd,
        "sd_error": sd / moments.sd - 1,
        "mcse": moments.mcse_mean / moments.sd,
    }
    if not chains:
        return row
    squares = (x - moments.mean) ** 2
    square_error = 2 * moments.sd * moments.mcse_sd
    stuck = not np.isfinite(x).all() or bool((np.ptp(x, axis=1) == 0).any())
    return row | {
        "z_mean": abs(mean - moments.mean) / math.hypot(_mcse(x), moments.mcse_mean) if not stuck else math.inf,
        "z_square": abs(float(squares.mean()) - moments.sd**2) / math.hypot(_mcse(squares), square_error)
        if not stuck
        else math.inf,
        "rhat": _statistic("rhat", x) if not stuck else math.inf,
        "ess": _statistic("ess", x, method="bulk") if not stuck else 0.0,
    }


def _labels(name: str, shape: tuple[int, ...]) -> list[str]:
    """``name`` for a number, ``name[1]``, ... for the elements of an array, in C order."""
    if not shape:
        return [name]
    return [f"{name}[{','.join(str(i + 1) for i in index)}]" for index in np.ndindex(*shape)]


def _mcse(x: np.ndarray) -> float:
    """The Monte Carlo standard error of the mean of draws ``(chain, draw)``."""
    return _statistic("mcse", x, method="mean")


def _statistic(which: str, x: np.ndarray, **options: Any) -> float:
    from arviz_stats.base import array_stats

    return float(getattr(array_stats, which)(x, chain_axis=0, draw_axis=1, **options))
