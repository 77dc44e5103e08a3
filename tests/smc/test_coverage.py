"""How often the evidence lies within its stated error, and how far means are off, over 100 runs."""

from __future__ import annotations

import numpy as np
import pytest
from smc_models import ALL

import pyrolvm as lvm
from pyrolvm._results.build import lean

RUNS = 100


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALL))
def test_evidence_is_within_its_error_and_means_are_right_in_a_hundred_runs(name, known):
    one = known(name)
    inside, off, trusted = [], [], []
    for seed in range(RUNS):
        with lean():
            found = lvm.smc(one.problem, seed=100 + seed, progress=False)
            low, high = found.evidence.interval
        inside.append(low <= one.evidence <= high)
        off.append(one.off(found))
        trusted.append(found.verdict.trusted)
    # Of 100 runs that hold it with a probability of 95%, fewer than 88 do so once in 200 times.
    assert np.sum(inside) >= 88, f"{np.sum(inside)} of {RUNS} intervals hold the evidence"
    assert np.mean(np.array(off) < 0.1) >= 0.97 and np.median(off) < 0.05
    assert np.mean(trusted) > 0.9
