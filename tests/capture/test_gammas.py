"""Gamma draws made of normal and uniform numbers: their distribution, how they move, and steps in C on guides that draw them."""

from __future__ import annotations

import ctypes
import shutil
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._capture import with_gammas, with_noise
from pyrolvm._capture.gammas import PROPOSALS, gamma_draw
from pyrolvm._capture.graph import attempt
from pyrolvm._capture.native.build import library
from pyrolvm._capture.native.codegen import helpers

DRAWS = 40_000


def _numbers(alpha: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    make: Any = {"dtype": alpha.dtype, "generator": generator}
    return torch.randn((PROPOSALS, *alpha.shape), **make), torch.rand((PROPOSALS + 1, *alpha.shape), **make)


@pytest.mark.parametrize("alpha", [0.05, 0.6, 1.0, 3.0, 40.0, 1e5])
def test_draws_follow_the_distribution(alpha: float) -> None:
    many = torch.full((DRAWS,), alpha, dtype=torch.float64)
    assert stats.kstest(gamma_draw(many, *_numbers(many)).numpy(), stats.gamma(alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.05, 0.6, 3.0, 40.0])
def test_draws_move_along_the_distribution_function(alpha: float) -> None:
    """By torch's own approximation, which has about four digits: beside differences of SciPy's quantiles."""
    many = torch.full((200,), alpha, dtype=torch.float64, requires_grad=True)
    draws = gamma_draw(many, *_numbers(many))
    (slopes,) = torch.autograd.grad(draws.sum(), many)
    ranks, step = stats.gamma(alpha).cdf(draws.detach().numpy()), 1e-4 * alpha
    expected = (stats.gamma(alpha + step).ppf(ranks) - stats.gamma(alpha - step).ppf(ranks)) / (2 * step)
    sure = (ranks > 1e-6) & (ranks < 1 - 1e-6)
    np.testing.assert_allclose(slopes.numpy()[sure], expected[sure], rtol=5e-3, atol=1e-6)


def test_odd_concentrations_stay_what_they_are() -> None:
    alpha = torch.tensor([torch.nan, 1e-40, 1e30], dtype=torch.float32)
    draws = gamma_draw(alpha, *_numbers(alpha))
    assert torch.isnan(draws[0])
    assert 0 < float(draws[1]) < 1e-30
    assert float(draws[2]) == pytest.approx(1e30, rel=1e-3)


def test_their_numbers_are_inputs_in_order() -> None:
    captured = with_gammas(
        with_noise(attempt(lambda x: torch._standard_gamma(x.exp()) + torch.randn(2), torch.zeros(2)))
    )
    assert not captured.random
    assert [(noise.kind, noise.shape[0]) for noise in captured.noise] == [
        ("normal", 2), ("normal", PROPOSALS), ("uniform", PROPOSALS + 1)
    ]  # fmt: skip
    normal = torch.ones(2)
    proposals, uniforms = _numbers(normal)
    expected = gamma_draw(torch.ones(2), proposals, uniforms) + normal
    torch.testing.assert_close(captured(torch.zeros(2), noise=[normal, proposals, uniforms]), expected)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_slopes_in_c_are_those_of_torch() -> None:
    """On all sides of the bounds between its approximations, and at what is no number, none or infinite."""
    sides = [1e-3, 0.3, 0.79, 0.81, 2.0, 7.9, 8.1, 90.0, 1e4, 1e8]
    pairs = [
        (a, x) for a in sides for x in [1e-100, 1e-8, *sides, *(a * r for r in (0.5, 0.89, 0.91, 1.0, 1.09, 1.11, 2.0))]
    ]
    pairs += [(0.0, 1.0), (np.nan, 1.0), (2.0, np.nan), (2.0, np.inf), (2.0, 0.0), (-1.0, 2.0)]
    alpha, x = np.array(pairs).T.copy()
    text = "void slopes(integer n, const double *a, double *x) { for (integer i = 0; i < n; i++) x[i] = gamma_slope(a[i], x[i]); }"
    expected = torch._standard_gamma_grad(torch.tensor(alpha), torch.tensor(x)).numpy()
    library(helpers() + text).slopes(
        ctypes.c_int64(len(x)), ctypes.c_void_p(alpha.ctypes.data), ctypes.c_void_p(x.ctypes.data)
    )
    given = expected != 0  # torch's own is zero where its density underflows
    np.testing.assert_allclose(x[given], expected[given], rtol=1e-7)
    assert given.sum() > 150


@pytest.mark.parametrize("alpha", [0.3, 5.0, 200.0])
def test_a_guide_that_draws_gammas_steps_in_c(alpha: float) -> None:
    """The closed form: of a Gamma prior with Poisson counts, found from far off, small concentrations included."""
    counts = torch.tensor([3.0, 0.0, 2.0]) if alpha > 1 else torch.zeros(3)

    def model(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(alpha), 2.0))
        with pyro.plate("row", 3):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    def guide(y: Tensor) -> None:
        shape = pyro.param("shape", torch.tensor(2 * alpha), constraint=dist.constraints.positive)
        pyro.sample("rate", dist.Gamma(shape, pyro.param("pace", torch.tensor(3.0), dist.constraints.positive)))

    fit = lvm.fit(lvm.Problem(model, counts), guide, seed=0, draws=4000, progress=False)
    assert fit.engine == "c"
    exact = stats.gamma(alpha + float(counts.sum()), scale=1 / 5)
    draws = fit.data.posterior["rate"].to_numpy()
    assert abs(draws.mean() - exact.mean()) < 0.1 * exact.std()
    assert draws.std() == pytest.approx(exact.std(), rel=0.1)
    assert fit.verdict.status == "trusted"


