"""Sentences that do not contradict themselves: figures beside bounds, advice that can be followed, praise with evidence."""

from __future__ import annotations

import re

import numpy as np
import pytest

import pyrolvm as lvm
from pyrolvm._base.importance import weigh
from pyrolvm._base.wording import beside, told
from pyrolvm._diagnosis.trying import NUTS, left_to_try


@pytest.mark.parametrize(
    ("value", "bound", "decimals", "text"),
    [
        (1.0103, 1.01, 2, "1.0103"),
        (1.009999, 1.01, 2, "1.009999"),
        (1.01, 1.01, 3, "1.010"),
        (399.7, 400.0, 0, "399.7"),
        (12345.0, 400.0, 0, "12,345"),
        (0.2996, 0.3, 2, "0.2996"),
        (1.0 + 1e-12, 1.0, 2, "1.000000000001"),
        (float("inf"), 1.01, 2, "inf"),
    ],
)
def test_a_figure_lies_as_written_on_its_side_of_the_bound(value, bound, decimals, text):
    assert told(value, bound, decimals) == text


def test_a_figure_and_its_bound_look_different_unless_they_are_equal():
    assert beside(0.6984, 0.6988, 2) == ("0.698", "0.699")
    assert beside(0.5, 0.7, 2) == ("0.50", "0.70")
    assert beside(0.7, 0.7, 2) == ("0.70", "0.70")
    random = np.random.default_rng(0)
    for value, bound in zip(random.random(200), random.random(200), strict=True):
        left, right = beside(value, value + 1e-5 * (bound - 0.5), 2)
        assert (float(left) < float(right)) == (bound > 0.5)


SENTENCE = re.compile(r"(\d[\d.,]*\d|\d)%?, (above|below) (\d[\d.,]*\d|\d)")


@pytest.mark.parametrize("slow", [0.0, 0.9, 0.97])
def test_sentences_about_chains_agree_with_their_numbers(fake, rng, slow):
    for shift in (0.0, 0.13, 0.17, 0.2, 0.25):
        draws = np.stack([fake.ar1(rng, slow, (4, 500)) + shift * np.arange(4)[:, None] for _ in range(3)], axis=-1)
        verdict = lvm.diagnose(fake.chains(rng, {"x": draws})).verdict
        for number, side, bound in SENTENCE.findall(str(verdict)):
            left, right = (float(part.replace(",", "")) for part in (number, bound))
            assert left > right if side == "above" else left < right, str(verdict)


def test_a_large_rhat_is_held_against_the_bound_that_it_failed(fake, rng):
    draws = rng.normal(size=(4, 500)) + 0.5 * np.arange(4)[:, None]
    assert ", above 1.1, for `x`" in str(lvm.diagnose(fake.chains(rng, {"x": draws})).verdict)


@pytest.mark.parametrize(("scale", "power"), [(3e-5, 1.2), (1e-5, 1.5), (1e-7, 2.5)])
def test_weights_as_good_as_equal_are_trusted_whatever_the_shape_of_their_tail(fake, scale, power):
    rng = np.random.default_rng(5)
    log_weight = np.log1p(np.minimum(scale * rng.random(4_000) ** -power, 1.5))
    figures, _ = weigh(log_weight)
    assert figures.ess > 3_980 and figures.khat == 0.0 and figures.nearly_equal
    verdict = lvm.diagnose(fake.fit(rng, {"x": rng.normal(size=(1, 4_000))}, log_weight=log_weight)).verdict
    assert verdict.trusted and "as good as equal" in str(verdict)


def test_weights_that_count_are_not_taken_for_equal():
    rng = np.random.default_rng(6)
    one = np.zeros(100_000)
    one[0] = np.log(8.0)  # more than 99.5% are effective, but one draw counts for eight
    assert not weigh(one + 1e-4 * rng.normal(size=one.size))[0].nearly_equal
    assert not weigh(0.1 * rng.normal(size=4_000))[0].nearly_equal


