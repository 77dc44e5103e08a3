"""Draws that were chosen by importance weights are judged by those weights, whatever the guide's own draws were worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from pyrolvm import compare
from pyrolvm._base.importance import worth_of_chosen
from pyrolvm._diagnosis import diagnose, weigh
from pyrolvm.family import resample

SITES = {"mu": (), "theta": (3,)}


def corrected(fake: Any, rng: np.random.Generator, log_weight: np.ndarray, **options: Any) -> Any:
    """4,000 draws of a standard normal, chosen by the given weights; the guide's own were of another scale."""
    draws = {name: rng.normal(size=(1, 4000, *shape)) for name, shape in SITES.items()}
    data = fake.fit(rng, draws, **{"converged": True, "guide": "student", **options})
    own = {name: (("chain", "draw", *values.dims[2:]), 3 * values.values) for name, values in data["posterior"].items()}
    data["uncorrected_posterior"] = xr.DataTree(xr.Dataset(own))
    weights = np.reshape(log_weight, (1, -1))
    stats = {name: (("chain", "proposal"), weights) for name in ("lp", "log_weight")}
    data["proposal_stats"] = xr.DataTree(xr.Dataset({**stats, "log_q": 0.0 * stats_of(weights)}))
    del data["sample_stats"]
    return fake.Fake(data)


def stats_of(weights: np.ndarray) -> xr.DataArray:
    return xr.DataArray(weights, dims=("chain", "proposal"))


def gaussian_weights(rng: np.random.Generator, scale: float, size: int, unknowns: int = 1) -> np.ndarray:
    """Of Normal(0, 1) under draws from Normal(0, scale), so that the evidence is 1."""
    z = scale * rng.normal(size=(size, unknowns))
    return np.asarray(np.sum(-0.5 * z**2 + 0.5 * (z / scale) ** 2 + np.log(scale), axis=1))


def test_many_effective_draws_are_trusted(fake: Any, rng: np.random.Generator) -> None:
    found = diagnose(corrected(fake, rng, gaussian_weights(rng, 1.3, 8192)))
    assert found.verdict.status == "trusted"
    assert (found.figures["draws"], found.figures["weighed"]) == (4000, 8192)
    assert found.figures["ess_importance"] > 1000
    assert abs(found.figures["evidence"]) < 4 * found.figures["evidence_error"]
    assert not found.verdict.next_steps
    assert any("effective" in reason.text for reason in found.verdict.reasons)


@pytest.mark.parametrize(("guide", "named"), [("student", True), ("", False)])
def test_a_richer_guide_is_advised_where_there_is_a_guide(
    fake: Any, rng: np.random.Generator, guide: str, named: bool
) -> None:
    found = diagnose(corrected(fake, rng, gaussian_weights(rng, 0.3, 8192), guide=guide))
    assert found.verdict.status != "trusted"
    assert any("guide=" in step for step in found.verdict.next_steps) == named
    assert any("lvm.nuts" in step for step in found.verdict.next_steps)


def test_the_same_weights_on_draws_that_are_not_corrected_are_not_enough(fake: Any, rng: np.random.Generator) -> None:
    """The difference that the correction makes: a wide guide is doubtful until its draws are chosen."""
    z = 1.6 * rng.normal(size=4000)
    log_weight = -0.5 * z**2 + 0.5 * (z / 1.6) ** 2 + np.log(1.6)
    plain = fake.Fake(fake.fit(rng, {"z": z[None]}, log_weight=log_weight, converged=True))
    assert diagnose(plain).verdict.status == "doubtful"
    assert diagnose(corrected(fake, rng, log_weight)).verdict.status == "trusted"


@pytest.mark.parametrize(("size", "status"), [(1100, "doubtful"), (8192, "trusted")])
def test_too_few_effective_draws_are_doubtful_however_good_their_tail(
    fake: Any, rng: np.random.Generator, size: int, status: str
) -> None:
    log_weight = gaussian_weights(rng, 1.5, size, unknowns=2)
    figures, _ = weigh(log_weight)
    assert figures.reliable
    assert (figures.ess >= 1000) == (status == "trusted")
    verdict = diagnose(corrected(fake, rng, log_weight)).verdict
    assert verdict.status == status
    if status == "doubtful":
        assert verdict.next_steps
        (reason,) = [reason for reason in verdict.reasons if reason.status == "doubtful"]
        assert "too few, 1,000 are needed" in reason.text
        assert reason.figures["ess_importance"] == pytest.approx(figures.ess)


