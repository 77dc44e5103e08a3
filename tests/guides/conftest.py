"""What every test of the guide zoo shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyrolvm._base import runtime


@pytest.fixture(autouse=True)
def own_globals() -> Iterator[None]:
    """Every test has a parameter store and a random state of its own, and runs with Pyro's checks on."""
    with runtime.session(seed=0, validate=True):
        yield
