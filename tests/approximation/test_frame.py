"""The frame of a posterior: its coordinates, its modes with their weights, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm.family import Frame, find_frame, known_frame, modes, pathfinder_family


def schools(y: Tensor, sd: float) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor(3.0)))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sd), obs=y)


def funnel(y: Tensor) -> None:
    v = pyro.sample("v", dist.Normal(y.new_tensor(0.0), 2.0))
    with pyro.plate("rows", 4):
        pyro.sample("x", dist.Normal(y.new_tensor(0.0), (v / 2).exp()))


def two_modes(y: Tensor) -> None:
    """0.7 Normal(-4, 0.5) + 0.3 Normal(5, 1), of an improper x."""
    x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    parts = dist.Normal(y.new_tensor([-4.0, 5.0]), y.new_tensor([0.5, 1.0])).log_prob(x)
    pyro.factor("modes", (parts + y.new_tensor([0.7, 0.3]).log()).logsumexp(0))


def linear(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(a + b, 0.1), obs=y)


def reads(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(mu, 1.0 if mu.item() > 0 else 2.0), obs=y)


def wide(y: Tensor) -> None:
    pyro.sample("x", dist.Normal(y.new_zeros(1001), 1.0).to_event(1))


Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64) / 4
ONE = torch.tensor(1.0, dtype=torch.float64)


def frame_of(model: Callable[..., Any], *data: Any, seed: int = 0) -> Frame:
    problem = lvm.Problem(model, *data)
    with problem.session(seed=9):
        return find_frame(problem, seed=seed)


def rates(count: Tensor, y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Beta(count.new_tensor(1.0), 1.0))
    size = pyro.sample("size", dist.Pareto(count.new_tensor(1.0), 1.5))
    with pyro.plate("groups", len(y)):
        rate = pyro.sample("rate", dist.Beta(mean * size, (1 - mean) * size))
        pyro.sample("y", dist.Binomial(count, rate), obs=y)


def test_the_mass_is_found_where_the_density_rises_without_bound_elsewhere() -> None:
    """Rates of groups that are all alike have any density, in a place of no size."""
    random = np.random.default_rng(2)
    count = random.integers(3, 40, 60)
    y = random.binomial(count, random.beta(2.0, 5.0, 60))
    logs = np.linspace(0.0, 5.0, 120)[1:, None, None]  # of size; the rates are integrated out in closed form
    means = np.linspace(0.0, 1.0, 102)[1:-1, None]
    a, b = means * np.exp(logs), (1 - means) * np.exp(logs)
    values = (scipy.special.betaln(a + y, b + count - y) - scipy.special.betaln(a, b)).sum(-1)
    values += np.log(scipy.special.comb(count, y)).sum() + np.log(1.5) - 1.5 * logs[..., 0]
    wanted = scipy.special.logsumexp(values) + np.log((logs[1] - logs[0]).item() * (means[1] - means[0]).item())
    frame = frame_of(rates, torch.as_tensor(count * 1.0), torch.as_tensor(y * 1.0))
    assert abs(frame.evidence[0] - wanted) < 1.0
    assert len(frame.modes) == 1


def test_the_same_seed_finds_the_same_frame() -> None:
    first, again, other = (frame_of(schools, Y, 3.0, seed=seed) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first.family.means, again.family.means)
    np.testing.assert_array_equal(first.family.trils, again.family.trils)
    assert all(torch.equal(value, again.centring[name]) for name, value in first.centring.items())
    assert first.evaluations == again.evaluations
    assert not np.array_equal(first.family.means, other.family.means)


def test_a_gaussian_posterior_has_the_frame_of_its_closed_form() -> None:
    frame = frame_of(linear, ONE)
    covariance = np.linalg.inv(np.eye(2) + 100.0 * np.ones((2, 2)))
    tril = frame.best.family.trils[0]
    assert len(frame.modes) == 1
    assert not frame.centring
    np.testing.assert_allclose(frame.best.family.means[0], covariance @ np.full(2, 100.0), atol=1e-6)
    np.testing.assert_allclose(tril @ tril.T, covariance, atol=1e-6)
    assert frame.evidence[0] == pytest.approx(
        float(dist.Normal(0.0, np.sqrt(2.01)).log_prob(torch.tensor(1.0))), abs=0.02
    )


def test_two_modes_are_found_with_their_weights() -> None:
    frame = frame_of(two_modes, ONE)
    family = frame.family
    assert len(frame.modes) == 2
    assert frame.distinct == 2
    assert frame.paths > modes.STARTS
    np.testing.assert_allclose(family.weights, [0.7, 0.3], atol=0.01)
    np.testing.assert_allclose(family.means[:, 0], [-4.0, 5.0], atol=0.02)
    np.testing.assert_allclose(family.trils[:, 0, 0], [0.5, 1.0], rtol=0.02)
    np.testing.assert_allclose(frame.evidence, np.log([0.7, 0.3]), atol=0.02)


def test_one_mode_is_not_counted_twice() -> None:
    frame = frame_of(schools, Y, 0.1)
    assert len(frame.modes) == 1
    np.testing.assert_array_equal(frame.family.weights, [1.0])


def test_a_funnel_gets_non_centred_coordinates_and_is_a_gaussian_in_them() -> None:
    frame = frame_of(funnel, ONE)
    assert set(frame.centring) == {"x"}
    assert torch.equal(frame.centring["x"], torch.zeros(2, 4, dtype=torch.float64))
    np.testing.assert_allclose(frame.best.family.means[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(frame.best.family.trils[0], np.diag([2.0, 1.0, 1.0, 1.0, 1.0]), atol=1e-6)
    assert frame.best.elbos[-1] == pytest.approx(0.0, abs=0.3)


def test_weak_data_leave_coordinates_non_centred() -> None:
    frame = frame_of(schools, Y, 60.0)
    assert not frame.centring["theta"].any()


@pytest.mark.parametrize("sd", [0.05, 3.0])
def test_a_normal_likelihood_is_read_exactly(sd: float) -> None:
    """Then the schools' own coordinates are standard normal, and independent of what they share."""
    frame = frame_of(schools, Y, sd)
    wanted = torch.stack([torch.full_like(Y, sd**-2), Y / sd**2])
    torch.testing.assert_close(frame.centring["theta"], wanted, rtol=1e-5, atol=1e-6)
    tril = frame.best.family.trils[0]
    np.testing.assert_allclose(tril[-len(Y) :, -len(Y) :], np.eye(len(Y)), atol=0.01)
    np.testing.assert_allclose(tril[-len(Y) :, : -len(Y)], 0.0, atol=0.01)