def _chi2() -> Any:
    return dist.Chi2(pyro.param("df", torch.tensor(14.0), constraint=dist.constraints.positive))


def _inverse_gamma() -> Any:
    shape = pyro.param("shape", torch.tensor(9.0), constraint=dist.constraints.positive)
    return dist.InverseGamma(shape, pyro.param("rate", torch.tensor(2.0), constraint=dist.constraints.positive))


def _student() -> Any:
    df = pyro.param("df", torch.tensor(12.0), constraint=dist.constraints.greater_than(2.0))
    scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
    return dist.StudentT(df, pyro.param("loc", torch.tensor(0.0)), scale)


@pytest.mark.parametrize(
    ("target", "family", "exact"),
    [
        pytest.param(dist.Chi2(6.0), _chi2, stats.chi2(6), id="chi2"),
        pytest.param(dist.InverseGamma(6.0, 4.0), _inverse_gamma, stats.invgamma(6, scale=4), id="inverse-gamma"),
        pytest.param(dist.StudentT(6.0, 1.5, 0.7), _student, stats.t(6, 1.5, 0.7), id="student"),
    ],
)
def test_guides_of_what_is_made_of_gammas_step_in_c(target: Any, family: Any, exact: Any) -> None:
    """A posterior of the family itself, found from far off."""

    def model(y: Tensor) -> None:
        pyro.sample("x", target)
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    def guide(y: Tensor) -> None:
        pyro.sample("x", family())

    fit = lvm.fit(lvm.Problem(model, torch.tensor(0.3)), guide, seed=0, draws=4000, progress=False)
    assert fit.engine == "c"
    draws = fit.data.posterior["x"].to_numpy().ravel()
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs((draws < exact.ppf(share)).mean() - share) < 0.05, share
    assert fit.verdict.status == "trusted"


@pytest.mark.parametrize("name", ["chi2", "inverse-gamma", "student"])
def test_what_is_made_of_gammas_moves_as_torch_moves_it(name: str) -> None:
    """Draws of the captured function and their slopes, beside the distribution's own of the same gamma draws."""
    kinds: dict[str, Any] = {
        "chi2": lambda p: dist.Chi2(p[0]),
        "inverse-gamma": lambda p: dist.InverseGamma(p[0], p[1]),
        "student": lambda p: dist.StudentT(p[0], p[1], p[1]),
    }
    point = torch.tensor([5.0, 1.3], dtype=torch.float64)

    def program(p: Tensor) -> Tensor:
        with pyro.validation_enabled(False):
            return kinds[name](p).expand([4]).rsample()

    captured = with_gammas(with_noise(attempt(program, point)))
    generator = torch.Generator().manual_seed(3)
    make: Any = {"dtype": torch.float64, "generator": generator}
    noise = [(torch.randn if one.kind == "normal" else torch.rand)(one.shape, **make) for one in captured.noise]
    normals = [one for one, told in zip(noise, captured.noise, strict=True) if told.shape == (4,)]
    proposals, uniforms = (one for one, told in zip(noise, captured.noise, strict=True) if told.shape != (4,))

    def by_hand(p: Tensor) -> Tensor:
        if name == "inverse-gamma":
            return p[1] / gamma_draw(p[0].expand(4), proposals, uniforms)
        chi2 = 2 * gamma_draw((0.5 * p[0]).expand(4), proposals, uniforms)
        return chi2 if name == "chi2" else p[1] + p[1] * normals[0] * (p[0] / chi2).sqrt()

    found, expected = (torch.func.jacrev(f)(point) for f in (lambda p: captured(p, noise=noise), by_hand))
    torch.testing.assert_close(captured(point, noise=noise), by_hand(point))
    torch.testing.assert_close(found, expected)
