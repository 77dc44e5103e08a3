"""The encoder as a mixture: its density, draws of components in turn, gradients, two modes of a row, and what it works with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._methods.fit.objectives import ImportanceWeighted_ELBO, ParticleELBO, PureELBO
from pyrolvm._methods.fit.objectives.base import lanes
from pyrolvm._methods.fit.objectives.sampling import Gradients, sample_gradients
from pyrolvm_guides._row_mixture import RowMixture

QUIET: dict[str, Any] = {"progress": False}


def law(rows: int = 5, components: int = 3, size: int = 2) -> RowMixture:
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(rows, components, size, generator=generator, dtype=torch.float64)
    return RowMixture(loc, 0.3 + torch.rand(loc.shape, generator=generator, dtype=torch.float64))


# --- density ----------------------------------------------------------------------------------------------------------


def test_the_density_is_that_of_torch() -> None:
    found = law()
    parts = torch.distributions.Independent(torch.distributions.Normal(found.loc, found.scale), 1)
    weights = torch.distributions.Categorical(logits=torch.zeros(found.loc.shape[:-1]))
    theirs = torch.distributions.MixtureSameFamily(weights, parts)
    value = torch.randn(7, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(found.log_prob(value), theirs.log_prob(value))
    torch.testing.assert_close(found.expand((7, 5)).log_prob(value), theirs.log_prob(value))


def test_draws_have_the_density() -> None:
    found = law(rows=2)
    draws = found.expand((40_000, 2)).rsample()
    wanted = found.loc.mean(-2)
    error = draws.std(0) / len(draws) ** 0.5
    assert float(((draws.mean(0) - wanted) / error).abs().max()) < 4  # components in turn make it smaller than that
    second = (found.scale**2 + found.loc**2).mean(-2)
    assert float((((draws**2).mean(0) - second) / ((draws**2).std(0) / len(draws) ** 0.5)).abs().max()) < 4


# --- components in turn -----------------------------------------------------------------------------------------------


def far_apart(rows: int, components: int) -> RowMixture:
    """A mixture whose draws say which component they are of."""
    loc = torch.arange(float(components)).reshape(1, -1, 1).expand(rows, -1, 1)
    return RowMixture(loc, torch.full_like(loc, 1e-3))


class Guide:
    """A guide of such a mixture."""

    def __init__(self, law: RowMixture, strata: int) -> None:
        self.law, self.strata = law, strata

    def __call__(self) -> Tensor:
        with pyro.plate("rows", len(self.law.loc)):
            return pyro.sample("z", self.law)


def picked(count: int, vectorize: bool, *, rows: int = 6, components: int = 3, told: bool = True) -> Tensor:
    """The components of several draws of each row, shape ``(count, rows)``."""
    guide = Guide(far_apart(rows, components), components if told else 0)
    found: Tensor = lanes(guide, count, vectorize, guide=guide)
    return found[..., 0].round().long()


@pytest.mark.parametrize("vectorize", [True, False])
def test_as_many_draws_as_components_see_each_once(vectorize: bool) -> None:
    for _ in range(5):
        found = picked(3, vectorize)
        assert (found.sort(0).values == torch.arange(3)[:, None]).all()
    counts = torch.stack([(picked(4, vectorize) == part).sum(0) for part in range(3)])
    assert set(counts.unique().tolist()) == {1, 2}  # one more draw than components
    assert not (
        picked(30, vectorize, told=False).sort(0).values.reshape(3, 10, 6) == torch.arange(3)[:, None, None]
    ).all()


def test_components_in_turn_leave_no_noise_of_which_was_picked() -> None:
    guide = Guide(far_apart(2, 3), 3)

    def one() -> Tensor:
        return guide().sum()

    sums = [torch.stack([lanes(one, 3, True, guide=told).sum() for _ in range(20)]) for told in (guide, None)]
    assert float(sums[0].std()) < 0.02 and float(sums[1].std()) > 0.5


def test_a_single_draw_is_of_any_component_alike() -> None:
    for count in (1, 2):
        runs = torch.stack([picked(count, count > 1)[-1] for _ in range(600)])
        share = torch.stack([(runs == part).double().mean(0) for part in range(3)])
        assert float((share - 1 / 3).abs().max()) < 4 * math.sqrt(2 / 9 / 600)


def test_rows_of_one_run_do_not_share_a_component() -> None:
    share = torch.stack([(picked(1, False, rows=90)[0] == part).double().mean() for part in range(3)])
    assert float((share - 1 / 3).abs().max()) < 0.05


def test_draws_at_once_by_pyro_take_components_in_turn_too() -> None:
    found = far_apart(6, 3)
    for draws in (found.expand((3, 6)).rsample(), found.rsample(torch.Size((3,))), found.expand((3, 1, 6)).rsample()):
        parts = draws.reshape(3, 6).round().long()
        assert (parts.sort(0).values == torch.arange(3)[:, None]).all()


# --- gradients --------------------------------------------------------------------------------------------------------

X = torch.tensor([1.5, 0.3], dtype=torch.float64)
START = {
    "loc": torch.tensor([[-1.0, 0.4], [0.2, 0.7]], dtype=torch.float64),
    "log_scale": torch.tensor([[-1.0, -0.5], [-0.3, -0.9]], dtype=torch.float64),
}


def squares(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z[..., 0] ** 2, 0.5), obs=x)


def guide_with(strata: int) -> Callable[[Tensor], None]:
    def guide(x: Tensor) -> None:
        loc, log_scale = (pyro.param(name, value.clone())[: len(x), :, None] for name, value in START.items())
        with pyro.plate("rows", len(x)):
            pyro.sample("z", RowMixture(loc, log_scale.exp()))

    guide.strata = strata  # type: ignore[attr-defined]
    return guide


def estimates(elbo: PureELBO, x: Tensor, count: int, strata: int) -> Gradients:
    problem, guide = lvm.Problem(squares, x), guide_with(strata)
    with problem.session(seed=0):
        guide(x)
        return sample_gradients(elbo, squares, guide, problem.whole, count)


def by_grid(bound: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor) -> tuple[float, Tensor]:
    """A bound of one row on a grid, summed over rows, and its gradient: of log weights, of component densities, and of the cell."""
    params = [value.clone().requires_grad_() for value in START.values()]
    z = torch.linspace(-5, 5, 1_001, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for row, loc, log_scale in zip(x, *params, strict=False):
        parts = torch.distributions.Normal(loc, log_scale.exp())
        mixed = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=torch.zeros(2)), parts)
        log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2, 0.5).log_prob(row)
        total = total + bound(log_p - mixed.log_prob(z), parts.log_prob(z[:, None]).exp(), z[1] - z[0])
    gradient = torch.autograd.grad(total, params)
    return float(total.detach()), torch.cat([g.reshape(-1) for g in gradient])


def elbo_of(log_w: Tensor, parts: Tensor, cell: Tensor) -> Tensor:
    return (parts.mean(-1) * log_w).sum() * cell


def agrees(found: Gradients, wanted: tuple[float, Tensor]) -> bool:
    value, error = float(found.values.mean()), float(found.values.std()) / len(found.values) ** 0.5
    off = (found.mean - wanted[1]).abs() / found.error.clamp(min=1e-12)
    return abs(value - wanted[0]) < 4 * error and float(off.max()) < 4


@pytest.mark.parametrize("kind", ["Trace_ELBO", "StickingTheLanding_ELBO"])
def test_the_gradient_is_that_of_the_bound_with_components_in_turn_or_not(kind: str) -> None:
    wanted = by_grid(elbo_of, X)
    assert agrees(estimates(ParticleELBO(kind), X, 10_000, 2), wanted)
    turns, alone = (estimates(ParticleELBO(kind, num_particles=2), X, 10_000, strata) for strata in (2, 0))
    assert agrees(turns, wanted) and agrees(alone, wanted)


@pytest.mark.parametrize(("gradient", "in_turn"), [("plain", True), ("dreg", False)])
def test_the_weighted_bound_takes_turns_where_its_gradient_allows(gradient: str, in_turn: bool) -> None:
    """Two draws of one row: one of each component, or both of any."""

    def bound(log_w: Tensor, parts: Tensor, cell: Tensor) -> Tensor:
        pair = torch.logaddexp(log_w[:, None], log_w[None]) - math.log(2)
        first, second = parts.unbind(-1)
        density = first[:, None] * second[None] if in_turn else parts.mean(-1)[:, None] * parts.mean(-1)[None]
        return (density * pair).sum() * cell**2

    found = estimates(ImportanceWeighted_ELBO(2, gradient=gradient), X[:1], 20_000, 2)
    assert agrees(found, by_grid(bound, X[:1]))


# --- fits -------------------------------------------------------------------------------------------------------------


def hidden_sign(x: Tensor) -> None:
    """Rows whose latent variable is known but for its sign."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal(z**2, 0.1), obs=x)


