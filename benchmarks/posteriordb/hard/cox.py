"""A log-Gaussian Cox process on a grid of 16 x 16 cells of the unit square. 256 unknowns.

    field ~ MultivariateNormal(mu, K),     K_ab = 1.91 exp(-|a - b| / 0.2) for cells with centres a and b
    y_a   ~ Poisson(exp(field_a) / 256)

with ``mu`` such that 126 points are expected. Most cells are empty, so that what is known of the field comes from its
neighbours: its posterior is correlated everywhere, and skewed where nothing was seen. Variance and level are those that are
usual for this benchmark (Finnish pines); the length is greater, since the grid is coarser.

Data: drawn from the model by NumPy's generator with seed 16.

References:
    Moller, Syversveen, Waagepetersen (1998). Log Gaussian Cox processes. https://doi.org/10.1111/1467-9469.00115
"""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

from .base import Array, Entry

SIDE, SEED = 16, 16
CELLS = SIDE**2
VARIANCE, LENGTH, POINTS = 1.91, 0.2, 126
MU = math.log(POINTS) - VARIANCE / 2


def _counts(field: Tensor, y: Tensor) -> None:
    """The likelihood."""
    with pyro.plate("cell", len(y)):
        pyro.sample("y", dist.Poisson(field.exp() / CELLS), obs=y)


def centred(scale_tril: Tensor, y: Tensor) -> None:
    """The field itself.

    Args:
        scale_tril: Cholesky factor of the covariance, shape ``(n, n)``.
        y: counts as floats, shape ``(n,)``.
    """
    mean = scale_tril.new_full((len(y),), MU)
    _counts(pyro.sample("field", dist.MultivariateNormal(mean, scale_tril=scale_tril)), y)


def whitened(scale_tril: Tensor, y: Tensor) -> None:
    """The field as a linear map of independent unknowns; arguments as of :func:`centred`."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    _counts(pyro.deterministic("field", MU + z @ scale_tril.T, event_dim=1), y)


def data() -> tuple[Array, Array]:
    """The Cholesky factor ``(256, 256)`` and counts ``(256,)``, rows of the grid one after another."""
    rng = np.random.default_rng(SEED)
    centre = (np.arange(SIDE) + 0.5) / SIDE
    place = np.stack(np.meshgrid(centre, centre, indexing="ij"), -1).reshape(CELLS, 2)
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    root = np.linalg.cholesky(VARIANCE * np.exp(-distance / LENGTH))
    field = MU + root @ rng.standard_normal(CELLS)
    return root, rng.poisson(np.exp(field) / CELLS).astype(float)


def problem() -> lvm.Problem:
    """The field itself."""
    return lvm.Problem(centred, *(torch.tensor(part) for part in data()))


def twin() -> lvm.Problem:
    """The whitened form."""
    return lvm.Problem(whitened, *(torch.tensor(part) for part in data()))


ENTRY = Entry(problem=problem, scored=("field",), twin=twin)
