"""``lvm.infer``: which method it stops at, what it says about the others, and whether its answer is right."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import gammaln
from torch import Tensor

import pyrolvm as lvm
from pyrolvm._base.budget import within
from pyrolvm._base.verdict import Reason
from pyrolvm._methods.infer import correction, inference
from pyrolvm._methods.infer import order as ladder

COUNTS = torch.tensor([3.0, 1.0, 4.0], dtype=torch.float64)
ONE = torch.tensor(1.0, dtype=torch.float64)


def counts(y: Tensor) -> None:
    """The posterior of the rate is Gamma(2 + sum of y, 1 + n)."""
    rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


COUNTS_EVIDENCE = math.lgamma(10.0) - math.lgamma(2.0) - 10 * math.log(4) - float(gammaln(COUNTS.numpy() + 1).sum())


def linear(y: Tensor) -> None:
    """A Gaussian posterior with correlation -0.99."""
    a = pyro.sample("a", dist.Normal(y.new_tensor(0.0), 1.0))
    b = pyro.sample("b", dist.Normal(y.new_tensor(0.0), 1.0))
    pyro.sample("y", dist.Normal(a + b, 0.1), obs=y)


def equal_correlations(size: int, rho: float) -> Any:
    def model(y: Tensor) -> None:
        covariance = rho * y.new_ones(size, size) + (1 - rho) * torch.eye(size, dtype=y.dtype)
        x = pyro.sample("x", dist.MultivariateNormal(y.new_zeros(size), covariance))
        pyro.sample("y", dist.Normal(x[0], 1.0), obs=y)

    return model


def horrible(y: Tensor) -> None:
    """Forty unknowns on a wide Normal whose scale they share with nothing in common: for mean field out of reach."""
    x = pyro.sample("x", dist.Normal(y.new_zeros(40), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(x.cumsum(0), 0.3).to_event(1), obs=y.expand(40))


def chooses(y: Tensor) -> None:
    """Enumerated latents choose the location of another latent: no non-centring of it."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(2), 1.0).to_event(1))
    z = pyro.sample("z", dist.Categorical(y.new_tensor([0.3, 0.7])))
    x = pyro.sample("x", dist.Normal(3 * mu[z], 0.5))
    pyro.sample("y", dist.Normal(x, 1.0), obs=y)


def rows_of_two(y: Tensor) -> None:
    shift = pyro.sample("shift", dist.Normal(y.new_tensor(0.0), 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(y.new_tensor([0.4, 0.6])))
        pyro.sample("y", dist.Normal(shift + y.new_tensor([-2.0, 2.0])[z], 0.7), obs=y)


def reads(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 1.0))
    sd = 1.0 if mu.item() > 0 else 1.2
    pyro.sample("y", dist.Normal(mu, sd), obs=y)


def infer(model: Any, y: Tensor, **options: Any) -> lvm.Posterior:
    return lvm.infer(lvm.Problem(model, y), **{"progress": False, "seed": 0, **options})


def check_record(result: lvm.Posterior) -> None:
    """Every rung has a method, a verdict and a reason; all but the last went on for one."""
    assert result.ladder
    for rung in result.ladder:
        assert set(rung) == {"method", "status", "khat", "elbo", "evaluations", "seconds", "why"}
        assert rung["status"] in ("trusted", "doubtful", "failed", "error")
        assert rung["why"]
        assert rung["seconds"] > 0


@pytest.fixture(scope="module")
def schools() -> lvm.Posterior:
    return lvm.infer(lvm.problem("eight_schools_centered"), progress=False, seed=0)


@pytest.fixture(scope="module")
def rate() -> lvm.Posterior:
    return infer(counts, COUNTS, methods="vi")  # by itself it would take the exact posterior


# --- answers ----------------------------------------------------------------------------------------------------------


def test_eight_schools_is_trusted_at_the_first_rung_with_corrected_draws(schools: lvm.Posterior) -> None:
    assert isinstance(schools, lvm.Fit)
    assert schools.verdict.trusted
    assert schools.corrected
    check_record(schools)
    assert [rung["method"] for rung in schools.ladder] == ["student"]
    assert schools.ladder[0]["status"] == "trusted"
    assert schools.ladder[0]["khat"] < 0.7
    assert schools.ladder[0]["evaluations"] > 1000


