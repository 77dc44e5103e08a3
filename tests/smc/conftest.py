"""The problems of :mod:`models`, each built once, and particles on one of them."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path

import pytest

import pyrolvm as lvm

_spec = importlib.util.spec_from_file_location("smc_models", Path(__file__).with_name("models.py"))
assert _spec is not None and _spec.loader is not None
models = importlib.util.module_from_spec(_spec)
sys.modules["smc_models"] = models
_spec.loader.exec_module(models)


@pytest.fixture(scope="session")
def known():
    """Makes the problem of a name, once."""
    return functools.cache(lambda name: models.ALL[name]())


@pytest.fixture(scope="session")
def particles(known):
    """Particles of the mixture of three exchangeable components."""
    return lvm.smc(known("mixture").problem, seed=4, progress=False)
