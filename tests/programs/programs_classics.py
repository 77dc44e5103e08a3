"""The models of tutorials and text books."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoDiagonalNormal, AutoIAFNormal, AutoLowRankMultivariateNormal
from torch import nn

from tests.programs.cases import Case, grid, program

Y = grid(8)
BITS = (grid(6, 3) > 0).float()


@program
def schools():
    def model(sigma, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", len(y)):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    return Case(model, (torch.full((8,), 10.0), 10 * Y), guide=AutoDiagonalNormal)


@program
def batting_averages():
    def model(at_bats, hits):
        mean = pyro.sample("mean", dist.Uniform(0.0, 1.0))
        strength = pyro.sample("strength", dist.Pareto(1.0, 1.5))
        with pyro.plate("players", len(hits)):
            skill = pyro.sample("skill", dist.Beta(mean * strength, (1 - mean) * strength))
            pyro.sample("hits", dist.Binomial(at_bats, skill), obs=hits)

    return Case(model, (torch.tensor([10.0, 12.0, 9.0]), torch.tensor([3.0, 5.0, 1.0])))


@program
def counties_with_slopes():
    def model(county, floor, radon):
        level = pyro.sample("level", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        spread = pyro.sample("spread", dist.HalfNormal(torch.ones(2)).to_event(1))
        with pyro.plate("counties", 3):
            offset = pyro.sample("offset", dist.Normal(level, spread).to_event(1))
        with pyro.plate("homes", len(radon)):
            pyro.sample("radon", dist.Normal(offset[county, 0] + offset[county, 1] * floor, 0.5), obs=radon)

    return Case(model, (torch.arange(8) % 3, (Y > 0).float(), Y), guide=AutoLowRankMultivariateNormal)


@program
def ruggedness_with_an_interaction():
    def model(africa, rugged, gdp):
        a, ba, br, bar = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("a", "ba", "br", "bar"))
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        with pyro.plate("nations", len(gdp)):
            mean = a + ba * africa + br * rugged + bar * africa * rugged
            pyro.sample("gdp", dist.Normal(mean, sigma), obs=gdp)

    return Case(model, ((Y > 0).float(), Y.abs(), Y))


@program
def logistic_regression():
    def model(x, y):
        weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=x @ weights), obs=y)

    return Case(model, (grid(8, 2), (Y > 0).float()), guide=AutoIAFNormal)


@program
def robust_regression():
    def model(x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        freedom = pyro.sample("freedom", dist.Gamma(2.0, 0.1))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.StudentT(freedom, slope * x, scale), obs=y)

    return Case(model, (grid(8), Y))


@program
def censored_survival_by_factors():
    def model(time, died):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        with pyro.plate("patients", len(time)):
            law = dist.Exponential(rate)
            pyro.factor("event", died * law.log_prob(time) - (1 - died) * rate * time)

    return Case(model, (Y.abs() + 0.1, (Y > 0).float()))


@program
def answers_of_items():
    def model(answers):
        with pyro.plate("items", 3, dim=-1):
            hard = pyro.sample("hard", dist.Normal(0.0, 1.0))
            sharp = pyro.sample("sharp", dist.LogNormal(0.0, 0.5))
        with pyro.plate("people", len(answers), dim=-2):
            able = pyro.sample("able", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("answers_of", 3, dim=-1):
                pyro.sample("answers", dist.Bernoulli(logits=sharp * (able - hard)), obs=answers)

    return Case(model, (BITS,))


@program
def principal_components():
    def model(y):
        with pyro.plate("features", 3):
            loadings = pyro.sample("loadings", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z @ loadings.T, noise).to_event(1), obs=y)

    return Case(model, (grid(5, 3),))


@program
def errors_in_the_covariate():
    def model(seen, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            pyro.sample("seen", dist.Normal(x, 0.3), obs=seen)
            pyro.sample("y", dist.Normal(slope * x, 0.3), obs=y)

    return Case(model, (grid(6), Y[:6]))


@program
def missing_covariates():
    def model(x, missing, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("missing", int(missing.sum())):
            filled = pyro.sample("filled", dist.Normal(0.0, 1.0))
        whole = x.clone()
        whole[missing] = filled
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(slope * whole, 0.5), obs=y)

    return Case(model, (grid(8), torch.arange(8) % 4 == 1, Y))


@program
def weight_on_a_scale():
    def model(guess, y):
        weight = pyro.sample("weight", dist.Normal(guess, 1.0))
        pyro.sample("y", dist.Normal(weight, 0.75), obs=y)

    def guide(guess, y):
        a = pyro.param("a", lambda: guess.clone())
        pyro.sample("weight", dist.Normal(a, pyro.param("b", torch.tensor(1.0), constraint=constraints.positive)))

    return Case(model, (torch.tensor(0.8), torch.tensor(0.95)), guide=guide)


@program
def coins_in_a_loop():
    def model(flips):
        fair = pyro.sample("fair", dist.Beta(10.0, 10.0))
        for i in range(len(flips)):
            pyro.sample(f"flip_{i}", dist.Bernoulli(fair), obs=flips[i])

    def guide(flips):
        a = pyro.param("a", torch.tensor(15.0), constraint=constraints.positive)
        b = pyro.param("b", torch.tensor(15.0), constraint=constraints.positive)
        pyro.sample("fair", dist.Beta(a, b))

    return Case(model, ((Y > 0).float(),), guide=guide)


class Coder(nn.Module):
    """Encoder and decoder in one, as autoencoders of tutorials have them."""

    def __init__(self, extra: int = 0):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(3 + extra, 2), nn.Linear(1 + extra, 3)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("rows", len(x)):
            loc, scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, torch.nn.functional.softplus(scale) + 0.01).to_event(1))


def beside(*parts):
    """Vectors side by side, whatever their batch dimensions."""
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, -1) for part in parts], -1)


@program
def autoencoder():
    coder = Coder()
    return Case(coder.model, (BITS,), guide=coder.guide, nuts=False)


@program
def conditional_autoencoder():
    coder = Coder(extra=1)

    def model(x, given):
        pyro.module("decoder", coder.decoder)
        with pyro.plate("rows"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            logits = coder.decoder(torch.cat([z, given], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x, given):
        pyro.module("encoder", coder.encoder)
        with pyro.plate("rows"):
            loc, scale = coder.encoder(torch.cat([x, given], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    return Case(model, (BITS, grid(6, 1)), guide=guide, nuts=False)


@program
def semi_supervised_autoencoder():
    coder = Coder(extra=2)
    torch.manual_seed(1)
    classify = nn.Linear(3, 2)

    def model(x):
        pyro.module("decoder", coder.decoder)
        with pyro.plate("rows"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            kind = pyro.sample("kind", dist.OneHotCategorical(torch.full((len(x), 2), 0.5)))
            both = beside(z, kind)
            pyro.sample("x", dist.Bernoulli(logits=coder.decoder(both)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", coder.encoder)
        pyro.module("classify", classify)
        with pyro.plate("rows"):
            kind = pyro.sample("kind", dist.OneHotCategorical(logits=classify(x)), infer={"enumerate": "parallel"})
            loc, scale = coder.encoder(beside(x, kind)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    return Case(model, (BITS,), guide=guide, nuts=False, drawn=True)


@program
def objects_of_scalar_sites():
    def model(y):
        total = torch.zeros(())
        for i in range(2):
            size = pyro.sample(f"size_{i}", dist.Gamma(2.0, 2.0))
            place = pyro.sample(f"place_{i}", dist.Normal(0.0, 1.0))
            total = total + size * torch.exp(-((torch.linspace(-1, 1, len(y)) - place) ** 2))
        with pyro.plate("pixels", len(y)):
            pyro.sample("y", dist.Normal(total, 0.3), obs=y)

    return Case(model, (Y,))


@program
def likelihood_of_parameters_alone():
    def model(y):
        mean = pyro.param("mean", torch.tensor(0.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    return Case(model, (Y,), guide=None, nuts=False)