def test_eight_schools_has_the_moments_of_its_reference_draws(schools: lvm.Posterior) -> None:
    """Means and sds of mu, tau and the first theta in posteriordb's reference draws, to 0.1 sd."""
    draws = schools.data["posterior"]
    for name, mean, sd in (("mu", 4.41, 3.31), ("tau", 3.6, 3.2)):
        assert float(draws[name].mean()) == pytest.approx(mean, abs=0.1 * sd)
        assert float(draws[name].std()) == pytest.approx(sd, rel=0.1)
    theta = draws["theta"].values.reshape(-1, 8)
    np.testing.assert_allclose(theta[:, 0].mean(), 6.15, atol=0.5)
    np.testing.assert_allclose(theta[:, 0].std(), 5.6, rtol=0.1)


def test_moments_of_corrected_draws_are_the_closed_form(rate: lvm.Posterior) -> None:
    draws = rate.data["posterior"]["rate"].values.reshape(-1)
    law = stats.gamma(10.0, scale=0.25)
    assert rate.verdict.trusted
    assert draws.shape == (8000,)
    assert draws.mean() == pytest.approx(law.mean(), abs=4 * law.std() / math.sqrt(6000))
    assert draws.std() == pytest.approx(law.std(), rel=0.04)
    assert stats.kstest(draws, law.cdf).statistic < 0.02


def test_the_evidence_is_the_closed_form(rate: lvm.Posterior) -> None:
    evidence = rate.evidence
    assert evidence is not None
    assert evidence.reliable
    assert evidence.error < 0.01
    assert abs(evidence.value - COUNTS_EVIDENCE) < 4 * evidence.error


def test_a_gaussian_posterior_is_trusted_at_the_first_rung() -> None:
    """The easiest of all: the first Gaussian is the posterior, and nothing is left to do."""
    result = infer(linear, ONE, methods="vi")
    assert [(rung["method"], rung["status"]) for rung in result.ladder] == [("student", "trusted")]
    draws = np.stack([result.data["posterior"][name].values.reshape(-1) for name in "ab"])
    covariance = np.linalg.inv(np.eye(2) + 100.0)
    np.testing.assert_allclose(draws.mean(1), covariance @ np.full(2, 100.0), atol=0.03)
    np.testing.assert_allclose(np.cov(draws), covariance, rtol=0.06)


def test_discrete_latents_are_summed_out_and_drawn() -> None:
    y = torch.tensor([-1.9, -2.2, 2.4, 1.6, 2.0], dtype=torch.float64)
    result = infer(rows_of_two, y, methods=["student"])
    grid = np.linspace(-4, 4, 4001)
    rows = y.numpy()[:, None]
    density = stats.norm.pdf(grid) * np.prod(
        0.4 * stats.norm(grid - 2, 0.7).pdf(rows) + 0.6 * stats.norm(grid + 2, 0.7).pdf(rows), axis=0
    )
    assert result.evidence is not None
    assert result.evidence.value == pytest.approx(
        math.log(density.sum() * (grid[1] - grid[0])), abs=max(4 * result.evidence.error, 1e-3)
    )
    assert float(result.data["posterior"]["shift"].mean()) == pytest.approx(np.average(grid, weights=density), abs=0.02)
    np.testing.assert_allclose(result.data["posterior"]["z"].values.mean((0, 1)), [0, 0, 1, 1, 1], atol=0.02)


def test_a_latent_whose_location_an_enumerated_one_chooses_is_drawn_right() -> None:
    """Given z, x ~ Normal(0, sqrt(9 + 0.25)) whichever it is, so that the posterior of x is a closed form."""
    result = infer(chooses, ONE * 2.0, methods=["student"])
    variance = 1 / (1 / 9.25 + 1)
    draws = result.data["posterior"]["x"].values.reshape(-1)
    assert draws.mean() == pytest.approx(2.0 * variance, abs=0.06)
    assert draws.std() == pytest.approx(math.sqrt(variance), rel=0.08)


# --- what it stops at -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_mean_field_on_strong_correlation_is_corrected_right_or_not_trusted() -> None:
    rho, size = 0.99, 10
    wanted = np.sqrt(1 - np.array([1.0, rho]) ** 2 / 2)
    for seed in range(3):
        result = infer(equal_correlations(size, rho), ONE, methods=["mean_field"], seed=seed)
        sds = result.data["posterior"]["x"].values[0].std(0)[:2]
        assert not result.verdict.trusted or np.allclose(sds, wanted, rtol=0.1), (seed, sds, wanted)


