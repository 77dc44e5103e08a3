"""``lvm.gaps``: closed forms of linear-Gaussian models, what is refused, collapse."""

from __future__ import annotations

import html
import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._check.gaps import inference
from pyrolvm._check.gaps.collapse import mutual_information
from pyrolvm._check.gaps.marginal import RowEvidence
from pyrolvm._check.gaps.rows import Gaussians, matched_noise

QUIET = {"progress": False}
SIGMA = 0.5


def linear(x, loadings):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal((loadings @ z.unsqueeze(-1)).squeeze(-1), SIGMA).to_event(1), obs=x)


def encoder(x, loadings):
    weights = pyro.param("weights", torch.full((x.shape[1], 2), 0.1, dtype=x.dtype))
    scale = pyro.param("scale", torch.full((2,), 0.4, dtype=x.dtype), constraint=dist.constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ weights, scale).to_event(1))


def dense(x, loadings):
    """The same with correlations."""
    weights = pyro.param("weights", torch.full((x.shape[1], 2), 0.1, dtype=x.dtype))
    tril = pyro.param("tril", 0.4 * torch.eye(2, dtype=x.dtype), constraint=dist.constraints.lower_cholesky)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(x @ weights, scale_tril=tril))


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    loadings = random.normal(size=(4, 2)) @ np.array([[1.0, 0.7], [0.0, 0.7]])
    x = random.normal(size=(30, 2)) @ loadings.T + SIGMA * random.normal(size=(30, 4))
    return lvm.Problem(linear, torch.as_tensor(x), torch.as_tensor(loadings))


@pytest.fixture(scope="module")
def fit(problem):
    return lvm.fit(problem, encoder, max_steps=40, tolerance=0, draws=100, engine="pyro", **QUIET)


@pytest.fixture(scope="module")
def found(fit):
    return lvm.gaps(fit, draws=400, **QUIET)


def closed_form(problem, fit):
    """The divergence of the best diagonal Gaussian from the posterior, and that of each row's fitted one."""
    x, loadings = problem.args
    precision = loadings.T @ loadings / SIGMA**2 + torch.eye(2, dtype=x.dtype)
    mean = torch.linalg.solve(precision, loadings.T @ x.T / SIGMA**2).T
    best = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    away = x @ fit.params["weights"] - mean
    scale = fit.params["scale"].exp()
    own = 0.5 * ((precision.diagonal() * scale**2).sum() - 2 - (scale**2).log().sum() - precision.logdet())
    own = own + 0.5 * torch.einsum("ni,ij,nj->n", away, precision, away)
    return float(best), own


def exact_evidence(problem):
    x, loadings = problem.args
    covariance = loadings @ loadings.T + SIGMA**2 * torch.eye(4, dtype=x.dtype)
    return dist.MultivariateNormal(torch.zeros(4, dtype=x.dtype), covariance).log_prob(x)


def test_gaps_of_a_linear_model_are_those_of_the_closed_form(problem, fit, found):
    best, own = closed_form(problem, fit)
    assert found.method == "exact"
    assert found.approximation == pytest.approx(best, abs=1e-6)
    assert found.amortization == pytest.approx(float(own.mean()) - best, abs=1e-6)
    assert found.figures["evidence"] == pytest.approx(float(exact_evidence(problem).mean()), abs=1e-9)
    np.testing.assert_allclose(found.table["amortization_gap"], own - best, atol=1e-5)
    assert found.figures["gap"] == pytest.approx(found.approximation + found.amortization)


def test_each_row_has_its_evidence_by_sampling_and_by_annealing(problem, fit, found):
    truth = exact_evidence(problem).numpy()
    z = (found.table["evidence"] - truth) / found.table["evidence_error"]
    assert abs(z).max() < 4.5 and 0.6 < z.std() < 1.5
    annealed = lvm.gaps(fit, method="ais", rows=10, draws=60, steps=60, **QUIET)
    rows = annealed.table.index.to_numpy()
    off = (annealed.table["evidence"] - truth[rows]) / annealed.table["evidence_error"]
    assert annealed.method == "annealing" and abs(off).max() < 4.5
    sampled = lvm.gaps(fit, method="importance", rows=[3, 4], steps=60, **QUIET)
    assert list(sampled.table.index) == [3, 4] and sampled.method == "importance sampling"


