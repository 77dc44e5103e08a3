"""Verdicts on posteriors whose quality is known."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.importance import khat_of_variance, weigh
from pyrolvm._diagnosis import diagnose
from pyrolvm._diagnosis.reweighted import judge_reweighted, judge_tails


def gaussian_fit(fake, rng, scale, size=4000, **options):
    z = scale * rng.normal(size=(1, size))
    return fake.fit(rng, {"z": z}, log_weight=-0.5 * z**2 + 0.5 * (z / scale) ** 2 + math.log(scale), **options)


def good_chains(rng, shape=(4, 1000)):
    return {"mu": rng.normal(size=shape), "theta": rng.normal(size=(*shape, 3))}


def status_of(data):
    return diagnose(data).verdict.status


# Importance weights


def test_an_exact_guide_is_trusted(fake, rng):
    found = diagnose(fake.fit(rng, {"z": rng.normal(size=(1, 1000))}))
    assert found.verdict.status == "trusted"
    assert found.figures["khat"] == 0.0
    assert found.figures["evidence"] == pytest.approx(-3.0)
    assert "rhat" not in found.table and "rhat" not in found.figures


@pytest.mark.parametrize(
    ("scale", "status", "word"),
    [
        (1.02, "trusted", "within"),
        (1.4, "doubtful", "larger"),
        (0.75, "doubtful", "smaller"),
        (0.3, "doubtful", "k-hat"),
    ],
)
def test_a_guide_of_the_wrong_width(fake, rng, scale, status, word):
    verdict = diagnose(gaussian_fit(fake, rng, scale)).verdict
    assert verdict.status == status
    assert word in str(verdict)
    assert bool(verdict.next_steps) == (status != "trusted")


def test_reweighting_recovers_the_posterior(fake, rng):
    row = diagnose(gaussian_fit(fake, rng, 1.5, size=20_000)).table.loc["z"]
    assert row["psis_sd"] == pytest.approx(1.0, abs=0.03)
    assert row["psis_sd_ratio"] == pytest.approx(1.5, abs=4 * row["psis_sd_ratio_error"])
    assert abs(row["psis_shift"]) < 4 * row["psis_shift_error"]


def test_a_change_that_may_be_noise_is_no_reason_to_trust():
    table = pd.DataFrame(
        {
            "psis_shift": [0.0, 0.16, 0.05], "psis_shift_error": [0.01, 0.09, 0.04],
            "psis_sd_ratio": [0.86, 1.0, 0.95], "psis_sd_ratio_error": [0.07, 0.01, 0.04],
        },
        index=["tight", "moved", "fine"],
    )  # fmt: skip
    reasons = list(judge_reweighted(table, SimpleNamespace(reliable=True)))
    assert [reason.status for reason in reasons] == ["doubtful", "doubtful"]
    assert "`moved` is 0.16 +- 0.09 sd" in reasons[0].text and "`tight` is 14% +- 7% smaller" in reasons[1].text
    assert [r.status for r in judge_reweighted(table.loc[["fine"]], SimpleNamespace(reliable=True))] == ["trusted"]


def test_an_sd_that_one_draw_makes_up_is_no_reason_to_trust(fake, rng):
    x = rng.normal(size=(1, 4000)) * 0.01
    x[0, 17] = 20.0
    weight = np.zeros((1, 4000))
    weight[0, 17] = -30.0  # the guide's tail, where the posterior has nothing
    verdict = diagnose(fake.fit(rng, {"x": x}, log_weight=weight)).verdict
    assert verdict.status == "doubtful" and "too few to tell" in str(verdict)


def test_more_draws_tell_what_is_noise(fake):
    rng = np.random.default_rng(0)
    z = 0.87 * rng.normal(size=(1, 400))
    weights = -0.5 * z**2 + 0.5 * (z / 0.87) ** 2 + 1.1 * rng.normal(size=z.shape)
    verdict = diagnose(fake.fit(rng, {"z": z}, log_weight=weights)).verdict
    assert verdict.status == "doubtful" and "Take more draws of the fitted guide: about" in str(verdict)


def test_hopeless_weights_fail(fake, rng):
    verdict = diagnose(fake.fit(rng, {"z": rng.normal(size=(1, 1000))}, log_weight=10 * rng.normal(size=1000))).verdict
    assert verdict.status == "failed"
    assert "above 1" in str(verdict)


def test_khat_between_the_threshold_and_one_names_figures_and_remedies(fake, rng):
    log_weight = np.log(rng.uniform(size=40_000) ** -0.8)
    verdict = diagnose(fake.fit(rng, {"z": rng.normal(size=(1, 40_000))}, log_weight=log_weight)).verdict
    assert verdict.status == "doubtful"
    assert "is above 0.70: the guide misses part of the posterior" in str(verdict)
    assert 'Try guide="full_rank".' in verdict.next_steps


def test_heavy_tails_on_a_few_draws_are_doubtful_where_nearly_all_are_effective(fake, rng):
    log_weight = 0.01 * rng.normal(size=4000)
    log_weight[:40] = 0.3 * np.log(rng.pareto(0.5, size=40) + 1)
    verdict = diagnose(fake.fit(rng, {"z": rng.normal(size=(1, 4000))}, log_weight=log_weight)).verdict
    assert verdict.figures["khat"] > 1
    assert verdict.status == "doubtful"
    assert "fits the bulk" in str(verdict)


def test_hardly_any_effective_draw_fails(fake, rng):
    log_weight = -0.5 * rng.normal(size=4000) ** 2 * 200
    verdict = diagnose(fake.fit(rng, {"z": rng.normal(size=(1, 4000))}, log_weight=np.sort(log_weight))).verdict
    assert verdict.status == "failed" or verdict.figures["khat"] <= 0.7


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_weights_fail_and_are_counted(fake, rng, bad):
    weights = np.zeros(1000)
    weights[:7] = bad
    verdict = diagnose(fake.fit(rng, {"z": rng.normal(size=(1, 1000))}, log_weight=weights)).verdict
    assert verdict.status == "failed"
    assert "7 of 1000" in str(verdict)


@pytest.mark.parametrize("size", [3, 20, 99])
def test_too_few_draws_are_doubtful(fake, rng, size):
    verdict = diagnose(fake.fit(rng, {"z": rng.normal(size=(1, size))})).verdict
    assert verdict.status == "doubtful"
    assert "too few" in str(verdict)


def test_an_unconverged_fit_is_never_trusted(fake, rng):
    data = fake.fit(rng, {"z": rng.normal(size=(1, 1000))}, converged=False)
    verdict = diagnose(data).verdict
    assert verdict.status == "doubtful"
    assert "step budget spent" in str(verdict)
    assert not any("guide=" in step for step in verdict.next_steps)
    assert status_of(fake.fit(rng, {"z": rng.normal(size=(1, 1000))}, converged=True)) == "trusted"


def test_a_loss_that_ended_in_nan_fails(fake, rng):
    data = fake.fit(rng, {"z": rng.normal(size=(1, 1000))}, converged=False, loss=[3.0, 2.0, np.nan])
    assert status_of(data) == "failed"


def test_draws_that_are_not_finite_fail(fake, rng):
    z = rng.normal(size=(1, 1000))
    z[0, 3] = np.inf
    assert status_of(fake.fit(rng, {"z": z})) == "failed"


def test_constant_and_discrete_sites_in_a_fit(fake, rng):
    sites = {"one": np.ones((1, 500)), "k": rng.integers(0, 3, size=(1, 500)), "z": rng.normal(size=(1, 500))}
    found = diagnose(fake.fit(rng, sites))
    assert found.verdict.status == "trusted"
    assert found.table.loc["one", "psis_sd_ratio"] == 1.0


# Markov chains


def test_good_chains_are_trusted(fake, rng):
    found = diagnose(fake.chains(rng, good_chains(rng)))
    assert found.verdict.status == "trusted"
    assert list(found.table.index) == ["mu", "theta[0]", "theta[1]", "theta[2]", "lp"]
    assert found.figures["rhat"] < 1.01
    assert found.table.loc["mu", "mcse_mean"] == pytest.approx(1 / math.sqrt(4000), rel=0.15)
    assert found.table.loc["mu", "mcse_sd"] == pytest.approx(1 / math.sqrt(8000), rel=0.15)


def test_autocorrelation_widens_the_errors(fake, rng):
    """An AR(1) chain has ESS = S (1 - rho) / (1 + rho)."""
    found = diagnose(fake.chains(rng, {"x": fake.ar1(rng, 0.9, (4, 4000))}))
    expected = math.sqrt(1.9 / 0.1 / 16_000)
    assert found.table.loc["x", "mcse_mean"] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize(("shift", "status"), [(0.0, "trusted"), (0.4, "doubtful"), (3.0, "failed")])
def test_chains_that_disagree(fake, rng, shift, status):
    sites = good_chains(rng)
    sites["mu"][0] += shift
    verdict = diagnose(fake.chains(rng, sites)).verdict
    assert verdict.status == status
    assert ("`mu`" in str(verdict)) == (status != "trusted")


def test_a_stuck_chain_fails(fake, rng):
    sites = good_chains(rng)
    sites["theta"][2, :, 1] = 0.3
    found = diagnose(fake.chains(rng, sites))
    assert found.verdict.status == "failed"
    assert "`theta[1]` has a chain that never moves" in str(found)
    assert found.table.loc["theta[1]", "state"] == "stuck"


def test_chains_that_never_moved_fail(fake, rng):
    assert status_of(fake.draw_tree({"mu": np.ones((4, 100))}, {"diverging": np.zeros((4, 100), bool)})) == "failed"


def test_chains_stuck_at_different_places_fail(fake, rng):
    frozen = np.broadcast_to(np.arange(4.0)[:, None], (4, 100))
    assert status_of(fake.chains(rng, {"mu": frozen})) == "failed"


def test_a_structural_constant_is_no_fault(fake, rng):
    sites = good_chains(rng) | {"corr": np.ones((4, 1000))}
    found = diagnose(fake.chains(rng, sites))
    assert found.verdict.status == "trusted"
    assert found.table.loc["corr", "state"] == "constant"


@pytest.mark.parametrize(("number", "status"), [(0, "trusted"), (1, "doubtful"), (600, "failed")])
def test_divergences(fake, rng, number, status):
    diverging = np.zeros((4, 1000), bool)
    diverging.flat[:number] = True
    found = diagnose(fake.chains(rng, good_chains(rng), diverging=diverging))
    assert found.verdict.status == status
    assert found.figures["divergences"] == number


@pytest.mark.parametrize(("rho", "status"), [(0.0, "trusted"), (0.95, "doubtful")])
def test_low_energy_exchange(fake, rng, rho, status):
    found = diagnose(fake.chains(rng, good_chains(rng), stats={"energy": fake.ar1(rng, rho, (4, 1000))}))
    assert found.verdict.status == status
    assert found.figures["bfmi"] == pytest.approx(2 * (1 - rho), abs=0.2)


@pytest.mark.parametrize(("share", "status"), [(0.05, "trusted"), (0.5, "doubtful")])
def test_saturated_trees(fake, rng, share, status):
    saturated = {"reached_max_treedepth": rng.random((4, 1000)) < share}
    assert status_of(fake.chains(rng, good_chains(rng), stats=saturated)) == status


def test_one_chain_is_doubtful(fake, rng):
    found = diagnose(fake.chains(rng, good_chains(rng, (1, 1000))))
    assert found.verdict.status == "doubtful"
    assert "one chain" in str(found)
    assert "rhat" not in found.figures


@pytest.mark.parametrize("draws", [1, 2, 3, 20])
def test_short_chains(fake, rng, draws):
    assert status_of(fake.chains(rng, good_chains(rng, (4, draws)))) != "trusted"


def test_slow_mixing_is_doubtful(fake, rng):
    verdict = diagnose(fake.chains(rng, {"x": fake.ar1(rng, 0.97, (4, 1000))})).verdict
    assert verdict.status in ("doubtful", "failed")
    assert "ESS" in str(verdict)


def test_identified_quantities_are_judged_in_place_of_sites(fake, rng):
    sites = {"loading": rng.normal(size=(4, 1000)) + np.array([5, -5, 5, -5])[:, None]}
    assert status_of(fake.chains(rng, sites)) == "failed"
    assert status_of(fake.chains(rng, sites, quantities={"size": rng.normal(size=(4, 1000))})) == "trusted"


def test_a_latent_that_never_moved_fails_whatever_the_others_did(fake, rng):
    moved = rng.normal(size=(4, 1000))
    still = {"x": moved, "s": np.full((4, 1000), 2.0)}
    assert status_of(fake.chains(rng, still)) == "trusted"  # it may be a deterministic value
    found = diagnose(
        fake.chains(rng, still, unconstrained_posterior={"x": moved, "s": np.full((4, 1000), 0.7)})
    ).verdict
    assert found.status == "failed" and "`s` never moved" in str(found)


def test_mass_that_no_chain_was_near_is_doubtful(fake, rng):
    data = fake.chains(rng, good_chains(rng))
    data["posterior"].attrs["modes_left_out"] = 0.3
    verdict = diagnose(data).verdict
    assert verdict.status == "doubtful" and "30%" in str(verdict) and "lvm.smc" in str(verdict)


def test_modes_that_quantities_do_not_tell_apart_are_named_and_no_fault(fake, rng):
    sites = {"loading": rng.normal(size=(4, 1000)) + np.array([5, -5, 5, -5])[:, None]}
    chains = fake.chains(rng, sites, quantities={"size": rng.normal(size=(4, 1000))})
    chains["posterior"].attrs |= {"modes_left_out": 0.5, "modes_unlike": 0}
    verdict = diagnose(chains).verdict
    assert verdict.status == "trusted" and "different modes of `loading`" in str(verdict) and "50%" not in str(verdict)
    for unlike, status in ((0, "trusted"), (2, "doubtful")):
        fit = fake.fit(
            rng, {"x": rng.normal(size=(1, 4000))}, guide="full_rank", quantities={"size": rng.normal(size=(1, 4000))}
        )
        fit["posterior"].attrs |= {"modes": 8, "modes_unlike": unlike}
        verdict = diagnose(fit).verdict
        assert verdict.status == status and "8 modes apart" in str(verdict)


# Shared


def test_the_worst_of_many_quantities_are_kept(fake, rng):
    theta = rng.normal(size=(4, 100, 3000))
    theta[0, :, 1234] += 5
    found = diagnose(fake.chains(rng, {"theta": theta}), max_quantities=20)
    assert len(found.table) == 20 and found.left_out == 2981
    assert "theta[1234]" in found.table.index
    z = rng.normal(size=(1, 200, 3000))
    weighted = diagnose(fake.fit(rng, {"z": z}, log_weight=z[0, :, 77]), max_quantities=20)
    assert "z[77]" in weighted.table.index and weighted.left_out == 2980


def test_the_screen_is_exact_where_scores_tie(fake):
    found = diagnose(fake.draw_tree({"x": np.zeros((2, 10, 50))}), max_quantities=7)
    assert len(found.table) == 7 and found.left_out == 43


def test_it_prints_and_serialises(fake, rng):
    for data in (fake.chains(rng, good_chains(rng)), fake.fit(rng, good_chains(rng, (1, 200)))):
        found = diagnose(data)
        assert found.verdict.status in str(found)
        assert "theta[2]" in found._repr_html_()
        assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["verdict"]["status"] == found.verdict.status


@pytest.mark.parametrize("thing", [None, {"posterior": 1}, 3.0])
def test_what_is_no_posterior_is_refused(thing):
    with pytest.raises(ArgumentError, match="Fix:"):
        diagnose(thing)


def test_a_tree_without_draws_is_refused(fake, rng):
    import xarray as xr

    with pytest.raises(ArgumentError, match="no group 'posterior'"):
        diagnose(xr.DataTree())
    with pytest.raises(ArgumentError, match="chain"):
        diagnose(xr.DataTree.from_dict({"posterior": xr.Dataset({"mu": ("draw", np.zeros(3))})}))


@pytest.mark.parametrize("idle", [True, False])
def test_a_layer_that_follows_from_the_others_has_collapsed(idle: bool) -> None:
    """Its means vary with the rows, since its prior's do, but it holds nothing of its own."""
    y = torch.linspace(-2.0, 2.0, 40)

    def layered(y: torch.Tensor) -> None:
        slope = pyro.param("slope", torch.ones(()))
        with pyro.plate("row", len(y)):
            upper = pyro.sample("upper", dist.Normal(0.0, 1.0))
            lower = pyro.sample("lower", dist.Normal(upper, 0.5))
            pyro.sample("y", dist.Normal(slope * lower, 0.3), obs=y)

    def guide(y: torch.Tensor) -> None:
        with pyro.plate("row", len(y)):
            upper = pyro.sample("upper", dist.Normal(0.8 * y, 0.4))
            pyro.sample("lower", dist.Normal(upper, 0.5) if idle else dist.Normal(y, 0.25))

    fit = lvm.fit(lvm.Problem(layered, y), guide, max_steps=5, tolerance=0, draws=400, engine="pyro", progress=False)
    said = [reason for reason in fit.verdict.reasons if "layer_kl" in reason.figures]
    assert bool(said) is idle
    if idle:
        assert "`lower` has collapsed" in said[0].text and said[0].figures["layer_kl"] < 1e-6
        assert any("Warmup" in step for step in fit.verdict.next_steps)
    else:
        assert float(fit.data["sample_stats"]["site_kl"].sel(site="lower")) > 0.2