def test_nuts_is_reached_where_variational_inference_fails() -> None:
    result = infer(horrible, ONE, methods=["mean_field", "nuts"])
    assert isinstance(result, lvm.Chains)
    check_record(result)
    assert [rung["method"] for rung in result.ladder] == ["mean_field", "nuts"]
    assert result.ladder[0]["status"] != "trusted"
    assert result.ladder[1]["khat"] is None
    assert result.verdict.trusted
    unit = np.tril(np.ones((40, 40)))
    covariance = np.linalg.inv(np.eye(40) + unit.T @ unit / 0.09)
    draws = result.data["posterior"]["x"].values.reshape(-1, 40)
    np.testing.assert_allclose(draws.std(0), np.sqrt(np.diag(covariance)), rtol=0.12)
    np.testing.assert_allclose(draws.mean(0), covariance @ unit.T @ np.ones(40) / 0.09, atol=0.05)


def test_methods_vi_never_runs_nuts(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def doubtful(problem: Any, method: Any, *rest: Any) -> Any:
        tried.append(method)
        raise lvm.FitError("it did not go. Fix: nothing.")

    monkeypatch.setattr(inference, "_variational", doubtful)
    monkeypatch.setattr(inference, "_chains", lambda *rest: tried.append("nuts"))
    with pytest.raises(lvm.FitError, match=r"no method could be run.*student: FitError: it did not go"):
        infer(counts, COUNTS, methods="vi")
    assert tried == ["student", "flow", "mean_field"]


def judged(**figures: float) -> Any:
    """Four chains with one doubt, of these figures."""
    verdict = SimpleNamespace(
        reasons=[Reason("doubtful", "A doubt.", figures), Reason("trusted", "None.", {"bfmi": 1.0})]
    )
    return SimpleNamespace(verdict=verdict, data={"posterior": SimpleNamespace(sizes={"chain": 4})})


def test_chains_are_nearly_mixed_by_rhat_and_ess_alone() -> None:
    nearly = inference._nearly_mixed
    assert nearly(judged(rhat=1.02, **{"quantities over": 2}))
    assert nearly(judged(ess_bulk=392.0, ess_tail=500.0))
    assert not nearly(judged(rhat=1.07))
    assert not nearly(judged(ess_bulk=392.0, ess_tail=150.0))
    assert not nearly(judged(divergences=3))
    assert not nearly(judged(bfmi=0.2))
    assert not nearly(SimpleNamespace(verdict=SimpleNamespace(reasons=[]), data=judged().data))


@pytest.mark.parametrize(("draws", "sizes"), [(None, [20, 80]), (40, [10])], ids=["by default", "as many as asked for"])
def test_chains_that_are_nearly_mixed_go_on_for_longer(
    monkeypatch: pytest.MonkeyPatch, draws: int | None, sizes: list[int]
) -> None:
    had: list[int] = []

    def nearly(result: lvm.Chains) -> bool:
        had.append(result.data["posterior"].sizes["draw"])
        return True

    monkeypatch.setattr(inference, "_nearly_mixed", nearly)
    monkeypatch.setattr(inference, "CHAIN_DRAWS", 20)
    monkeypatch.setattr(inference, "CAREFUL", (0.8,))
    result = infer(counts, COUNTS, methods=["nuts"], draws=draws)
    longer = ["nuts, 4 times as long"] if draws is None else []
    assert [rung["method"] for rung in result.ladder] == ["nuts", *longer]
    assert result.data["posterior"].sizes["draw"] == sizes[-1]
    assert had == sizes[:1] * (draws is None)


def test_the_first_trusted_method_is_the_last_tried() -> None:
    result = infer(counts, COUNTS, methods=["student", "nuts", "flow"])
    assert [rung["method"] for rung in result.ladder] == ["student"]


def test_the_budget_begins_no_further_method(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"methods": ["mean_field", "nuts"]}
    result = infer(horrible, ONE, budget=1e-3, **options)
    assert [rung["method"] for rung in result.ladder] == ["mean_field"]
    assert not result.verdict.trusted


def test_a_method_that_ends_in_an_error_is_passed_over_and_recorded() -> None:
    def many(y: Tensor) -> None:
        x = pyro.sample("x", dist.Normal(y.new_zeros(1001), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x[0], 1.0), obs=y)

    result = infer(many, ONE, methods=["student", "mean_field"], draws=200)
    check_record(result)
    assert [(rung["method"], rung["status"] == "error") for rung in result.ladder] == [
        ("student", True), ("mean_field", False),
    ]  # fmt: skip
    assert "1,001 unknowns" in result.ladder[0]["why"]


def test_a_model_that_reads_values_gets_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw by draw, so few of them; the student has to give way."""
    monkeypatch.setattr(correction, "FIRST", 400)
    monkeypatch.setattr(correction, "MOST", 400)
    monkeypatch.setattr(inference, "RAW_DRAWS", 50)
    result = infer(reads, ONE, methods=["student", "laplace"], draws=400)
    check_record(result)
    assert [rung["status"] == "error" for rung in result.ladder] == [True, False]
    assert "test_infer.py" in result.ladder[0]["why"]
    grid = np.linspace(-5, 5, 4001)
    density = stats.norm.pdf(grid) * stats.norm(grid, np.where(grid > 0, 1.0, 1.2)).pdf(1.0)
    assert float(result.data["posterior"]["mu"].mean()) == pytest.approx(np.average(grid, weights=density), abs=0.15)


def test_an_improper_posterior_is_an_error_of_the_method_not_a_crash() -> None:
    def flat(y: Tensor) -> None:
        x = pyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(0 * x, 1.0), obs=y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = infer(flat, ONE, methods=["student"])
        except lvm.FitError as error:
            assert "Fix:" in str(error)
        else:
            assert not result.verdict.trusted


# --- the record -------------------------------------------------------------------------------------------------------


def test_the_ladder_is_kept_by_save_and_load(schools: lvm.Posterior, tmp_path: Path) -> None:
    schools.save(tmp_path / "result")
    loaded = lvm.load(tmp_path / "result", problem=lvm.problem("eight_schools_centered"))
    assert isinstance(loaded, lvm.Fit)
    assert loaded.ladder == schools.ladder
    assert loaded.corrected
    assert loaded.verdict.status == schools.verdict.status
    np.testing.assert_array_equal(loaded.data["posterior"]["theta"].values, schools.data["posterior"]["theta"].values)


def test_a_result_of_one_method_has_no_ladder() -> None:
    fit = lvm.fit(lvm.Problem(counts, COUNTS), "student", draws=200, progress=False)
    assert fit.ladder == []
    assert not fit.corrected


def test_out_and_resume_return_the_finished_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = infer(counts, COUNTS, methods="vi", draws=300, out=tmp_path / "run")
    captured: list[str] = []
    monkeypatch.setattr("pyrolvm._capture.graph.record", lambda *_, **__: captured.append("a program"))
    again = infer(counts, COUNTS, methods="vi", draws=300, out=tmp_path / "run", resume=True)
    assert not captured  # nothing is run anew
    monkeypatch.undo()
    assert again.ladder == first.ladder
    np.testing.assert_array_equal(again.data["posterior"]["rate"].values, first.data["posterior"]["rate"].values)
    with pytest.raises(lvm.StoreError, match="Fix:"):
        infer(counts, COUNTS, draws=300, out=tmp_path / "run")


def test_the_same_seed_gives_the_same_draws(schools: lvm.Posterior) -> None:
    again = lvm.infer(lvm.problem("eight_schools_centered"), progress=False, seed=0)
    np.testing.assert_array_equal(again.data["posterior"]["theta"].values, schools.data["posterior"]["theta"].values)


def test_another_seed_gives_other_draws(rate: lvm.Posterior) -> None:
    other = infer(counts, COUNTS, methods="vi", seed=1)
    assert not np.array_equal(other.data["posterior"]["rate"].values, rate.data["posterior"]["rate"].values)


def test_the_number_of_draws_is_the_one_asked_for() -> None:
    assert infer(counts, COUNTS, methods="vi", draws=150).num_draws == 150


def test_global_random_state_is_left_alone(untouched_rng: None) -> None:
    infer(counts, COUNTS, methods="vi", draws=100)


# --- bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"methods": "nuts"}, r"got 'nuts'.*Fix: pass methods=\['nuts'\]"),
        ({"methods": "Auto"}, r"got 'Auto'.*Fix:"),
        ({"methods": []}, r"got \[\].*Fix:"),
        ({"methods": 3}, r"got 3.*Fix:"),
        ({"budget": 0}, r"budget.*Fix:"),
        ({"budget": -1.0}, r"budget.*Fix:"),
        ({"budget": float("nan")}, r"budget.*Fix:"),
        ({"draws": 1}, r"draws.*Fix:"),
        ({"draws": 2.5}, r"draws.*Fix:"),
        ({"seed": -1}, r"seed.*Fix:"),
        ({"seed": "a"}, r"seed.*Fix:"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy(options: dict[str, Any], match: str) -> None:
    with pytest.raises(lvm.ArgumentError, match=match):
        infer(counts, COUNTS, **options)


def test_an_unknown_guide_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_variational", lambda *rest: pytest.fail("a method ran"))
    with pytest.raises(lvm.PyrolvmError, match=r"mean_feild.*Fix:"):
        infer(counts, COUNTS, methods=["student", "mean_feild"])


def test_what_is_no_problem_is_refused() -> None:
    with pytest.raises(lvm.ArgumentError, match="Fix:"):
        lvm.infer(counts, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "order"),
    [
        (1e-5, ["student", "nuts", "flow", "smc"]),
        (1e-3, ["student", "flow", "nuts", "smc"]),
        (None, ["student", "flow", "nuts", "smc"]),
    ],
)
def test_chains_come_before_a_flow_where_they_are_quicker(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None, order: list[str]
) -> None:
    tried: list[str] = []

    def attempted(problem: Any, method: Any, *rest: Any) -> Any:
        tried.append(method)
        yield None, inference.Rung(method, "error", None, None, None, 0.0, "not run")

    monkeypatch.setattr(ladder, "gradient_seconds", lambda _: seconds)
    monkeypatch.setattr(inference, "_exactly", lambda *_: None)
    monkeypatch.setattr(inference, "_tried", attempted)
    monkeypatch.setattr(
        inference, "_variational", lambda *_: (_ for _ in ()).throw(lvm.FitError("not run. Fix: nothing."))
    )
    with pytest.raises(lvm.FitError, match="no method could be run"):
        infer(counts, COUNTS)
    assert tried == order
    tried.clear()
    with pytest.raises(lvm.FitError, match="no method could be run"):
        infer(counts, COUNTS, methods=["student", "flow", "nuts"])  # as they were asked for
    assert tried == ["student", "flow", "nuts"]


# --- groups that are made once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [counts, linear, rows_of_two])
def test_the_groups_of_a_correction_are_those_of_a_fit_corrected_by_hand(model: Any) -> None:
    problem = lvm.Problem(model, COUNTS if model is not linear else ONE)
    found = lvm.infer(problem, methods=["student"], seed=0, progress=False)
    by_hand = correction.correct(
        lvm.fit(problem, "student", draws=inference.RAW_DRAWS, seed=0, progress=False), draws=None, seed=0
    )
    assert list(found.data.children) == list(by_hand.data.children)
    assert "log_likelihood" in found.data and "prior" in found.data
    for name in ("posterior", "uncorrected_posterior", "log_likelihood", "proposal_stats"):
        for variable, values in by_hand.data[name].data_vars.items():
            np.testing.assert_array_equal(found.data[name][variable].values, values.values)


def test_a_fit_that_is_corrected_makes_no_groups_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    raw: list[Any] = []
    correct = inference.correct
    monkeypatch.setattr(inference, "correct", lambda fit, **options: raw.append(fit.data) or correct(fit, **options))
    lvm.infer(lvm.Problem(counts, COUNTS), methods=["student"], progress=False)
    assert "posterior" in raw[0] and "sample_stats" in raw[0]
    assert not {"log_likelihood", "prior", "posterior_predictive"} & set(raw[0].children)
    lvm.infer(lvm.Problem(counts, COUNTS), methods=["student"], budget=600.0, progress=False)
    assert "log_likelihood" in raw[1]


def test_results_that_nothing_corrects_have_all_groups() -> None:
    point = lvm.infer(lvm.Problem(counts, COUNTS), methods=[pyro.infer.autoguide.AutoDelta], progress=False)
    assert point.point_estimate
    assert {"log_likelihood", "prior", "posterior_predictive"} <= set(point.data.children)


@pytest.mark.parametrize(
    ("size", "seconds", "first"), [(1_001, None, True), (1_001, 60.0, False), (1_000, None, False)]
)
def test_chains_come_before_guides_that_are_too_large_to_be_weighed(
    size: int, seconds: float | None, first: bool
) -> None:
    def model() -> None:
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([size]).to_event(1))

    problem = lvm.Problem(model)
    with within(seconds):
        assert ladder.chains_before(problem, ["low_rank", "nuts"]) is first
        assert not ladder.chains_before(problem, ["sparse", "nuts"])
        assert not ladder.chains_before(problem, ["low_rank"])
