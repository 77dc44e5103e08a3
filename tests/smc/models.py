"""Problems whose evidence, means and sds are known: by formulas, or by sums over a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy.special import betaln, gammaln
from scipy.stats import multivariate_normal

import pyrolvm as lvm


def doubles(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


@dataclass(frozen=True)
class Known:
    problem: lvm.Problem
    evidence: float
    means: dict
    sds: dict

    def off(self, result):
        """How many of its sds the mean of any unknown is off."""
        drawn = result.data["posterior"].to_dataset()
        return max(
            float(np.max(np.abs(drawn[name].mean(("chain", "draw")).values - mean) / self.sds[name]))
            for name, mean in self.means.items()
        )


def normal(x, mean, sd):
    return -0.5 * ((x - mean) / sd) ** 2 - np.log(sd * math.sqrt(2 * math.pi))


def on_grid(problem, log_joint, cell, **values):
    """What a grid says of values that are functions of its points."""
    top = log_joint.max()
    weights = np.exp(log_joint - top)
    total = weights.sum()
    means = {name: np.array([(weights * one).sum() / total for one in several]) for name, several in values.items()}
    seconds = {
        name: np.array([(weights * one**2).sum() / total for one in several]) for name, several in values.items()
    }
    means = {name: mean if len(mean) > 1 else mean[0] for name, mean in means.items()}
    sds = {name: np.sqrt(np.squeeze(seconds[name]) - mean**2) for name, mean in means.items()}
    return Known(problem, float(np.log(total * cell) + top), means, sds)


def regression(rows=30, size=4):
    random = np.random.default_rng(1)
    x = random.normal(size=(rows, size)) @ (np.eye(size) + 0.8)
    y = x @ random.normal(size=size) + 0.7 * random.normal(size=rows)

    def model(x, y):
        w = pyro.sample("w", dist.Normal(0.0, 1.5).expand([size]).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 0.7), obs=y)

    evidence = multivariate_normal(np.zeros(rows), 2.25 * x @ x.T + 0.49 * np.eye(rows)).logpdf(y)
    covariance = np.linalg.inv(np.eye(size) / 2.25 + x.T @ x / 0.49)
    means, sds = {"w": covariance @ x.T @ y / 0.49}, {"w": np.sqrt(np.diag(covariance))}
    return Known(lvm.Problem(model, doubles(x), doubles(y)), float(evidence), means, sds)


def rates():
    tested, broken = np.array([50.0, 20, 35]), np.array([3.0, 1, 5])

    def model(tested, broken):
        with pyro.plate("batch", len(tested)):
            rate = pyro.sample("rate", dist.Beta(1.5, 9.0))
            pyro.sample("broken", dist.Binomial(tested, rate), obs=broken)

    a, b = 1.5 + broken, 9.0 + tested - broken
    ways = gammaln(tested + 1) - gammaln(broken + 1) - gammaln(tested - broken + 1)
    evidence = float(np.sum(ways + betaln(a, b) - betaln(1.5, 9.0)))
    means, sds = {"rate": a / (a + b)}, {"rate": np.sqrt(a * b / (a + b + 1)) / (a + b)}
    return Known(lvm.Problem(model, doubles(tested), doubles(broken)), evidence, means, sds)


def two_modes():
    """Two modes of unequal mass, far apart: the data fit two places, one of which the prior likes better."""
    y = np.array([0.2, -0.1, 0.3, 0.0])

    def model(y):
        place = pyro.sample("place", dist.Normal(0.6, 3.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal((place**2 - 9) / 4, 0.3), obs=y)

    grid = np.linspace(-10.0, 10.0, 200_001)
    log_joint = normal(grid, 0.6, 3.0) + normal(y[:, None], (grid**2 - 9) / 4, 0.3).sum(0)
    return on_grid(lvm.Problem(model, doubles(y)), log_joint, grid[1] - grid[0], place=[grid])


def banana():
    """Two unknowns on a crescent."""

    def model(z):
        x = pyro.sample("x", dist.Normal(torch.zeros_like(z), 2.0))
        y = pyro.sample("y", dist.Normal(torch.zeros_like(z), 4.0))
        pyro.sample("z", dist.Normal(y - 0.5 * x**2, 0.3), obs=z)

    x, y = np.linspace(-12, 12, 1201)[:, None], np.linspace(-20, 40, 6001)[None]
    log_joint = normal(x, 0.0, 2.0) + normal(y, 0.0, 4.0) + normal(-2.0, y - 0.5 * x**2, 0.3)
    cell = (x[1, 0] - x[0, 0]) * (y[0, 1] - y[0, 0])
    return on_grid(lvm.Problem(model, doubles(-2.0)), log_joint, cell, x=[x], y=[y])


def funnel():
    """Neal's funnel whose coordinates are seen with noise: with these summed out, one unknown is left."""
    z = np.array([0.3, -0.6, 0.2, 0.1, -0.2])

    def model(z):
        v = pyro.sample("v", dist.Normal(z.new_zeros(()), 3.0))
        with pyro.plate("coordinate", len(z)):
            x = pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))
            pyro.sample("z", dist.Normal(x, 0.5), obs=z)

    v = np.linspace(-18, 18, 36_001)
    variance = np.exp(v)
    log_joint = normal(v, 0.0, 3.0) + normal(z[:, None], 0.0, np.sqrt(variance + 0.25)).sum(0)
    shrunk = variance / (variance + 0.25)
    found = on_grid(lvm.Problem(model, doubles(z)), log_joint, v[1] - v[0], v=[v])
    weights = np.exp(log_joint - log_joint.max()) / np.exp(log_joint - log_joint.max()).sum()
    share = (weights * shrunk).sum()
    square = (weights * (shrunk * 0.25 + shrunk**2 * z[:, None] ** 2)).sum(1)
    means = found.means | {"x": share * z}
    sds = found.sds | {"x": np.sqrt(square - (share * z) ** 2)}
    return Known(found.problem, found.evidence, means, sds)