def lines(y: Tensor, x: Tensor, sd: Tensor) -> None:
    """An intercept and a slope for each row of y, correlated; x has the places of its columns."""
    tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor([2.0, 2.0])).to_event(1))
    tril = tau[:, None] * torch.tensor([[1.0, 0.0], [0.6, 0.8]]).to(y)
    with pyro.plate("row", len(y)):
        u = pyro.sample("u", dist.MultivariateNormal(y.new_zeros(2), scale_tril=tril))
        pyro.sample("y", dist.Normal(u[..., :1] + u[..., 1:] * x, sd).to_event(1), obs=y)


def test_data_that_tell_of_elements_together_are_read_as_a_matrix() -> None:
    x = torch.arange(5.0, dtype=torch.float64)
    design = torch.stack([torch.ones_like(x), x], -1)
    slopes = torch.linspace(-2.0, 2.0, 6, dtype=torch.float64)
    y = 3.0 - slopes[:, None] + slopes[:, None] * x + torch.sin(torch.arange(30.0, dtype=torch.float64)).reshape(6, 5)
    held = frame_of(lines, y, x, ONE).centring["u"]
    wanted = torch.cat([(design.T @ design)[:, None].expand(2, 6, 2), (y @ design)[None]])
    torch.testing.assert_close(held, wanted, rtol=1e-4, atol=1e-5)


def test_data_that_tell_of_elements_apart_leave_a_diagonal() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)  # whose columns are orthogonal
    y = torch.sin(torch.arange(30.0, dtype=torch.float64)).reshape(6, 5)
    held = frame_of(lines, y, x, 0.3 * ONE).centring["u"]
    assert not held[0, :, 1].any()
    assert not held[1, :, 0].any()
    assert held[0, :, 0].all()


def test_data_on_some_rows_centre_those_rows() -> None:
    def partly(y: Tensor) -> None:
        tau = pyro.sample("tau", dist.HalfNormal(y.new_tensor(2.0)))
        with pyro.plate("row", len(y)):
            theta = pyro.sample("theta", dist.Normal(y.new_tensor(0.0), tau))
            sd = torch.where(torch.arange(len(y)) < 6, 0.05, 20.0).to(y)
            pyro.sample("y", dist.Normal(theta, sd), obs=y)

    precision, shift = frame_of(partly, Y).centring["theta"]
    torch.testing.assert_close(precision[:6], torch.full((6,), 400.0).to(Y), rtol=1e-5, atol=0)
    torch.testing.assert_close(shift[:6] / precision[:6], Y[:6], rtol=1e-5, atol=1e-6)
    assert not precision[6:].any()
    assert not shift[6:].any()


