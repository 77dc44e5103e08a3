"""What the tests of exact posteriors share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyrolvm as lvm


@pytest.fixture
def exact():
    """``exact(model, *data, **options)``: the exact posterior, quietly."""

    def run(model: Any, *data: Any, **options: Any) -> lvm.Exact:
        return lvm.exact(lvm.Problem(model, *data), **{"progress": False, "draws": 500, **options})

    return run


@pytest.fixture
def rng():
    return np.random.default_rng(0)