def test_an_elbo_with_an_error_as_large_as_itself_is_never_trusted(fake, rng):
    log_weight = 0.1 * rng.normal(size=4_000)
    log_weight[0] = -8.2e15
    found = lvm.diagnose(fake.fit(rng, {"x": rng.normal(size=(1, 4_000))}, log_weight=log_weight))
    assert not found.verdict.trusted
    assert "no ELBO is known" in str(found.verdict)
    assert "elbo" not in found.figures and np.isfinite(found.figures["evidence"])


def test_advice_leaves_out_what_is_done():
    steps = ['Try guide="flow".', 'Try guide="full_rank".', NUTS, "Take more draws (draws=)."]
    assert list(left_to_try(steps, {"nuts", "flow"})) == ['Try guide="full_rank".', "Take more draws (draws=)."]
    assert list(left_to_try(steps, set())) == steps


@pytest.mark.parametrize(
    ("attrs", "ladder", "absent"),
    [
        ({"model_parameters": 2}, None, NUTS),
        ({}, '[{"method": "nuts, target_accept=0.95"}]', NUTS),
        ({}, '[{"method": "full_rank"}]', 'Try guide="full_rank".'),
    ],
)
def test_a_fit_is_not_told_to_do_what_it_cannot_or_has(fake, rng, attrs, ladder, absent):
    log_weight = rng.normal(size=4_000) * 2.0 + rng.standard_cauchy(4_000) * 0.3
    data = fake.fit(rng, {"x": rng.normal(size=(1, 4_000))}, log_weight=log_weight)
    plain = lvm.diagnose(data).verdict.next_steps
    assert NUTS in plain and 'Try guide="full_rank".' in plain
    data["posterior"].attrs.update(attrs)
    if ladder:
        data.attrs["pyrolvm_ladder"] = ladder
    assert set(plain) - set(lvm.diagnose(data).verdict.next_steps) == {absent}


def test_a_page_with_chains_does_not_ask_for_them(fake, rng):
    log_weight = rng.normal(size=4_000) * 2.0 + rng.standard_cauchy(4_000) * 0.3
    fit = fake.fit(rng, {"x": 1.0 + rng.normal(size=(1, 4_000))}, log_weight=log_weight)
    chains = fake.chains(rng, {"x": rng.normal(size=(4, 1_000))})
    found = lvm.compare({"fit": fit, "nuts": chains}, reference="nuts")
    assert NUTS in lvm.diagnose(fit).verdict.next_steps
    assert "lvm.nuts" not in found.to_html(plots=False)
    assert "lvm.nuts" not in str(found)


def test_guides_on_the_page_are_not_recommended(fake, rng):
    poor = fake.fit(rng, {"x": 1.0 + rng.normal(size=(1, 4_000))}, guide="full_rank")
    flow = fake.fit(rng, {"x": 1.0 + rng.normal(size=(1, 4_000))}, guide="flow")
    chains = fake.chains(rng, {"x": rng.normal(size=(4, 1_000))})
    alone = lvm.compare({"full rank": poor, "nuts": chains}, reference="nuts")
    assert any('Try guide="flow"' in line for line in alone.advice)
    both = lvm.compare({"full rank": poor, "flow": flow, "nuts": chains}, reference="nuts")
    assert not any('Try guide="flow"' in line for line in both.advice)


@pytest.mark.parametrize("ratio", [1.12, 1.19, 0.86])
def test_no_sd_beyond_its_bound_agrees_however_noisy_it_is(fake, ratio):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        wide = np.exp(0.8 * rng.normal(size=(1, 500)))
        reference = fake.chains(rng, {"x": np.exp(0.8 * rng.normal(size=(4, 1_000)))})
        scaled = wide / wide.std() * float(reference["posterior"]["x"].std()) * ratio
        table = lvm.compare({"fit": fake.fit(rng, {"x": scaled}), "nuts": reference}, reference="nuts").table
        assert (table["status"] != "agrees").all()