def signs(count: int = 150, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, count, generator=generator, dtype=torch.float64)
    return (z**2 + 0.1 * noise).to(dtype)


def fitted(x: Tensor, posterior: str, **options: Any) -> lvm.Fit:
    words = {"max_steps": 1_500, "learning_rate": 1e-2, "tolerance": 0, "num_particles": 2, "draws": 200, **options}
    parts = {"components": 2} if posterior == "mixture" else {}
    guide = lvm.guide("amortized", posterior=posterior, hidden=(32,), **parts)
    return lvm.fit(lvm.Problem(hidden_sign, x), guide, engine="jax", seed=0, **words, **QUIET)


@pytest.fixture(scope="module")
def both() -> dict[str, lvm.Fit]:
    return {posterior: fitted(signs(), posterior) for posterior in ("diagonal", "mixture")}


def test_two_components_find_both_signs(both: dict[str, lvm.Fit]) -> None:
    x = signs()
    grid = torch.linspace(-5, 5, 20_001)
    log_p = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid**2, 0.1).log_prob(x[:, None])
    truth = float((log_p.logsumexp(-1) + math.log(grid[1] - grid[0])).mean())
    found = {name: lvm.evaluate(fit, draws=200, pictures=False, seed=0, **QUIET) for name, fit in both.items()}
    assert all(fit.engine == "jax" for fit in both.values())
    assert truth - 0.15 < found["mixture"]["ELBO"] < truth + 0.05
    assert found["mixture"]["ELBO"] > found["diagonal"]["ELBO"] + 0.4  # a Gaussian that knows the sign loses log 2
    assert abs(found["mixture"].log_p - truth) < 0.05 and found["diagonal"].log_p < truth - 0.3
    z = torch.as_tensor(both["mixture"].sample(200)["z"].values).reshape(200, -1)
    known = x > 0.5
    share = (z > 0).double().mean(0)[known]
    assert float((share - 0.5).abs().max()) < 0.2
    assert float((z.abs().mean(0) - x.sqrt())[known].abs().max()) < 0.15


