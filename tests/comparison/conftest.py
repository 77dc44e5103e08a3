import importlib.util
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def fake():
    spec = importlib.util.spec_from_file_location("diagnose_fake", Path(__file__).parents[1] / "diagnosis" / "fake.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rng():
    return np.random.default_rng(20)