def test_the_frame_is_kept_with_the_problem() -> None:
    problem = lvm.Problem(schools, Y, 3.0)
    with problem.session(seed=0):
        frame = find_frame(problem, seed=1)
        assert find_frame(problem, seed=1) is frame
        assert find_frame(problem, seed=2) is not frame
        assert known_frame(problem, frame.centring) is frame
        assert known_frame(problem, {"theta": frame.centring["theta"] + 0.01}) is None
        assert known_frame(problem, {}) is None
    assert known_frame(lvm.Problem(schools, Y, 3.0), frame.centring) is None


def test_evaluations_of_all_attempts_are_counted() -> None:
    frame = frame_of(schools, Y, 0.05)
    assert frame.evaluations > frame.target.evaluations > 1000


def test_the_random_state_is_left_alone(untouched_rng: None) -> None:
    frame_of(linear, ONE)


@pytest.mark.parametrize(
    ("model", "match"),
    [(reads, r"one draw at a time.*test_frame\.py.*Fix:"), (wide, r"1,001 unknowns.*1,000.*Fix:.*mean_field")],
)
def test_models_that_are_too_slow_or_too_large_are_refused(model: Callable[..., Any], match: str) -> None:
    with pytest.raises(lvm.FitError, match=match):
        frame_of(model, ONE)


def test_pathfinder_finds_a_gaussian_for_each_mode_in_plain_coordinates() -> None:
    problem = lvm.Problem(two_modes, ONE)
    with problem.session(seed=0):
        found = pathfinder_family(problem, seed=0, most=6)
        assert len(pathfinder_family(problem, seed=0, most=1).family.weights) == 1
    order = np.argsort(found.family.means[:, 0])
    np.testing.assert_allclose(found.family.means[order, 0], [-4.0, 5.0], atol=0.01)
    np.testing.assert_allclose(found.family.weights[order], [0.7, 0.3], atol=0.05)
    assert not found.target.joint.centring


def test_pathfinder_takes_few_densities() -> None:
    problem = lvm.Problem(linear, ONE)
    with problem.session(seed=0):
        found = pathfinder_family(problem, seed=0, most=6)
    assert found.target.evaluations < 3000
    assert found.elbos[0] == pytest.approx(float(dist.Normal(0.0, np.sqrt(2.01)).log_prob(torch.tensor(1.0))), abs=0.05)


def signs(count: int) -> lvm.Problem:
    """Of each element the absolute value is known, and the prior says which sign is likelier: 2**count modes, none a copy."""

    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.full_like(y, 0.3), 3.0).to_event(1))
        pyro.sample("y", dist.Normal(z.abs(), 0.1).to_event(1), obs=y)

    return lvm.Problem(model, torch.linspace(1.3, 3.1, count) ** 1.1)


@pytest.mark.parametrize("guide", ["student", "pathfinder"])
def test_every_mode_is_found_where_there_are_more_than_first_ascents_see(guide: str) -> None:
    problem = signs(4)
    fit = lvm.fit(problem, guide, seed=0, progress=False)
    y = torch.linspace(1.3, 3.1, 4) ** 1.1
    z = fit.to_dataframe().filter(like="z").to_numpy()
    assert len({tuple(row) for row in (z > 0).tolist()}) == 16
    expected = (y * torch.tanh(0.3 * y / 9)).numpy()
    assert np.abs(z.mean(0) - expected).max() < 0.1 * z.std(0).max()
    assert fit.verdict.status == "trusted"


@pytest.mark.parametrize("guide", ["student", "pathfinder"])
def test_modes_that_were_not_found_are_told(guide: str) -> None:
    fit = lvm.fit(signs(6), guide, seed=0, progress=False)
    assert fit.verdict.status == "doubtful"
    assert any("went on to end at new modes" in reason.text for reason in fit.verdict.reasons)


def test_modes_beside_many_unknowns_fit_into_a_guide() -> None:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        pyro.sample("w", dist.Normal(torch.zeros(310), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z.abs(), 0.1).to_event(1), obs=y)

    fit = lvm.fit(lvm.Problem(model, torch.tensor([2.0, 1.5])), "pathfinder", seed=0, draws=400, progress=False)
    z = fit.to_dataframe().filter(like="z").to_numpy()
    assert len({tuple(row) for row in (z > 0).tolist()}) == 4


@pytest.mark.parametrize("guide", ["structured", "mixture", "laplace", "full_rank"])
def test_a_guide_that_left_a_mode_out_is_not_trusted(guide: str) -> None:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.3, 3.0))
        pyro.sample("y", dist.Normal(z.abs(), 0.1), obs=y)

    fit = lvm.fit(lvm.Problem(model, torch.tensor(2.0)), guide, seed=0, max_steps=300, draws=400, progress=False)
    z = fit.to_dataframe()["z"]
    assert min((z > 0).mean(), (z < 0).mean()) == 0.0  # one of two modes alike
    assert fit.verdict.status == "doubtful"
    assert any("Ascents from several starts" in reason.text for reason in fit.verdict.reasons)
