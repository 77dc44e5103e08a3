"""Whatever is given as a guide becomes a recipe that builds a fresh one each time, and harms nothing."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuideList, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base import runtime
from pyrolvm.family.choice import resolve

Y = torch.tensor([2.8, 0.8, -0.3, 0.7])


@pytest.fixture(autouse=True)
def own_store() -> Iterator[None]:
    """A parameter store that these tests may fill with stock Pyro."""
    with pyro.get_param_store().scope():
        yield


def model(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=y)


def problem() -> lvm.Problem:
    return lvm.Problem(model, Y)


def fit(guide: Any, **options: Any) -> lvm.Fit:
    return lvm.fit(problem(), guide, **{"max_steps": 30, "draws": 10, "progress": False, "seed": 1, **options})


def _improves(result: lvm.Fit) -> bool:
    return bool(result.losses[-5:].mean() < result.losses[:5].mean())


def guide_list() -> AutoGuideList:
    guide = AutoGuideList(model)
    guide.append(AutoDelta(poutine.block(model, expose=["mu"])))
    guide.append(AutoNormal(poutine.block(model, expose=["z"])))
    return guide


def mixed_list() -> AutoGuideList:
    """An AutoGuide and a function side by side."""

    def local(y: Tensor) -> None:
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(4)), 1.0).to_event(1))

    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["mu"])))
    guide.append(local)
    return guide


INSTANCES = {
    "AutoNormal": lambda: AutoNormal(model),
    "AutoDiagonalNormal": lambda: AutoDiagonalNormal(model),
    "AutoDelta": lambda: AutoDelta(model),
    "AutoGuideList": guide_list,
}


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal, AutoDelta])
def test_autoguide_classes(kind: type) -> None:
    result = fit(kind)
    assert result.name == kind.__name__ and _improves(result)


@pytest.mark.parametrize("name", INSTANCES)
def test_an_autoguide_instance_is_copied_and_stays_usable(name: str) -> None:
    pyro.set_rng_seed(0)
    mine = INSTANCES[name]()
    mine(Y)
    before = {key: value.detach().clone() for key, value in mine.named_parameters()}
    first, second = fit(mine), fit(mine)
    assert _improves(first)
    np.testing.assert_array_equal(first.losses, second.losses)
    for key, value in mine.named_parameters():
        torch.testing.assert_close(value.detach(), before[key], rtol=0, atol=0)
    assert not torch.equal(first.params[next(iter(first.params))], before[next(iter(before))])
    # Stock Pyro can go on with the original.
    svi = SVI(model, mine, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step(Y) for _ in range(30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("name", INSTANCES)
def test_an_instance_that_never_ran_is_copied_too(name: str) -> None:
    assert _improves(fit(INSTANCES[name]()))


def test_a_list_with_a_function_in_it() -> None:
    mine = mixed_list()
    assert _improves(fit(mine))
    mine(Y)


def test_a_trained_instance_goes_on_where_it_was() -> None:
    mine = AutoNormal(model)
    svi = SVI(model, mine, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(200):
        svi.step(Y)
    fresh, continued = fit(AutoNormal, max_steps=2), fit(mine, max_steps=2)
    assert continued.losses[0] < fresh.losses[0] - 0.5


class Plain(torch.nn.Module):
    """A guide that knows nothing of Pyro's parameter store."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.full((4,), -3.0))
        self.net = torch.nn.Linear(1, 1)

    def forward(self, y: Tensor) -> None:
        mu = self.net(y.mean().reshape(1, 1)).squeeze()
        pyro.sample("mu", dist.Normal(mu, 0.5))
        with pyro.plate("rows", len(y)):
            pyro.sample("z", dist.Normal(self.loc, 0.5))


