"""Time: autoregressions, state spaces, epidemics, Gaussian processes."""

from __future__ import annotations

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.forecast import ForecastingModel
from pyro.contrib.timeseries import IndependentMaternGP
from pyro.infer.reparam import LinearHMMReparam, LocScaleReparam, StudentTReparam
from pyro.nn import PyroModule, PyroSample
from torch import nn

from tests.programs.cases import Case, grid, program

Y = grid(8)


@program
def autoregression_by_a_loop():
    def model(y):
        carry = pyro.sample("carry", dist.Uniform(-1.0, 1.0))
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        last = torch.zeros(())
        for t in range(len(y)):
            last = pyro.sample(f"y_{t}", dist.Normal(carry * last, scale), obs=y[t])

    return Case(model, (Y[:5],))


@program
def random_walk_of_steps():
    def model(y):
        drift = pyro.sample("drift", dist.LogNormal(-1.0, 0.5))
        with pyro.plate("times", len(y)):
            step = pyro.sample("step", dist.Normal(0.0, 1.0))
        level = pyro.deterministic("level", (drift * step).cumsum(-1))
        with pyro.plate("times_again", len(y)):
            pyro.sample("y", dist.Normal(level, 0.3), obs=y)

    return Case(model, (Y,))


@program
def states_in_a_markov_loop():
    def model(y):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        state = torch.zeros(())
        for t in pyro.markov(range(len(y))):
            state = pyro.sample(f"state_{t}", dist.Normal(0.9 * state, scale))
            pyro.sample(f"y_{t}", dist.Normal(state, 0.3), obs=y[t])

    return Case(model, (Y[:4],))


@program
def stochastic_volatility():
    def model(y):
        width = pyro.sample("width", dist.HalfNormal(1.0))
        steps = pyro.sample("steps", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
        log_scale = (width * steps).cumsum(-1)
        pyro.sample("y", dist.StudentT(5.0, 0.0, log_scale.exp()).to_event(1), obs=y)

    return Case(model, (Y,))


@program
def linear_gaussian_states():
    def model(y):
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
        eye = torch.eye(1)
        start = dist.MultivariateNormal(torch.zeros(1), eye)
        move = dist.MultivariateNormal(torch.zeros(1), 0.5 * eye)
        see = dist.MultivariateNormal(torch.zeros(1), (noise * eye).square())
        pyro.sample("y", dist.GaussianHMM(start, 0.9 * eye, move, eye, see, duration=len(y)), obs=y.unsqueeze(-1))

    return Case(model, (Y,))


@program
def heavy_tailed_states():
    def model(y):
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
        start = dist.Normal(torch.zeros(1), 1.0).to_event(1)
        move = dist.Normal(torch.zeros(1), 0.3).to_event(1)
        see = dist.StudentT(5.0, torch.zeros(1), noise.unsqueeze(-1)).to_event(1)
        config = {"y": LinearHMMReparam(obs=StudentTReparam())}
        with poutine.reparam(config=config):
            law = dist.LinearHMM(start, torch.eye(1), move, torch.eye(1), see, duration=len(y))
            pyro.sample("y", law, obs=y.unsqueeze(-1))

    return Case(model, (Y[:4],))


@program
def growth_curve():
    def model(time, y):
        top = pyro.sample("top", dist.LogNormal(0.0, 0.5))
        rate = pyro.sample("rate", dist.LogNormal(0.0, 0.5))
        middle = pyro.sample("middle", dist.Normal(0.0, 1.0))
        with pyro.plate("times", len(y)):
            pyro.sample("y", dist.Normal(top * torch.sigmoid(rate * (time - middle)), 0.2), obs=y)

    return Case(model, (torch.linspace(-2, 2, 8), Y.abs()))


@program
def predators_and_prey_by_euler_steps():
    def model(y):
        rates = pyro.sample("rates", dist.LogNormal(torch.full((4,), -1.0), 0.3).to_event(1))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.3))
        prey, hunters = torch.tensor(1.0), torch.tensor(0.5)
        path = []
        for _ in range(len(y)):
            born, eaten = rates[0] * prey, rates[1] * prey * hunters
            grown, died = rates[2] * prey * hunters, rates[3] * hunters
            prey, hunters = prey + 0.3 * (born - eaten), hunters + 0.3 * (grown - died)
            path.append(torch.stack([prey, hunters]))
        with pyro.plate("times", len(y)):
            pyro.sample("y", dist.LogNormal(torch.stack(path).clamp(min=1e-3).log(), noise).to_event(1), obs=y)

    return Case(model, (grid(5, 2).abs() + 0.2,))


