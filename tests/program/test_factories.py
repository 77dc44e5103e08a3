from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoGuideList, AutoMultivariateNormal, AutoNormal, init_to_mean
from pyro.infer.autoguide.effect import AutoNormalMessenger
from pyro.nn import PyroModule, PyroParam

import pyrolvm as lvm

X, Y = torch.linspace(-1.0, 1.0, 6), torch.tensor([0.3, 0.1, 0.6, 0.9, 1.4, 1.2])


def line(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    start = pyro.sample("start", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(start + slope * x, 0.5), obs=y)


def level(y):
    at = pyro.sample("at", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(at, 0.5), obs=y)


class Easy(EasyGuide):
    def guide(self, *args):
        group = self.group(match=".*")
        size = group.event_shape
        loc = pyro.param("loc", torch.zeros(size))
        scale = pyro.param("scale", torch.ones(size), constraint=constraints.positive)
        group.sample("all", dist.Normal(loc, scale).to_event(1))


class Own(PyroModule):
    def __init__(self):
        super().__init__()
        self.scale = PyroParam(torch.tensor(0.3), constraints.positive)

    def forward(self, *args):
        pyro.sample("slope", dist.Normal(0.5, self.scale))
        pyro.sample("start", dist.Normal(0.5, self.scale))


def started(x, y):
    pyro.sample("start", dist.Normal(pyro.param("at", torch.tensor(0.5)), 0.2))


def of_model(model):
    return AutoNormal(model, init_scale=0.05)


def parts(model):
    return [AutoNormal(poutine.block(model, expose=[name])) for name in ("slope", "start")]


def by_a_list(model):
    guide = AutoGuideList(model)
    for part in parts(model):
        guide.append(part)
    return guide


GUIDES = {
    "a partial": functools.partial(AutoNormal, init_scale=0.01),
    "a partial of a partial": functools.partial(
        functools.partial(AutoMultivariateNormal, init_scale=0.1), init_loc_fn=init_to_mean
    ),
    "a partial with the model": functools.partial(AutoNormal, line),
    "a lambda of the model": lambda model: AutoNormal(model, init_scale=0.02),
    "a function of the model": of_model,
    "a function of nothing": lambda: AutoNormal(line),
    "a function that returns parts": parts,
    "a function that returns a list guide": by_a_list,
    "a list of instances": parts(line),
    "a list with one class for the rest": [started, AutoNormal],
    "a class of easy guides": Easy,
    "an easy guide": Easy(line),
    "a class of modules": Own,
}


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_whatever_makes_a_guide_is_one(guide):
    fit = lvm.fit(lvm.Problem(line, X, Y), guide, max_steps=40, draws=60, progress=False)
    assert float(fit.data["posterior"]["slope"].std()) > 0
    assert fit.sample(3).sizes["draw"] == 3


@pytest.mark.parametrize("guide", [lambda y: AutoNormal(y, init_scale=0.1), of_model], ids=["lambda", "function"])
def test_a_function_of_the_model_is_told_from_a_guide_of_one_argument(guide):
    fit = lvm.fit(lvm.Problem(level, Y), guide, max_steps=40, draws=60, progress=False)
    assert float(fit.data["posterior"]["at"].std()) > 0


def test_a_guide_of_one_argument_stays_a_guide():
    seen = []

    def guide(y):
        seen.append(y)
        pyro.sample("at", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.1))

    lvm.fit(lvm.Problem(level, Y), guide, max_steps=10, draws=60, progress=False)
    assert all(isinstance(y, torch.Tensor) for y in seen)


def test_options_of_a_partial_are_those_of_the_recipe():
    fit = lvm.fit(
        lvm.Problem(level, Y),
        functools.partial(AutoNormal, init_loc_fn=init_to_mean),
        max_steps=10,
        draws=60,
        progress=False,
    )
    assert (fit.name, str(fit.guide)) == ("AutoNormal", "AutoNormal(init_loc_fn=init_to_mean)")


@pytest.mark.parametrize(
    ("guide", "told"),
    [
        ([AutoNormal, AutoMultivariateNormal], "2 of the 2 guides of the list are classes"),
        (["mean_field"], "guide must be a name"),
        (functools.partial(AutoNormal, scale=0.1), "unexpected keyword argument 'scale'"),
        (AutoNormalMessenger, "runs the model itself"),
        (3, "guide must be a name"),
    ],
    ids=["two classes", "names", "wrong option", "messenger", "number"],
)
def test_what_makes_none_is_refused_in_words(guide, told):
    with pytest.raises(lvm.PyrolvmError, match=told) as caught:
        lvm.fit(lvm.Problem(line, X, Y), guide, progress=False)
    assert "mend that line" not in str(caught.value)


def test_a_guide_that_observes_the_data_is_refused():
    def guide(y):
        at = pyro.sample("at", dist.Normal(pyro.param("m", torch.tensor(0.0)), 0.1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(at, 0.5), obs=y)

    with pytest.raises(lvm.GuideError, match="observes 'y'"):
        lvm.fit(lvm.Problem(level, Y), guide, progress=False)
