"""Pages of all kinds of results: one template, which names where they come from, and figures that are small."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

import pyrolvm as lvm
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._check.discrepancy.plots import _shapes
from pyrolvm._check.discrepancy.statistics import Sample
from pyrolvm._check.pages.others import _densities
from pyrolvm._program.origin import origin_of
from pyrolvm._report.origin import Origin, asked_by, read
from pyrolvm._report.posterior import draw
from pyrolvm._report.vector import drawing
from pyrolvm._report.webpage import picture, table

QUIET: dict[str, Any] = {"progress": False}


def rates(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)


X = torch.linspace(-1.0, 1.0, 40)
PROBLEM = lvm.Problem(rates, X, 0.5 + X + torch.cos(37.0 * torch.arange(40.0)))


@pytest.fixture(scope="module")
def chains() -> lvm.Chains:
    return lvm.nuts(PROBLEM, chains=2, warmup=150, draws=150, seed=4, **QUIET)


def page(result: Any, tmp_path: Path, command: str = "pyrolvm report runs/a") -> str:
    with asked_by(command.split()):
        return lvm.report(result, tmp_path / "page.html").read_text(encoding="utf-8")


def names_where_it_comes_from(text: str) -> None:
    for what in (
        "rates",
        "x (40, float32), y (40, float32), sha256",
        "def rates(x, y):",
        "torch 2",
        "pyrolvm report runs/a",
    ):
        assert what in text, what
    assert re.search(r"<dt>written</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d UTC</dd>", text)
    assert text.index("<h2>Estimates</h2>") == text.index("<h2>")  # estimates come first
    assert "prefers-color-scheme:dark" in text and "@media print" in text and "scrolls" in text
    assert "<script" not in text and not re.search(r"https?://", text)
    drawn = re.findall(r"<(?:svg|img) [^>]*>", text)
    assert all(re.search(r'(?:alt|aria-label)="[^"]+"', one) for one in drawn)


def test_a_posterior_has_a_page(chains: lvm.Chains, tmp_path: Path) -> None:
    text = page(chains, tmp_path)
    names_where_it_comes_from(text)
    for heading in ("Verdict", "Marginals", "Chains", "Data beside replicated data", "Each row from all others"):
        assert f"<h2>{heading}</h2>" in text
    assert "Optimisation" not in text and "seed 4" in text and "elpd" in text
    assert len(text) < 120_000 and "<img" not in text
    assert chains.to_html(tmp_path / "again.html").read_text()[:1000] == text[:1000]


def test_hundreds_of_unknowns_of_rows_are_not_integrated_for_a_page(tmp_path: Path) -> None:
    def effects(y):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(pyro.sample("effect", dist.Normal(0.0, scale)), 1.0), obs=y)

    fit = lvm.fit(lvm.Problem(effects, torch.zeros(300)), "mean_field", max_steps=50, draws=50, engine="pyro", **QUIET)
    text = page(fit, tmp_path)
    assert "300 unknowns belong to the rows. <code>posterior.loo()</code>" in text and "elpd -" not in text


@pytest.mark.slow
def test_a_loaded_posterior_still_knows_its_data(chains: lvm.Chains, tmp_path: Path) -> None:
    text = page(lvm.load(chains.save(tmp_path / "a")), tmp_path)
    names_where_it_comes_from(text)
    assert "loaded without its problem" not in text or "Fix:" in text


def test_what_is_no_result_is_said(tmp_path: Path) -> None:
    with pytest.raises(lvm.ArgumentError, match=r"report takes a result, got float.*Fix:"):
        lvm.report(1.0, tmp_path / "page.html")


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda chains: lvm.check(chains),
        lambda chains: lvm.fit(PROBLEM, "mean_field", max_steps=200, **QUIET),
        lambda chains: lvm.evidence(chains),
        lambda chains: lvm.evidence(lvm.fit(PROBLEM, "full_rank", **QUIET), method=["importance", "iw_bound"]),
        lambda chains: lvm.predict(chains),
        lambda chains: lvm.predict(chains, y=None, summary=True),
        lambda chains: lvm.calibrate(PROBLEM, "laplace", simulations=8, workers=1, **QUIET),
        lambda chains: lvm.cross_validate(PROBLEM, "mean_field", folds=2, **QUIET),
        lambda chains: lvm.evaluate(chains, **QUIET),
        lambda chains: lvm.sweep([PROBLEM], ["laplace"], seeds=1, backend="here", **QUIET),
    ],
    ids=[
        "check",
        "fit",
        "evidence",
        "evidences",
        "predict",
        "summary",
        "calibrate",
        "cross_validate",
        "evaluate",
        "sweep",
    ],
)
def test_every_other_result_has_one(make: Callable[[lvm.Chains], Any], chains: lvm.Chains, tmp_path: Path) -> None:
    text = page(make(chains), tmp_path)
    names_where_it_comes_from(text)
    assert len(text) < 200_000


@pytest.mark.slow
def test_a_comparison_of_models_and_one_of_posteriors(chains: lvm.Chains, tmp_path: Path) -> None:
    fit = lvm.fit(PROBLEM, "full_rank", max_steps=500, **QUIET)
    assert "Differences of elpd" in page(lvm.compare_models({"a": chains, "b": fit}), tmp_path)
    text = page(lvm.compare({"nuts": chains, "full rank": fit}), tmp_path)
    assert "x (40, float32), y (40, float32), sha256" in text and text.count("<dt>data</dt>") == 1


def test_an_origin_is_kept_as_text_and_what_is_not_one_is_none() -> None:
    found = origin_of(PROBLEM)
    assert read({"pyrolvm_origin": found.stored()}) == found
    assert read({"pyrolvm_origin": "no JSON", "other": 1}) == Origin() == read({"pyrolvm_origin": "[1]"})


def test_a_figure_is_small_and_says_what_it_shows() -> None:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    grid = torch.linspace(-3, 3, 400)
    axes.fill_between(grid, torch.exp(-(grid**2)), color="#C9CDD3")
    axes.plot(torch.randn(2000, generator=torch.Generator().manual_seed(0)), torch.zeros(2000), "o", color="#B4B9C1")
    axes.set_title("a < b & c")
    text = drawing('says "it" <b>', figure)
    assert text.startswith('<svg role="img" aria-label="says &quot;it&quot; &lt;b&gt;"') and "a &lt; b &amp; c" in text
    assert len(text) < 40_000 and text.count("h0") == 2000 and "var(--area)" in text and "var(--ink)" in text
    numbers = re.search(r'd="M[^"]*L([^"]*)z"', text)
    assert numbers is not None and len(numbers.group(1).split()) < 400  # of 1,600


def test_predictions_that_are_counts_are_bars_whatever_they_are_stored_as(tmp_path: Path) -> None:
    def coin(y=None):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("row", 3):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    posterior = lvm.exact(lvm.Problem(coin, torch.tensor([0.0, 1.0, 1.0])), seed=0)
    (_, figure), *_ = _densities(lvm.predict(posterior).predictions.to_dataset())
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert len(heights) == 2 and sum(heights) == pytest.approx(1.0)


def test_a_picture_of_the_data_is_not_as_wide_as_the_prior() -> None:
    rng = np.random.default_rng(0)
    seen, made = rng.normal(size=50), rng.standard_cauchy((30, 50)) * 1e4
    axes = Figure().subplots()
    _shapes(axes, Sample("y", seen, made, None, np.arange(50)))
    low, high = axes.get_xlim()
    assert -30 < low < seen.min() and seen.max() < high < 30
    assert axes.get_ylim()[1] < 3.0


def test_a_table_has_words_to_the_left_and_numbers_with_as_many_digits() -> None:
    frame = pd.DataFrame(
        {"method": ["<flow>", "nuts"], "mean": [1.2, 0.98765], "ess": [4000.0, 12.5], "done": [True, False]},
        index=["mu", "tau"],
    )
    text = table(frame, digits={"mean": 3})
    assert "<th class=text>method</th><th>mean</th>" in text
    assert "<td class=text>&lt;flow&gt;</td><td>1.20</td><td>4000</td><td>yes</td>" in text
    assert "<td>0.988</td><td>12.50</td><td>no</td>" in text
    assert "\u2013" in table(pd.DataFrame({"khat": [float("nan")]}))
    long = table(pd.DataFrame({"a": range(60)}), most=50)
    assert "50 rows: the table scrolls." in long and "10 rows more." in long


def test_pictures_that_a_telephone_shows_at_once_do_not_say_that_they_scroll() -> None:
    for width, said in ((4.0, False), (7.0, True)):
        assert ("The picture scrolls" in picture("a line", Figure(figsize=(width, 2.0)))) is said


def test_axes_in_a_page_hide_nothing_behind_them_and_keep_their_ground() -> None:
    figure = Figure(figsize=(4.0, 2.0))
    axes = figure.subplots()
    axes.plot([0.0, 1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0, 3.0])
    text = drawing("a stair", figure)
    assert "fill: var(--paper)" not in text and axes.patch.get_visible()
    (stair,) = re.findall(r'd="(M[^"]*)" clip-path', text)
    assert re.fullmatch(r"M[\d.]+ [\d.]+H[\d.]+V[\d.]+H[\d.]+V[\d.]+", stair)


def test_many_different_counts_share_bars() -> None:
    counts = np.random.default_rng(0).poisson(200.0, (1, 4000))
    (axes,) = draw("marginals", {"n": (counts, True)}, 0.9, None).axes
    bars = [bar for bar in axes.patches if bar.get_width() > 0]
    assert 20 <= len(bars) <= 60 and abs(sum(bar.get_height() for bar in bars) - 1.0) < 0.02


def test_what_stands_between_backticks_is_code() -> None:
    verdict = Verdict(
        "doubtful", (Reason("doubtful", "The sd of `a<b` is small.", {}),), ("Look at `x`.", "one ` alone")
    )
    text = verdict._repr_html_()
    assert (
        "The sd of <code>a&lt;b</code> is small." in text
        and "Look at <code>x</code>." in text
        and "one ` alone" in text
    )
