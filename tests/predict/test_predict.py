"""Predictions at new data: what a posterior keeps, what is new, and what cannot be told is asked for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm

QUIET = {"progress": False}


def line(x: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        mean = pyro.deterministic("mean", a + b * x)
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def groups(g: Tensor, count: int, y: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    with pyro.plate("groups", count):
        effect = pyro.sample("effect", dist.Normal(m, 2.0))
    with pyro.plate("rows", len(g)):
        pyro.sample("y", dist.Normal(effect[g], 1.0), obs=y)


def by_row(x: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(scale * z, 1.0), obs=x)


def walk(y: Tensor, steps: int) -> None:
    x: Tensor = torch.tensor(0.0)
    for t in pyro.markov(range(steps)):
        x = pyro.sample(f"x_{t}", dist.Normal(x, 1.0))
        if t < len(y):
            pyro.sample(f"y_{t}", dist.Normal(x, 0.1), obs=y[t])


def lagged(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    before = torch.cat([torch.zeros(1), y[:-1]])
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a * before, 1.0), obs=y)


X = torch.linspace(-1, 1, 40)
Y = 1.0 + 2.0 * X + 0.5 * torch.sin(37.0 * torch.arange(40.0))


@pytest.fixture(scope="module")
def regression() -> lvm.Exact:
    return lvm.exact(lvm.Problem(line, X, Y), draws=4000, **QUIET)


@pytest.fixture(scope="module")
def hierarchy() -> lvm.Exact:
    g = torch.arange(5).repeat_interleave(8)
    y = torch.tensor([3.0, -3.0, 0.0, 1.0, 6.0])[g] + torch.sin(11.0 * torch.arange(40.0))
    return lvm.exact(lvm.Problem(groups, g, 5, y), draws=4000, **QUIET)


def closed_form(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of y at new x, of the conjugate regression."""
    design = np.stack([np.ones(40), X.numpy().astype(float)], 1)
    precision = design.T @ design / 0.25 + np.eye(2) / 25
    mean = np.linalg.solve(precision, design.T @ Y.numpy().astype(float) / 0.25)
    new = np.stack([np.ones(len(x)), x], 1)
    return new @ mean, np.sqrt(0.25 + np.einsum("ij,jk,ik->i", new, np.linalg.inv(precision), new))


@pytest.mark.parametrize("x", [[0.0, 1.0, 5.0], [2.0], list(np.linspace(-3, 3, 90))], ids=["fewer", "one", "more"])
def test_new_covariates_give_the_predictive_distribution(regression: lvm.Exact, x: list[float]) -> None:
    found = lvm.predict(regression, np.array(x), draws=4000)["predictions"]["y"]
    mean, sd = closed_form(np.array(x))
    assert found.dims == ("chain", "draw", "rows") and found.shape == (1, 4000, len(x))
    np.testing.assert_allclose(found.mean(("chain", "draw")), mean, atol=5 * sd.max() / np.sqrt(4000))
    np.testing.assert_allclose(found.std(("chain", "draw")), sd, rtol=0.08)


def test_an_observation_may_be_none_or_left_out_and_the_names_may_be_given(regression: lvm.Exact) -> None:
    ways = [lvm.predict(regression, X[:3]), lvm.predict(regression, X[:3], None), lvm.predict(regression, x=X[:3])]
    assert all(np.array_equal(way["predictions"]["y"], ways[0]["predictions"]["y"]) for way in ways)


def test_means_have_no_noise_of_the_observation(regression: lvm.Exact) -> None:
    found = lvm.predict(regression, [0.0, 3.0], kind="mean", draws=4000)["predictions"]["y"].std(("chain", "draw"))
    _, sd = closed_form(np.array([0.0, 3.0]))
    np.testing.assert_allclose(found, np.sqrt(sd**2 - 0.25), rtol=0.08)


