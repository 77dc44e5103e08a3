"""Negative controls must differ, exact samples must agree, and what cannot be compared is said."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from pyrolvm._base.errors import ArgumentError, UnknownNameError
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._check.compare import compare
from pyrolvm._check.compare.compared import METHOD_COLUMNS
from pyrolvm._check.compare.table import COLUMNS

DIMS, COORDS = {"theta": ["school"]}, {"school": ["Choate", "Deerfield", "Phillips Andover"]}


def sites(rng, chains=1, draws=2000, shift=0.0, scale=1.0):
    shape = (chains, draws)
    return {
        "mu": 4 + 3 * (shift + scale * rng.normal(size=shape)),
        "theta": shift + scale * rng.normal(size=(*shape, 3)),
    }


@pytest.fixture
def nuts(fake, rng):
    return fake.chains(rng, sites(rng, 4, 1000), dims=DIMS, coords=COORDS)


def against(fake, rng, nuts, **how):
    return compare({"vi": fake.fit(rng, sites(rng, **how), dims=DIMS, coords=COORDS), "nuts": nuts})


# Controls


@pytest.mark.parametrize(
    ("how", "column"),
    [
        ({"scale": 1.3}, "sd_status"),
        ({"scale": 0.7}, "sd_status"),
        ({"shift": 0.35}, "mean_status"),
        ({"shift": -0.35}, "mean_status"),
        ({"shift": 0.5, "scale": 5.0}, "sd_status"),  # the prior for the posterior
    ],
)
def test_negative_controls_differ(fake, rng, nuts, how, column):
    table = against(fake, rng, nuts, **how).table
    assert (table["status"] == "differs").all()
    assert (table[column] == "differs").all()


def test_another_shape_with_equal_moments_differs(fake, rng, nuts):
    found = sites(rng)
    found["mu"] = 4 + 3 * (
        rng.choice([-0.95, 0.95], size=(1, 2000)) + math.sqrt(1 - 0.95**2) * rng.normal(size=(1, 2000))
    )
    row = (
        compare({"vi": fake.fit(rng, found, dims=DIMS, coords=COORDS), "nuts": nuts})
        .table.set_index("quantity")
        .loc["mu"]
    )
    assert row["mean_status"] == row["sd_status"] == "agrees"
    assert row["shape_status"] == row["status"] == "differs"


@pytest.mark.parametrize("seeds", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_two_exact_samples_agree(fake, seeds):
    statuses = []
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        reference = fake.chains(generator, sites(generator, 4, 1000), dims=DIMS, coords=COORDS)
        statuses += list(against(fake, generator, reference).table["status"])
    assert statuses.count("differs") == 0
    assert statuses.count("agrees") >= 0.97 * len(statuses)


@pytest.mark.parametrize("rho", [pytest.param(0.5, marks=pytest.mark.slow), 0.9])
def test_autocorrelated_exact_chains_never_differ(fake, rho):
    statuses = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        one, two = ({"x": np.stack([fake.ar1(generator, rho, (4, 600)) for _ in range(5)], -1)} for _ in range(2))
        statuses += list(
            compare({"a": fake.chains(generator, one), "nuts": fake.chains(generator, two)}).table["status"]
        )
    assert statuses.count("differs") == 0


@pytest.mark.parametrize("draws", [10, 50])
def test_too_few_draws_are_unclear_not_different(fake, rng, nuts, draws):
    comparison = against(fake, rng, nuts, draws=draws)
    assert (comparison.table["status"] == "unclear").all()
    assert "times the draws of this method" in comparison.advice[0]


@pytest.mark.parametrize("shift", [0.0, 0.25, -1.0])
def test_effects_are_estimated_within_their_errors(fake, rng, nuts, shift):
    table = against(fake, rng, nuts, shift=shift, scale=0.8).table
    assert np.all(np.abs(table["mean_diff"] - shift) < 4 * table["mean_diff_error"])
    assert np.all(np.abs(table["sd_ratio"] - 0.8) < 4 * table["sd_ratio_error"])
    assert np.all(table["mean_diff_error"] < 0.05)


# Kinds of quantities


def rows(fake, rng, method, reference):
    shape = (1, 3000), (4, 1000)
    pair = {"vi": fake.fit(rng, {"x": method(shape[0])}), "nuts": fake.chains(rng, {"x": reference(shape[1])})}
    return compare(pair).table.iloc[0]


def test_heavy_tails_are_compared_by_medians(fake, rng):
    same = rows(fake, rng, lambda s: rng.standard_cauchy(s), lambda s: rng.standard_cauchy(s))
    assert same["heavy_tail"] and same["status"] == "agrees"
    wide = rows(fake, rng, lambda s: 2 * rng.standard_cauchy(s), lambda s: rng.standard_cauchy(s))
    assert wide["heavy_tail"] and wide["status"] == "differs"
    moved = rows(fake, rng, lambda s: 0.8 + rng.standard_cauchy(s), lambda s: rng.standard_cauchy(s))
    assert moved["status"] == "differs" and "medians" in moved["note"]


@pytest.mark.parametrize(("p", "status"), [(0.3, "agrees"), (0.45, "differs")])
def test_a_binary_site_is_compared_by_its_probability(fake, rng, p, status):
    row = rows(fake, rng, lambda s: (rng.random(s) < p).astype(int), lambda s: (rng.random(s) < 0.3).astype(int))
    assert row["kind"] == "discrete" and row["status"] == status
    assert row["mean"] == pytest.approx(p, abs=0.03)


def test_categories_in_another_order_differ(fake, rng):
    """Mean and sd are equal, yet the probabilities are not."""
    row = rows(
        fake,
        rng,
        lambda s: rng.choice([0, 1, 2], size=s, p=[0.3, 0.4, 0.3]),
        lambda s: rng.choice([0, 1, 2], size=s, p=[0.1, 0.8, 0.1]),
    )
    assert row["status"] == "differs"


def test_counts_agree_with_counts(fake, rng):
    assert rows(fake, rng, lambda s: rng.poisson(4, s), lambda s: rng.poisson(4, s))["status"] == "agrees"


@pytest.mark.parametrize(
    ("method", "reference", "status"),
    [(1.0, 1.0, "agrees"), (1.0, 2.0, "differs"), (None, 1.0, "differs"), (1.0, None, "differs")],
)
def test_constants(fake, rng, method, reference, status):
    def draw(value):
        return lambda shape: rng.normal(size=shape) if value is None else np.full(shape, value)

    row = rows(fake, rng, draw(method), draw(reference))
    assert row["status"] == status
    assert bool(row["note"]) == ((method is None) != (reference is None))


@pytest.mark.parametrize(("broken", "status"), [("vi", "differs"), ("nuts", "unclear")])
def test_draws_that_are_not_finite_are_named(fake, rng, nuts, broken, status):
    mine = fake.fit(rng, sites(rng), dims=DIMS, coords=COORDS)
    both = {"vi": mine, "nuts": nuts}
    both[broken]["posterior"]["mu"].values[0, 3] = np.nan
    row = compare(both).table.set_index("quantity").loc["mu"]
    assert row["status"] == status and "not finite" in row["note"]


# What is paired with what


def test_quantities_are_paired_by_coordinates(fake, rng, nuts):
    mine = sites(rng)
    mine["theta"] += [0, 0, 5]
    backwards = {"school": COORDS["school"][::-1]}
    mine["theta"] = mine["theta"][..., ::-1]
    table = compare({"vi": fake.fit(rng, mine, dims=DIMS, coords=backwards), "nuts": nuts}).table.set_index("quantity")
    assert table["status"].to_dict() == {
        "mu": "agrees",
        "theta[Choate]": "agrees",
        "theta[Deerfield]": "agrees",
        "theta[Phillips Andover]": "differs",
    }


def test_what_is_in_one_only_is_left_out_and_said(fake, rng, nuts):
    mine = sites(rng) | {"extra": rng.normal(size=(1, 2000))}
    mine["theta"] = mine["theta"][..., :2]
    part = {"school": ["Deerfield", "Exeter"]}
    comparison = compare({"vi": fake.fit(rng, mine, dims=DIMS, coords=part), "nuts": nuts})
    assert list(comparison.table["quantity"]) == ["mu", "theta[Deerfield]"]
    notes = " ".join(comparison.notes)
    assert "`extra` left out" in notes and "1 of 3 coordinates of `school`" in notes


def test_other_shapes_are_left_out(fake, rng, nuts):
    mine = {"mu": 4 + 3 * rng.normal(size=(1, 2000)), "theta": rng.normal(size=(1, 2000, 2, 2))}
    comparison = compare({"vi": fake.fit(rng, mine), "nuts": nuts})
    assert list(comparison.table["quantity"]) == ["mu"]
    assert "shape (2, 2) against the reference's (3,)" in " ".join(comparison.notes)


def test_unnamed_dims_are_paired_by_position(fake, rng, nuts):
    comparison = compare({"vi": fake.fit(rng, sites(rng)), "nuts": nuts})
    assert "theta[Deerfield]" in set(comparison.table["quantity"])
    assert "by position" in " ".join(comparison.notes)
    assert comparison.agrees


def test_nothing_in_common_is_an_error(fake, rng, nuts):
    with pytest.raises(ArgumentError, match=r"no quantity in common.*Fix:"):
        compare({"vi": fake.fit(rng, {"z": rng.normal(size=(1, 100))}), "nuts": nuts})


def test_identified_quantities_come_before_sites(fake, rng):
    flipped = rng.normal(size=(4, 1000)) + np.array([3, -3, 3, -3])[:, None]
    size = {"size": 3 + rng.normal(size=(4, 1000))}
    nuts = fake.chains(rng, {"loading": flipped}, quantities=size)
    mine = fake.fit(
        rng, {"loading": 3 + rng.normal(size=(1, 2000))}, quantities={"size": 3 + rng.normal(size=(1, 2000))}
    )
    comparison = compare({"vi": mine, "nuts": nuts})
    assert list(comparison.table["quantity"]) == ["size"] and comparison.agrees


# The reference


def test_the_reference_is_nuts_then_the_first_chains(fake, rng, nuts):
    mine = fake.fit(rng, sites(rng), dims=DIMS, coords=COORDS)
    assert compare({"vi": mine, "stan": nuts}).reference == "stan"
    assert compare({"stan": nuts, "nuts": nuts, "vi": mine}).reference == "nuts"
    assert compare({"vi": mine, "nuts": nuts}, reference="vi").reference == "vi"


def test_without_chains_a_reference_must_be_named(fake, rng, nuts):
    mine = fake.fit(rng, sites(rng))
    with pytest.raises(ArgumentError, match=r"no natural reference. Fix:"):
        compare({"a": mine, "b": mine})
    with pytest.raises(UnknownNameError, match=r"Fix: did you mean 'nuts'"):
        compare({"a": mine, "nuts": nuts}, reference="nutz")


@pytest.mark.parametrize("posteriors", [{}, [1, 2], None, {"one": 1}])
def test_two_posteriors_are_needed(posteriors):
    with pytest.raises(ArgumentError, match="Fix:"):
        compare(posteriors)


def test_a_reference_that_is_not_trusted_is_called_out(fake, rng):
    broken = sites(rng, 4, 1000)
    broken["mu"][0] += 9
    nuts = fake.chains(rng, broken, diverging=rng.random((4, 1000)) < 0.02, dims=DIMS, coords=COORDS)
    comparison = against(fake, rng, nuts)
    assert comparison.advice[0].startswith("WARNING: the reference nuts is itself failed")
    assert "R-hat" in comparison.advice[0] and "diverged" in comparison.advice[0]
    assert "class=warn" in comparison.to_html(plots=False)


def test_a_posteriors_own_verdict_is_never_improved(fake, rng, nuts):
    mine = fake.Fake(fake.fit(rng, sites(rng), dims=DIMS, coords=COORDS))
    mine.verdict = Verdict.of([Reason("failed", "the support of `mu` is wrong")])
    comparison = compare({"vi": mine, "nuts": nuts})
    assert comparison.methods.loc["vi", "verdict"] == "failed"


# What comes out


def test_advice_says_what_is_wrong_and_what_to_try(fake, rng, nuts):
    mine = sites(rng)
    mine["mu"] = 4 + 3 * 0.6 * rng.normal(size=(1, 2000))
    advice = compare(
        {"full rank": fake.fit(rng, mine, guide="full_rank", dims=DIMS, coords=COORDS), "nuts": nuts}
    ).advice
    assert advice[0].startswith("full rank: 3 of 4 quantities agree. 1 differ: `mu` sd 4")
    assert "too small" in advice[0] and 'Try guide="flow".' in advice[0]
    assert "does not see this" in advice[0]


def test_methods_have_times_evidence_and_verdicts(fake, rng, nuts):
    mine = fake.Fake(fake.fit(rng, sites(rng), dims=DIMS, coords=COORDS), seconds={"compile": 1.0, "run": 3.0})
    chains = fake.Fake(nuts, seconds={"compile": 2.0, "run": 8.0, "total": 10.0}, engine="jax")
    exact = fake.Fake(
        fake.fit(rng, sites(rng), dims=DIMS, coords=COORDS), evidence=SimpleNamespace(value=-7.0, error=0.0)
    )
    methods = compare({"vi": mine, "exact": exact, "nuts": chains}).methods
    assert list(methods.index) == ["nuts", "vi", "exact"]
    assert methods.loc["nuts", "ess_per_second"] == pytest.approx(methods.loc["nuts", "ess_bulk"] / 10)
    assert methods.loc["vi", "seconds_total"] == 4.0 and math.isnan(methods.loc["vi", "rhat"])
    assert methods.loc["vi", "evidence"] == pytest.approx(-3.0)
    assert methods.loc["exact", "evidence"] == -7.0
    assert ["method", *methods.columns] == list(METHOD_COLUMNS)


def test_every_column_is_documented(fake, rng, nuts):
    assert list(against(fake, rng, nuts).table.columns) == list(COLUMNS)


def test_json_holds_no_nan(fake, rng, nuts, tmp_path):
    comparison = against(fake, rng, nuts)
    comparison.to_json(tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["reference"] == "nuts" and len(found["table"]) == 4
    assert found["methods"][0]["khat"] is None


def test_it_prints(fake, rng, nuts):
    text = str(against(fake, rng, nuts, scale=1.5))
    assert "differs" in text and "theta[Choate]" in text and "- vi:" in text


# Size


def test_many_methods_and_quantities_are_all_compared(fake):
    generator = np.random.default_rng(0)
    nuts = fake.chains(generator, {"x": generator.normal(size=(4, 100, 100))})
    others = {f"m{i}": fake.fit(generator, {"x": generator.normal(size=(1, 300, 100))}) for i in range(9)}
    comparison = compare(others | {"nuts": nuts})
    assert len(comparison.table) == 900


def test_thousands_of_quantities_keep_the_worst(fake):
    generator = np.random.default_rng(0)
    mine, reference = generator.normal(size=(1, 300, 18_000)), generator.normal(size=(2, 150, 18_000))
    mine[..., 17_000] *= 2
    comparison = compare(
        {"vi": fake.fit(generator, {"z": mine}), "nuts": fake.chains(generator, {"z": reference})}, max_quantities=50
    )
    assert len(comparison.table) == 50
    assert comparison.table.set_index("quantity").loc["z[17000]", "status"] == "differs"
    assert "17950 left out" in " ".join(comparison.notes)
