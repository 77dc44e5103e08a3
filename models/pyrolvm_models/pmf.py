r"""Probabilistic matrix factorization: pixels of digits that were hidden, from those that were not.

    row_i    ~ Normal(0, I_q)                        i = 1..n images (local)
    column_j ~ Normal(0, I_q)                        j = 1..d pixels
    sigma    ~ HalfNormal(1)
    x_ij     ~ Normal(row_i . column_j, sigma)       where it was seen

Graph: ``row_i -> x_ij <- column_j, sigma`` with a plate over the images. It is probabilistic PCA of a table with holes: entries that
were not seen have no factor in the density, by a mask. Given one side and ``sigma`` the other is a ridge regression in closed form:
:func:`maximum_a_posteriori` alternates between them. Images can be taken in minibatches.

What variational inference loses: as in PPCA rows and columns can be rotated together, a ring of modes; look at ``quantities``,
which are products. A mean-field guide has rows independent of columns, which makes the sds of predictions too small. The mode of all
sites is further off: it takes the best of each pair of factors, and fits the noise where few entries were seen; averaging over
the posterior predicts better, which is the case for a Bayesian form (Salakhutdinov and Mnih 2008b).

Data: Optical Recognition of Handwritten Digits (test set), 8 x 8 pixels, UCI Machine Learning Repository, CC BY 4.0, as bundled with
scikit-learn: the first images, their pixels that vary, standardized; which entries are seen is drawn from a seed.

References:
    Salakhutdinov, R., Mnih, A. (2008a). Probabilistic matrix factorization. NeurIPS 20.
        https://papers.nips.cc/paper/3208-probabilistic-matrix-factorization
    Salakhutdinov, R., Mnih, A. (2008b). Bayesian probabilistic matrix factorization using Markov chain Monte Carlo. ICML.
        https://doi.org/10.1145/1390156.1390267
    Alpaydin, E., Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository.
        https://doi.org/10.24432/C50P49
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _arrays, _data

Draw = Mapping[str, Tensor]

SOME = 6
"""Hidden entries of the quantity ``prediction``: the first so many."""


@dataclass(frozen=True)
class Factorization:
    """A table as a product, ``rows @ columns^T``.

    Attributes:
        rows: Factors of the rows, shape ``(n, q)``.
        columns: Factors of the columns, shape ``(d, q)``.
        noise: Sd of an entry about the product.
        log_joints: Log density of entries, rows and columns after each step, without constants of ``noise``'s prior.
        converged: Whether the estimation stopped by itself.
    """

    rows: Tensor
    columns: Tensor
    noise: float
    log_joints: list[float]
    converged: bool

    @property
    def product(self) -> Tensor:
        """What every entry is expected to be, shape ``(n, d)``."""
        return self.rows @ self.columns.mT


def maximum_a_posteriori(
    x: Any,
    seen: Any,
    q: int,
    *,
    noise: float | None = None,
    tolerance: float = 1e-8,
    max_steps: int = 1000,
    seed: int = 0,
) -> Factorization:
    """The mode of the posterior by alternating ridge regressions, under standard normal priors of rows and columns.

    Args:
        x: Table, shape ``(n, d)``; entries that were not seen may be anything finite.
        seen: Which entries were, 1 or 0, shape ``(n, d)``.
        q: Number of factors, from 1 to the smaller side of the table.
        noise: Sd of an entry; estimated along with the factors, under a flat prior, by default. That has no maximum where the
            factors can meet every entry.
        tolerance: It stops where a step gains less than this, in nats an entry.
        max_steps: Largest number of steps.
        seed: Seed of the start.

    Returns:
        The mode that the start leads to.

    Raises:
        ArgumentError: An option is out of range.
        DataError: The table is not finite, the shapes differ, or nothing was seen of a row or column.
    """
    caller = "maximum_a_posteriori"
    values, mask = _arrays.matrix(caller, x), _arrays.matrix(caller, seen)
    n, d = values.shape
    if mask.shape != values.shape or not bool(((mask == 0) | (mask == 1)).all()):
        raise lvm.DataError(
            f"{caller}: seen has shape {tuple(mask.shape)}, expected {(n, d)} of 0 and 1. Fix: pass a mask of x."
        )
    for axis, what in ((1, "row"), (0, "column")):
        empty = torch.nonzero(mask.sum(axis) == 0).flatten().tolist()
        if empty:
            raise lvm.DataError(
                f"{caller}: nothing was seen of {what} {empty[0]}. Fix: drop it; its factors are the prior's."
            )
    count = _data.check_count(caller, "q", q, min(n, d), kind="function")
    _data.check_count(caller, "max_steps", max_steps, kind="function")
    for option, number in (("noise", noise), ("tolerance", tolerance)):
        if number is not None and (
            isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf
        ):
            raise lvm.ArgumentError(f"{caller}: {option} is {number!r}. Fix: give a positive number.")
    total = float(mask.sum())
    if noise is None and count * (n + d) >= total:
        raise lvm.ArgumentError(
            f"{caller}: {count} factors of {n} rows and {d} columns can meet all of the {total:.0f} entries, so that noise has no "
            "estimate. Fix: give noise=, or fewer factors."
        )
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randn(d, count, generator=generator, dtype=values.dtype)
    sd = float(values[mask == 1].std()) if noise is None else float(noise)
    trace: list[float] = []
    converged = False
    while not converged and len(trace) < max_steps:
        rows = _ridge(values, mask, columns, sd)
        columns = _ridge(values.mT, mask.mT, rows, sd)
        error = float((mask * (values - rows @ columns.mT).square()).sum())
        if noise is None:
            sd = math.sqrt(error / total)
        size = float(rows.square().sum() + columns.square().sum())
        trace.append(-0.5 * (error / sd**2 + size) - total * (math.log(sd) + 0.5 * math.log(2 * math.pi)))
        converged = len(trace) > 1 and trace[-1] - trace[-2] < tolerance * total
    return Factorization(rows, columns, sd, trace, converged)


def _ridge(x: Tensor, mask: Tensor, columns: Tensor, noise: float) -> Tensor:
    """The best rows given the columns, all at once, shape ``(n, q)``."""
    gram = torch.einsum("nd,dq,dr->nqr", mask, columns, columns) + noise**2 * torch.eye(columns.shape[1], dtype=x.dtype)
    return torch.linalg.solve(gram, ((mask * x) @ columns).unsqueeze(-1)).squeeze(-1)


def pmf(*, q: int = 2, images: int = 60, seen: float = 0.7, seed: int = 0) -> lvm.Problem:
    """Images of digits of which some pixels are hidden.

    Args:
        q: Number of factors, from 1 to 10.
        images: Number of images, from 20 to 1,797.
        seen: Share of the entries that are seen, above 0 and below 1.
        seed: Seed of which.

    Returns:
        The problem, with the table and the mask as its arguments; its ``quantities`` are ``noise_sd``, the ``prediction`` of some
        hidden entries, the ``error`` of all (the root of the mean square; the spread of the table is 1), and ``explained``, the
        mean square of the product.

    Raises:
        ArgumentError: An option is out of range.
        ImportError: scikit-learn is not installed.
    """
    count = _data.check_count("pmf", "q", q, 10)
    n = _data.check_count("pmf", "images", images, 1797)
    if n < 20:
        raise lvm.ArgumentError(f"problem 'pmf': images is {images!r}. Fix: give at least 20.")
    if isinstance(seen, bool) or not isinstance(seen, int | float) or not 0 < seen < 1:
        raise lvm.ArgumentError(f"problem 'pmf': seen is {seen!r}. Fix: give a share between 0 and 1.")
    table = _data.load("digits")
    pixels = table.x[:n]
    varies = (pixels != pixels[0]).sum(axis=0) >= 5
    x = torch.as_tensor(_data.standardize(pixels[:, varies]))
    d = x.shape[1]
    mask = torch.as_tensor(np.random.default_rng(seed).uniform(size=(n, d)) < seen)
    hidden = torch.nonzero(~mask)
    if len(hidden) < SOME or not bool(mask.any()):
        raise lvm.ArgumentError(
            f"problem 'pmf': seen is {seen!r}, which leaves {len(hidden)} entries to predict. Fix: change it."
        )
    names = [name for name, keep in zip(table.columns, varies, strict=True) if keep]

    def predicted(draw: Draw) -> Tensor:
        where = hidden.to(draw["row"].device)
        return (draw["row"][where[:, 0]] * draw["column"][where[:, 1]]).sum(-1)

    truth = x[~mask]
    quantities: dict[str, Callable[[Draw], Tensor]] = {
        "noise_sd": lambda draw: draw["sigma"],
        "prediction": lambda draw: predicted(draw)[:SOME],
        "error": lambda draw: (predicted(draw) - truth.to(draw["row"])).square().mean().sqrt(),
        "explained": lambda draw: (draw["row"] @ draw["column"].mT).square().mean(),
    }

    @lvm.model(
        dims={
            "row": ["image", "factor"],
            "column": ["pixel", "factor"],
            "x": ["image", "pixel"],
            "prediction": ["entry"],
        },
        coords={
            "pixel": names,
            "factor": list(range(count)),
            "entry": [f"{i}, {names[j]}" for i, j in hidden[:SOME].tolist()],
        },
        quantities=quantities,
    )
    def factorization(x: Tensor, mask: Tensor) -> None:
        """Products of factors under noise, for entries of ``x`` ``(n, d)`` where ``mask`` ``(n, d)`` is 1."""
        column = pyro.sample("column", dist.Normal(0.0, 1.0).expand([d, count]).to_event(2))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.plate("image", len(x)):
            row = pyro.sample("row", dist.Normal(0.0, 1.0).expand([count]).to_event(1))
            mean = (column @ row.unsqueeze(-1)).squeeze(-1)
            pyro.sample("x", dist.Normal(mean, sigma.unsqueeze(-1)).mask(mask > 0).to_event(1), obs=x)

    return lvm.Problem(factorization, torch.where(mask, x, 0.0), mask.double())
