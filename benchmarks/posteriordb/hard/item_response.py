"""Item response with two parameters an item: 100 persons answer 20 items. 140 unknowns.

    discrimination_j ~ LogNormal(0, 0.5)       j = 0..19, the items
    difficulty_j     ~ Normal(0, 1)
    ability_i        ~ Normal(0, 1)            i = 0..99, the persons
    y_ij             ~ Bernoulli(logits = discrimination_j (ability_i - difficulty_j))

The sign and the scale are fixed by positive discriminations and by abilities of unit spread. Products of unknowns make
a posterior that is skewed, and correlated in ways that differ from place to place.

Data: drawn from the model by NumPy's generator with seed 2024.

References:
    Birnbaum (1968). Some latent trait models. In Lord and Novick, Statistical Theories of Mental Test Scores.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm

from .base import Array, Entry

PERSONS, ITEMS, SEED = 100, 20, 2024


def item_response(y: Tensor) -> None:
    """Two parameters an item.

    Args:
        y: answers, 1.0 where right, shape ``(persons, items)``.
    """
    with pyro.plate("item", y.shape[1]):
        discrimination = pyro.sample("discrimination", dist.LogNormal(0.0, 0.5))
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with pyro.plate("person", y.shape[0]):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
        logits = discrimination.unsqueeze(-2) * (ability.unsqueeze(-1) - difficulty.unsqueeze(-2))
        pyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=y)


def data() -> Array:
    """Answers of shape ``(100, 20)``."""
    rng = np.random.default_rng(SEED)
    discrimination = np.exp(0.5 * rng.standard_normal(ITEMS))
    difficulty = rng.standard_normal(ITEMS)
    ability = rng.standard_normal((PERSONS, 1))
    right = rng.random((PERSONS, ITEMS)) < 1 / (1 + np.exp(-discrimination * (ability - difficulty)))
    return right.astype(float)


def problem() -> lvm.Problem:
    """100 persons and 20 items."""
    return lvm.Problem(item_response, torch.tensor(data()))


ENTRY = Entry(problem=problem, scored=("discrimination", "difficulty", "ability"))