def test_an_sd_whose_tail_the_draws_hardly_reach_is_doubted_where_reweighting_sees_a_part_of_it():
    # A normal for a Student with eight degrees of freedom: weights grow without bound, where hardly a draw lies.
    rng = np.random.default_rng(0)
    draws = rng.normal(0.0, 1.0, 4_000) * 0.97
    log_q = -0.5 * (draws / 0.97) ** 2 - np.log(0.97)
    log_p = -4.5 * np.log1p(draws**2 / 8)
    figures, _ = weigh(log_p - log_q)
    table = pd.DataFrame({"psis_sd_ratio": [0.93, 0.97]}, index=["x", "y"])
    data = xr.DataTree.from_dict({"posterior": xr.Dataset({n: (("chain", "draw"), draws[None]) for n in ("x", "y")})})
    khat = khat_of_variance(log_p - log_q, draws)
    assert figures.reliable and khat > 0.5
    found = list(judge_tails(data, table, log_p - log_q, figures))
    assert [reason.status for reason in found] == ["doubtful"]
    assert "`x`" in found[0].text and "more than the 7%" in found[0].text
    assert not list(judge_tails(data, table, np.zeros(4_000) + 1e-4 * draws, figures))


@pytest.mark.parametrize("kind", ["far mode", "no variance"])
def test_an_sd_that_the_draws_do_not_tell_is_named(fake, rng, kind):
    sites = good_chains(rng)
    far = sites["mu"].copy()
    if kind == "far mode":  # 0.4% of the mass at 80 sds: of 4,000 draws 16, give or take four
        far[rng.random(far.shape) < 0.004] += 80.0
    else:
        far = rng.standard_t(2.0, size=far.shape)
    found = diagnose(fake.chains(rng, {**sites, "far": far})).verdict
    told = [reason for reason in found.reasons if "rough sds" in reason.figures]
    assert len(told) == 1 and "`far`" in told[0].text and told[0].figures["largest error of an sd"] > 0.1
    assert found.status == "trusted"  # all else is known
    assert not any("rough sds" in reason.figures for reason in diagnose(fake.chains(rng, sites)).verdict.reasons)


def test_a_rare_event_of_a_bernoulli_is_no_chain_that_is_stuck(fake, rng):
    """Its draws are floating zeros and ones, of which one chain may have no one at all; nor is its sd asked for."""
    sites = good_chains(rng)
    rare = np.zeros(sites["mu"].shape)
    rare[0, :5] = 1.0
    found = diagnose(fake.chains(rng, {**sites, "z": rng.permuted(rare, axis=1)})).verdict
    assert found.status == "trusted", str(found)
    assert not any("`z`" in reason.text for reason in found.reasons)
    stuck = sites["mu"].copy()
    stuck[1] = 0.3
    assert diagnose(fake.chains(rng, {**sites, "x": stuck})).verdict.status == "failed"
