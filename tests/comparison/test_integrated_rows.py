"""Leave-one-out with latents that few rows share integrated out, against closed forms and grids; what cannot be is doubted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._program.density import Joint
from pyrolvm._results.blocks import Members, levels_of

QUIET: dict[str, Any] = {"progress": False}
GROUP = torch.arange(30) % 6
GENERATOR = torch.Generator().manual_seed(0)
Y = 1.5 * torch.randn(6, generator=GENERATOR)[GROUP] + torch.randn(30, generator=GENERATOR)
Y[4] = 7.0
N = torch.poisson((0.5 + 0.8 * torch.randn(40, generator=GENERATOR)).exp(), generator=GENERATOR)
N[7] = 14.0


def grouped(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 3.0))
    with pyro.plate("groups", 6):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))  # in units of its sd
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(middle + 1.5 * effect[GROUP], 1.0), obs=y)


def pooled(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(middle, 1.8), obs=y)


def vector(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 3.0))
    own = pyro.sample("own", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(middle + own, 0.5), obs=y)


def counts(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(y)):
        effect = pyro.sample("effect", dist.Normal(0.0, spread))
        pyro.sample("y", dist.Poisson((a + effect).exp()), obs=y)


def even_counts(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(a.exp()), obs=y)


def rates(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        own = pyro.sample("own", dist.Gamma(3.0, rate))  # on the positive line
        pyro.sample("y", dist.Poisson(own), obs=y)


SCHOOL = torch.arange(60) // 4
AREA = torch.arange(15) // 5
CHILDREN = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
X = torch.linspace(-2.0, 2.0, 60)


def schools(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 3.0))
    with pyro.plate("areas", 3):
        area = pyro.sample("area", dist.Normal(middle, 1.0))
    with pyro.plate("schools", 15):
        school = pyro.sample("school", dist.Normal(area[AREA], 0.8))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(school[SCHOOL], 0.5), obs=y)


def schools_apart(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 3.0))
    with pyro.plate("areas", 3):
        area = pyro.sample("area", dist.Normal(0.0, 1.0))
    school = pyro.sample("school", dist.Normal(torch.zeros(15), 1.0).to_event(1))  # in units of its sd
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(middle + area[AREA[SCHOOL]] + 0.8 * school[SCHOOL], 0.5), obs=y)


def rows_in_plates(y: Tensor) -> None:
    middle = pyro.sample("middle", dist.Normal(0.0, 3.0))
    with pyro.plate("areas", 3, dim=-3):
        area = pyro.sample("area", dist.Normal(middle, 1.0))
        with pyro.plate("schools", 5, dim=-2):
            school = pyro.sample("school", dist.Normal(area, 0.8))
            with pyro.plate("rows", 4, dim=-1):
                pyro.sample("y", dist.Normal(school, 0.5), obs=y)


def levels(model: Any, y: Tensor) -> tuple[Members, ...]:
    problem = lvm.Problem(model, y)
    with problem.session(seed=0), torch.no_grad():
        return levels_of(Joint(problem), torch.zeros(problem.unconstrained_size))


def gaussian_rows(covariance: np.ndarray, y: Tensor) -> np.ndarray:
    precision = np.linalg.inv(covariance)
    gap, variance = precision @ y.double().numpy(), 1 / np.diag(precision)
    return np.asarray(-0.5 * np.log(2 * np.pi * variance) - 0.5 * gap**2 * variance)


def from_grid(log_prior: np.ndarray, log_density: np.ndarray) -> np.ndarray:
    """From densities of rows ``(points, rows)`` at points of what is shared."""
    joint = log_prior + log_density.sum(1)
    return np.asarray(logsumexp(joint) - logsumexp(joint[:, None] - log_density, axis=0))


SAME = (GROUP[:, None] == GROUP).double().numpy()
GROUPED = gaussian_rows(9.0 + 2.25 * SAME + np.eye(30), Y)
POOLED = gaussian_rows(9.0 + 3.24 * np.eye(30), Y)
VECTOR = gaussian_rows(9.0 + 1.25 * np.eye(30), Y)


def exact_counts() -> tuple[np.ndarray, np.ndarray]:
    """Rows of counts with an effect of their own, and without."""
    place, weight = (torch.as_tensor(one) for one in np.polynomial.hermite_e.hermegauss(120))
    a, log_spread = (
        one.reshape(-1, 1)
        for one in torch.meshgrid(
            torch.linspace(-1.0, 2.0, 70, dtype=torch.double),
            torch.linspace(-2.5, 1.2, 70, dtype=torch.double),
            indexing="ij",
        )
    )
    spread = log_spread.exp()
    rows = [
        (dist.Poisson((a + spread * place).exp()).log_prob(n) + (weight / weight.sum()).log()).logsumexp(1)
        for n in N.double()
    ]
    prior = dist.Normal(0.0, 2.0).log_prob(a) + dist.HalfNormal(1.0).log_prob(spread) + log_spread
    line = torch.linspace(-1.0, 2.0, 2_000, dtype=torch.double)[:, None]
    even = dist.Poisson(line.exp()).log_prob(N.double())
    return (
        from_grid(prior[:, 0].numpy(), torch.stack(rows, 1).numpy()),
        from_grid(dist.Normal(0.0, 2.0).log_prob(line)[:, 0].numpy(), even.numpy()),
    )


def test_effects_of_groups_are_integrated_out_and_rows_far_off_are_right() -> None:
    posterior = lvm.exact(lvm.Problem(grouped, Y), draws=500, **QUIET)
    found = posterior.loo()
    assert found.integrated == ("effect",) and found.verdict.trusted and not found.matched
    np.testing.assert_allclose(found.rows["elpd"], GROUPED, atol=0.03)
    assert np.abs(posterior.loo(integrate=False, moment_match=False).rows["elpd"] - GROUPED).max() > 0.1


def test_elements_of_a_vector_are_members_too_and_are_doubted_where_they_are_not_integrated_out() -> None:
    posterior = lvm.exact(lvm.Problem(vector, Y), draws=500, **QUIET)
    found, moved = posterior.loo(), posterior.loo(integrate=False)
    assert found.integrated == ("own",)
    np.testing.assert_allclose(found.rows["elpd"], VECTOR, rtol=0.004, atol=0.05)
    assert moved.elpd > VECTOR.sum() + 3 and moved.verdict.status == "doubtful"
    assert any("latents of their own" in reason.text for reason in moved.verdict.reasons)


def test_rows_tied_by_their_latents_are_not_taken_apart_and_members_are_found_however_rows_are_written() -> None:
    def tied(y: Tensor) -> None:
        steps = pyro.sample("steps", dist.Normal(torch.zeros(len(y)), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(steps.cumsum(0), 1.0), obs=y)

    def of_two(y: Tensor) -> None:
        with pyro.plate("groups", 6):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(effect[GROUP] + effect[GROUP.flip(0)], 1.0), obs=y)

    assert levels(tied, Y) == levels(of_two, Y) == ()
    (groups,), (rows,) = levels(grouped, Y), levels(rates, N)
    assert torch.equal(groups.rows["y"], GROUP) and groups.count == 6
    assert torch.equal(rows.rows["y"], torch.arange(40))


@pytest.mark.parametrize("model", [schools, schools_apart, rows_in_plates])
def test_members_of_members_are_found_however_they_are_written(model: Any) -> None:
    found = levels(model, CHILDREN if model is rows_in_plates else CHILDREN.reshape(-1))
    assert [level.latents for level in found] == [("school",), ("area",)]
    above = found[0].above
    assert above is not None and above.tolist() == AREA.tolist() and found[1].above is None
    assert torch.equal(found[0].rows["y"], SCHOOL) and torch.equal(found[1].rows["y"], AREA[SCHOOL])


def test_crossed_effects_are_no_levels() -> None:
    def crossed(y: Tensor) -> None:
        with pyro.plate("readers", 10):
            reader = pyro.sample("reader", dist.Normal(0.0, 1.0))
        with pyro.plate("items", 6):
            item = pyro.sample("item", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(reader[torch.arange(30) % 10] + item[GROUP], 1.0), obs=y)

    assert [level.latents for level in levels(crossed, Y)] == [("reader",)]


@pytest.mark.slow
@pytest.mark.parametrize("model", [schools, schools_apart, rows_in_plates])
@pytest.mark.parametrize("method", ["exact", "mean_field"])
def test_members_of_members_are_integrated_out(model: Any, method: str) -> None:
    problem = lvm.Problem(model, CHILDREN if model is rows_in_plates else CHILDREN.reshape(-1))
    posterior = lvm.exact(problem, draws=300, **QUIET) if method == "exact" else lvm.fit(problem, method, **QUIET)
    found = posterior.loo()
    area = AREA[SCHOOL]
    covariance = 9.0 + (area[:, None] == area).numpy() + 0.64 * (SCHOOL[:, None] == SCHOOL).numpy() + 0.25 * np.eye(60)
    wanted = gaussian_rows(covariance, CHILDREN.reshape(-1))
    assert found.integrated == ("school", "area") and found.verdict.trusted
    np.testing.assert_allclose(found.rows["elpd"].values.reshape(-1), wanted, atol=0.02)


@pytest.mark.slow
def test_a_law_that_fills_a_tensor_has_its_effects_integrated_out() -> None:
    def graded(y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(y)):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.5))
            law = dist.OrderedLogistic(slope * X + effect, torch.tensor([-1.0, 0.0, 1.5]))
            pyro.sample("y", law, obs=y)

    place, weight = (torch.as_tensor(one) for one in np.polynomial.hermite_e.hermegauss(60))
    line = torch.linspace(-4.0, 4.0, 400, dtype=torch.double)
    grades = torch.bucketize(X + 1.5 * torch.randn(60, generator=GENERATOR), torch.tensor([-1.0, 0.0, 1.5]))
    reach = line[:, None, None] * X.double() + 1.5 * place[:, None]
    each = dist.OrderedLogistic(reach, torch.tensor([-1.0, 0.0, 1.5], dtype=torch.double)).log_prob(grades)
    rows = (each + (weight / weight.sum()).log()[:, None]).logsumexp(1)
    wanted = from_grid(dist.Normal(0.0, 1.0).log_prob(line).numpy(), rows.numpy())
    found = lvm.fit(lvm.Problem(graded, grades), "full_rank", **QUIET).loo()
    assert found.integrated == ("effect",) and found.verdict.trusted
    np.testing.assert_allclose(found.rows["elpd"], wanted, atol=0.05)


@pytest.mark.slow
def test_latents_with_two_modes_are_not_integrated_around_one_of_them() -> None:
    def squared(y: Tensor) -> None:
        middle = pyro.sample("middle", dist.Normal(0.0, 0.1))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(middle + z**2, 0.1), obs=y)

    y = torch.linspace(0.5, 3.0, 12)
    found = lvm.fit(lvm.Problem(squared, y), "mean_field", max_steps=100, draws=200, engine="pyro", **QUIET).loo()
    assert not found.verdict.trusted


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "mean_field", "full_rank", "smc"])
def test_counts_with_effects_of_their_own_are_left_out_rightly_by_every_method(method: str) -> None:
    problem = lvm.Problem(counts, N)
    posterior: lvm.Posterior
    if method == "nuts":
        posterior = lvm.nuts(problem, chains=2, warmup=500, draws=1_000, **QUIET)
    elif method == "smc":
        posterior = lvm.smc(problem, particles=2_000, **QUIET)
    else:
        posterior = lvm.fit(problem, method, **QUIET)
    found, (wanted, _) = posterior.loo(), exact_counts()
    assert found.integrated == ("effect",) and found.verdict.trusted
    assert found.elpd == pytest.approx(wanted.sum(), abs=0.3)
    assert np.abs(found.rows["elpd"] - wanted).max() < 0.15


@pytest.mark.slow
def test_positive_latents_of_rows_are_integrated_out() -> None:
    found = lvm.fit(lvm.Problem(rates, N), "mean_field", **QUIET).loo()
    rate = np.linspace(0.02, 8.0, 4_000)[:, None]
    rows = dist.GammaPoisson(3.0, torch.as_tensor(rate)).log_prob(N.double()).numpy()
    wanted = from_grid((np.log(rate) - rate)[:, 0], rows)
    assert found.integrated == ("own",)
    np.testing.assert_allclose(found.rows["elpd"], wanted, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nuts", "mean_field"])
def test_models_are_ranked_as_by_exact_leave_one_out(method: str) -> None:
    def posterior(problem: lvm.Problem) -> lvm.Posterior:
        if method == "nuts":
            return lvm.nuts(problem, chains=2, warmup=500, draws=1_000, **QUIET)
        return lvm.fit(problem, method, **QUIET)

    several: list[tuple[Any, Any, Tensor, np.ndarray, np.ndarray]] = [
        (grouped, pooled, Y, GROUPED, POOLED),
        (counts, even_counts, N, *exact_counts()),
    ]
    for one, other, data, first, second in several:
        found = lvm.compare_models(
            {"one": posterior(lvm.Problem(one, data)), "other": posterior(lvm.Problem(other, data))}
        )
        gap = first - second
        better, worse = ("one", "other") if gap.sum() > 0 else ("other", "one")
        assert list(found.table.index) == [better, worse]
        line = found.table.loc[worse]
        assert line["elpd_diff"] == pytest.approx(abs(gap.sum()), abs=0.5)
        assert line["diff_error"] == pytest.approx(np.sqrt(len(gap)) * gap.std(ddof=1), rel=0.1)


@pytest.mark.slow
def test_a_guide_that_is_far_off_is_left_for_laws_that_are_sought_with_few_draws() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(60, generator=generator)
    y = torch.poisson(torch.exp(0.5 + 0.5 * x + 0.7 * torch.randn(60, generator=generator)), generator=generator)

    def counts(x: torch.Tensor, y: torch.Tensor) -> None:
        a, b = pyro.sample("a", dist.Normal(0.0, 2.0)), pyro.sample("b", dist.Normal(0.0, 2.0))
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("row", len(y)):
            effect = pyro.sample("effect", dist.Normal(0.0, scale))
            pyro.sample("y", dist.Poisson(torch.exp(a + b * x + effect)), obs=y)

    problem = lvm.Problem(counts, x, y)
    options: dict[str, Any] = {"draws": 1000, "seed": 0, "progress": False}
    off = lvm.fit(problem, "mean_field", max_steps=150, **options)
    assert off.verdict.status == "failed"
    near = lvm.fit(problem, "full_rank", **options).loo()
    found = off.loo()
    assert found.verdict.status == near.verdict.status == "trusted"
    assert found.elpd == pytest.approx(near.elpd, abs=0.3)
