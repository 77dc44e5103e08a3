"""The problems of :mod:`models`, each built once, and what is fitted to them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import pyrolvm as lvm

_spec = importlib.util.spec_from_file_location("marginal_models", Path(__file__).with_name("models.py"))
assert _spec is not None and _spec.loader is not None
models = importlib.util.module_from_spec(_spec)
sys.modules["marginal_models"] = models
_spec.loader.exec_module(models)


@pytest.fixture(scope="session")
def regression():
    return models.regression()


@pytest.fixture(scope="session")
def rates():
    return models.rates()


@pytest.fixture(scope="session")
def two_modes():
    return models.two_modes()


@pytest.fixture(scope="session")
def twenty():
    return models.twenty()


@pytest.fixture(scope="session")
def chains(rates):
    return lvm.nuts(rates[0], draws=500, warmup=300, seed=3, progress=False)


@pytest.fixture(scope="session")
def fit(rates):
    return lvm.fit(rates[0], "full_rank", seed=1, progress=False)