def test_what_is_given_is_scored(regression: lvm.Exact) -> None:
    x, y = np.array([0.5, -2.0]), np.array([2.0, 0.0])
    score = lvm.predict(regression, x, y, draws=4000)["log_score"]["y"].values.reshape(-1, 2)
    mean, sd = closed_form(x)
    wanted = -0.5 * ((y - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(np.log(np.exp(score).mean(0)), wanted, atol=0.05)


def test_with_nothing_new_it_is_the_predictive_of_the_data(regression: lvm.Exact) -> None:
    found = lvm.predict(regression)
    assert found["predictions"]["y"].sizes["rows"] == 40
    np.testing.assert_array_equal(found["predictions_constant_data"]["x"], X)


def test_known_groups_keep_their_draws_and_new_ones_are_drawn_from_their_prior(hierarchy: lvm.Exact) -> None:
    found = lvm.predict(hierarchy, [0, 4, 6], 7, draws=4000)["predictions"]
    drawn = hierarchy.data["posterior"]
    assert np.array_equal(found["effect"][..., :5], drawn["effect"])
    new = found["effect"][..., 5:].std(("chain", "draw"))
    np.testing.assert_allclose(new, np.hypot(2.0, float(drawn["m"].std())), rtol=0.08)
    mean = found["y"].mean(("chain", "draw"))
    effect = drawn["effect"].mean(("chain", "draw"))
    np.testing.assert_allclose(mean, [effect[0], effect[4], drawn["m"].mean()], atol=0.2)


def test_members_may_be_said(hierarchy: lvm.Exact) -> None:
    found = lvm.predict(hierarchy, [0, 1], 2, members={"groups": [4, None]}, draws=4000)["predictions"]
    assert np.array_equal(found["effect"][..., 0], hierarchy.data["posterior"]["effect"][..., 4])
    again = lvm.predict(hierarchy, [0, 1], 5, members={"groups": "new"}, draws=4000)["predictions"]["effect"]
    np.testing.assert_allclose(again.mean(("chain", "draw")), hierarchy.data["posterior"]["m"].mean(), atol=0.25)


def test_latents_of_new_rows_are_drawn_anew() -> None:
    fit = lvm.fit(lvm.Problem(by_row, torch.randn(30, generator=torch.Generator().manual_seed(0))), "mean_field",
                  max_steps=200, **QUIET)  # fmt: skip
    found = lvm.predict(fit, rows=4, members={"rows": "new"}, draws=2000)["predictions"]
    scale = float(fit.params["scale"].exp())
    np.testing.assert_allclose(found["x"].std(("chain", "draw")), np.hypot(scale, 1.0), rtol=0.15)


def test_rows_with_latents_of_their_own_that_may_be_the_same_ones_are_asked_for() -> None:
    schools = lvm.exact(lvm.Problem(shrunk, torch.ones(4), torch.arange(4.0)), **QUIET)
    with pytest.raises(lvm.ArgumentError, match=r"'school' .* nothing says whether they are the same.*members="):
        lvm.predict(schools, torch.full((4,), 2.0))
    same = lvm.predict(schools, torch.full((4,), 2.0), members={"school": "same"})["predictions"]
    assert "theta" not in same and same["y"].sizes["school"] == 4
    assert "theta" in lvm.predict(schools, torch.full((6,), 2.0))["predictions"]


def shrunk(sigma: Tensor, y: Tensor) -> None:
    with pyro.plate("school", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(0.0, 3.0))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def test_time_goes_on() -> None:
    fit = lvm.fit(lvm.Problem(walk, torch.tensor([0.5, 1.0, 3.0]), 3), "full_rank", **QUIET)
    found = lvm.predict(fit, steps=5, draws=4000)["predictions"]
    np.testing.assert_allclose([found[f"x_{t}"].mean() for t in (3, 4)], [3.0, 3.0], atol=0.15)
    np.testing.assert_allclose([found[f"x_{t}"].std() for t in (3, 4)], np.sqrt([1.01, 2.01]), rtol=0.1)


def test_observations_that_are_read_otherwise_stand_for_themselves_at_their_own_rows_alone() -> None:
    y = torch.tensor([0.3, 0.8, -0.2, 1.1])
    fit = lvm.exact(lvm.Problem(lagged, y), **QUIET)
    found = lvm.predict(fit, kind="mean")["predictions"]["y"].mean(("chain", "draw")).values
    np.testing.assert_allclose(found / found[1] * 0.3, [0.0, 0.3, 0.8, -0.2], atol=1e-5)
    with pytest.raises(lvm.ProblemError, match=r"lagged reads y other than to observe it.*Fix:"):
        lvm.predict(fit, rows=6)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((X, Y, X), {}, r"2 arguments by position, got 3"),
        ((X,), {"z": 1.0}, r"no argument of line is called 'z'"),
        ((X,), {"x": X}, r"'x' is given twice"),
        ((None,), {}, r"'x' is None, but it is no observation"),
        ((X[:3], Y[:2]), {}, r"now have 3 and 2"),
        ((), {"y": Y}, r"'x' of line has a value for each of 40 rows"),
        ((X,), {"kind": "median"}, r"kind must be"),
        ((X,), {"rows": 3}, r"rows=3 is given beside 'x', which has 40"),
        ((X,), {"members": {"nobody": "new"}}, r"no plate of line is called 'nobody'"),
    ],
)
def test_what_cannot_be_meant_is_refused(regression: lvm.Exact, args: tuple, kwargs: dict, message: str) -> None:
    with pytest.raises((lvm.ArgumentError, lvm.UnknownNameError), match=message):
        lvm.predict(regression, *args, **kwargs)