def pareto(khat: float, size: int) -> np.ndarray:
    """Log weights whose quantiles are those of a Pareto law with the given shape."""
    return np.asarray(-khat * np.log((np.arange(size) + 0.5) / size))


@pytest.mark.parametrize(("khat", "status"), [(0.3, "trusted"), (0.85, "doubtful"), (1.3, "failed")])
def test_the_verdict_follows_khat(fake: Any, rng: np.random.Generator, khat: float, status: str) -> None:
    found = diagnose(corrected(fake, rng, rng.permutation(pareto(khat, 20_000))))
    assert found.figures["khat"] == pytest.approx(khat, abs=0.08)
    assert found.verdict.status == status
    if status != "trusted":
        assert found.verdict.next_steps


def test_heavy_weights_need_more_effective_draws(fake: Any, rng: np.random.Generator) -> None:
    """Above k-hat 1/2 the weights have no variance, and the number of effective draws flatters."""
    log_weight = rng.permutation(pareto(0.58, 8000))
    figures, _ = weigh(log_weight)
    assert 0.5 < figures.khat < figures.threshold
    assert 1000 < figures.ess < 3000
    verdict = diagnose(corrected(fake, rng, log_weight)).verdict
    assert verdict.status == "doubtful"
    assert any("3,000 are needed" in reason.text for reason in verdict.reasons)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers_fail(fake: Any, rng: np.random.Generator, bad: float) -> None:
    log_weight = gaussian_weights(rng, 1.3, 8192)
    log_weight[5] = bad
    assert diagnose(corrected(fake, rng, log_weight)).verdict.status == "failed"


def test_a_few_draws_without_density_are_weights_of_zero_and_many_fail(fake: Any, rng: np.random.Generator) -> None:
    log_weight = gaussian_weights(rng, 1.3, 8192)
    log_weight[:20] = -np.inf
    assert diagnose(corrected(fake, rng, log_weight)).verdict.status == "trusted"
    log_weight[:2000] = -np.inf
    assert diagnose(corrected(fake, rng, log_weight)).verdict.status == "failed"


def by_quantity(result: Any, khats: list[float]) -> Any:
    names = ["mu", "theta[0]", "theta[1]", "theta[2]"]
    result.data["proposal_stats"]["quantity_khat"] = xr.DataArray(khats, dims="quantity", coords={"quantity": names})
    return diagnose(result).verdict


def test_an_unknown_whose_variance_rests_on_a_few_draws_is_named(fake: Any, rng: np.random.Generator) -> None:
    """Unless most draws are effective, so that the few in its tail hardly matter."""
    few, most = gaussian_weights(rng, 2.0, 16_384, unknowns=3), gaussian_weights(rng, 1.1, 16_384)
    shares = [figures.ess / figures.num_draws for figures, _ in (weigh(few), weigh(most))]
    assert shares[0] < 0.4 < shares[1]
    verdict = by_quantity(corrected(fake, rng, few), [0.1, 0.2, 0.95, 0.3])
    assert verdict.status == "doubtful"
    (reason,) = [reason for reason in verdict.reasons if reason.status == "doubtful"]
    assert "`theta[1]`" in reason.text
    assert "`mu`" not in reason.text
    assert verdict.next_steps
    assert by_quantity(corrected(fake, rng, few), [0.1, 0.2, 0.3, 0.4]).trusted
    assert by_quantity(corrected(fake, rng, most), [0.1, 0.2, 0.95, 0.3]).trusted


def test_heavy_weights_do_not_excuse_an_unknown_with_a_heavy_tail(fake: Any, rng: np.random.Generator) -> None:
    """A flow was seen to have 60% of its draws effective at k-hat 0.66 and an sd 20% too small."""
    log_weight = rng.permutation(np.concatenate([np.zeros(200_000), pareto(0.66, 5_000) - 0.5]))
    figures, _ = weigh(log_weight)
    assert figures.ess > 0.4 * figures.num_draws
    assert 0.6 < figures.khat < figures.threshold
    assert by_quantity(corrected(fake, rng, log_weight), [0.1, 0.2, 0.3, 0.3]).trusted
    assert by_quantity(corrected(fake, rng, log_weight), [0.1, 0.2, 0.76, 0.3]).status == "doubtful"


def test_an_optimisation_that_did_not_converge_is_named(fake: Any, rng: np.random.Generator) -> None:
    verdict = diagnose(corrected(fake, rng, gaussian_weights(rng, 1.3, 8192), converged=False)).verdict
    assert verdict.status == "doubtful"
    assert any("before it converged" in reason.text for reason in verdict.reasons)