def test_one_row_alone_is_annealed_where_it_has_few_effective_draws(monkeypatch):
    def coins(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=3 * z).to_event(1), obs=x)

    x = torch.tensor([[0.0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]])
    fit = lvm.fit(lvm.Problem(coins, x), "amortized", max_steps=50, tolerance=0, draws=20, engine="pyro", **QUIET)
    plain = lvm.gaps(fit, steps=20, draws=200, **QUIET).table
    least = plain["ess"].nsmallest(2)
    monkeypatch.setattr(inference, "FEW_EFFECTIVE", float(least.mean()))
    mended = lvm.gaps(fit, steps=20, draws=200, **QUIET).table
    assert list(mended.index[mended["evidence"] != plain["evidence"]]) == [least.index[0]]
    off = mended["evidence"] - plain["evidence"]
    assert (off.abs() < 4.5 * np.hypot(mended["evidence_error"], plain["evidence_error"])).all()


def test_a_dense_family_has_no_approximation_gap(problem):
    fit = lvm.fit(problem, dense, max_steps=30, tolerance=0, draws=100, engine="pyro", **QUIET)
    found = lvm.gaps(fit, steps=250, draws=100, **QUIET)
    assert abs(found.approximation) < 1e-3 and found.amortization > 0.05


def test_the_bound_rises_as_rows_are_refined(found):
    course = found.refinement
    assert course.iloc[0] < course.iloc[-1] == pytest.approx(found.figures["best"], abs=1e-3)
    assert course.index[0] == 1 and course.index.name == "step"


def test_a_verdict_names_what_loses_most(found):
    assert found.verdict.status == "trusted" and found.verdict.next_steps
    assert "amortisation gap" in str(found)
    assert found.as_dict()["collapse"]["active"] == 2
    figure = found.plot()
    assert len(figure.axes) == 2


def test_the_same_seed_gives_the_same_gaps(fit):
    one, same, other = (lvm.gaps(fit, rows=5, steps=20, seed=seed, **QUIET) for seed in (1, 1, 2))
    assert dict(one.figures) == dict(same.figures)
    assert one.figures["evidence_by_rows"] != other.figures["evidence_by_rows"]


# --- other guides and supports ----------------------------------------------------------------------------------------


def positive(x):
    weight = pyro.param("weight", torch.ones(3, dtype=x.dtype))
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        b = pyro.sample("b", dist.LogNormal(torch.zeros((), dtype=x.dtype), 0.5))
        pyro.sample("x", dist.Normal(a.unsqueeze(-1) * weight, b.unsqueeze(-1)).to_event(1), obs=x)


@pytest.fixture(scope="module")
def scaled():
    random = np.random.default_rng(1)
    return lvm.Problem(positive, torch.as_tensor(random.normal(size=(20, 1)) + 0.5 * random.normal(size=(20, 3))))


def test_positive_sites_learned_weights_and_registered_guides_work(scaled):
    """The evidence of a row by quadrature over both latents."""
    fit = lvm.fit(scaled, "amortized", max_steps=300, draws=100, **QUIET)
    found = lvm.gaps(fit, steps=100, **QUIET)
    x, weight = scaled.args[0].numpy(), fit.params["weight"].numpy()
    a, log_b = np.meshgrid(np.linspace(-6, 6, 241), np.linspace(-3, 3, 241), indexing="ij")
    prior = -0.5 * a**2 - 0.5 * (log_b / 0.5) ** 2 - math.log(2 * math.pi * 0.5)
    step = (12 / 240) * (6 / 240)
    truth = []
    for row in x:
        gap = (row - a[..., None] * weight) / np.exp(log_b)[..., None]
        log_joint = prior - 0.5 * (gap**2).sum(-1) - 3 * log_b - 1.5 * math.log(2 * math.pi)
        truth.append(np.log(np.exp(log_joint).sum() * step))
    z = (found.table["evidence"] - truth) / found.table["evidence_error"]
    assert abs(z).max() < 4.5
    assert found.approximation > 0 and found.collapse.units == 2