def test_double_precision_and_minibatches_run_compiled_and_saved_fits_draw_the_same(tmp_path: Any) -> None:
    problem = lvm.problem("vae", images=60, hidden=8, latent=3, posterior="mixture", parts=3)
    problem = problem.to(dtype=torch.float64)
    fit = lvm.fit(
        problem, batch_size=20, num_particles=3, max_steps=60, tolerance=0, draws=20, engine="jax", seed=0, **QUIET
    )
    assert fit.engine == "jax" and fit.params["amortized.components.gate"].dtype == torch.float64
    fit.save(tmp_path / "fit")
    again = lvm.load(tmp_path / "fit")
    assert again.sample(5, seed=3)["z"].equals(fit.sample(5, seed=3)["z"])
    assert again.guide.options["components"] == 3
    assert math.isfinite(lvm.evaluate(again, draws=20, rows=10, pictures=False, **QUIET).log_p)


def test_what_needs_one_gaussian_of_a_row_refuses_in_words() -> None:
    problem = lvm.problem("vae", images=20, hidden=8, latent=2, posterior="mixture")
    fit = lvm.fit(problem, max_steps=3, tolerance=0, draws=2, engine="pyro", **QUIET)
    with pytest.raises(lvm.GuideError, match=r"'z' is RowMixture.*Fix: "):
        lvm.gaps(fit, rows=5, **QUIET)
    with pytest.raises(lvm.ArgumentError, match=r"'z' is a RowMixture, which is not coded.*Fix: "):
        lvm.compress(fit, problem.args[0][:3])


def test_rows_left_out_are_judged(both: dict[str, lvm.Fit]) -> None:
    assert math.isfinite(float(both["mixture"].loo().elpd))


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("amortized", {"posterior": "mixture", "components": 0}, "components must be an integer of at least 1"),
        ("amortized", {"components": 3}, "components=3 is of a mixture, and posterior is 'diagonal'"),
        ("amortized", {"posterior": "iaf", "components": 3}, "components=3 is of a mixture, and posterior is 'iaf'"),
        ("semi_amortized", {"posterior": "mixture"}, "has no option 'posterior'"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_first_step(family: str, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words + ".*Fix: "):
        lvm.fit(lvm.Problem(hidden_sign, signs(5)), lvm.guide(family, **options), max_steps=1, **QUIET)


def test_a_further_component_costs_hardly_a_parameter() -> None:
    problem = lvm.Problem(hidden_sign, signs(5))

    def count(**options: Any) -> int:
        with problem.session(seed=0):
            guide: Any = lvm.guide("amortized", **options).build(problem)
            return sum(value.numel() for value in guide.parameters())

    two, ten = (count(posterior="mixture", components=parts) for parts in (2, 10))
    assert (ten - two) / 8 == 18 and two < 1.3 * count()


def test_rows_with_more_dimensions_are_refused() -> None:
    def table(y: Tensor) -> None:
        with pyro.plate("rows", len(y), dim=-2), pyro.plate("columns", y.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(y.new_tensor(0.0), 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(lvm.GuideError, match=r"posterior='mixture' joins.*Fix: "):
        lvm.fit(lvm.Problem(table, torch.zeros(4, 3)), lvm.guide("amortized", posterior="mixture"), **QUIET)
