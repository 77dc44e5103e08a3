"""Ways to write a model down: functions, classes, modules, and programs under handlers."""

from __future__ import annotations

import functools

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn

import pyrolvm as lvm
from tests.programs.cases import Case, grid, program

X, Y = grid(8, 2), grid(8)


def line(x, y=None):
    weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ weights, scale), obs=y)


@program
def plain_function():
    def guide(x, y=None):
        spread = pyro.param("spread", torch.full((2,), 0.1), constraint=dist.constraints.positive)
        pyro.sample("weights", dist.Normal(pyro.param("mean", torch.zeros(2)), spread).to_event(1))
        pyro.sample("scale", dist.LogNormal(pyro.param("size", torch.tensor(-0.5)), 0.2))

    return Case(line, (X, Y), guide=guide)


@program
def named_by_a_decorator():
    @lvm.model(dims={"weights": ["feature"]}, coords={"feature": ["a", "b"]})
    def model(x, y):
        line(x, y)

    return Case(model, (X, Y), guide=AutoMultivariateNormal)


@program
def closure_over_data():
    def make(x, y):
        def model():
            line(x, y)

        return model

    return Case(make(X, Y))


@program
def partial_application():
    return Case(functools.partial(line, X), (Y,))


@program
def keyword_arguments():
    return Case(line, kwargs={"x": X, "y": Y})


@program
def bound_method():
    class Study:
        def __init__(self, width):
            self.width = width

        def model(self, x, y):
            weights = pyro.sample("weights", dist.Normal(torch.zeros(2), self.width).to_event(1))
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(x @ weights, 1.0), obs=y)

        def guide(self, x, y):
            pyro.sample("weights", dist.Normal(pyro.param("m", torch.zeros(2)), 0.3).to_event(1))

    study = Study(2.0)
    return Case(study.model, (X, Y), guide=study.guide)


@program
def callable_object():
    class Model:
        def __call__(self, x, y):
            line(x, y)

    return Case(Model(), (X, Y))


@program
def torch_module():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("shift", torch.ones(()))

        def forward(self, x, y):
            weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(x @ weights + self.shift, 1.0), obs=y)

    return Case(Model(), (X, Y))


@program
def random_attributes():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

        def forward(self, x, y=None):
            mean = self.linear(x).squeeze(-1)
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return Case(Model(), (X, Y))


@program
def dependent_random_attributes():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.width = PyroSample(dist.LogNormal(0.0, 0.5))
            self.weights = PyroSample(lambda self: dist.Normal(0.0, self.width).expand([2]).to_event(1))

        @PyroSample
        def level(self):
            return dist.Normal(0.0, self.width)

        def forward(self, x, y):
            mean = x @ self.weights + self.level
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return Case(Model(), (X, Y))


@program
def bayesian_network():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.first, self.last = PyroModule[nn.Linear](2, 2), PyroModule[nn.Linear](2, 1)
            for layer in (self.first, self.last):
                for name, value in list(layer.named_parameters()):
                    setattr(layer, name, PyroSample(dist.Normal(0.0, 1.0).expand(value.shape).to_event(value.dim())))

        def forward(self, x, y):
            mean = self.last(torch.tanh(self.first(x))).squeeze(-1)
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(mean, 0.3), obs=y)

    return Case(Model(), (X, Y))


@program
def learnable_attribute():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

        def forward(self, x, y):
            weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("rows", len(x)):
                pyro.sample("y", dist.Normal(x @ weights, self.scale), obs=y)

    return Case(Model(), (X, Y), nuts=False)


@program
def learnable_prior():
    def model(y):
        width = pyro.param("width", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, width))
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)

    return Case(model, (Y,), nuts=False)


PRIOR = dist.Normal(torch.zeros(2), 1.0).expand([2]).to_event(1)


@program
def prior_of_the_file():
    def model(x, y, noise=0.5):
        weights = pyro.sample("weights", PRIOR)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ weights, noise, validate_args=True), obs=y)

    return Case(model, (X, Y))


@program
def conditioned_by_a_handler():
    def model(x):
        return line(x)

    return Case(poutine.condition(model, data={"y": Y}), (X,))


@program
def intervened_by_a_handler():
    return Case(poutine.do(line, data={"scale": torch.tensor(0.7)}), (X, Y))


@program
def lifted_parameters():
    def model(x, y):
        weights = pyro.param("weights", torch.zeros(2))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ weights, 1.0), obs=y)

    return Case(poutine.lift(model, prior={"weights": dist.Normal(torch.zeros(2), 1.0).to_event(1)}), (X, Y))


@program
def blocked_part():
    def model(y):
        with poutine.block(hide=["noise"]):
            pyro.sample("noise", dist.Delta(torch.tensor(0.5)))
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return Case(model, (Y,))


@program
def replayed_and_unconditioned_part():
    def inner():
        return pyro.sample("inner", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))

    def model(y):
        mean = poutine.uncondition(inner)()
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return Case(model, (Y,))


@program
def scoped_names():
    def part(scale):
        return pyro.sample("mean", dist.Normal(0.0, scale))

    def model(y):
        mean = scope(part, prefix="left")(1.0) + scope(part, prefix="right")(0.5)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)

    return Case(model, (Y,))


@program
def enumerated_by_a_decorator():
    @config_enumerate
    def model(y):
        means = pyro.sample("means", dist.Normal(torch.tensor([-1.0, 1.0]), 0.5).to_event(1))
        with pyro.plate("rows", len(y)):
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.4, 0.6])))
            pyro.sample("y", dist.Normal(means[kind], 0.5), obs=y)

    def guide(y):
        pyro.sample("means", dist.Normal(pyro.param("m", torch.tensor([-1.0, 1.0])), 0.3).to_event(1))

    return Case(model, (Y,), guide=guide)


@program
def python_branches_on_data():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        for i, value in enumerate(y):
            scale = 0.5 if float(value) > 0 else 1.0
            pyro.sample(f"y_{i}", dist.Normal(mean, scale), obs=value)

    return Case(model, (Y,))


@program
def python_branches_on_a_latent():
    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        scale = 0.5 if float(mean.detach()) > 0 else 1.0
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, scale), obs=y)

    return Case(model, (Y,), interpreted="a Python branch on the value of a latent")