def mixture():
    """Three exchangeable components: six copies of one mode, and minor modes beside each."""
    y = np.array([-4.2, -3.8, -4.0, -3.5, -0.2, 0.3, 0.1, 0.5, 3.9, 4.2, 4.4, 3.6])

    def model(y):
        middle = pyro.sample("middle", dist.Normal(y.new_zeros(3), 4.0).to_event(1))
        with pyro.plate("row", len(y)):
            label = pyro.sample("label", dist.Categorical(y.new_ones(3) / 3))
            pyro.sample("y", dist.Normal(middle[label], 0.7), obs=y)

    grid = np.linspace(-10.0, 10.0, 161)
    each = np.exp(normal(y[:, None], grid, 0.7)) / 3
    a, b, c = grid[:, None, None], grid[None, :, None], grid[None, None, :]
    log_joint = normal(a, 0.0, 4.0) + normal(b, 0.0, 4.0) + normal(c, 0.0, 4.0)
    for one in each:
        log_joint = log_joint + np.log(one[:, None, None] + one[None, :, None] + one[None, None, :])
    return on_grid(lvm.Problem(model, doubles(y)), log_joint, (grid[1] - grid[0]) ** 3, middle=[a, b, c])


def hidden_states():
    """Two hidden states that stay, one site for each time, summed out: labels switch."""
    y = np.array([-1.8, -2.2, -1.5, 1.2, 2.1, 1.6, 1.9, -1.9, -2.4])

    def model(y):
        level = pyro.sample("level", dist.Normal(y.new_zeros(2), 3.0).to_event(1))
        moves = y.new_tensor([[0.8, 0.2], [0.2, 0.8]])
        state = None
        for t in pyro.markov(range(len(y))):
            chances = y.new_full((2,), 0.5) if state is None else moves[state]
            state = pyro.sample(f"state_{t}", dist.Categorical(chances), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", dist.Normal(level[state], 0.8), obs=y[t])

    grid = np.linspace(-12.0, 12.0, 601)
    first, second = np.broadcast_arrays(grid[:, None], grid[None])
    forward = [np.full(first.shape, math.log(0.5))] * 2
    for t, seen in enumerate(y):
        if t:
            stay, go = math.log(0.8), math.log(0.2)
            forward = [
                np.logaddexp(forward[0] + stay, forward[1] + go), np.logaddexp(forward[0] + go, forward[1] + stay)
            ]  # fmt: skip
        forward = [forward[0] + normal(seen, first, 0.8), forward[1] + normal(seen, second, 0.8)]
    log_joint = np.logaddexp(*forward) + normal(first, 0.0, 3.0) + normal(second, 0.0, 3.0)
    return on_grid(lvm.Problem(model, doubles(y)), log_joint, (grid[1] - grid[0]) ** 2, level=[first, second])


ALL = {made.__name__: made for made in (regression, rates, two_modes, banana, funnel, mixture, hidden_states)}
