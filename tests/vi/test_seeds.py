"""The same seed gives the same numbers to the bit, whatever ran before, beside or around it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pyro
import pytest
import torch

import pyrolvm as lvm

Short = Callable[..., lvm.Fit]

# What each run is, as a program of its own: the order of its arguments is the order of the runs.
SCRIPT = """
import hashlib, json, sys, torch
torch.set_num_threads(1)
import pyro, pyro.distributions as dist
import pyrolvm as lvm

def normal(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)

def by_hand(y):
    loc = pyro.param("loc", torch.zeros(2))
    pyro.sample("mean", dist.Normal(loc[0], 0.3))
    pyro.sample("scale", dist.LogNormal(loc[1], 0.3))

problem = lvm.Problem(normal, torch.linspace(-1, 2, 8))
short = {"progress": False, "max_steps": 25, "draws": 40}
runs = {
    "mean_field": lambda: lvm.fit(problem, "mean_field", seed=3, **short),
    "full_rank": lambda: lvm.fit(problem, "full_rank", seed=3, batch_size=4, **short),
    "by_hand": lambda: lvm.fit(problem, by_hand, seed=4, **short),
    "nuts": lambda: lvm.nuts(problem, chains=2, warmup=15, draws=10, seed=3, progress=False),
}
found = {}
for name in sys.argv[1:]:
    if name == "noise":
        torch.manual_seed(99); torch.randn(7); pyro.param("loc", torch.ones(3)); continue
    data = runs[name]().data
    digest = hashlib.sha256()
    for group in ("posterior", "sample_stats", "posterior_predictive", "prior", "optimization"):
        if group in data.children:
            for key, values in sorted(data[group].data_vars.items()):
                digest.update(key.encode() + values.values.tobytes())
    found[name] = digest.hexdigest()
print(json.dumps(found))
"""


def fresh(*names: str) -> dict[str, str]:
    """Digests of runs, in that order, in one fresh process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(len(names))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *names],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_runs_in_one_process_are_bit_identical_to_each_alone() -> None:
    """A fit and NUTS, in either order and with somebody's own Pyro in between, are what each is in a fresh process."""
    one, other = fresh("mean_field", "noise", "nuts", "by_hand"), fresh("nuts", "by_hand", "mean_field")
    assert one == other  # each of two was the first in its process, where nothing was before it
    assert len(set(one.values())) == 3


@pytest.mark.slow
def test_four_runs_in_any_order_are_bit_identical_to_each_alone() -> None:
    alone: dict[str, str] = {}
    for name in ("mean_field", "full_rank", "by_hand", "nuts"):
        alone |= fresh(name)
    assert len(set(alone.values())) == 4
    assert fresh("mean_field", "noise", "nuts", "by_hand", "full_rank") == alone
    assert fresh("nuts", "full_rank", "by_hand", "mean_field") == alone


def digest(fit: lvm.Fit) -> str:
    parts = [fit.losses.tobytes(), fit.log_p.tobytes()]
    parts += [values.values.tobytes() for _, values in sorted(fit.data["posterior"].data_vars.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize(
    ("guide", "batch_size"),
    [("mean_field", None), ("mean_field", 3), ("full_rank", None), ("full_rank", 3), ("laplace", None)],
)
def test_same_seed_same_bits_other_seed_other_bits(
    normal_problem: lvm.Problem, short: Short, guide: str, batch_size: int | None
) -> None:
    first, again, other = (short(normal_problem, guide, seed=seed, batch_size=batch_size) for seed in (7, 7, 8))
    assert digest(first) == digest(again) != digest(other)
    assert all(torch.equal(first.params[name], again.params[name]) for name in first.params)


def test_a_fit_does_not_care_about_the_state_around_it(normal_problem: lvm.Problem, short: Short) -> None:
    first = short(normal_problem, seed=1)
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(1234)
        pyro.param("mean_field.loc_0_mean", torch.tensor(50.0))
        pyro.param("loc", torch.ones(3))
        with pyro.validation_enabled(False):
            second = short(normal_problem, seed=1)
        assert float(pyro.param("mean_field.loc_0_mean").detach()) == 50.0
    assert digest(first) == digest(second)


def test_a_fit_leaves_the_state_around_it_alone(normal_problem: lvm.Problem, short: Short) -> None:
    torch.manual_seed(5)
    wanted = torch.randn(3)
    torch.manual_seed(5)
    short(normal_problem, seed=0)
    assert torch.equal(torch.randn(3), wanted)
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.usefixtures("untouched_rng")
def test_a_fit_moves_no_global_random_state(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, seed=0, batch_size=4)
    fit.sample(10)


def test_a_fit_inside_a_callback_of_another(normal_problem: lvm.Problem, short: Short) -> None:
    alone = short(normal_problem, seed=1)
    inner: list[lvm.Fit] = []

    def nested(step: object) -> None:
        if len(inner) < 2:
            inner.append(short(normal_problem, "full_rank", seed=2))

    outer = short(normal_problem, seed=1, callbacks=[nested])
    assert digest(outer) == digest(alone)
    assert digest(inner[0]) == digest(inner[1]) == digest(short(normal_problem, "full_rank", seed=2))


@pytest.mark.parametrize("seed", [-1, 1.5, True, "zero", None])
def test_what_is_no_seed_is_refused(normal_problem: lvm.Problem, short: Short, seed: object) -> None:
    with pytest.raises(lvm.ArgumentError, match="seed"):
        short(normal_problem, seed=seed)


def test_sample_is_fresh_repeatable_and_of_the_fitted_guide(normal_problem: lvm.Problem, short: Short) -> None:
    fit = short(normal_problem, max_steps=50)
    first, again, other = (fit.sample(3000, seed=seed) for seed in (1, 1, 2))
    for name in ("mean", "scale"):
        assert first[name].identical(again[name])
        assert not np.array_equal(first[name].values, other[name].values)
        assert not np.isin(first[name].values, fit.data["posterior"][name].values).any()
    loc, sd = float(fit.data["posterior"]["mean"].mean()), float(fit.data["posterior"]["mean"].std())
    assert float(first["mean"].mean()) == pytest.approx(loc, abs=4 * sd / 50**0.5)
