"""Data fields as double-precision tensors, and what the tables of this package are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pyrolvm as lvm

Array = NDArray[np.float64]

Data = Mapping[str, Any]
"""The fields of a data set: numbers and nested lists of numbers."""

Draw = dict[str, Tensor]
"""One draw: values by name."""

Maker = Callable[[Data], lvm.Problem]
"""Makes the problem of a data set."""

ToSites = Callable[[Data, Draw], Draw]
"""Values of the sampled sites from one draw of the reference, which holds transformed parameters instead."""

Volume = Callable[[Data, Draw], Tensor]
"""By how much the reference's log density of a draw is above that of our sites, which are other coordinates."""


def tensor(values: Any) -> Tensor:
    """A field in double precision."""
    return torch.as_tensor(values, dtype=torch.float64)


def fields(data: Data, *names: str) -> list[Tensor]:
    """Several fields in double precision."""
    return [tensor(data[name]) for name in names]
