from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

import pyrolvm as lvm
from pyrolvm._capture import capture
from pyrolvm._program.density import Joint

X = torch.linspace(-1.0, 1.0, 12).reshape(6, 2).flip(1) ** 2
Y = X @ torch.tensor([1.0, -1.0])


def observe(mean: Tensor, scale: Tensor | float, y: Tensor) -> None:
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


class Dependent(PyroModule):
    """Random attributes, one of which depends on another, and one that is declared by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroSample(dist.LogNormal(torch.zeros(()), 1.0).expand([]))
        self.weight = PyroSample(lambda self: dist.Normal(0.0, self.scale).expand([2]).to_event(1))

    @PyroSample
    def bias(self):
        return dist.Normal(0.0, self.scale)

    def forward(self, x, y):
        observe(x @ self.weight + self.bias, 0.5, y)


class Network(PyroModule):
    """A network whose weights are all random."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = PyroModule[nn.Linear](2, 2), PyroModule[nn.Linear](2, 1)
        for layer in (self.first, self.last):
            for name, value in list(layer.named_parameters()):
                setattr(layer, name, PyroSample(dist.Normal(0.0, 1.0).expand(value.shape).to_event(value.dim())))

    def forward(self, x, y):
        observe(self.last(torch.tanh(self.first(x))).squeeze(-1), 0.5, y)


class Mixed(PyroModule):
    """A parameter beside a random attribute whose distribution insists on its checks."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)
        self.weight = PyroSample(dist.Normal(0.0, torch.ones(2), validate_args=True).to_event(1))

    def forward(self, x, y):
        observe(x @ self.weight, self.scale, y)


class Plain(nn.Module):
    """A module of torch's that calls ``pyro.sample``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.ones(()))

    def forward(self, x, y):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        observe(x @ weight + self.shift, 0.5, y)


PRIOR = dist.Normal(torch.zeros(2), 1.0).expand([2]).to_event(1)


def with_a_prior_of_its_file(x, y):
    weight = pyro.sample("weight", PRIOR)
    observe(x @ weight, 0.5, y)


MODELS = [Dependent, Network, Mixed, Plain, lambda: with_a_prior_of_its_file]
NAMES = ["dependent", "network", "mixed", "plain", "prior_of_the_file"]


@pytest.mark.parametrize("make", MODELS, ids=NAMES)
def test_models_that_are_modules_are_captured(make):
    problem = lvm.Problem(make(), X, Y)
    with problem.session(seed=0):
        joint, point = Joint(problem), torch.full((problem.unconstrained_size,), 0.1)
        captured = capture(joint.potential, point)
        assert torch.allclose(captured(point), joint.potential(point))


@pytest.mark.parametrize("guide", ["full_rank", "mean_field", "student", "flow"])
@pytest.mark.parametrize("make", MODELS[:1] + MODELS[2:4], ids=NAMES[:1] + NAMES[2:4])
def test_guides_do_not_take_a_module_of_a_model_for_a_part_of_themselves(make, guide):
    model = make()
    problem = lvm.Problem(model, X, Y)
    with problem.session(seed=0):
        built = lvm.guide(guide).build(problem)
        built(*problem.args)
        assert not any(part is model for part in built.modules())


def test_a_module_with_random_weights_is_fitted_and_sampled_by_compiled_engines():
    problem = lvm.Problem(Dependent(), X, Y)
    assert lvm.fit(problem, max_steps=400, draws=100, progress=False).engine == "c"
    assert lvm.nuts(problem, chains=1, warmup=20, draws=20, progress=False).engine == "c"