def test_a_latent_whose_values_nobody_can_tell_apart_is_named() -> None:
    def weights(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    fit = lvm.exact(lvm.Problem(weights, torch.randn(9, 2), torch.randn(9)), **QUIET)
    assert lvm.predict(fit, torch.randn(3, 2))["predictions"]["y"].sizes["rows"] == 3
    with pytest.raises(lvm.ProblemError, match=r"latent 'w' .* shape \(3,\) .* \(2,\) in the fit"):
        lvm.predict(fit, torch.randn(3, 3))


def test_results_of_every_method_and_saved_ones_predict(tmp_path: Path) -> None:
    problem = lvm.Problem(line, X, Y)
    for result in (
        lvm.fit(problem, "mean_field", max_steps=60, **QUIET),
        lvm.nuts(problem, chains=2, warmup=30, draws=30, **QUIET),
        lvm.infer(problem, **QUIET),
    ):
        found = lvm.predict(result, [0.0, 1.0])["predictions"]["y"]
        assert found.sizes["rows"] == 2
        result.save(tmp_path / result.name)
        saved = lvm.load(tmp_path / result.name, problem=problem)
        assert np.array_equal(lvm.predict(saved, [0.0, 1.0])["predictions"]["y"], found)


def test_the_same_seed_gives_the_same_predictions_and_data_stay_as_they_are(regression: lvm.Exact) -> None:
    x = np.array([0.0, 1.0])
    one, two = (lvm.predict(regression, x, seed=3)["predictions"]["y"] for _ in range(2))
    assert np.array_equal(one, two) and np.array_equal(x, [0.0, 1.0])
    assert not np.array_equal(one, lvm.predict(regression, x, seed=4)["predictions"]["y"])


def test_labels_stay_where_lengths_do_and_go_where_they_do_not() -> None:
    model = lvm.model(coords={"rows": [f"r{i}" for i in range(40)]})(lambda x, y: line(x, y))
    fit = lvm.exact(lvm.Problem(model, X, Y), **QUIET)
    assert list(lvm.predict(fit)["predictions"]["rows"].values[:2]) == ["r0", "r1"]
    assert list(lvm.predict(fit, X[:2])["predictions"]["rows"].values) == [0, 1]


def test_members_with_other_covariates_of_their_own_are_not_kept_unless_said() -> None:
    def levels(u: Tensor, g: Tensor, y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", len(u)):
            effect = pyro.sample("effect", dist.Normal(slope * u, 1.0))
        with pyro.plate("rows", len(g)):
            pyro.sample("y", dist.Normal(effect[g], 1.0), obs=y)

    u = torch.tensor([-1.0, 0.0, 1.0])
    fit = lvm.exact(lvm.Problem(levels, u, torch.tensor([0, 0, 1, 2]), torch.arange(4.0)), **QUIET)
    more = lvm.predict(fit, torch.tensor([-1.0, 0.0, 1.0, 2.0]), [3, 0])["predictions"]["effect"]
    assert np.array_equal(more[0, :10, :3], fit.data["posterior"]["effect"][0, :40:4])
    with pytest.raises(lvm.ProblemError, match=r"'effect' of levels depends .*members="):
        lvm.predict(fit, u + 1.0, [0])
    assert lvm.predict(fit, u + 1.0, [0], members={"groups": "same"})["predictions"]["y"].sizes["rows"] == 1


def test_an_argument_that_the_fit_left_at_its_default_may_be_given() -> None:
    def seen(y: Tensor, times: int = 1) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(times * m, 0.1), obs=y)

    fit = lvm.exact(lvm.Problem(seen, torch.ones(9)), **QUIET)
    assert float(lvm.predict(fit, times=3, rows=2)["predictions"]["y"].mean()) == pytest.approx(3.0, abs=0.1)


def test_observations_in_pieces_are_known() -> None:
    fit = lvm.fit(lvm.Problem(walk, torch.tensor([0.5, 1.0, 3.0]), 3), "full_rank", **QUIET)
    assert set(lvm.predict(fit)["predictions"].data_vars) == {"y_0", "y_1", "y_2"}


def test_scores_are_those_of_the_predictive_distribution(regression: lvm.Exact) -> None:
    x, y = np.linspace(-2, 2, 30), np.linspace(-3, 5, 30) + np.sin(np.arange(30.0))
    found = lvm.predict(regression, x, y, draws=4000)["scores"]
    mean, sd = closed_form(x)
    z = (y - mean) / sd
    density, below = (
        np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi),
        np.array([0.5 * (1 + math.erf(v / np.sqrt(2))) for v in z]),
    )
    np.testing.assert_allclose(
        found["y_crps"], sd * (z * (2 * below - 1) + 2 * density - 1 / np.sqrt(np.pi)), atol=0.03
    )
    np.testing.assert_allclose(found["y_pit"], below, atol=0.04)
    lpd = np.log(density) - np.log(sd)
    assert np.all(np.abs(found["y_lpd"] - lpd) < 5 * found["y_lpd_error"] + 1e-3)
    assert found.attrs["y_lpd"] == pytest.approx(lpd.sum(), abs=1.0)
    assert found.attrs["y_inside_90"] == pytest.approx(np.mean(np.abs(below - 0.5) <= 0.45), abs=0.07)