@program
def epidemic_in_steps():
    def model(cases):
        contact = pyro.sample("contact", dist.LogNormal(0.0, 0.3))
        with pyro.plate("days", len(cases)):
            share = pyro.sample("share", dist.Beta(8.0, 2.0))
        well, ill = torch.tensor(99.0), torch.tensor(1.0)
        found = []
        for t in range(len(cases)):
            new = well * (1 - torch.exp(-contact * ill / 100))
            well, ill = well - new, 0.7 * ill + new
            found.append(new * share[t])
        with pyro.plate("days_again", len(cases)):
            pyro.sample("cases", dist.Poisson(torch.stack(found)), obs=cases)

    return Case(model, (torch.tensor([1.0, 2.0, 4.0, 5.0]),))


@program
def forecast_module():
    class Model(ForecastingModel):
        def model(self, zero_data, covariates):
            level = pyro.sample("level", dist.Normal(0.0, 1.0))
            scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
            weights = pyro.sample("weights", dist.Normal(torch.zeros(covariates.shape[-1]), 1.0).to_event(1))
            mean = level + (covariates * weights).sum(-1, keepdim=True)
            self.predict(dist.Normal(0.0, scale), zero_data + mean)

    return Case(Model(), (Y.unsqueeze(-1), grid(8, 2)))


@program
def forecast_without_covariates():
    class Model(ForecastingModel):
        def model(self, zero_data, covariates):
            drift = pyro.sample("drift", dist.LogNormal(-2.0, 0.5))
            with self.time_plate, poutine.reparam(config={"step": LocScaleReparam()}):
                step = pyro.sample("step", dist.Normal(0.0, drift))
            self.predict(dist.Normal(0.0, 0.3), zero_data + step.cumsum(-1).unsqueeze(-1))

    return Case(Model(), (Y.unsqueeze(-1), torch.zeros(8, 0)))


@program
def state_space_process():
    def model(y):
        pyro.module("process", process)
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.factor("fit", process.log_prob((y - mean).unsqueeze(-1)).sum())

    process = IndependentMaternGP(nu=1.5, obs_dim=1, length_scale_init=torch.ones(1))
    return Case(model, (Y,), nuts=False)


@program
def process_by_hand():
    def model(x, y):
        length = pyro.sample("length", dist.LogNormal(0.0, 0.5))
        scale = pyro.sample("scale", dist.LogNormal(-1.0, 0.5))
        apart = (x.unsqueeze(-1) - x).square()
        covariance = torch.exp(-0.5 * apart / length**2) + scale**2 * torch.eye(len(x))
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)

    return Case(model, (torch.linspace(-1, 1, 8), Y))


@program
def process_of_the_library():
    kernel = gp.kernels.RBF(input_dim=1)
    kernel.lengthscale = PyroSample(dist.LogNormal(0.0, 0.5))
    kernel.variance = PyroSample(dist.LogNormal(0.0, 0.5))
    process = gp.models.GPRegression(torch.linspace(-1, 1, 8), Y, kernel, noise=torch.tensor(0.1))
    del process.noise
    process.noise = PyroSample(dist.LogNormal(-2.0, 0.5))
    return Case(process.model, ())


@program
def deep_markov_model():
    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.move, self.emit = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, y):
            pyro.module("dmm", self)
            with pyro.plate("sequences", len(y)):
                z = torch.zeros(len(y), 2)
                for t in pyro.markov(range(y.shape[1])):
                    z = pyro.sample(f"z_{t}", dist.Normal(torch.tanh(self.move(z)), 0.5).to_event(1))
                    pyro.sample(f"y_{t}", dist.Normal(self.emit(z).squeeze(-1), 0.3), obs=y[:, t])

    def guide(y):
        with pyro.plate("sequences", len(y)):
            for t in range(y.shape[1]):
                weights = pyro.param(f"w_{t}", torch.zeros(2))
                pyro.sample(f"z_{t}", dist.Normal(y[:, t : t + 1] * weights, 0.5).to_event(1))

    return Case(Model(), (grid(4, 3),), guide=guide, nuts=False)
