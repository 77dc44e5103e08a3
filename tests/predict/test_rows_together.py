"""Programs that tie rows together: new rows come behind those of the fit, and follow from the model's own law given these."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

QUIET = {"progress": False}
X, Y = torch.tensor([0.0, 0.2, 0.4, 1.0, 1.5]), torch.tensor([1.0, 0.5, 0.0, -0.5, 0.3])
NEW = torch.tensor([0.3, 2.0, 3.0])
WALK = torch.tensor([0.3, 1.2, 0.7, 1.9, 2.4, 2.2])
SD = 0.5


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-0.5 * ((a[:, None] - b) / 0.7) ** 2)


def centred(x: Tensor, y: Tensor) -> None:
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(len(x)), kernel(x, x) + 1e-4 * torch.eye(len(x))))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(f, 0.3), obs=y)


def non_centred(x: Tensor, y: Tensor) -> None:
    rows = pyro.plate("rows", len(x))
    with rows:
        eps = pyro.sample("eps", dist.Normal(0.0, 1.0))
    f = pyro.deterministic("f", torch.linalg.cholesky(kernel(x, x) + 1e-4 * torch.eye(len(x))) @ eps)
    with rows:
        pyro.sample("y", dist.Normal(f, 0.3), obs=y)


def marginal(x: Tensor, y: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 1e-3))
    cov = kernel(x, x) + (1e-4 + 0.09) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(level.expand(len(x)), cov), obs=y)


def at_new_places() -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of the function at new places, by its formulas."""
    inner = kernel(X, X) + (1e-4 + 0.09) * torch.eye(5)
    mean = kernel(NEW, X) @ torch.linalg.solve(inner, Y)
    cov = kernel(NEW, NEW) + 1e-4 * torch.eye(3) - kernel(NEW, X) @ torch.linalg.solve(inner, kernel(X, NEW))
    return mean.numpy(), cov.diag().sqrt().numpy()


@pytest.mark.parametrize("process", [centred, non_centred, marginal])
def test_a_gaussian_process_at_new_places_is_its_formulas(process: object) -> None:
    result = lvm.exact(lvm.Problem(process, X, Y), draws=4000, **QUIET)
    mean, sd = at_new_places()
    found = lvm.predict(result, NEW, draws=4000)["predictions"]["y"]
    spread = np.sqrt(sd**2 + 0.09)
    assert found.shape == (1, 4000, 3)
    np.testing.assert_allclose(found.mean(("chain", "draw")), mean, atol=float(4 * spread.max() / np.sqrt(4000)))
    np.testing.assert_allclose(found.std(("chain", "draw")), spread, rtol=0.06)
    whole = lvm.predict(result, torch.cat([X, NEW]), draws=4000)["predictions"]["y"]
    np.testing.assert_array_equal(whole, found)
    score = lvm.predict(result, NEW, torch.zeros(3), draws=4000)["log_score"]["y"].values.reshape(4000, -1).sum(-1)
    if process is marginal:
        inner = kernel(X, X) + (1e-4 + 0.09) * torch.eye(5)
        mix = torch.linalg.solve(inner, kernel(X, NEW))
        law = dist.MultivariateNormal(mix.T @ Y, kernel(NEW, NEW) + (1e-4 + 0.09) * torch.eye(3) - kernel(NEW, X) @ mix)
        assert np.log(np.exp(score).mean()) == pytest.approx(float(law.log_prob(torch.zeros(3))), abs=0.02)


def loop(y: Tensor) -> None:
    x: Tensor = torch.tensor(0.0)
    for t in pyro.markov(range(len(y))):
        x = pyro.sample(f"x_{t}", dist.Normal(x, SD))
        pyro.sample(f"y_{t}", dist.Normal(x, 0.1), obs=y[t])


def cumulated(y: Tensor) -> None:
    rows = pyro.plate("time", len(y))
    with rows:
        step = pyro.sample("step", dist.Normal(0.0, 1.0))
    x = SD * step.cumsum(-1)
    with rows:
        pyro.sample("y", dist.Normal(x, 0.1), obs=y)