def test_a_guide_with_parameters_for_each_row_has_next_to_no_amortisation_gap(problem):
    fit = lvm.fit(problem, lvm.guide("mean_field", precondition="none"), max_steps=3000, draws=100, **QUIET)
    found = lvm.gaps(fit, steps=100, draws=200, **QUIET)
    assert abs(found.amortization) < 0.01


# --- collapse ---------------------------------------------------------------------------------------------------------


def test_information_is_that_of_gaussians_far_apart_and_near():
    """Far apart, a latent tells its row; all the same, it tells nothing."""
    generator = torch.Generator().manual_seed(0)
    tril = 0.1 * torch.eye(1).expand(50, 1, 1)
    apart = Gaussians(10.0 * torch.arange(50.0)[:, None], tril, torch.eye(1))
    same = Gaussians(torch.zeros(50, 1), tril, torch.eye(1))
    assert mutual_information(apart, 4, generator)[0] == pytest.approx(math.log(50), abs=1e-6)
    assert mutual_information(same, 4, generator)[0] == pytest.approx(0.0, abs=1e-6)


def test_information_of_a_gaussian_channel():
    """Rows at normal places with noise s: half log(1 + 1 / s^2), as long as that is far below the log of the rows."""
    random = torch.Generator().manual_seed(1)
    loc = torch.randn(1500, 1, generator=random)
    family = Gaussians(loc, 0.5 * torch.eye(1).expand(1500, 1, 1), torch.eye(1))
    value, error = mutual_information(family, 4, random)
    assert value == pytest.approx(0.5 * math.log(1 + 4 * float(loc.var())), abs=5 * error + 0.02)


def decoder(x, size):
    weights = pyro.param("weights", lambda: 0.3 * torch.randn(4, size, generator=torch.Generator().manual_seed(2)))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([size]).to_event(1))
        pyro.sample("x", dist.Normal((weights @ z.unsqueeze(-1)).squeeze(-1), 1.0).to_event(1), obs=x)


def data(active):
    random = np.random.default_rng(3)
    x = 0.5 * random.normal(size=(60, 4))
    x[:, :active] += 3.0 * random.normal(size=(60, active))
    return torch.as_tensor(x, dtype=torch.float32)


@pytest.mark.parametrize("active", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_units_with_nothing_to_say_are_named(active):
    """Noise of one above the spread of the other directions: units for those are pruned."""
    fit = lvm.fit(lvm.Problem(decoder, data(active), 2), "amortized", max_steps=2500, tolerance=0, draws=300, **QUIET)
    found = lvm.gaps(fit, steps=50, draws=100, **QUIET)
    assert found.collapse.active == active
    assert (found.collapse.table["kl"] > 0.1).sum() == active
    assert found.collapse.mutual_information <= found.collapse.ceiling
    verdict = lvm.diagnose(fit).verdict
    (reason,) = (one for one in verdict.reasons if "active_units" in one.figures)
    assert reason.figures["active_units"] == active and reason.figures["units"] == 2
    if active:
        assert reason.status == "trusted" and "uses 1 of 2 units" in reason.text
        assert any("fewer latent dimensions" in step for step in verdict.next_steps)
    else:
        assert verdict.status == "doubtful" and "collapsed" in reason.text
        assert found.verdict.status == "doubtful" and "collapsed to the prior" in str(found.verdict)


def test_a_model_with_nothing_to_learn_is_not_said_to_collapse():
    def quiet(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 100.0), obs=x)

    fit = lvm.fit(lvm.Problem(quiet, torch.zeros(40)), "mean_field", max_steps=200, draws=200, **QUIET)
    assert not any("active_units" in reason.figures for reason in lvm.diagnose(fit).verdict.reasons)


# --- pieces -----------------------------------------------------------------------------------------------------------


def test_noise_has_exactly_the_first_two_moments():
    noise = matched_noise(20, 3, 4, torch.Generator().manual_seed(0), torch.zeros(1, dtype=torch.float64))
    assert noise.shape == (20, 3, 4)
    torch.testing.assert_close(noise.mean(0), torch.zeros(3, 4, dtype=torch.float64), atol=1e-12, rtol=0)
    covariance = torch.einsum("sri,srj->rij", noise, noise) / 20
    torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.float64).expand(3, 4, 4), atol=1e-12, rtol=0)


