"""Predictions against NumPyro's Predictive on the same draws, and closed forms: regressions, crossed effects, AR(1), particles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

QUIET: dict[str, Any] = {"progress": False}
GENERATOR = torch.Generator().manual_seed(0)
ROWS = 60
X = torch.linspace(-2, 2, ROWS)
FIRST, SECOND = torch.arange(ROWS) % 5, (torch.arange(ROWS) * 7) % 4
NEW, NEW_FIRST, NEW_SECOND = (
    torch.tensor([-3.0, -0.5, 0.0, 1.0, 4.0]),
    torch.tensor([0, 1, 2, 3, 4]),
    torch.tensor([3, 2, 1, 0, 3]),
)
YES = torch.bernoulli((0.5 + X).sigmoid(), generator=GENERATOR)
GRADES = torch.randint(0, 4, (ROWS,), generator=GENERATOR)
CUTS = (-1.0, 0.2, 1.0)
SCORES = 0.5 * X + torch.randn(5, generator=GENERATOR)[FIRST] + 0.3 * torch.randn(ROWS, generator=GENERATOR)


COUNTS = torch.poisson((0.5 + 0.6 * X).exp(), generator=GENERATOR)
LINE = 1.0 - 0.5 * X + 0.4 * torch.randn(ROWS, generator=GENERATOR)


def linear(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(a + b * x, spread), obs=y)


def counted(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Poisson((a + b * x).exp()), obs=y)


def grouped(x: Tensor, group: Tensor, count: int, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    apart = pyro.sample("apart", dist.HalfNormal(1.0))
    with pyro.plate("groups", count):
        effect = pyro.sample("effect", dist.Normal(0.0, apart))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(b * x + effect[group], 0.3), obs=y)


def logistic(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


def ordinal(x: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.OrderedLogistic(b * x, torch.tensor(CUTS)), obs=y)


def crossed(x: Tensor, first: Tensor, second: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("firsts", 5):
        one = pyro.sample("one", dist.Normal(0.0, 1.0))
    with pyro.plate("seconds", 4):
        other = pyro.sample("other", dist.Normal(0.0, 0.5))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.StudentT(4.0, b * x + one[first] + other[second], 0.3), obs=y)


def numpyro_linear(x: Any, y: Any = None) -> None:
    import numpyro
    import numpyro.distributions as law

    a = numpyro.sample("a", law.Normal(0.0, 2.0))
    b = numpyro.sample("b", law.Normal(0.0, 2.0))
    spread = numpyro.sample("spread", law.HalfNormal(1.0))
    numpyro.sample("y", law.Normal(a + b * x, spread), obs=y)


def numpyro_counted(x: Any, y: Any = None) -> None:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as law

    a = numpyro.sample("a", law.Normal(0.0, 2.0))
    b = numpyro.sample("b", law.Normal(0.0, 2.0))
    numpyro.sample("y", law.Poisson(jnp.exp(a + b * x)), obs=y)


def numpyro_logistic(x: Any, y: Any = None) -> None:
    import numpyro
    import numpyro.distributions as law

    a = numpyro.sample("a", law.Normal(0.0, 2.0))
    b = numpyro.sample("b", law.Normal(0.0, 2.0))
    numpyro.sample("y", law.Bernoulli(logits=a + b * x), obs=y)


def numpyro_ordinal(x: Any, y: Any = None) -> None:
    import numpyro
    import numpyro.distributions as law

    b = numpyro.sample("b", law.Normal(0.0, 2.0))
    numpyro.sample("y", law.OrderedLogistic(b * x, np.array(CUTS)), obs=y)


def numpyro_crossed(x: Any, first: Any, second: Any, y: Any = None) -> None:
    import numpyro
    import numpyro.distributions as law

    b = numpyro.sample("b", law.Normal(0.0, 2.0))
    one = numpyro.sample("one", law.Normal(0.0, 1.0).expand([5]))
    other = numpyro.sample("other", law.Normal(0.0, 0.5).expand([4]))
    numpyro.sample("y", law.StudentT(4.0, b * x + one[first] + other[second], 0.3), obs=y)


TWINS: dict[str, tuple[Callable[..., None], Callable[..., None], tuple[Tensor, ...], tuple[Tensor, ...]]] = {
    "linear": (linear, numpyro_linear, (X, LINE), (NEW,)),
    "counted": (counted, numpyro_counted, (X, COUNTS), (NEW,)),
    "logistic": (logistic, numpyro_logistic, (X, YES), (NEW,)),
    "ordinal": (ordinal, numpyro_ordinal, (X, GRADES), (NEW,)),
    "crossed": (crossed, numpyro_crossed, (X, FIRST, SECOND, SCORES), (NEW, NEW_FIRST, NEW_SECOND)),
}


def by_method(problem: lvm.Problem, method: str) -> lvm.Posterior:
    if method == "smc":
        return lvm.smc(problem, particles=2_000, **QUIET)
    if method == "nuts":
        return lvm.nuts(problem, chains=2, warmup=200, draws=1_000, **QUIET)
    return lvm.fit(problem, "full_rank", max_steps=300, draws=2_000, **QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "smc", "nuts"])
def test_known_and_new_groups_are_those_of_the_draws(method: str) -> None:
    posterior = by_method(lvm.Problem(grouped, X, FIRST, 5, SCORES), method)
    count = posterior.num_draws
    found = lvm.predict(posterior, torch.zeros(2), torch.tensor([1, 5]), 6, draws=count)["predictions"]["y"]
    y = found.values.reshape(count, 2)
    draws = {name: value.values.reshape(count, -1) for name, value in posterior.data["posterior"].data_vars.items()}
    rng = np.random.default_rng(0)
    known = draws["effect"][:, 1] + 0.3 * rng.normal(size=count)
    new = draws["apart"][:, 0] * rng.normal(size=count) + 0.3 * rng.normal(size=count)
    for here, there in zip(y.T, (known, new), strict=True):
        assert here.mean() == pytest.approx(there.mean(), abs=4 * np.sqrt((here.var() + there.var()) / count))
        for share in (0.05, 0.25, 0.75, 0.95):
            assert (here <= np.quantile(there, share)).mean() == pytest.approx(share, abs=4 * np.sqrt(0.5 / count))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fit", "smc", "nuts"])
@pytest.mark.parametrize("name", list(TWINS))
def test_predictions_are_those_of_numpyros_predictive_given_the_same_draws(name: str, method: str) -> None:
    import jax
    from numpyro.infer import Predictive, log_likelihood

    ours, theirs, data, new = TWINS[name]
    problem = lvm.Problem(ours, *data)
    posterior = by_method(problem, method)
    count = posterior.num_draws
    found = lvm.predict(posterior, *new, draws=count)["predictions"]["y"].values.reshape(count, -1)
    draws = {
        site.name: posterior.data["posterior"][site.name].values.reshape(count, *site.shape) for site in problem.latents
    }
    arguments = [one.numpy() for one in new]
    drawn = np.asarray(Predictive(theirs, draws)(jax.random.PRNGKey(0), *arguments)["y"])
    np.testing.assert_allclose(
        found.mean(0), drawn.mean(0), atol=4 * float(np.sqrt((found.var(0) + drawn.var(0)) / count).max())
    )
    for share in (0.1, 0.5, 0.9):
        below = np.quantile(drawn, share, axis=0)
        inside, wanted = (found <= below).mean(0), (drawn <= below).mean(0)
        np.testing.assert_allclose(inside, wanted, atol=4 * np.sqrt(0.5 / count))
    scored = lvm.predict(posterior, *new, data[-1][:5], draws=count)["log_score"]["y"].values.reshape(count, -1)
    terms = log_likelihood(theirs, draws, *arguments, y=data[-1][:5].numpy())["y"]
    np.testing.assert_allclose(scored, np.asarray(terms), atol=2e-3)


PHI, NOISE, SEEN = 0.8, 0.5, 0.3
SERIES = torch.tensor([0.3, 1.1, 0.4, -0.6, -0.2, 0.9, 1.4, 0.8])


def autoregressive(y: Tensor) -> None:
    x: Tensor = torch.tensor(0.0)
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Normal(PHI * x, NOISE))
        pyro.sample(f"y_{t}", dist.Normal(x, SEEN), obs=y[t])


def filtered() -> tuple[float, float]:
    """Mean and variance of the last state given all observations, by the Kalman filter."""
    mean, var = 0.0, 0.0
    for value in SERIES.tolist():
        mean, var = PHI * mean, PHI**2 * var + NOISE**2
        gain = var / (var + SEEN**2)
        mean, var = mean + gain * (value - mean), (1 - gain) * var
    return mean, var


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "full_rank", "nuts", "smc"])
def test_an_autoregression_goes_on_as_the_kalman_filter_says(method: str) -> None:
    problem = lvm.Problem(autoregressive, SERIES)
    posterior: lvm.Posterior
    if method == "exact":
        posterior = lvm.exact(problem, draws=2_000, **QUIET)
    elif method == "nuts":
        posterior = lvm.nuts(problem, chains=2, warmup=300, draws=1_000, **QUIET)
    elif method == "smc":
        posterior = lvm.smc(problem, particles=2_000, **QUIET)
    else:
        posterior = lvm.fit(problem, "full_rank", draws=2_000, **QUIET)
    found = lvm.predict(posterior, rows=3, draws=2_000)["predictions"]
    mean, var = filtered()
    for ahead in range(3):
        mean, var = PHI * mean, PHI**2 * var + NOISE**2
        sd, value = np.sqrt(var + SEEN**2), found[f"y_{len(SERIES) + ahead}"]
        assert float(value.mean()) == pytest.approx(mean, abs=5 * sd / np.sqrt(2_000))
        assert float(value.std()) == pytest.approx(sd, rel=0.08)