def test_values_without_an_order_have_a_density_alone() -> None:
    def kinds(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Categorical(logits=x[:, None] * w), obs=y)

    fit = lvm.fit(lvm.Problem(kinds, torch.linspace(-1, 1, 9), torch.arange(9) % 3), "full_rank", **QUIET)
    found = lvm.predict(fit, torch.ones(2), torch.tensor([0, 2]))
    assert set(found["scores"].data_vars) == {"y_lpd", "y_lpd_error"}


def both(x: Tensor, y: Tensor, n: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(b * x, 1.0), obs=y)
        pyro.sample("n", dist.Poisson((b * x).exp()), obs=n)


@pytest.mark.parametrize("n", [torch.arange(6.0), torch.zeros(6)], ids=["that differ", "that are all alike"])
def test_of_two_observations_each_is_predicted_or_scored(n: Tensor) -> None:
    fit = lvm.fit(lvm.Problem(both, torch.linspace(-1, 1, 6), torch.arange(6.0), n), "full_rank", **QUIET)
    neither = lvm.predict(fit, torch.ones(3))
    assert set(neither["predictions"].data_vars) == {"y", "n"} and "log_score" not in neither.children
    one = lvm.predict(fit, torch.ones(3), torch.ones(3))
    assert set(one["log_score"].data_vars) == {"y"} and "n_lpd" not in one["scores"]
    assert not np.array_equal(one["predictions"]["n"][0, :, 0], one["predictions"]["n"][0, ::-1, 0])


def test_pieces_of_observations_that_are_all_alike_are_known() -> None:
    fit = lvm.fit(lvm.Problem(walk, torch.ones(3), 3), "full_rank", **QUIET)
    assert set(lvm.predict(fit, None, 4)["predictions"].data_vars) == {"y_0", "y_1", "y_2", "x_3"}


def test_draws_that_are_asked_for_are_taken_evenly_and_not_fewer(regression: lvm.Exact) -> None:
    found = lvm.predict(regression, X, draws=1500)["predictions"]
    assert found.sizes["draw"] == 1500 and float(found.attrs["thinned_by"]) == pytest.approx(4000 / 1500, abs=1e-3)
    means = found["mean"].values[0]
    every = regression.data["posterior"]["mean"].values[0]
    index = np.arange(1500) * 4000 // 1500
    np.testing.assert_allclose(means, every[index], rtol=1e-5)
    many = lvm.predict(regression, torch.zeros(6_000), draws=4000)["predictions"]["y"]
    assert many.sizes["draw"] == 4000  # by default there would be fewer, for memory
    assert lvm.predict(regression, torch.zeros(30_000))["predictions"].sizes["draw"] < 1000


def test_summaries_of_batches_are_those_of_all_rows_at_once(regression: lvm.Exact) -> None:
    x, y = np.linspace(-2, 2, 30), np.linspace(-3, 5, 30)
    whole = lvm.predict(regression, x, y, draws=2000)
    parts = lvm.predict(regression, ((x[i : i + 10], y[i : i + 10]) for i in (0, 10, 20)), summary=True, draws=2000)
    drawn = whole["predictions"]["y"].values.reshape(2000, 30)
    wanted = np.stack([drawn.mean(0), drawn.std(0), *np.quantile(drawn, [0.05, 0.5, 0.95], axis=0)], 1)
    np.testing.assert_allclose(
        lvm.predict(regression, x, y, draws=2000, summary=True)["predictions"]["y"], wanted, atol=1e-4
    )
    np.testing.assert_allclose(parts["predictions"]["y"], wanted, atol=0.1)
    np.testing.assert_allclose(parts["scores"]["y_lpd"], whole["scores"]["y_lpd"], rtol=1e-4)
    assert parts["scores"].attrs["y_lpd"] == pytest.approx(whole["scores"].attrs["y_lpd"], rel=1e-4)
    assert list(parts["predictions"]["rows"].values) == list(range(30))


def test_rows_that_follow_from_those_before_them_are_not_streamed() -> None:
    def process(y: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        root = torch.eye(len(y)) + 0.1
        pyro.sample("y", dist.MultivariateNormal(level.expand(len(y)), root), obs=y)

    fit = lvm.exact(lvm.Problem(process, torch.arange(4.0)), **QUIET)
    with pytest.raises(lvm.ProblemError, match=r"follow from those before them.*Fix:"):
        lvm.predict(fit, (torch.ones(2) for _ in range(2)), summary=True)