def state_space(y: Tensor) -> None:
    level = pyro.sample("level", dist.Normal(0.0, 1e-3))
    one = torch.eye(1)
    law = dist.GaussianHMM(
        dist.Normal(torch.zeros(1), 1e-3).to_event(1), one, dist.Normal(torch.zeros(1), SD).to_event(1),
        one, dist.Normal(level.reshape(1), 0.1).to_event(1), duration=len(y),
    )  # fmt: skip
    pyro.sample("y", law, obs=y[:, None])


def kalman() -> tuple[float, float]:
    """Mean and variance of the last state given all observations."""
    mean, var = 0.0, 0.0
    for value in WALK.tolist():
        var += SD**2
        gain = var / (var + 0.01)
        mean, var = mean + gain * (value - mean), (1 - gain) * var
    return mean, var


@pytest.mark.parametrize("walk", [loop, cumulated, state_space])
def test_a_walk_goes_on_as_the_kalman_filter_says(walk: object) -> None:
    result = lvm.exact(lvm.Problem(walk, WALK), draws=2000, **QUIET)
    found = lvm.predict(result, rows=2, draws=2000)["predictions"]
    values = [found["y_6"], found["y_7"]] if walk is loop else [found["y"][:, :, i] for i in range(2)]
    mean, var = kalman()
    for ahead, value in enumerate(values, 1):
        sd = np.sqrt(var + ahead * SD**2 + 0.01)
        assert float(value.mean()) == pytest.approx(mean, abs=4 * sd / np.sqrt(2000))
        assert float(value.std()) == pytest.approx(sd, rel=0.08)


def switching(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(torch.tensor([-2.0, 3.0]), 0.01).to_event(1))
    moves = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), moves, dist.Normal(middle, 0.5), duration=len(y)), obs=y)


def test_a_hidden_markov_model_goes_on_from_its_last_state() -> None:
    fit = lvm.fit(
        lvm.Problem(switching, torch.tensor([-2.0, -2.0, 3.0, 3.0])), "mean_field", max_steps=150, draws=1000, **QUIET
    )
    found = lvm.predict(fit, rows=2, draws=1000)["predictions"]["y"]
    np.testing.assert_allclose(found.mean(("chain", "draw")), [0.8 * 3 - 0.2 * 2, 0.66 * 3 - 0.34 * 2], atol=0.35)
    error = 4 * np.sqrt(0.25 / 1000)
    np.testing.assert_allclose((found > 0.5).mean(("chain", "draw")), [0.8, 0.66], atol=error)
    above = found.where(found > 0.5)[:, :, 0]
    assert float(above.std()) == pytest.approx(0.5, abs=0.06) and float(above.mean()) == pytest.approx(3.0, abs=0.1)


def test_a_law_of_the_first_rows_that_changes_with_further_ones_is_refused() -> None:
    def scaled(x: Tensor, y: Tensor) -> None:
        there = x / x.abs().max()
        f = pyro.sample(
            "f", dist.MultivariateNormal(torch.zeros(len(x)), kernel(there, there) + 0.01 * torch.eye(len(x)))
        )
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(f, 0.3), obs=y)

    result = lvm.exact(lvm.Problem(scaled, X, Y), draws=100, **QUIET)
    with pytest.raises(lvm.ProblemError, match=r"distribution of 'f' at the rows of the fit changes .* Fix:"):
        lvm.predict(result, NEW)


def test_a_law_that_is_not_gaussian_is_refused_and_not_guessed() -> None:
    def heavy(x: Tensor, y: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        root = torch.linalg.cholesky(kernel(x, x) + 0.09 * torch.eye(len(x)))
        pyro.sample("y", dist.MultivariateStudentT(3.0, level.expand(len(x)), root), obs=y)

    fit = lvm.fit(lvm.Problem(heavy, X, Y), "mean_field", max_steps=30, draws=100, **QUIET)
    with pytest.raises(lvm.ProblemError, match=r"'y' is MultivariateStudentT.*not Gaussian.*Fix:"):
        lvm.predict(fit, NEW)