def test_draws_that_are_not_finite_fail(fake: Any, rng: np.random.Generator) -> None:
    result = corrected(fake, rng, gaussian_weights(rng, 1.3, 8192))
    result.data["posterior"]["mu"][0, 7] = np.inf
    verdict = diagnose(result).verdict
    assert verdict.status == "failed"
    assert any("`mu`" in reason.text for reason in verdict.reasons)


def test_the_table_is_of_the_corrected_draws_with_errors_by_effective_ones(fake: Any, rng: np.random.Generator) -> None:
    result = corrected(fake, rng, gaussian_weights(rng, 1.5, 8192))
    found = diagnose(result)
    draws = result.data["posterior"]["mu"].values
    row = found.table.loc["mu"]
    assert len(found.table) == 4
    assert row["mean"] == pytest.approx(draws.mean())
    assert row["sd"] == pytest.approx(draws.std(ddof=1))
    weights = weigh(result.data["proposal_stats"]["log_weight"].values)[1]
    worth = worth_of_chosen(weights, draws.size)
    assert worth == pytest.approx(draws.size)  # few of many: found.figures["ess_importance"] are more
    assert row["mcse_mean"] == pytest.approx(draws.std(ddof=1) / np.sqrt(worth))
    assert row["mcse_sd"] == pytest.approx(draws.std(ddof=1) / np.sqrt(2 * worth), rel=0.05)
    assert (row["q5"], row["median"], row["q95"]) == tuple(np.quantile(draws, [0.05, 0.5, 0.95]))
    assert "psis_mean" not in found.table
    limited = diagnose(result, max_quantities=2)
    assert (len(limited.table), limited.left_out) == (2, 2)


@pytest.mark.parametrize(("pool", "kept"), [(400, 4_000), (4_000, 400), (1_000, 1_000)])
def test_the_error_of_chosen_draws_is_calibrated(pool: int, kept: int) -> None:
    """Neither copies of few draws nor few of many are worth more than they are: means of them vary as their error says."""
    random = np.random.default_rng(pool)
    means, errors = [], []
    for seed in range(400):
        points = random.normal(size=pool)
        _, weights = weigh(0.5 * random.normal(size=pool))
        means.append(points[resample(weights, kept, seed)].mean())
        errors.append(1.0 / np.sqrt(worth_of_chosen(weights, kept)))
    assert np.std(means) == pytest.approx(np.mean(errors), rel=0.15)
    assert np.mean(means) == pytest.approx(0.0, abs=4 * np.mean(errors) / 20)


def test_equal_weights_that_all_are_chosen_are_worth_their_number() -> None:
    assert worth_of_chosen(np.full(1_000, 1e-3), 1_000) == pytest.approx(1_000)
    assert worth_of_chosen(np.eye(1, 1_000)[0], 1_000) == pytest.approx(1.0)


@pytest.mark.parametrize("tail", ["normal", "heavy"])
def test_an_sd_that_chosen_draws_do_not_tell_is_named(fake: Any, rng: np.random.Generator, tail: str) -> None:
    result = corrected(fake, rng, gaussian_weights(rng, 1.3, 8192))
    if tail == "heavy":
        result.data["posterior"]["mu"] = result.data["posterior"]["mu"].copy(
            data=np.exp(2.0 * rng.normal(size=(1, 4000)))
        )
    found = diagnose(result)
    named = [reason.text for reason in found.verdict.reasons if "rough sds" in reason.figures]
    assert found.verdict.status == "trusted"
    assert len(named) == (tail == "heavy")
    assert all("`mu`" in text and "look at quantiles" in text for text in named)


def test_a_comparison_counts_copies_of_few_draws_as_few(fake: Any, rng: np.random.Generator) -> None:
    """4,000 draws chosen among 300 are 300: a mean that is off by what 300 leave differs in nothing."""
    few = rng.normal(size=300)
    few += 0.15 - few.mean()
    result = corrected(fake, rng, np.zeros(300) + 0.01 * rng.normal(size=300))
    result.data["posterior"]["mu"] = result.data["posterior"]["mu"].copy(data=rng.choice(few, size=(1, 4000)))
    draws = {"mu": rng.normal(size=(4, 10_000)), "theta": rng.normal(size=(4, 10_000, 3))}
    table = compare({"infer": result, "nuts": fake.chains(rng, draws)}, reference="nuts").table
    row = table[table["quantity"] == "mu"].iloc[0]
    assert row["ess"] == pytest.approx(280, rel=0.1)
    assert row["mean_diff_error"] > 0.05 and row["mean_status"] == "unclear"