def test_the_evidence_of_rows_is_unbiased_to_first_order():
    random = np.random.default_rng(0)
    found = RowEvidence.of(random.normal(-0.5, 1.0, size=(200, 20_000)))
    plain = found.value - 0.5 * found.error**2
    assert abs(found.value.mean()) < 0.3 * abs(plain.mean())
    assert found.error.mean() == pytest.approx(found.value.std(), rel=0.15)


# --- what is refused --------------------------------------------------------------------------------------------------


def shared(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def chained(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z + z.roll(1), 1.0), obs=x)


def nested(x):
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        low = pyro.sample("low", dist.Normal(top, 1.0))
        pyro.sample("x", dist.Normal(low, 1.0), obs=x)


def nested_guide(x):
    shift = pyro.param("shift", torch.zeros(()))
    with pyro.plate("data", len(x)):
        top = pyro.sample("top", dist.Normal(shift, 1.0))
        pyro.sample("low", dist.Normal(top + x, 1.0))


def test_what_has_no_gaps_is_refused_with_the_site(fit):
    x = torch.linspace(-1, 1, 12)
    quick = {"max_steps": 15, "draws": 50, "engine": "pyro", **QUIET}
    with pytest.raises(lvm.ProblemError, match="'mu' is outside plate"):
        lvm.gaps(lvm.fit(lvm.Problem(shared, x), "mean_field", **quick), **QUIET)
    plain = lvm.guide("mean_field", precondition="none")
    with pytest.raises(lvm.ProblemError, match="changes with the latents of row 0"):
        lvm.gaps(lvm.fit(lvm.Problem(chained, x), plain, **quick), **QUIET)
    with pytest.raises(lvm.GuideError, match="'low' changes from draw to draw"):
        lvm.gaps(lvm.fit(lvm.Problem(nested, x), nested_guide, **quick), **QUIET)
    with pytest.raises(lvm.GuideError, match="Delta"):
        lvm.gaps(lvm.fit(lvm.Problem(nested, x), lvm.guide("full_rank", precondition="none"), **quick), **QUIET)
    with pytest.raises(lvm.ProblemError, match="Fix:"):
        lvm.gaps(lvm.fit(lvm.Problem(positive, torch.randn(6, 3)), "amortized", **quick), method="exact", **QUIET)
    with pytest.raises(lvm.ArgumentError, match="takes a Fit"):
        lvm.gaps(fit.attached, **QUIET)
    with pytest.raises(lvm.UnknownNameError, match="no evidence method"):
        lvm.gaps(fit, method="bridge", **QUIET)
    with pytest.raises(lvm.ArgumentError, match="rows must be"):
        lvm.gaps(fit, rows=1, **QUIET)


def test_the_page_says_what_is_lost_where_and_of_which_data(found, tmp_path):
    text = found.to_html(tmp_path / "gaps.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", text) == ["Estimates", "Pictures", "Units", "Rows", "Where this comes from"]
    for name in ("evidence", "best", "elbo", "approximation gap", "amortization gap"):
        (shown,) = re.findall(rf"<th>{name}</th>\s*<td>([^<]*)</td>", text)
        assert float(shown) == pytest.approx(found.figures[name.replace(" ", "_")], rel=1e-3, abs=1e-6)
    told = (
        "linear",
        "x (30 x 4, float64)",
        "loadings (4 x 2, float64)",
        "def linear(x, loadings):",
        "torch 2",
        str(found.rows),
    )
    reasons = [reason.text.replace("`", "") for reason in found.verdict.reasons]
    plain = html.unescape(re.sub(r"<[^>]*>", "", text))
    assert [what for what in (*told, *reasons) if what not in plain] == []
    assert all(re.search(r'aria-label="[^"]+"', one) for one in re.findall(r"<svg [^>]*>", text)) and "<svg " in text
    assert text.count("able scrolls") == 1 and "rows: the table scrolls." in text  # that of the rows; the others fit
    assert "<script" not in text and "<img" not in text and not re.search(r"https?://", text) and len(text) < 100_000
