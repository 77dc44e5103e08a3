"""Which run it is: every argument that numbers depend on is a part of that, whichever verb takes it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._methods.options import options_of
from pyrolvm._methods.table import METHODS
from pyrolvm._results.identity import describe

X = torch.linspace(-1.0, 1.0, 12)
CALLED = {
    **{name: row.home for name, row in METHODS.items()},
    "evidence": "pyrolvm._methods.evidence.inference:evidence",
    "evaluate": "pyrolvm._check.evaluate.inference:evaluate",
    "gaps": "pyrolvm._check.gaps.inference:gaps",
    "check": "pyrolvm._check.discrepancy.inference:check",
}
PLACE = ("device", "distributed")
"""What is a part of it, and cannot be otherwise without a second device, or without a launcher (``tests/vi/test_distributed.py``)."""


def model(x: torch.Tensor) -> None:
    scale = pyro.param("scale", lambda: torch.tensor(0.5), constraint=dist.constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


def plain(x: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(x.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def halved(step: int) -> float:
    return 0.5


def same(x: torch.Tensor) -> Mapping[str, torch.Tensor]:
    return {"x": x}


CHANGES: dict[str, dict[str, Any]] = {
    "fit": {
        "objective": "Trace_ELBO", "optimizer": torch.optim.SGD, "learning_rate": 0.1, "schedule": halved, "clip_norm": 1.0,
        "max_steps": 7, "tolerance": 0.5, "num_particles": 3, "batch_size": 4, "batch_plate": "row", "transform": same,
        "validation": {"x": X[:5]}, "validate_every": 3, "patience": 4, "draws": 11, "engine": "pyro", "dtype": torch.float64,
        "seed": 1,
    },
    "nuts": {
        "chains": 2, "warmup": 7, "draws": 11, "target_accept": 0.9, "max_tree_depth": 4, "init": {"mean": torch.tensor(0.3)},
        "dense_mass": False, "precondition": "none", "engine": "pyro", "kernel": "numpyro", "dtype": torch.float64, "seed": 1,
    },
    "sample": {
        "kernel": "chees", "chains": 32, "superchains": 4, "warmup": 90, "draws": 11, "init": {"mean": torch.tensor(0.3)},
        "precondition": "none", "dtype": torch.float64, "seed": 1,
    },
    "smc": {
        "particles": 400, "islands": 2, "start": "posterior", "ess": 0.6, "forget": 0.3, "max_moves": 9,
        "params": {"scale": torch.tensor(0.1)}, "dtype": torch.float64, "seed": 1,
    },
    "sparse": {"draws": 11, "params": {"scale": torch.tensor(0.1)}, "seed": 1},
    "exact": {"draws": 11, "params": {"scale": torch.tensor(0.1)}, "seed": 1},
    "infer": {"methods": ["laplace"], "budget": 3.0, "draws": 11, "restarts": 1, "dtype": torch.float64, "seed": 1},
    "evidence": {"draws": 11, "base": "prior", "schedule": 5, "params": {"scale": torch.tensor(0.1)}, "seed": 1},
    "evaluate": {
        "draws": 11, "rows": 3, "train_rows": 4, "labels": X > 0, "train_labels": X > 0, "outliers": {"other": X + 1}, "shape": (1, 1),
        "levels": 4, "plate": "row", "members": {"row": "new"}, "pictures": False, "seed": 1,
    },
    "gaps": {"rows": 3, "method": "ais", "draws": 31, "steps": 11, "seed": 1},
    "check": {"by": ["a"] * 6 + ["b"] * 6, "statistics": {"half": halved}, "draws": 11, "seed": 1},
}  # fmt: skip
"""For each argument a value that is not its default; those of ``PLACE`` have none."""
NEEDS: dict[str, dict[str, Any]] = {
    "batch_plate": {"batch_size": 4},
    "validate_every": {"validation": {"x": X[:5]}},
    "params": {"params": {"scale": torch.tensor(0.2)}},
}
"""What an argument says nothing without."""
HELD = ("params",)
"""What says something about a model that has parameters."""


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Mapping[str, Any]]:
    """Which run a call is; it goes no further."""
    fitted = functools.cache(lambda: lvm.fit(lvm.Problem(model, X), "mean_field", max_steps=3, draws=5, progress=False))
    drawn = functools.cache(lambda: lvm.exact(lvm.Problem(plain, X), draws=50, progress=False))

    def found(verb: str, named: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        subject: Any = lvm.Problem(model if named in HELD else plain, X)
        if verb in ("evaluate", "gaps"):
            subject = fitted()
        words = {
            name: drawn() if value == "posterior" and name == "start" else value for name, value in options.items()
        }
        seen: dict[str, Any] = {}

        def stop(asked: Any, command: str, about: Mapping[str, Any], *rest: Any, **more: Any) -> None:
            seen.update(about)

        with monkeypatch.context() as patch:
            patch.setattr(runs, "run", stop)
            shown = {"progress": False} if "progress" in options_of(CALLED[verb]) else {}
            getattr(lvm, verb)(subject, out=tmp_path / "run", **shown, **words)
        return seen

    return found


@pytest.mark.parametrize("verb", CALLED)
def test_a_change_of_any_argument_is_another_run(verb: str, identity: Callable[..., Mapping[str, Any]]) -> None:
    options = {name for name, option in options_of(CALLED[verb]).items() if option.counts}
    assert options - set(PLACE) == set(CHANGES[verb]), "each argument has a second value here"
    for name, value in CHANGES[verb].items():
        needed = NEEDS.get(name, {})
        before = identity(verb, name, needed)
        after = identity(verb, name, {**needed, name: value})
        assert before == identity(verb, name, needed)
        assert before != after, f"{verb}({name}=...) is no part of which run it is"


@pytest.mark.parametrize("verb", ["fit", "nuts", "smc", "exact", "infer"])
def test_where_it_runs_is_a_part_of_which_run_it_is(verb: str, identity: Callable[..., Mapping[str, Any]]) -> None:
    assert identity(verb, "", {})["device"] == "cpu"


@pytest.mark.parametrize("verb", ["fit", "nuts", "smc"])
def test_how_a_run_is_kept_and_shown_is_no_part_of_it(verb: str, identity: Callable[..., Mapping[str, Any]]) -> None:
    assert identity(verb, "", {}) == identity(verb, "", {"resume": True, "overwrite": True, "checkpoint_every": 5.0})


class Factor:
    def __init__(self, value: float) -> None:
        self.value = value

    def at(self, step: int) -> float:
        return self.value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (functools.partial(torch.optim.Adam, lr=0.1), functools.partial(torch.optim.Adam, lr=0.2)),
        (functools.partial(halved, 1), functools.partial(halved, 2)),
        (Factor(1.0).at, Factor(2.0).at),
        (torch.relu, torch.tanh),
        (pyro.optim.Adam({"lr": 0.1}), pyro.optim.Adam({"lr": 0.2})),
        (torch.zeros(2), torch.ones(2)),
        ([X], [X + 1]),
    ],
)
def test_values_that_differ_are_described_differently(one: Any, other: Any) -> None:
    assert describe(one) == describe(one) != describe(other)
