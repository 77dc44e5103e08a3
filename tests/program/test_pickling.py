"""Problems, guides and results are pickled and copied whole, whatever function the model is, and share no memory then."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base.errors import StoreError

Way = Callable[[Any], Any]
WAYS: dict[str, Way] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}
Y = torch.linspace(-1.0, 2.0, 12)


def normal(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def own_guide(y: Tensor) -> None:
    pyro.sample("mean", dist.Normal(pyro.param("at", torch.tensor(0.5)), 0.3))


@lvm.model(quantities={"twice": lambda draw: 2 * draw["mean"]})
def described(y: Tensor) -> None:
    normal(y)


class Learned(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Linear(1, 1)

    def forward(self, y: Tensor) -> None:
        pyro.module("learned", self)
        mean = pyro.sample("mean", dist.Normal(torch.zeros(1), 3.0).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(self.slope(mean), 1.0).to_event(1), obs=y[:, None])


class Bayesian(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.slope = PyroModule[torch.nn.Linear](1, 1)
        self.slope.bias = PyroSample(dist.Normal(0.0, 1.0).expand([1]).to_event(1))

    def forward(self, y: Tensor) -> None:
        mean = self.slope(torch.ones(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y[:, None])


def closed_over(scale: Tensor) -> Callable[..., None]:
    def inner(y: Tensor) -> None:
        normal(y / scale)

    return inner


def listed() -> AutoGuideList:
    guide = AutoGuideList(normal)
    guide.append(AutoNormal(pyro.poutine.block(normal, expose=["mean"])))
    return guide


PROBLEMS: dict[str, Callable[[], lvm.Problem]] = {
    "function": lambda: lvm.Problem(normal, Y),
    "lambda": lambda: lvm.Problem(lambda y: normal(y), Y),
    "closure": lambda: lvm.Problem(closed_over(torch.tensor(2.0)), Y),
    "described": lambda: lvm.Problem(described, y=Y),
    "module": lambda: lvm.Problem(Learned(), Y),
    "Pyro's module": lambda: lvm.Problem(Bayesian(), Y),
    "of the zoo": lambda: lvm.problem("eight_schools"),
    "on stock handlers": lambda: lvm.Problem(pyro.poutine.scale(normal, 2.0), Y),
}


def fit(problem: lvm.Problem, guide: Any = "mean_field") -> lvm.Fit:
    return lvm.fit(problem, guide, max_steps=20, draws=100, progress=False)


FITS: dict[str, Callable[[], lvm.Posterior]] = {
    "function": lambda: fit(PROBLEMS["function"]()),
    "lambda": lambda: fit(PROBLEMS["lambda"](), own_guide),
    "module": lambda: fit(PROBLEMS["module"]()),
    "Pyro's module": lambda: fit(PROBLEMS["Pyro's module"]()),
    "AutoGuide": lambda: fit(PROBLEMS["function"](), AutoNormal),
    "AutoGuide made before": lambda: fit(PROBLEMS["function"](), AutoNormal(normal)),
    "list of AutoGuides": lambda: fit(PROBLEMS["function"](), listed()),
    "chains": lambda: lvm.nuts(
        PROBLEMS["closure"](), chains=2, warmup=0, draws=5, engine="pyro", precondition="none", progress=False
    ),
    "exact": lambda: lvm.exact(PROBLEMS["function"]()),
}


def values(data: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.asarray(array.values) for name, array in data.data_vars.items()}


@pytest.mark.parametrize("what", PROBLEMS)
def test_a_problem_is_the_same_afterwards(what: str) -> None:
    problem = PROBLEMS[what]()
    for way in WAYS.values():
        again = way(problem)
        assert (str(again), again.fingerprint, again.dims) == (str(problem), problem.fingerprint, problem.dims)
        assert list(again.quantities) == list(problem.quantities)
        for mine, theirs in zip(problem.arguments.values(), again.arguments.values(), strict=True):
            assert not isinstance(mine, Tensor) or mine.data_ptr() != theirs.data_ptr()
        with pytest.raises(AttributeError, match="immutable"):
            again.name = "other"
        with pytest.raises(TypeError):
            again.sites["mean"] = None


@pytest.mark.parametrize("what", FITS)
def test_a_posterior_has_the_same_draws_and_gives_the_same_further_ones(what: str) -> None:
    posterior = FITS[what]()
    drawn, further = values(posterior.data["posterior"].to_dataset()), values(posterior.sample(3, seed=1))
    for way in WAYS.values():
        again = way(posterior)
        assert type(again) is type(posterior)
        for wanted, found in ((drawn, again.data["posterior"].to_dataset()), (further, again.sample(3, seed=1))):
            for name, array in values(found).items():
                np.testing.assert_array_equal(array, wanted[name])
                assert not np.shares_memory(array, wanted[name])
        assert all(again.params[key].data_ptr() != value.data_ptr() for key, value in posterior.params.items())
        assert again.verdict.status == posterior.verdict.status
    for name, array in values(posterior.sample(3, seed=1)).items():  # pickling has not touched the original
        np.testing.assert_array_equal(array, further[name])


def test_what_is_made_of_posteriors_can_be_pickled() -> None:
    problem = PROBLEMS["lambda"]()
    comparison = lvm.compare({"one": fit(problem), "two": lvm.exact(problem)}, reference="two")
    sweep = lvm.sweep({"one": problem}, "mean_field", backend="here", progress=False, max_steps=20, draws=100)
    for way in WAYS.values():
        assert way(comparison).table.equals(comparison.table)
        assert way(sweep).table.equals(sweep.table)


@pytest.mark.parametrize("guide", ["full_rank", own_guide, lambda y: own_guide(y), AutoNormal])
def test_a_guide_recipe_builds_the_same_guide(guide: Any) -> None:
    problem = PROBLEMS["function"]()
    recipe = lvm.Guide("mine", lambda problem: guide) if callable(guide) else lvm.guide(guide)
    for way in WAYS.values():
        assert way(recipe).name == recipe.name
        assert callable(way(recipe).build(problem))


def test_a_model_that_a_guide_shares_is_shared_afterwards() -> None:
    model = Learned()
    recipe = lvm.Guide("mine", lambda problem: lambda y: model.slope and own_guide(y))
    posterior = lvm.Fit(
        name="x", data=None, problem=lvm.Problem(model, Y), params={}, seconds={}, engine="", engine_reason="", seed=0, guide=recipe
    )  # fmt: skip
    again = pickle.loads(pickle.dumps(posterior))
    assert again.guide.construct.__closure__[0].cell_contents is again.problem.model


def test_a_fit_leaves_no_mark_on_the_users_module() -> None:
    model = Learned()
    fit(lvm.Problem(model, Y))
    assert all(not hasattr(parameter, "unconstrained") for parameter in model.parameters())
    pickle.dumps(model)


def test_what_cannot_be_pickled_is_said_with_a_remedy() -> None:
    lock = threading.Lock()

    def model(y: Tensor) -> None:
        with lock:
            normal(y)

    with pytest.raises(StoreError, match=r"Problem 'model' cannot be pickled: its program holds .*lock.*Fix: "):
        pickle.dumps(lvm.Problem(model, Y))


def _status(posterior: lvm.Posterior) -> tuple[str, float]:
    return posterior.verdict.status, float(posterior.sample(2, seed=1)["mean"].sum())


@pytest.mark.slow
def test_other_processes_fit_and_read() -> None:
    joblib = pytest.importorskip("joblib")
    problem = PROBLEMS["lambda"]()
    here = fit(problem)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(lvm.fit, (problem, "mean_field"), {"max_steps": 20, "draws": 100, "progress": False})
        assert pool.apply(_status, (here,)) == _status(here)
    for name, array in values(there.data["posterior"].to_dataset()).items():
        np.testing.assert_array_equal(array, values(here.data["posterior"].to_dataset())[name])
    jobs = [
        joblib.delayed(lvm.fit)(problem, "mean_field", max_steps=20, draws=100, progress=False, seed=s) for s in (0, 1)
    ]
    found = joblib.Parallel(n_jobs=2)(jobs)
    np.testing.assert_array_equal(found[0].data["posterior"]["mean"].values, here.data["posterior"]["mean"].values)