class Pyroic(PyroModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.loc = PyroParam(torch.full((4,), -3.0))

    def forward(self, y: Tensor) -> None:
        pyro.sample("mu", dist.Normal(self.loc.mean(), 0.5))
        with pyro.plate("rows", len(y)):
            pyro.sample("z", dist.Normal(self.loc, 0.5))


@pytest.mark.parametrize("kind", [Plain, Pyroic])
def test_a_module_is_a_guide_whose_parameters_are_trained(kind: type[torch.nn.Module]) -> None:
    mine = kind()
    before = {name: value.detach().clone() for name, value in mine.named_parameters()}
    result = fit(mine, max_steps=100)
    assert result.name == kind.__name__
    assert result.losses[-1] < result.losses[0] - 10
    assert len(result.params) == len(before)
    trained = next(value for name, value in result.params.items() if "loc" in name)
    assert (trained - -3.0).abs().min() > 0.5
    for name, value in mine.named_parameters():
        torch.testing.assert_close(value.detach(), before[name], rtol=0, atol=0)


def test_recipes() -> None:
    recipe = lvm.guide("low_rank", rank=2)
    assert resolve(recipe, problem()) is recipe and str(recipe) == "low_rank(rank=2)"
    assert resolve("mean_field", problem()).registered
    assert resolve("auto", problem()).name == "full_rank"
    with runtime.session(seed=0):
        assert recipe.build(problem()) is not recipe.build(problem())


@pytest.mark.parametrize(
    "guide", [None, 3, torch.nn.Linear, ["mean_field"]], ids=["None", "number", "class that is no guide", "list"]
)
def test_what_is_no_guide_is_refused(guide: Any) -> None:
    with pytest.raises(
        lvm.ArgumentError,
        match=r"guide must be a name, a Pyro guide function, an AutoGuide class or instance.*Fix: use one of",
    ):
        fit(guide)


def test_a_recipe_that_builds_nothing_callable_is_refused() -> None:
    with pytest.raises(lvm.GuideError, match=r"guide 'odd' built a int, expected something to call.*Fix: "):
        fit(lvm.Guide("odd", lambda problem: 3))


def test_a_recipe_that_fails_names_its_line() -> None:
    def construct(problem: lvm.Problem) -> Any:
        raise ZeroDivisionError("oh dear")

    with pytest.raises(
        lvm.GuideError, match=r"guide 'odd' for 'model' fails at test_guides\.py:\d+: `raise Zero.*oh dear"
    ):
        fit(lvm.Guide("odd", construct))


# --- the registry -----------------------------------------------------------------------------------------------------


def number_of_rows(size: int) -> lvm.Problem:
    return lvm.Problem(model, torch.zeros(size))


def no_problem() -> int:
    return 3


def _points(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    def entry_points(*, group: str) -> list[EntryPoint]:
        return [EntryPoint(name, target, group) for name, target in targets.items()]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """This module under a name that an entry point can import."""
    import sys
    import types

    module = types.ModuleType("a_plugin_of_the_tests")
    module.__dict__.update(number_of_rows=number_of_rows, no_problem=no_problem, number=3)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("no_such_module_at_all:thing", lvm.PluginError, "'broken' of distribution 'unknown' .* imported: ModuleNotFoundError"),
        ("{here}:missing", lvm.PluginError, "cannot be imported: AttributeError"),
        ("{here}:number", lvm.PluginError, "is a int, expected a function"),
        ("{here}:no_problem", lvm.PluginError, "problem 'broken' returned a int, expected a Problem"),
        ("{here}:number_of_rows", lvm.ArgumentError, "problem 'broken' needs its option 'size'"),
    ],
)  # fmt: skip
def test_broken_plugins_are_named_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, here: str, target: str, error: type[Exception], message: str
) -> None:
    _points(monkeypatch, broken=target.format(here=here), fine=f"{here}:number_of_rows")
    assert lvm.problems() == ["broken", "fine"]
    with pytest.raises(error, match=message + r".*Fix: "):
        lvm.problem("broken")
    assert lvm.problem("fine", size=3).observed[0].shape == (3,)


def test_options_are_checked_and_remembered(monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    _points(monkeypatch, fine=f"{here}:number_of_rows")
    with pytest.raises(lvm.ArgumentError, match=r"problem 'fine' has no option 'sise'.*Fix: use size"):
        lvm.problem("fine", size=3, sise=4)
    built = lvm.problem("fine", size=3)
    assert built.name == "fine" and built.source == {"name": "fine", "options": {"size": 3}}


def test_an_empty_registry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _points(monkeypatch)
    with pytest.raises(lvm.UnknownNameError, match=r"no problem is called 'x'. Fix: use one of: none is registered"):
        lvm.problem("x")
